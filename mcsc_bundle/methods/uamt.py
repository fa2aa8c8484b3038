"""UA-MT, the uncertainty-aware Mean Teacher (Yu et al., MICCAI 2019, arXiv 1907.07034), as SSL4MIS trains it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mcsc_bundle.losses.consistency import certain_mse, sigmoid_rampup
from mcsc_bundle.methods.mean_teacher import MeanTeacher, noisy
from mcsc_bundle.networks.pair import NetworkPair


class UAMT(MeanTeacher):
    """Mean Teacher that follows its teacher only where that one is certain.

    ``L = L_s + w(t) sum m (p - q)^2 / (2 sum m)``. The mask ``m`` holds the voxels with
    ``U < (0.75 + 0.25 exp(-5 (1 - t)^2)) max_entropy``, where ``U`` is the entropy in nats of the teacher's mean
    probability over ``passes`` noisy looks at the patch, with dropout where the network has it (of the plan's networks,
    preset ``paper`` alone). The target ``q`` is one more look, so a step pays for ``passes + 1`` forward passes of the
    teacher over the unlabelled patches.

    Where we differ from SSL4MIS: the teacher's normalisation stays in eval mode, see ``EMATeacher``.

    Args:
        networks, loss, weight, rampup, decay, deep_supervision: as in ``MeanTeacher``.
        consistency_from: as in ``MeanTeacher``; SSL4MIS lets UA-MT begin at once.
        passes: looks that the uncertainty is taken from.
        max_entropy: the bound the threshold rises to. ln 2, that of two classes, is kept for any number of classes, as
            in SSL4MIS.
    """

    def __init__(
        self,
        networks: NetworkPair,
        loss: nn.Module,
        weight: float = 0.1,
        rampup: float = 1.0,
        consistency_from: float = 0.0,
        decay: float = 0.99,
        passes: int = 8,
        max_entropy: float = math.log(2),
        deep_supervision: bool = False,
    ) -> None:
        super().__init__(networks, loss, weight, rampup, consistency_from, decay, deep_supervision)
        self.passes, self.max_entropy = passes, max_entropy

    def consistency(self, logits: Tensor, image: Tensor, progress: float) -> Tensor:
        """Distance from the teacher over the voxels where it is certain."""
        threshold = (0.75 + 0.25 * sigmoid_rampup(progress)) * self.max_entropy
        teacher = self.teacher(self.disturbed(image, noisy))
        certain = self.uncertainty(image) < threshold
        self.watched = {"certain": certain.float().mean()}
        return certain_mse(logits, teacher, certain, self.outputs)

    def uncertainty(self, image: Tensor) -> Tensor:
        """Entropy of the teacher's mean probability, in nats, ``(U, 1, *spatial)``; one pass after the other for memory."""
        looks = (self.teacher.sample(self.disturbed(image, noisy)) for _ in range(self.passes))
        total = sum(map(self.outputs.probability, looks))
        return self.outputs.entropy(torch.as_tensor(total) / self.passes)
