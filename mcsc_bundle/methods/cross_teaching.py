"""Cross teaching between CNN and Transformer (Luo et al., MIDL 2022): each network learns from the other's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mcsc_bundle.losses.consistency import hard_dice, sigmoid_rampup
from mcsc_bundle.methods.base import IMAGE, LABEL, Method, split_streams
from mcsc_bundle.methods.supervision import Supervision
from mcsc_bundle.networks.pair import NetworkPair


class CrossTeaching(Method):
    """``L = sum_k L_s,k + w(t) [Dice(p1_u, argmax p2_u) + Dice(p2_u, argmax p1_u)]``, as SSL4MIS trains it.

    MCSC is this plus the contrast; ``MCSC`` therefore builds on ``supervised_terms`` and ``cross_terms`` below.

    Args:
        networks: the plan's CNN and Transformer, both trained.
        loss: supervised loss of logits and label.
        weight: final weight of the cross pseudo supervision.
        rampup: progress at which ``w(t) = weight exp(-5 (1 - t)^2)`` is full (SSL4MIS: at the end).
        deep_supervision: of the CNN on labelled patches, see ``Supervision``.
    """

    def __init__(
        self,
        networks: NetworkPair,
        loss: nn.Module,
        weight: float = 0.1,
        rampup: float = 1.0,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__(networks)
        self.transformer = networks.transformer
        self.loss, self.supervision = loss, Supervision(self.cnn, loss, deep_supervision)
        self.weight, self.rampup = weight, rampup

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Terms ``supervised_cnn``, ``supervised_transformer``, ``cross_cnn``, ``cross_transformer``."""
        image, label = batch[IMAGE], batch[LABEL]
        maps = self.cnn.features(image)
        logits = (self.cnn.head(maps[-1]), self.transformer(image))
        return {**self.supervised_terms(logits, maps, label), **self.cross_terms(logits, len(label), progress)}

    def branches(self) -> dict[str, nn.Module]:
        """Both networks can be asked at inference."""
        return {"cnn": self.shipped, "transformer": self.transformer}

    def supervised_terms(
        self, logits: tuple[Tensor, Tensor], maps: Sequence[Tensor], label: Tensor
    ) -> dict[str, Tensor]:
        """Supervised loss of each network on the labelled part of its logits ``(L + U, C, *spatial)``; ``maps``: of the CNN."""
        cnn, transformer = logits
        return {
            "supervised_cnn": self.supervision(cnn, maps, label),
            "supervised_transformer": self.loss(transformer[: len(label)], label),
        }

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
