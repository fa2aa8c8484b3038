"""Resampling between voxel grids that cover the same box, by nnU-Net's rules.

Spline interpolation is separable: along each axis it is one small matrix. Multiplying axis by axis gives what
``skimage.transform.resize(mode="edge", anti_aliasing=False)`` (nnU-Net: default_resampling.py) gives, in float32 and
in a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float | None]
) -> tuple[int, ...]:
    """Shape of an image at another spacing; ``None`` keeps an axis, half voxels round to even, no axis vanishes."""
    return tuple(
        size if target is None else max(1, round(spacing / target * size))
        for size, spacing, target in zip(shape, spacing_mm, target_mm, strict=True)
    )


def coarse_axis(spacing_mm: Sequence[float], target_mm: Sequence[float], ratio: float) -> int | None:
    """Axis that is resampled apart from the others, by nearest neighbour.

    Args:
        spacing_mm, target_mm: of the grid that is left and the one that is reached.
        ratio: largest to smallest spacing above which a grid is anisotropic; the first grid is asked first.

    Returns:
        The coarsest axis of the first anisotropic grid; ``None`` if there is none, or if it has two such axes.
    """
    for spacing in (spacing_mm, target_mm):
        if max(spacing) / min(spacing) > ratio:
            coarsest = [axis for axis, size in enumerate(spacing) if size == max(spacing)]
            return coarsest[0] if len(coarsest) == 1 and len(spacing) == 3 else None
    return None


def resize_image(image: Tensor, shape: Sequence[int], coarse: int | None = None) -> Tensor:
    """Cubic spline resampling, limited to the intensities that were there.

    Args:
        image: ``(*spatial)`` float32.
        shape: of the result.
        coarse: axis that is resampled by nearest neighbour; limits then hold slice by slice.
    """
    if tuple(image.shape) == tuple(shape):
        return image
    plane = [axis for axis in range(image.ndim) if axis != coarse]
    low, high = image.amin(plane, keepdim=True), image.amax(plane, keepdim=True)
    in_plane = [image.shape[axis] if axis == coarse else size for axis, size in enumerate(shape)]
    limited = _interpolate(image, in_plane, order=3).clamp_(low, high)
    return limited if coarse is None else _nearest(limited, coarse, shape[coarse])


def resize_logits(logits: Tensor, shape: Sequence[int], coarse: int | None = None) -> Tensor:
    """Linear resampling of one map ``(*spatial)``; nearest neighbour along ``coarse``."""
    in_plane = [logits.shape[axis] if axis == coarse else size for axis, size in enumerate(shape)]
    resized = _interpolate(logits, in_plane, order=1)
    return resized if coarse is None else _nearest(resized, coarse, shape[coarse])


def resize_classes(classes: Tensor, shape: Sequence[int], coarse: int | None = None) -> Tensor:
    """Resampling of class indices ``(*spatial)`` uint8: the class whose linearly resampled mask is largest.

    Of two classes this is nnU-Net's rule (a mask of at least 0.5 wins, the higher index on a tie); where three meet and
    none has 0.5, nnU-Net leaves background and this the largest.
    """
    if tuple(classes.shape) == tuple(shape):
        return classes
    present = sorted(torch.unique(classes).tolist(), reverse=True)
    return largest((index, resize_logits((classes == index).float(), shape, coarse)) for index in present)


def largest(maps: Iterable[tuple[int, Tensor]]) -> Tensor:
    """Index (uint8) of the largest map at each voxel, the first one on a tie; holds one map and the best so far."""
    maps = iter(maps)
    index, best = next(maps)
    winner = torch.full(best.shape, index, dtype=torch.uint8, device=best.device)
    best = best.clone()
    for index, values in maps:
        better = values > best
        winner[better] = index
        torch.maximum(best, values, out=best)
    return winner


def _interpolate(image: Tensor, shape: Sequence[int], order: int) -> Tensor:
    """One axis after the other, the one that shrinks most first."""
    axes = [axis for axis in range(image.ndim) if image.shape[axis] != shape[axis]]
    for axis in sorted(axes, key=lambda axis: shape[axis] / image.shape[axis]):
        matrix = resampling_matrix(image.shape[axis], shape[axis], order).to(image)
        image = _multiply(matrix, image, axis)
    return image.clone() if not axes else image


def _multiply(matrix: Tensor, image: Tensor, axis: int) -> Tensor:
    before, after = image.shape[:axis], image.shape[axis + 1 :]
    if not after:
        return image @ matrix.T
    stack = image.reshape(before.numel(), image.shape[axis], after.numel())
    out = image.new_empty(before.numel(), len(matrix), after.numel())
    for source, target in zip(stack, out, strict=True):
        torch.mm(matrix, source, out=target)
    return out.reshape(*before, len(matrix), *after)


@lru_cache(maxsize=64)
def resampling_matrix(size: int, new_size: int, order: int) -> Tensor:
    """``(new_size, size)``: column ``i`` is what scipy makes of an impulse at voxel ``i``, borders repeated."""
    impulses = np.eye(size)
    columns = [
        ndimage.zoom(impulse, new_size / size, order=order, mode="nearest", grid_mode=True) for impulse in impulses
    ]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def _nearest(image: Tensor, axis: int, new_size: int) -> Tensor:
    size = image.shape[axis]
    if size == new_size:
        return image
    centres = np.floor(size / new_size * (np.arange(new_size) + 0.5)).astype(np.int64).clip(0, size - 1)
    return image.index_select(axis, torch.from_numpy(centres).to(image.device))
