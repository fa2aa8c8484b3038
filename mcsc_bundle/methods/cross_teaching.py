"""Cross teaching between CNN and Transformer (Luo et al., MIDL 2022): each network learns from the other's labels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mcsc_bundle.losses.consistency import hard_dice, sigmoid_rampup
from mcsc_bundle.methods.base import IMAGE, LABEL, Method, split_streams
from mcsc_bundle.networks.pair import NetworkPair


class CrossTeaching(Method):
    """``L = sum_k L_s,k + w(t) [Dice(p1_u, argmax p2_u) + Dice(p2_u, argmax p1_u)]``, METHOD of SSL4MIS.

    MCSC is this plus the contrast; ``MCSC`` therefore builds on ``supervised_terms`` and ``cross_terms`` below.

    Args:
        networks: the plan's CNN and Transformer, both trained.
        loss: supervised loss of logits and label.
        weight: final weight of the cross pseudo supervision.
        rampup: progress at which ``w(t) = weight exp(-5 (1 - t)^2)`` is full (SSL4MIS: at the end).
    """

    def __init__(self, networks: NetworkPair, loss: nn.Module, weight: float = 0.1, rampup: float = 1.0) -> None:
        super().__init__(networks)
        self.transformer = networks.transformer
        self.loss = loss
        self.weight, self.rampup = weight, rampup

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Terms ``supervised_cnn``, ``supervised_transformer``, ``cross_cnn``, ``cross_transformer``."""
        image, label = batch[IMAGE], batch[LABEL]
        logits = (self.cnn(image), self.transformer(image))
        return {**self.supervised_terms(logits, label), **self.cross_terms(logits, len(label), progress)}

    def branches(self) -> dict[str, nn.Module]:
        """Both networks can be asked at inference."""
        return {"cnn": self.shipped, "transformer": self.transformer}

    def supervised_terms(self, logits: tuple[Tensor, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Supervised loss of each network on the labelled part of its logits ``(L + U, C, *spatial)``."""
        cnn, transformer = (self.loss(both[: len(label)], label) for both in logits)
        return {"supervised_cnn": cnn, "supervised_transformer": transformer}

    def cross_terms(self, logits: tuple[Tensor, Tensor], labeled: int, progress: float) -> dict[str, Tensor]:
        """Dice of each network against the other's hard labels on the unlabelled part (no threshold, no gradient)."""
        cnn, transformer = (split_streams(both, labeled)[1] for both in logits)
        if len(cnn) == 0:
            return {}
        weight = self.weight * sigmoid_rampup(progress / self.rampup)
        return {
            "cross_cnn": weight * hard_dice(cnn, self.outputs.hard(transformer), self.outputs),
            "cross_transformer": weight * hard_dice(transformer, self.outputs.hard(cnn), self.outputs),
        }
