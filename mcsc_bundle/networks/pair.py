"""The two networks that teach each other, and how one of them, or both, predict."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mcsc_bundle.intensity import flat_axis
from mcsc_bundle.networks.swin_unet import SwinUNet
from mcsc_bundle.networks.swin_weights import load_imagenet_weights
from mcsc_bundle.networks.transfer import init_from as start_from
from mcsc_bundle.networks.unet import UNet
from mcsc_bundle.outputs import Classes, outputs_of
from mcsc_bundle.plan import Plan

BRANCHES = ("cnn", "transformer", "both")


class NetworkPair(nn.Module):
    """A CNN and a Transformer for the same task.

    Args:
        cnn, transformer: networks with the interface of ``UNet`` and ``SwinUNet`` (``features``, ``head``,
            ``feature_channels``, ``feature_strides``).
        outputs: what their channels mean; ``None`` for exclusive classes.
        mask_channels: how many of the last input channels are the mask of a previous stage (``mcsc_bundle.cascade``).
        body_channels: positions of the input channels that were normalised inside the body and are 0 outside.
        flat_axis: axis along which a patch holds few, thick slices; ``None`` if there is none.
        unscaled_channels: positions of the input channels whose deviation is not about 1.
    """

    def __init__(
        self,
        cnn: UNet,
        transformer: SwinUNet,
        outputs: Classes | None = None,
        mask_channels: int = 0,
        body_channels: Sequence[int] = (),
        flat_axis: int | None = None,
        unscaled_channels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.mask_channels, self.body_channels, self.flat_axis = mask_channels, tuple(body_channels), flat_axis
        self.unscaled_channels = tuple(unscaled_channels)
        self.cnn = cnn
        self.transformer = transformer
        self.outputs = outputs or Classes()

    @classmethod
    def from_plan(
        cls, plan: Plan, pretrained: str | os.PathLike | None = None, init_from: str | os.PathLike | None = None
    ) -> NetworkPair:
        """Both networks as the plan describes them.

        Args:
            plan: the plan.
            pretrained: file of ImageNet Swin weights for the Transformer (``load_imagenet_weights``); ``None`` trains
                it from scratch.
            init_from: run folder or packed bundle to take over every fitting layer of (``transfer.init_from``).
        """
        masks = plan.network_channels - plan.in_channels
        cnn, transformer = UNet.from_plan(plan), SwinUNet.from_plan(plan)
        about = plan.body_channels, flat_axis(plan), plan.unscaled_channels
        pair = cls(cnn, transformer, outputs_of(plan), masks, *about)
        if pretrained is not None:
            load_imagenet_weights(pair.transformer, pretrained)
        if init_from is not None:
            start_from({"cnn": pair.cnn, "transformer": pair.transformer}, init_from)
        return pair

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, out_channels, *spatial)`` of the CNN and of the Transformer."""
        return self.cnn(x), self.transformer(x)


def pair_or_exit(plan: Plan, **sources: str | os.PathLike | None) -> NetworkPair:
    """``NetworkPair.from_plan`` for configs: a wrong file ends the program with its message instead of a traceback."""
    try:
        return NetworkPair.from_plan(plan, **sources)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


class BranchPredictor(nn.Module):
    """A pair as a network with one output, for validation, inference and export.

    Args:
        pair: the trained networks.
        branch: ``cnn`` or ``transformer``: the logits of that network. ``both``: of the mean of their probabilities.

    Raises:
        ValueError: unknown branch.
    """

    def __init__(self, pair: NetworkPair, branch: str = "cnn") -> None:
        super().__init__()
        if branch not in BRANCHES:
            raise ValueError(f"expected branch to be one of {BRANCHES}, received {branch!r}.")
        self.pair = pair
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Logits or log-probabilities ``(B, out_channels, *spatial)``."""
        if self.branch == "cnn":
            return self.pair.cnn(x)
        if self.branch == "transformer":
            return self.pair.transformer(x)
        outputs = self.pair.outputs
        cnn, transformer = (outputs.log_probability(logits) for logits in self.pair(x))
        return outputs.logits(torch.logaddexp(cnn, transformer) - math.log(2.0))
