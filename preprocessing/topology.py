"""Shape of a U-Net for a patch: which axes are halved when, kernel sizes, and the padding that needs (nnU-Net's rules).

Source: nnU-Net v2 ``network_topology.py`` (``get_pool_and_conv_props``) and the patch rules of
``default_experiment_planner.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mcsc_bundle.plan import PlanError

MIN_FEATURE_MAP = 4
"""Halving stops when an axis of the feature map would fall below this many voxels."""

SIMILAR_SPACING = 2.0
"""Axes whose spacing is less than this many times the finest are treated alike: halved together, convolved over."""

INITIAL_VOXELS = {2: 2048**2, 3: 256**3}
"""Volume of the first patch tried, before it is clipped to the median shape."""


@dataclass(frozen=True)
class Topology:
    """A patch and the stages of the U-Net that fits it.

    Args:
        patch: voxels per axis, padded to what the strides divide.
        strides: downsampling on entering each stage, the first all ones.
        kernels: convolution kernel of each stage.
    """

    patch: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]

    @property
    def divisor(self) -> tuple[int, ...]:
        """Product of the strides per axis."""
        return tuple(math.prod(column) for column in zip(*self.strides, strict=True))

    @property
    def stage_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Feature map of each stage, finest first."""
        shapes, size = [], self.patch
        for stride in self.strides:
            size = tuple(length // step for length, step in zip(size, stride, strict=True))
            shapes.append(size)
        return tuple(shapes)

    def permuted(self, order: Sequence[int]) -> Topology:
        """The same network with axis ``i`` of the result taken from axis ``order[i]``."""

        def pick(values: Sequence[int]) -> tuple[int, ...]:
            return tuple(values[axis] for axis in order)

        return Topology(pick(self.patch), tuple(map(pick, self.strides)), tuple(map(pick, self.kernels)))


def network_topology(spacing_mm: Sequence[float], size: Sequence[float]) -> Topology:
    """Strides and kernels for a patch, and the patch padded to a multiple of the strides.

    At each stage the axes that still have ``2 * MIN_FEATURE_MAP`` voxels compete; those with less than twice the finest
    spacing among them are halved (a single one only if it has ``3 * MIN_FEATURE_MAP``). An axis is convolved over
    (kernel 3 instead of 1) from the stage on at which its spacing is less than twice the finest; the bottleneck
    always is.

    Args:
        spacing_mm: spacing of the patch's axes.
        size: wished patch, voxels; may be fractional (a median of shapes).
    """
    axes = range(len(spacing_mm))
    spacing, length = [float(s) for s in spacing_mm], [float(s) for s in size]
    pools, convolved = [0 for _ in axes], [False for _ in axes]
    strides, kernels = [tuple(1 for _ in axes)], []
    while True:
        chosen = _axes_to_halve(spacing, length)
        if not chosen:
            break
        finest = min(spacing)
        convolved = [done or s / finest < SIMILAR_SPACING for done, s in zip(convolved, spacing, strict=True)]
        kernels.append(tuple(3 if done else 1 for done in convolved))
        strides.append(tuple(2 if axis in chosen else 1 for axis in axes))
        for axis in chosen:
            pools[axis] += 1
            spacing[axis] *= 2
            length[axis] = math.ceil(length[axis] / 2)
    kernels.append(tuple(3 for _ in axes))
    patch = tuple(math.ceil(wished / 2**count) * 2**count for wished, count in zip(size, pools, strict=True))
    return Topology(patch, tuple(strides), tuple(kernels))


def _axes_to_halve(spacing: list[float], length: list[float]) -> list[int]:
    large = [axis for axis, voxels in enumerate(length) if voxels >= 2 * MIN_FEATURE_MAP]
    if not large:
        return []
    finest = min(spacing[axis] for axis in large)
    chosen = [axis for axis in large if spacing[axis] / finest < SIMILAR_SPACING]
    alone_and_short = len(chosen) == 1 and length[chosen[0]] < 3 * MIN_FEATURE_MAP
    return [] if alone_and_short else chosen


def initial_patch(spacing_mm: Sequence[float], median_shape: Sequence[float]) -> tuple[float, ...]:
    """Largest patch worth trying: equally long in mm on every axis, of a fixed volume, at most the median shape."""
    dims = len(spacing_mm)
    aspect = 1 / np.array(spacing_mm, dtype=np.float64)
    scale = (INITIAL_VOXELS[dims] / np.prod(aspect)) ** (1 / dims)
    return tuple(
        float(min(round(float(edge)), limit)) for edge, limit in zip(aspect * scale, median_shape, strict=True)
    )


def shrink(topology: Topology, spacing_mm: Sequence[float], median_shape: Sequence[float]) -> Topology:
    """The next smaller patch: one divisibility step off the axis that covers most of the median shape.

    The step is the one that the *smaller* patch needs: from 256 (step 64) this tries 224 (step 32) before 192. Among
    equal axes the last one shrinks, as in nnU-Net.

    Raises:
        PlanError: the patch is used up.
    """
    covered = [length / median for length, median in zip(topology.patch, median_shape, strict=True)]
    axis = max(range(len(covered)), key=lambda index: (covered[index], index))
    trial = list(topology.patch)
    trial[axis] -= topology.divisor[axis]
    step = network_topology(spacing_mm, trial).divisor[axis]
    smaller = list(topology.patch)
    smaller[axis] -= step
    if smaller[axis] < 1:
        raise PlanError(f"no patch is left: {topology.patch} is already the smallest on axis {axis}")
    return network_topology(spacing_mm, smaller)


def fit_patch(
    spacing_mm: Sequence[float], median_shape: Sequence[float], fits: Callable[[Topology], bool]
) -> tuple[Topology, Topology]:
    """Shrink the initial patch until ``fits`` says so.

    Returns:
        The topology that fits, and the one first tried.

    Raises:
        PlanError: not even the smallest patch fits.
    """
    first = network_topology(spacing_mm, initial_patch(spacing_mm, median_shape))
    topology = first
    while not fits(topology):
        topology = shrink(topology, spacing_mm, median_shape)
    return topology, first
