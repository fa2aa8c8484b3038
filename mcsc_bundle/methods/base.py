"""What every method is: a module that turns a two-stream batch into named loss terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mcsc_bundle.intensity import outside_of_body
from mcsc_bundle.methods.ema import EMATeacher
from mcsc_bundle.networks.pair import NetworkPair

IMAGE, LABEL = "image", "label"


class Method(nn.Module):
    """Base of all methods. A new one is a subclass that writes ``forward``, and one overlay that names it.

    The trainer owns everything else (AMP, clipping, accumulation, DDP, the log), so a method holds its maths alone.

    Args:
        networks: the CNN and the Transformer of the plan. A method that needs one network takes the CNN.

    Attributes:
        watched: scalars of the latest forward that are no loss, such as the share of pseudo-labels that count; the log has
            their means. A method that has some replaces the mapping in each step.
    """

    watched: Mapping[str, Tensor] = MappingProxyType({})

    def __init__(self, networks: NetworkPair) -> None:
        super().__init__()
        self.cnn = networks.cnn
        self.outputs = networks.outputs
        self.mask_channels = networks.mask_channels
        self.body_channels = networks.body_channels
        self.flat_axis = networks.flat_axis

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Weighted scalar loss terms of one batch; the trainer minimises their sum.

        Args:
            batch: ``image`` ``(L + U, C, *spatial)``, labelled patches first, and ``label`` ``(L, 1, *spatial)``, class
                indices, or ``IGNORED`` (-1) where nobody annotated: no term depends on the logits there. There is no label
                for the unlabelled patches: a method cannot read what is not there.
            progress: fraction of the training done, in [0, 1]. Ramps hang on it, so a resumed run needs no counters.
        """
        raise NotImplementedError

    def disturbed(self, image: Tensor, disturb: Callable[[Tensor], Tensor]) -> Tensor:
        """A batch ``(B, C, *spatial)`` with its intensities disturbed.

        Masks of a previous stage among it stay masks, and outside the body stays 0 where normalisation was masked.
        """
        scan, masks = image.split((image.shape[1] - self.mask_channels, self.mask_channels), 1)
        changed = disturb(scan)
        if self.body_channels:
            channels = list(changed.unbind(1))
            for index in self.body_channels:
                channels[index] = channels[index].masked_fill(outside_of_body(scan[:, index]), 0.0)
            changed = torch.stack(channels, 1)
        return torch.cat((changed, masks), 1) if self.mask_channels else changed

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step; a method with an EMA teacher updates it here."""

    @property
    def shipped(self) -> nn.Module:
        """The network that inference uses and ``models/model.pt`` holds."""
        return self.cnn

    def branches(self) -> dict[str, nn.Module]:
        """The networks inference can choose from, by branch name."""
        return {"cnn": self.shipped}

    def parameter_groups(
        self, lr: float, transformer_lr: float | None = None, weight_decay: float = 5e-4
    ) -> list[dict]:
        """Parameters for the optimiser: one group per learning rate and schedule.

        The paper's code runs three AdamW optimisers; one AdamW with three groups does the same arithmetic.

        Args:
            lr: initial rate of the CNN and of the projectors.
            transformer_lr: initial rate of the Transformer; ``None`` takes ``lr / 5`` as the paper's code.
            weight_decay: for every group.
        """
        transformer = getattr(self, "transformer", None)
        slow = set(map(id, transformer.parameters())) if transformer is not None else set()
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if id(p) not in slow], "lr": lr, "warmup": 0.0, "name": "cnn"},
            {
                "params": [p for p in trained if id(p) in slow],
                "lr": lr / 5 if transformer_lr is None else transformer_lr,
                "warmup": 0.05,
                "name": "transformer",
            },
        ]
        return [{**group, "weight_decay": weight_decay} for group in groups if group["params"]]

    def compile_networks(self, **kwargs: Any) -> None:
        """Compile the feature extractors of networks and teachers in place (``torch.compile``); state dict keys stay."""
        teachers = (module.network for module in self.modules() if isinstance(module, EMATeacher))
        for network in (*self.trained_networks(), *teachers):
            network.features = torch.compile(network.features, **kwargs)  # type: ignore[assignment, arg-type]

    def trained_networks(self) -> Iterable[nn.Module]:
        """The networks that receive gradients."""
        return (getattr(self, name) for name in ("cnn", "transformer") if hasattr(self, name))


def split_streams(x: Tensor, labeled: int) -> tuple[Tensor, Tensor]:
    """The labelled and the unlabelled part of a joined batch ``(L + U, ...)``."""
    return x[:labeled], x[labeled:]
