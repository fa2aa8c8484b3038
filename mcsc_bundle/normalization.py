"""Intensity normalisation, before resampling (nnU-Net v2: default_normalization_schemes.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from mcsc_bundle.plan import ChannelNormalization

MIN_STD = 1e-8


def normalize(image: Tensor, schemes: Sequence[ChannelNormalization]) -> Tensor:
    """A normalised copy.

    Args:
        image: ``(C, *spatial)``, cropped to its non-zero box.
        schemes: one per channel, see ``ChannelNormalization``.
    """
    out = torch.empty(image.shape, dtype=torch.float32)
    inside = body_mask(image) if any(entry.inside_mask for entry in schemes) else None
    for channel, target, entry in zip(image, out, schemes, strict=True):
        target.copy_(channel)
        if entry.scheme == "zscore":
            _zscore(target, inside if entry.inside_mask else None)
        elif entry.scheme == "ct":
            target.clamp_(entry.lower, entry.upper).sub_(entry.mean).div_(max(entry.std or 0, MIN_STD))
        elif entry.scheme == "rescale_to_0_1":
            target.sub_(target.min())
            target.div_(target.max().clamp_min(MIN_STD))
        elif entry.scheme == "rgb_to_0_1":
            target.div_(255.0)
    return out


def body_mask(image: Tensor) -> Tensor:
    """Voxels ``(*spatial)`` where any channel of ``(C, *spatial)`` is not zero, with enclosed holes filled."""
    outside = (image == 0).all(0).numpy()
    parts, _ = ndimage.label(outside)
    borders = [np.take(parts, side, axis) for axis in range(parts.ndim) for side in (0, -1)]
    reached = np.zeros(int(parts.max()) + 1, bool)
    for border in borders:
        reached[border] = True
    reached[0] = False
    return torch.from_numpy(~reached[parts])


def _zscore(channel: Tensor, inside: Tensor | None) -> None:
    """In place. Outside the mask all voxels are 0 and stay so: sums over the image are sums over the mask."""
    if inside is None:
        std, mean = torch.std_mean(channel, correction=0)
        channel.sub_(mean).div_(std.clamp_min(MIN_STD))
        return
    voxels = int(inside.sum())
    mean = channel.sum(dtype=torch.float64) / voxels
    channel.sub_(mean.float()).mul_(inside)
    std = torch.sqrt(torch.linalg.vector_norm(channel, dtype=torch.float64) ** 2 / voxels)
    channel.div_(std.float().clamp_min(MIN_STD))
