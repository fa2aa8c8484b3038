"""Resampling between voxel grids that cover the same box, by nnU-Net's rules.

Spline interpolation is separable: along each axis it is a small matrix (cubic) or two neighbours (linear). Axis by
axis this gives what ``skimage.transform.resize(mode="edge", anti_aliasing=False)`` gives (nnU-Net:
default_resampling.py), in float32 and in a tenth of the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

SLAB_VOXELS = 2**21  # of a result that is worked on at a time
BAND_ROWS = 64
NEGLIGIBLE = 1e-9  # spline weights below this; they fade by 0.27 per voxel


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
    resized = image.new_empty(in_plane)
    for rows in _slabs(in_plane):
        part = _spline_axis(image, in_plane[0], 0, rows)
        for axis in range(1, image.ndim):
            part = _spline_axis(part, in_plane[axis], axis)
        limits = (low, high) if len(low) == 1 else (low[rows], high[rows])
        torch.clamp(part, *limits, out=resized[rows])
    if coarse is None or in_plane[coarse] == shape[coarse]:
        return resized
    nearest = Taps.nearest(in_plane[coarse], shape[coarse]).low
    return resized.index_select(coarse, torch.from_numpy(nearest).to(image.device))


def resize_logits(logits: Tensor, shape: Sequence[int], coarse: int | None = None) -> Tensor:
    """Linear resampling of one map ``(*spatial)``; nearest neighbour along ``coarse``."""
    taps, resized = _all_taps(logits.shape, shape, coarse), logits.new_empty(tuple(shape))
    for rows in _slabs(shape):
        source, first = taps[0].needed(rows)
        resized[rows] = _interpolate(logits[source], [first, *taps[1:]])
    return resized


def resize_classes(classes: Tensor, shape: Sequence[int], coarse: int | None = None) -> Tensor:
    """Resampling of class indices ``(*spatial)`` uint8: the class whose linearly resampled mask is largest.

    Of two classes this is nnU-Net's rule (a mask of at least 0.5 wins, the higher index on a tie); where three meet and
    none has 0.5, nnU-Net leaves background and this the largest. Only the box of the foreground is worked on: the masks
    sum to one, so background needs none.
    """
    if tuple(classes.shape) == tuple(shape):
        return classes
    resized = torch.zeros(tuple(shape), dtype=torch.uint8)
    box = ndimage.find_objects((classes != 0).numpy().view(np.uint8))
    if not box:
        return resized
    taps = _all_taps(classes.shape, shape, coarse)
    reached = tuple(each.reached(part) for each, part in zip(taps, box[0], strict=True))
    needed = [each.needed(rows) for each, rows in zip(taps, reached, strict=True)]
    source, target = classes[tuple(part for part, _ in needed)], resized[reached]
    for rows in _slabs(target.shape):
        part, first = needed[0][1].needed(rows)
        target[rows] = _largest_share(source[part], [first, *(local for _, local in needed[1:])])
    return resized


def largest_resized(logits: Tensor, shape: Sequence[int], coarse: int | None = None) -> Tensor:
    """Index (uint8) of the largest of the linearly resampled maps ``(C, *spatial)``, the first one on a tie.

    Works on a slab of the result at a time, so that the resampled maps never lie in memory.
    """
    taps = _all_taps(logits.shape[1:], shape, coarse)
    winner = torch.zeros(tuple(shape), dtype=torch.uint8, device=logits.device)
    for rows in _slabs(shape):
        source, first = taps[0].needed(rows)
        best = _interpolate(logits[0][source], [first, *taps[1:]])
        for index in range(1, len(logits)):
            values = _interpolate(logits[index][source], [first, *taps[1:]])
            winner[rows][values > best] = index
            best = torch.maximum(best, values)
    return winner


def last_above_zero(maps: Tensor, shape: Sequence[int], coarse: int | None = None) -> Tensor:
    """1 + index (uint8) of the last of the linearly resampled maps ``(C, *spatial)`` that is above 0; 0 if none is.

    What painting regions one over the other leaves, from their logits. A slab at a time, as ``largest_resized``.
    """
    taps = _all_taps(maps.shape[1:], shape, coarse)
    last = torch.zeros(tuple(shape), dtype=torch.uint8, device=maps.device)
    for rows in _slabs(shape):
        source, first = taps[0].needed(rows)
        for index, each in enumerate(maps, start=1):
            last[rows][_interpolate(each[source], [first, *taps[1:]]) > 0] = index
    return last


def _largest_share(classes: Tensor, taps: Sequence[Taps]) -> Tensor:
    shares = {
        index: _interpolate((classes == index).float(), taps)
        for index in sorted(set(torch.unique(classes).tolist()) - {0}, reverse=True)
    }
    best = torch.zeros(tuple(len(each.low) for each in taps))
    background, winner = torch.ones_like(best), torch.zeros_like(best, dtype=torch.uint8)
    for index, share in shares.items():
        background -= share
        winner[share > best] = index
        torch.maximum(best, share, out=best)
    winner[background > best] = 0
    return winner


def _slabs(shape: Sequence[int]) -> list[slice]:
    """The first axis in pieces of about ``SLAB_VOXELS``."""
    step = max(1, SLAB_VOXELS * shape[0] // max(1, math.prod(shape)))
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


@lru_cache(maxsize=64)
def spline_matrix(size: int, new_size: int) -> Tensor:
    """``(new_size, size)``: column ``i`` is scipy's cubic zoom of an impulse at voxel ``i``, borders repeated."""
    zoomed = [
        ndimage.zoom(impulse, new_size / size, order=3, mode="nearest", grid_mode=True) for impulse in np.eye(size)
    ]
    return torch.from_numpy(np.stack(zoomed, axis=1).astype(np.float32))


