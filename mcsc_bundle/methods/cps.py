"""CPS, cross pseudo supervision between two CNNs (Chen et al., CVPR 2021, arXiv 2106.01226), as SSL4MIS trains it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from mcsc_bundle.losses.consistency import hard_ce, sigmoid_rampup
from mcsc_bundle.methods.base import IMAGE, LABEL, Method, split_streams
from mcsc_bundle.methods.supervision import Supervision
from mcsc_bundle.networks.pair import NetworkPair
from mcsc_bundle.networks.unet import UNet


class CPS(Method):
    """``L = sum_k L_s,k + w(t) [CE(p1_u, argmax p2_u) + CE(p2_u, argmax p1_u)]`` of two equal networks.

    What separates the two is their initial weights alone; cross teaching has a CNN and a Transformer, and Dice in place of
    cross-entropy. The first network is shipped, as in SSL4MIS; the second lives in training alone, so inference cannot
    choose it.

    Args:
        networks: the plan's pair; the Transformer is not used.
        second: another CNN of the plan, with initial weights of its own.
        loss: supervised loss of logits and label.
        weight: final weight of the cross pseudo supervision.
        rampup: progress at which ``w(t) = weight exp(-5 (1 - t)^2)`` is full.
        deep_supervision: of both networks on labelled patches, see ``Supervision``.

    Raises:
        ValueError: both networks have the same weights.
    """

    def __init__(
        self,
        networks: NetworkPair,
        second: UNet,
        loss: nn.Module,
        weight: float = 0.1,
        rampup: float = 1.0,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__(networks)
        if all(torch.equal(*pair) for pair in zip(self.cnn.parameters(), second.parameters(), strict=True)):
            raise ValueError(
                "CPS: expected two networks with different initial weights, received equal ones, which could teach each "
                "other nothing. Make the second one from another seed."
            )
        self.second = second
        self.supervision = Supervision(self.cnn, loss, deep_supervision)
        self.second_supervision = Supervision(second, loss, deep_supervision)
        self.weight, self.rampup = weight, rampup

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Terms ``supervised_cnn``, ``supervised_second``, ``cross_cnn``, ``cross_second``."""
        image, label = batch[IMAGE], batch[LABEL]
        maps = self.cnn.features(image), self.second.features(image)
        cnn, second = self.cnn.head(maps[0][-1]), self.second.head(maps[1][-1])
        terms = {
            "supervised_cnn": self.supervision(cnn, maps[0], label),
            "supervised_second": self.second_supervision(second, maps[1], label),
        }
        (_, cnn_unlabeled), (_, second_unlabeled) = (split_streams(both, len(label)) for both in (cnn, second))
        if len(cnn_unlabeled):
            weight = self.weight * sigmoid_rampup(progress / self.rampup)
            terms["cross_cnn"] = weight * hard_ce(cnn_unlabeled, self.outputs.hard(second_unlabeled), self.outputs)
            terms["cross_second"] = weight * hard_ce(second_unlabeled, self.outputs.hard(cnn_unlabeled), self.outputs)
        return terms

    def trained_networks(self) -> Iterable[nn.Module]:
        """Both CNNs."""
        return self.cnn, self.second
