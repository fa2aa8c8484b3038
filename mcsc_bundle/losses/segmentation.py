"""Supervised losses of logits ``(B, C, *spatial)`` and class indices ``(B, 1, *spatial)``: MONAI's, for every kind of labels."""

from __future__ import annotations

from typing import Any

import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn

from mcsc_bundle.labels import IGNORED
from mcsc_bundle.outputs import Classes, Regions


def paper_loss(outputs: Classes | None = None) -> DiceCE:
    """``0.5 (cross-entropy + Dice)`` of MCSC (Liu et al., BMVC 2023) and SSL4MIS.

    Dice is the mean over all classes, background included, of ``1 - (2 sum p y + 1e-5) / (sum p^2 + sum y^2 + 1e-5)``
    with sums over the whole batch.

    Args:
        outputs: what the channels mean; ``None`` for exclusive classes.
    """
    return DiceCE(include_background=True, squared=True, batch_dice=True, weight=0.5, outputs=outputs)


def nnunet_loss(batch_dice: bool = True, outputs: Classes | None = None) -> DiceCE:
    """Cross-entropy + Dice of nnU-Net v2 (``DC_and_CE_loss``; its Dice is ``-dice`` where this one is ``1 - dice``).

    Dice is the mean over the foreground classes of ``1 - (2 sum p y + 1e-5) / (sum p + sum y + 1e-5)``. Of regions it is
    their mean, and cross-entropy is binary (``DC_and_BCE_loss``).

    Args:
        batch_dice: sums over the whole batch; if not, for each patch alone, then the mean (``plan.batch_dice``).
        outputs: what the channels mean; ``None`` for exclusive classes.
    """
    return DiceCE(include_background=False, squared=False, batch_dice=batch_dice, weight=1.0, outputs=outputs)


class DiceCE(nn.Module):
    """``weight (cross-entropy + Dice)`` over the annotated voxels: each sum and mean leaves ignored ones out.

    Classes of an unsigned type, as the loader gives them for data without an ignore label, can hold no ``IGNORED``; they go
    to MONAI's ``DiceCELoss``. If no voxel is annotated the loss is 0, and so is its gradient.

    Args:
        include_background: whether the background's Dice counts; regions have none, and all of them count.
        squared: square the terms of Dice's denominator.
        batch_dice: Dice over the whole batch, or over each patch alone.
        weight: of both.
        outputs: what the channels mean; ``None`` for exclusive classes.
    """

    def __init__(
        self, include_background: bool, squared: bool, batch_dice: bool, weight: float, outputs: Classes | None = None
    ) -> None:
        super().__init__()
        self.outputs = outputs or Classes()
        self.regions = isinstance(outputs, Regions)
        kept = include_background or self.regions
        shape: dict[str, Any] = {"include_background": kept, "squared_pred": squared, "batch": batch_dice}
        self.complete = DiceCELoss(to_onehot_y=True, softmax=True, lambda_dice=weight, lambda_ce=weight, **shape)
        self.dice, self.weight = DiceLoss(**shape), weight

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """A scalar.

        Args:
            logits: ``(B, C, *spatial)``.
            label: class indices ``(B, 1, *spatial)``, or ``IGNORED`` where nobody annotated.
        """
        logits = logits.float()  # autocast does so on a GPU; on a CPU Dice's sums would be of bf16
        if not (self.regions or label.dtype.is_signed):
            return self.complete(logits, label)
        target, known = self.outputs.target(label), label != IGNORED
        probability = torch.where(known, self.outputs.probability(logits), 0)
        truth = self.outputs.truth(target, logits.shape[1])
        summed = self.outputs.cross_entropy(logits, target).sum()
        return self.weight * (summed / known.sum().clamp(min=1) + self.dice(probability, truth))