def _spline_axis(image: Tensor, new_size: int, axis: int, rows: slice | None = None) -> Tensor:
    """``rows`` (default all) of the new axis; a spline fades within some voxels, so few columns of the matrix count."""
    rows = rows or slice(0, new_size)
    if image.shape[axis] == new_size:
        return image.narrow(axis, rows.start, rows.stop - rows.start)
    matrix = spline_matrix(image.shape[axis], new_size)
    before, after = math.prod(image.shape[:axis]), math.prod(image.shape[axis + 1 :])
    stack = image.reshape(before, image.shape[axis], after)
    out = image.new_empty((before, rows.stop - rows.start, after))
    for start in range(rows.start, rows.stop, BAND_ROWS):
        band = slice(start, min(start + BAND_ROWS, rows.stop))
        used = (matrix[band].abs() > NEGLIGIBLE).any(0).nonzero()
        columns = slice(int(used[0]), int(used[-1]) + 1)
        weights = matrix[band, columns].to(image)
        target = out[:, band.start - rows.start : band.stop - rows.start]
        if after == 1:
            target[:, :, 0] = stack[:, columns, 0] @ weights.T
        else:
            for source, result in zip(stack[:, columns], target, strict=True):
                torch.mm(weights, source, out=result)
    return out.reshape(*image.shape[:axis], -1, *image.shape[axis + 1 :])


@dataclass(frozen=True)
class Taps:
    """Interpolation along one axis: new voxel ``i`` is between the old voxels ``low[i]`` and ``high[i]``.

    ``weight[i]`` in [0, 1] is the share of ``high[i]``.
    """

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray

    @classmethod
    def linear(cls, size: int, new_size: int) -> Taps:
        """Linear interpolation between voxel centres; outside the first and last centre they are repeated."""
        centres = (size / new_size * (np.arange(new_size) + 0.5) - 0.5).clip(0, size - 1)
        low = np.floor(centres).astype(np.int64)
        return cls(low, np.minimum(low + 1, size - 1), (centres - low).astype(np.float32))

    @classmethod
    def nearest(cls, size: int, new_size: int) -> Taps:
        """Nearest neighbour."""
        low = np.floor(size / new_size * (np.arange(new_size) + 0.5)).astype(np.int64).clip(0, size - 1)
        return cls(low, low, np.zeros(new_size, np.float32))

    def reached(self, part: slice) -> slice:
        """New voxels that a part of the old axis has to do with (an empty slice if it falls between them)."""
        new = np.flatnonzero((self.high >= part.start) & (self.low < part.stop))
        return slice(int(new[0]), int(new[-1]) + 1) if len(new) else slice(0, 0)

    def needed(self, rows: slice) -> tuple[slice, Taps]:
        """Old voxels that some new voxels need, and the interpolation from the one to the other."""
        low, high = self.low[rows], self.high[rows]
        part = slice(int(low.min()), int(high.max()) + 1) if len(low) else slice(0, 0)
        return part, Taps(low - part.start, high - part.start, self.weight[rows])


def _all_taps(shape: Sequence[int], new_shape: Sequence[int], coarse: int | None) -> list[Taps]:
    return [
        (Taps.nearest if axis == coarse else Taps.linear)(size, new_size)
        for axis, (size, new_size) in enumerate(zip(shape, new_shape, strict=True))
    ]


def _interpolate(image: Tensor, taps: Sequence[Taps]) -> Tensor:
    """One axis after the other, the one that shrinks most first."""
    for axis in sorted(range(image.ndim), key=lambda axis: len(taps[axis].low) / image.shape[axis]):
        if len(taps[axis].low) != image.shape[axis] or taps[axis].weight.any():
            low, high, weight = (torch.from_numpy(part).to(image.device) for part in vars(taps[axis]).values())
            one, other = image.index_select(axis, low), image.index_select(axis, high)
            image = one.lerp_(other, weight.view(-1, *[1] * (image.ndim - axis - 1)).to(image.dtype))
    return image
