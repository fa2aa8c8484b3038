"""Losses on unlabelled patches: what one prediction asks of another. Pseudo-labels never carry a gradient.

``outputs`` says in each of them what the channels of the logits mean, exclusive classes by default; what a target is stands in
``mcsc_bundle.outputs``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mcsc_bundle.labels import IGNORED
from mcsc_bundle.outputs import Classes

CLASSES = Classes()


def hard_dice(logits: Tensor, labels: Tensor, outputs: Classes = CLASSES) -> Tensor:
    """Dice against hard labels: the cross pseudo supervision of MCSC and of cross teaching (Luo et al., MIDL 2022).

    Mean over all channels, background included, of ``1 - (2 sum p y + 1e-5) / (sum p^2 + sum y^2 + 1e-5)`` with sums
    over the whole batch, as in ``paper_loss``.

    Args:
        logits: ``(B, C, *spatial)``.
        labels: a target; voxels with -1 take no part, and if all have it the loss is 0.
        outputs: see above.
    """
    probability = outputs.probability(logits) * (labels != IGNORED)
    truth = outputs.truth(labels, logits.shape[1])
    axes = [0, *range(2, logits.ndim)]
    overlap = (probability * truth).sum(axes)
    total = probability.square().sum(axes) + truth.sum(axes)
    return (1 - (2 * overlap + 1e-5) / (total + 1e-5)).mean()


def hard_ce(logits: Tensor, labels: Tensor, outputs: Classes = CLASSES) -> Tensor:
    """Cross-entropy against hard labels (cross pseudo supervision, Chen et al., CVPR 2021).

    Args:
        logits: ``(B, C, *spatial)``.
        labels: a target. Voxels with -1 add 0 but count in the mean, as voxels below the threshold do in FixMatch (Sohn
            et al., 2020), so that little confidence means little weight.
        outputs: see above.
    """
    return outputs.cross_entropy(logits, labels).mean()


def confident_loss(logits: Tensor, target: Tensor, outputs: Classes = CLASSES) -> Tensor:
    """``hard_ce + hard_dice`` against a target that holds -1 where its teacher was not sure.

    Args:
        logits: ``(B, C, *spatial)``.
        target: a target. The loss is 0 where all of it is -1.
        outputs: see above.
    """
    return hard_ce(logits, target, outputs) + hard_dice(logits, target, outputs)


def probability_mse(logits: Tensor, teacher_logits: Tensor, outputs: Classes = CLASSES) -> Tensor:
    """Mean squared difference of probabilities (Mean Teacher, Tarvainen and Valpola, NeurIPS 2017).

    Args:
        logits, teacher_logits: ``(B, C, *spatial)``; the teacher's get no gradient.
        outputs: see above.
    """
    return F.mse_loss(outputs.probability(logits), outputs.probability(teacher_logits.detach()))


def certain_mse(logits: Tensor, teacher_logits: Tensor, certain: Tensor, outputs: Classes = CLASSES) -> Tensor:
    """``sum m (p - q)^2 / (2 sum m)``: squared difference of probabilities where the teacher is certain (UA-MT, Yu et al., 2019).

    The sum runs over voxels and classes, of a region inside and outside; the 2 is the reference code's number of classes and
    stays for any number.

    Args:
        logits, teacher_logits: ``(B, C, *spatial)``; the teacher's get no gradient.
        certain: boolean mask ``m``, ``(B, 1, *spatial)``. The loss is 0 where none of it is set.
        outputs: see above.
    """
    both = [outputs.log_probability(each).exp() for each in (logits, teacher_logits.detach())]
    squared = (both[0] - both[1]).square()
    return (squared * certain).sum() / (2 * certain.sum()).clamp(min=1)


def pyramid_consistency(logits: Sequence[Tensor], outputs: Classes = CLASSES) -> Tensor:
    """Each prediction of a pyramid against the mean of all, weighed by how far it is from it (URPC, Luo et al., 2021).

    With ``p_s`` the probabilities of prediction ``s``, ``pbar`` their mean and ``D_s = sum_c KL(pbar || p_s)`` of each voxel,
    the mean over ``s`` of ``mean((pbar - p_s)^2 e^{-D_s}) / (mean e^{-D_s} + 1e-8) + mean D_s``. The gradient flows into
    ``pbar`` too, as in the reference code. A region is two classes, inside and outside, and ``D_s`` sums over the regions.

    Args:
        logits: of each scale, ``(B, C, *spatial)``, all of one size.
        outputs: see above.
    """
    logs = torch.stack([outputs.log_probability(each) for each in logits])
    # a log-sum-exp, so that a class that every scale has given up (softmax 0) leaves finite gradients
    mean_log = logs.logsumexp(0) - math.log(len(logits))
    mean = mean_log.exp()
    total = logs.new_zeros(())
    for log_probability in logs:
        divergence = (mean * (mean_log - log_probability)).sum(1, keepdim=True)
        trust = (-divergence).exp()
        rectified = ((mean - log_probability.exp()).square() * trust).mean() / (trust.mean() + 1e-8)
        total = total + rectified + divergence.mean()
    return total / len(logits)


def part_loss(logits: Tensor, target: Tensor, part: Tensor, outputs: Classes = CLASSES) -> Tensor:
    """``0.5 (cross-entropy + Dice)`` over a part of the patches, each a mean over that part (BCP, Bai et al., CVPR 2023).

    Args:
        logits: ``(B, C, *spatial)``.
        target: a target; voxels with -1 are of no part.
        part: boolean mask that broadcasts to ``(B, 1, *spatial)``; where it is empty the loss is 0.
        outputs: see above.
    """
    labels = torch.where(part, target, IGNORED)
    # hard_ce takes its mean over all voxels; the authors take it over the part
    share = (labels != IGNORED).float().mean().clamp(min=1 / labels.numel())
    return 0.5 * (hard_ce(logits, labels, outputs) / share + hard_dice(logits, labels, outputs))


def sigmoid_rampup(progress: float) -> float:
    """``exp(-5 (1 - t)^2)`` with ``t`` clipped to [0, 1] (Laine and Aila, ICLR 2017): 0.0067 at 0, 1 from 1 on."""
    return math.exp(-5.0 * (1.0 - min(max(progress, 0.0), 1.0)) ** 2)
