"""Mean Teacher (Tarvainen and Valpola, NeurIPS 2017), as SSL4MIS trains it for segmentation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mcsc_bundle.losses.consistency import probability_mse, sigmoid_rampup
from mcsc_bundle.methods.base import IMAGE, LABEL, Method, split_streams
from mcsc_bundle.methods.ema import EMATeacher
from mcsc_bundle.methods.supervision import Supervision
from mcsc_bundle.networks.pair import NetworkPair


class MeanTeacher(Method):
    """Student follows the labels; on unlabelled patches also its own moving average, seen through noise.

    ``L = L_s + w(t) mean (softmax(student(u)) - softmax(teacher(u + noise)))^2``; noise N(0, 0.1) clipped to +-0.2, in units
    of each channel's range; ``w(t) = weight exp(-5 (1 - t)^2)`` reaching ``weight`` at ``rampup`` of the training; no
    consistency before ``consistency_from`` (SSL4MIS: 1000 of 30 000 iterations). The student is shipped, as in SSL4MIS.

    Args:
        networks: the plan's pair; the Transformer is not used.
        loss: supervised loss of logits and label.
        weight: final weight of the consistency term.
        rampup: progress at which the weight is full.
        consistency_from: progress below which the consistency weight is 0.
        decay: the teacher's moving average.
        deep_supervision: of the student on labelled patches, see ``Supervision``.
    """

    def __init__(
        self,
        networks: NetworkPair,
        loss: nn.Module,
        weight: float = 0.1,
        rampup: float = 1.0,
        consistency_from: float = 1 / 30,
        decay: float = 0.99,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__(networks)
        self.supervision = Supervision(self.cnn, loss, deep_supervision)
        self.weight, self.rampup, self.consistency_from = weight, rampup, consistency_from
        self.teacher = EMATeacher(self.cnn, decay)

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Terms ``supervised`` and ``consistency``."""
        label = batch[LABEL]
        maps = self.cnn.features(batch[IMAGE])
        logits = self.cnn.head(maps[-1])
        _, unlabeled_logits = split_streams(logits, len(label))
        terms = {"supervised": self.supervision(logits, maps, label)}
        if len(unlabeled_logits):
            _, image = split_streams(batch[IMAGE], len(label))
            weight = self.weight * sigmoid_rampup(progress / self.rampup) if progress >= self.consistency_from else 0.0
            terms["consistency"] = weight * self.consistency(unlabeled_logits, image, progress)
        return terms

    def consistency(self, logits: Tensor, image: Tensor, progress: float) -> Tensor:
        """Distance of the student's logits ``(U, C, *spatial)`` from the teacher's on the same patches ``image``."""
        return probability_mse(logits, self.teacher(self.disturbed(image, noisy)), self.outputs)

    def after_step(self, progress: float) -> None:
        """The teacher follows."""
        self.teacher.update(self.cnn)


def noisy(image: Tensor) -> Tensor:
    """The images ``(B, C, *spatial)`` with noise N(0, 0.1) clipped to +-0.2, in units of each channel's range.

    SSL4MIS adds 0.1 to images scaled to [0, 1]; ours may be in any unit.
    """
    axes = tuple(range(2, image.ndim))
    span = image.amax(axes, keepdim=True) - image.amin(axes, keepdim=True)
    return image + span * torch.clamp(0.1 * torch.randn_like(image), -0.2, 0.2)
