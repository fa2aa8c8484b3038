"""Images and labels of a region, resampled at the turned and scaled places of a training patch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def rotation_matrix(angles: list[float]) -> np.ndarray:
    """Rotation by one angle (2-D) or about the three axes in turn (3-D), angles in radians."""
    if len(angles) == 1:
        (a,) = angles
        return np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


def sampling_grid(matrix: np.ndarray, patch: Sequence[int], region: Sequence[int]) -> Tensor:
    """``grid_sample`` positions ``(1, *patch, dims)``: patch voxel (from the centre) times matrix is region voxel.

    They count in half-extents of the region with the last axis first, hence the scaling and the order. Sums of what depends on
    one axis alone, so that only the last addition is of full size; ``affine_grid`` multiplies matrices instead.
    """
    from_centre = [
        (torch.arange(size) - (size - 1) / 2).view([-1 if i == axis else 1 for i in range(len(patch))])
        for axis, size in enumerate(patch)
    ]
    rows = matrix / (np.asarray(region) / 2)[:, None]
    positions = [sum(float(factor) * x for factor, x in zip(row, from_centre, strict=True)) for row in rows]
    return torch.stack(torch.broadcast_tensors(*positions[::-1]), -1)[None]


def sampled(x: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """``(C, *region)`` at a grid ``(1, *patch, dims)``, linearly or by the ``nearest`` voxel; 0 outside the region."""
    moved = F.grid_sample(x[None].float(), grid, mode=mode, padding_mode="zeros", align_corners=False)[0]
    return moved.to(x.dtype)


def sampled_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Labels ``(C, *region)`` at a grid ``(1, *patch, dims)``: the one with the largest share in linear interpolation.

    As nnU-Net resamples them, so that an oblique border stays as straight as the image's. Outside the region is 0, ties go to
    the lower label. Shares are counted where a neighbour differs alone; elsewhere the nearest voxel says it all.
    """
    both = sampled(2 * labels.int() + _beside_another(labels), grid, "nearest")  # one sampling tells label and border
    out, mixed = (both >> 1).to(labels.dtype), both % 2 > 0
    for channel, found, region in zip(out, mixed, labels, strict=True):
        if found.any():
            channel[found] = _largest_share(region, grid[0][found])
    return out


def _beside_another(labels: Tensor) -> Tensor:
    """True where a voxel of ``(C, *region)`` touches, diagonals included, one of another label or the outside."""
    low = high = F.pad(labels, (1, 1) * (labels.ndim - 1))
    for axis, size in enumerate(labels.shape[1:], 1):  # one axis after the other, as a box is
        low, high = (
            pick(x.narrow(axis, 1, size), pick(x.narrow(axis, 0, size), x.narrow(axis, 2, size)))
            for pick, x in ((torch.minimum, low), (torch.maximum, high))
        )
    return low != high


def _largest_share(region: Tensor, places: Tensor) -> Tensor:
    """Labels at ``places`` ``(n, dims)`` in a region ``(*region)``, from the corners around each: as fast for many classes."""
    padded = F.pad(region, (1, 1) * region.ndim)  # what lies outside is 0
    first = torch.zeros(len(places), dtype=torch.long)
    weights = torch.ones(1, len(places))
    offsets = [0]
    for axis, size in enumerate(region.shape):
        voxel = ((places[:, -1 - axis] + 1) * size + 1) / 2  # as ``grid_sample`` counts, and one for the padding
        low = voxel.floor()
        first += low.long() * padded.stride(axis)
        offsets += [offset + padded.stride(axis) for offset in offsets]
        weights = torch.cat((weights * (1 - (voxel - low)), weights * (voxel - low)))
    flat = padded.flatten()
    labels = torch.stack([flat[first + offset] for offset in offsets])  # (2^dims, n), as the weights
    shares = torch.stack([(weights * (labels == one)).sum(0) for one in labels])
    return labels.masked_fill(shares < shares.amax(0), torch.iinfo(labels.dtype).max).amin(0)
