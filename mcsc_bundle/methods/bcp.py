"""BCP, bidirectional copy-paste (Bai et al., CVPR 2023, arXiv 2305.00673)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mcsc_bundle.components import beside_largest, boxes_of
from mcsc_bundle.losses.consistency import part_loss
from mcsc_bundle.methods.base import IMAGE, LABEL, Method, split_streams
from mcsc_bundle.methods.ema import EMATeacher
from mcsc_bundle.methods.readback import ReadBack
from mcsc_bundle.methods.views import one_box
from mcsc_bundle.networks.pair import NetworkPair


class BCP(Method):
    """The student sees only mixtures: a box of labelled patches pasted into unlabelled ones, and the other way round.

    The box takes two thirds of every axis, at a random place that all patches of a step share. Inside and outside of it
    are scored apart, each by ``l = 0.5 (CE + Dice)`` over its own voxels, against the true labels or the EMA teacher's:

    - first share of the training: labelled pairs alone, ``L = l(inside, y_b) + l(outside, y_a)``;
    - then, for both directions, ``L = l(labelled region, y) + unlabeled_weight l(unlabelled region, teacher's labels)``.

    The teacher's labels are cleaned to the largest component of each class in each patch, which happens on the
    host while the student looks at the mixtures. There is no ramp. The student is shipped, as in the authors' code.

    Where we differ from the authors' code (DeepMed-Lab-ECNU/BCP): each pair of a labelled and an unlabelled patch is mixed in
    both directions, theirs gives each half of the batch one, which a batch of one pair does not have; the teacher follows
    from the first step on instead of starting as a copy of the pretrained network that was best on validation; Dice is
    smoothed by 1e-5 instead of 1e-10.

    Args:
        networks: the plan's pair; the Transformer is not used.
        unlabeled_weight: weight of the unlabelled regions; those of true labels weigh 1.
        pretraining: progress at which unlabelled patches come in (the authors: 10 000 of 40 000 iterations on ACDC,
            2000 of 17 000 on the left atrium).
        box_share: the box's share of every axis.
        largest_component: clean the teacher's labels. Turn it off for classes that have several parts, such as lesions.
        decay: the teacher's moving average.
    """

    def __init__(
        self,
        networks: NetworkPair,
        unlabeled_weight: float = 0.5,
        pretraining: float = 0.25,
        box_share: float = 2 / 3,
        largest_component: bool = True,
        decay: float = 0.99,
    ) -> None:
        super().__init__(networks)
        self.unlabeled_weight, self.pretraining, self.box_share = unlabeled_weight, pretraining, box_share
        self.largest_component = largest_component
        self.teacher = EMATeacher(self.cnn, decay)

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Terms ``labeled_inside`` and ``labeled_outside`` (of the box); after pretraining ``unlabeled_*`` too."""
        image, target = batch[IMAGE], self.outputs.target(batch[LABEL])
        labeled, unlabeled = split_streams(image, len(target))
        box = one_box(tuple(image.shape[2:]), self.box_share, image.device)
        if progress < self.pretraining or len(unlabeled) == 0:
            return self.pretraining_terms(labeled, target, box)
        pairs = torch.arange(max(len(labeled), len(unlabeled)), device=image.device)
        mine, theirs = pairs % len(labeled), pairs % len(unlabeled)
        pseudo = self.outputs.hard(self.teacher(unlabeled))
        on_host = ReadBack(pseudo) if self.largest_component else None
        labeled, target, unlabeled = labeled[mine], target[mine], unlabeled[theirs]
        mixed = torch.cat((torch.where(box, labeled, unlabeled), torch.where(box, unlabeled, labeled)))
        inward, outward = self.cnn(mixed).chunk(2)
        if on_host is not None:  # the device is at the student's forward pass meanwhile
            pseudo = largest_components(on_host.wait()).to(image.device, non_blocking=True)
        pseudo = pseudo[theirs]
        return {
            "labeled_inside": part_loss(inward, target, box, self.outputs),
            "labeled_outside": part_loss(outward, target, ~box, self.outputs),
            "unlabeled_inside": self.unlabeled_weight * part_loss(outward, pseudo, box, self.outputs),
            "unlabeled_outside": self.unlabeled_weight * part_loss(inward, pseudo, ~box, self.outputs),
        }

    def pretraining_terms(self, labeled: Tensor, target: Tensor, box: Tensor) -> dict[str, Tensor]:
        """Each labelled patch with the box of the one before it (of itself, where it is the only one)."""
        logits = self.cnn(torch.where(box, labeled.roll(1, 0), labeled))
        return {
            "labeled_inside": part_loss(logits, target.roll(1, 0), box, self.outputs),
            "labeled_outside": part_loss(logits, target, ~box, self.outputs),
        }

    def after_step(self, progress: float) -> None:
        """The teacher follows, in pretraining too."""
        self.teacher.update(self.cnn)


def largest_components(labels: Tensor) -> Tensor:
    """A target ``(B, K, *spatial)`` with all but the largest component of each foreground class, or region, set to 0.

    Voxels that touch at a corner belong together, as in the authors' code. Takes and gives tensors on the CPU.
    """
    cleaned = labels.clone(memory_format=torch.contiguous_format)  # so that flatten is a view
    for patch in cleaned.flatten(0, 1).numpy():
        for value, box in enumerate(boxes_of(patch), 1):
            if box is not None:
                patch[box][beside_largest(patch[box] == value)] = 0
    return cleaned
