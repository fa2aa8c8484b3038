"""Supervised training on the labelled stream alone: the baseline, and with all labels the upper bound."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mcsc_bundle.methods.base import IMAGE, LABEL, Method
from mcsc_bundle.methods.ema import EMATeacher
from mcsc_bundle.methods.supervision import Supervision
from mcsc_bundle.networks.pair import NetworkPair


class Supervised(Method):
    """The CNN on labelled patches; the unlabelled ones are not even passed through the network.

    Args:
        networks: the plan's pair; the Transformer is not used.
        loss: ``loss(logits (B, C, *spatial), label (B, 1, *spatial)) -> scalar``.
        deep_supervision: as nnU-Net, see ``Supervision``.
        decay: of the moving average that is shipped in place of the CNN, as MCSC ships one; ``None`` ships the CNN itself.
    """

    def __init__(
        self, networks: NetworkPair, loss: nn.Module, deep_supervision: bool = False, decay: float | None = None
    ) -> None:
        super().__init__(networks)
        self.supervision = Supervision(self.cnn, loss, deep_supervision)
        self.average = None if decay is None else EMATeacher(self.cnn, decay)

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """One term, ``supervised``."""
        label = batch[LABEL]
        maps = self.cnn.features(batch[IMAGE][: len(label)])
        return {"supervised": self.supervision(self.cnn.head(maps[-1]), maps, label)}

    def after_step(self, progress: float) -> None:
        """The moving average follows."""
        if self.average is not None:
            self.average.update(self.cnn)

    @property
    def shipped(self) -> nn.Module:
        """The CNN, or its moving average."""
        return self.cnn if self.average is None else self.average.network
