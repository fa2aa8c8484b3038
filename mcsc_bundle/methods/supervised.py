"""Supervised training on the labelled stream alone: the baseline, and with all labels the upper bound."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mcsc_bundle.methods.base import IMAGE, LABEL, Method
from mcsc_bundle.networks.pair import NetworkPair


class Supervised(Method):
    """The CNN on labelled patches; the unlabelled ones are not even passed through the network.

    Args:
        networks: the plan's pair; the Transformer is not used.
        loss: ``loss(logits (B, C, *spatial), label (B, 1, *spatial)) -> scalar``.
    """

    def __init__(self, networks: NetworkPair, loss: nn.Module) -> None:
        super().__init__(networks)
        self.loss = loss

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """One term, ``supervised``."""
        label = batch[LABEL]
        return {"supervised": self.loss(self.cnn(batch[IMAGE][: len(label)]), label)}
