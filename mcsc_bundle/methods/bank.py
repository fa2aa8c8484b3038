"""Feature vectors of earlier steps, so that the contrast reaches beyond the batch ("across the whole data set", MCSC)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MemoryBank(nn.Module):
    """The last vectors of each class; the oldest make room for the newest.

    He et al. (MoCo, 2020) keep keys of earlier steps in a queue; with one queue a class (Wang et al., *Exploring
    Cross-Image Pixel Contrast*, ICCV 2021) a class that few patches hold has partners in each step. Its buffers are part
    of the checkpoint, and nothing here waits for the device.

    Args:
        num_classes: background included.
        size: vectors kept of each class.
        channels: their width.
        per_step: vectors of each class that a step brings in, at most.
    """

    vectors: Tensor
    known: Tensor
    place: Tensor

    def __init__(self, num_classes: int, size: int, channels: int, per_step: int = 8) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size: expected at least 1 vector a class, received {size}.")
        self.size, self.per_step = size, min(per_step, size)
        self.register_buffer("vectors", torch.zeros(num_classes, size, channels))
        self.register_buffer("known", torch.zeros(num_classes, size, dtype=torch.bool))
        self.register_buffer("place", torch.zeros(num_classes, dtype=torch.long))

    def extend(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Groups joined by the whole bank, which gets no gradient but counts as any vector of the group.

        Args:
            features: ``(G, N, D)``.
            labels: class indices ``(G, N)``.

        Returns:
            ``(G, N + classes * size, D)`` and ``(G, N + classes * size)``; places not yet filled have label -1.
        """
        classes = torch.arange(len(self.known), device=labels.device).unsqueeze(1)
        kept = torch.where(self.known, classes, -1).flatten().expand(len(labels), -1)
        vectors = self.vectors.to(features.dtype).flatten(0, 1).expand(len(features), -1, -1)
        return torch.cat((features, vectors), 1), torch.cat((labels, kept), 1)

    @torch.no_grad()
    def add(self, features: Tensor, labels: Tensor) -> None:
        """Keep up to ``per_step`` random vectors of each class, out of ``(G, N, D)`` with labels ``(G, N)``.

        Each class goes on where it stopped, so that a rare one fills its places too.
        """
        flat, targets = features.detach().flatten(0, 1), labels.flatten()
        classes = torch.arange(len(self.known), device=targets.device).unsqueeze(1)
        # (C, G * N); a step with vectors that are not finite is skipped by the trainer, but the bank would keep them
        usable = (targets == classes) & flat.isfinite().all(1)
        chance = torch.rand(len(targets), device=targets.device).masked_fill(~usable, -1)
        best = chance.topk(min(self.per_step, len(targets)), dim=1)
        found = best.values >= 0
        # topk puts what was found first, so that a class takes as many places as it brought vectors
        places = (self.place.unsqueeze(1) + torch.arange(best.indices.shape[1], device=targets.device)) % self.size
        fresh = flat[best.indices].to(self.vectors.dtype)
        self.vectors[classes, places] = torch.where(found.unsqueeze(2), fresh, self.vectors[classes, places])
        self.known[classes, places] |= found
        self.place.add_(found.sum(1))
