"""Supervised losses of logits ``(B, C, *spatial)`` and class indices ``(B, 1, *spatial)``, from MONAI."""

from __future__ import annotations

from monai.losses import DiceCELoss


def paper_loss() -> DiceCELoss:
    """``0.5 (cross-entropy + Dice)`` of MCSC (Liu et al., BMVC 2023) and SSL4MIS.

    Dice is the mean over all classes, background included, of ``1 - (2 sum p y + 1e-5) / (sum p^2 + sum y^2 + 1e-5)``
    with sums over the whole batch.
    """
    return DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, batch=True, lambda_dice=0.5, lambda_ce=0.5)


def nnunet_loss(batch_dice: bool = True) -> DiceCELoss:
    """Cross-entropy + Dice of nnU-Net v2 (``DC_and_CE_loss``; its Dice is ``-dice`` where this one is ``1 - dice``).

    Dice is the mean over the foreground classes of ``1 - (2 sum p y + 1e-5) / (sum p + sum y + 1e-5)``.

    Args:
        batch_dice: sums over the whole batch; if not, for each patch alone, then the mean (``plan.batch_dice``).
    """
    return DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=batch_dice)
