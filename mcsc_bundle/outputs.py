"""What a network's channels mean: exclusive classes (softmax), or regions that may lie in one another (sigmoid).

A *target* is what logits are compared with, ``(B, K, *spatial)``, with ``IGNORED`` where it is not known. For classes it holds
indices and K is 1; for regions it holds 0 and 1, and K is their number. Losses and methods are written once, for a target and
one of the two kinds below.

Regions: nnU-Net v2, ``documentation/region_based_training.md``, which has labelled scans alone. What pseudo-labels are is ours:
each region's sigmoid is taken as a distribution over two classes, its label is 1 above a half, and it is sure where the larger of
both probabilities is high enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcsc_bundle.labels import IGNORED
from mcsc_bundle.plan import Plan


class Classes(nn.Module):
    """Each voxel is of one class; channel 0 is the background."""

    def target(self, label: Tensor) -> Tensor:
        """The target ``(B, 1, *spatial)`` of class indices ``(B, 1, *spatial)``."""
        return label.long()

    def hard(self, logits: Tensor) -> Tensor:
        """The target that logits stand for, without a gradient."""
        return logits.detach().argmax(1, keepdim=True)

    def confident(self, logits: Tensor, least: float) -> Tensor:
        """``hard``, but ``IGNORED`` where its probability is below ``least``."""
        share, label = self.probability(logits.detach()).max(1, keepdim=True)
        return label.masked_fill(~(share >= least), IGNORED)  # of a teacher that has overflowed, too: nan is no opinion

    def probability(self, logits: Tensor) -> Tensor:
        """``(B, C, *spatial)`` in float32."""
        return logits.float().softmax(1)

    def log_probability(self, logits: Tensor) -> Tensor:
        """Logarithms of a distribution in each voxel, ``(B, C, *spatial)``."""
        return logits.float().log_softmax(1)

    def logits(self, log_probability: Tensor) -> Tensor:
        """Logits of such logarithms."""
        return log_probability

    def truth(self, target: Tensor, channels: int) -> Tensor:
        """The target as probabilities ``(B, channels, *spatial)``, all 0 where it is ignored."""
        index = torch.arange(channels, device=target.device).view(1, channels, *[1] * (target.ndim - 2))
        return (target == index).float()

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Of each voxel, ``(B, *spatial)``, 0 where it is ignored."""
        return F.cross_entropy(logits.float(), target[:, 0].long(), ignore_index=IGNORED, reduction="none")

    def entropy(self, probability: Tensor) -> Tensor:
        """Of each voxel, in nats, ``(B, 1, *spatial)``."""
        return torch.special.entr(probability).sum(1, keepdim=True)

    def foreground(self, target: Tensor, channels: int) -> Tensor:
        """Boolean masks of each class but the background, ``(B, channels - 1, *spatial)``; False where ignored."""
        return self.truth(target, channels)[:, 1:] > 0

    def exclusive(self, target: Tensor) -> Tensor:
        """Class indices or ``IGNORED``, ``(B, *spatial)``."""
        return target[:, 0]


class Regions(Classes):
    """Each voxel is in any number of regions, one channel each.

    Args:
        members: which regions each class index of the label files is in, ``[index][region]``.
    """

    def __init__(self, members: Sequence[Sequence[bool]]) -> None:
        super().__init__()
        self.register_buffer("members", torch.tensor(members, dtype=torch.long), persistent=False)

    def target(self, label: Tensor) -> Tensor:
        """The target ``(B, regions, *spatial)`` of class indices ``(B, 1, *spatial)``."""
        members = self.get_buffer("members")  # an annotation of the attribute would keep TorchScript from the class
        inside = members[label[:, 0].long().clamp(min=0)].movedim(-1, 1)
        return inside.masked_fill(label == IGNORED, IGNORED)

    def hard(self, logits: Tensor) -> Tensor:
        """1 where a region's probability is above a half, without a gradient."""
        return (logits.detach() > 0).long()

    def confident(self, logits: Tensor, least: float) -> Tensor:
        """``hard``, but ``IGNORED`` in each region whose larger probability, inside or outside, is below ``least``."""
        probability = self.probability(logits.detach())
        return self.hard(logits).masked_fill(~(torch.maximum(probability, 1 - probability) >= least), IGNORED)

    def probability(self, logits: Tensor) -> Tensor:
        """``(B, regions, *spatial)`` in float32."""
        return logits.float().sigmoid()

    def log_probability(self, logits: Tensor) -> Tensor:
        """Logarithms of inside, then of outside each region, ``(B, 2 regions, *spatial)``."""
        return torch.cat((F.logsigmoid(logits.float()), F.logsigmoid(-logits.float())), 1)

    def logits(self, log_probability: Tensor) -> Tensor:
        """Logits of such logarithms."""
        inside, outside = log_probability.chunk(2, 1)
        return inside - outside

    def truth(self, target: Tensor, channels: int) -> Tensor:
        """The target as probabilities, 0 where it is ignored."""
        return (target == 1).float()

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy, mean over the regions of each voxel, ``(B, *spatial)``; an ignored region adds 0."""
        each = F.binary_cross_entropy_with_logits(logits.float(), self.truth(target, 0), reduction="none")
        return each.masked_fill(target == IGNORED, 0).mean(1)

    def entropy(self, probability: Tensor) -> Tensor:
        """Mean over the regions of each voxel, in nats, at most ln 2, ``(B, 1, *spatial)``."""
        return (torch.special.entr(probability) + torch.special.entr(1 - probability)).mean(1, keepdim=True)

    def foreground(self, target: Tensor, channels: int) -> Tensor:
        """Boolean masks of each region; False where ignored."""
        return target == 1

    def exclusive(self, target: Tensor) -> Tensor:
        """Index of the region that is painted last, 1 for the first, or 0; ``IGNORED`` where any region is not known."""
        order = torch.arange(1, target.shape[1] + 1, device=target.device).view(1, -1, *[1] * (target.ndim - 2))
        painted = ((target == 1) * order).amax(1)
        return painted.masked_fill((target == IGNORED).any(1), IGNORED)


def outputs_of(plan: Plan) -> Classes:
    """The kind of a plan's networks."""
    if not plan.regions:
        return Classes()
    return Regions([[value in region for region in plan.regions.values()] for value in plan.label_values])
