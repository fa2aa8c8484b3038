"""Where the images live: axis order, target spacing, and the median shape on that grid (nnU-Net's rules).

Sources: nnU-Net v2 ``default_experiment_planner.py`` (``determine_fullres_target_spacing``, ``determine_transpose``)
and ``default_resampling.py`` (``compute_new_shape``). We do not transpose images: every result is in the
fingerprint's own axis order, and ``Geometry.order`` only names the axes in the order in which nnU-Net would look at
them, so that ties between equal axes fall the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mcsc_bundle.plan import Fingerprint, PlanError

ANISOTROPY_RATIO = 3.0
"""A volume is anisotropic when its coarsest spacing exceeds this many times the others (nnU-Net's threshold)."""

COARSE_AXIS_PERCENTILE = 10
"""Percentile of the coarse axis' spacings that replaces their median in anisotropic data."""


@dataclass(frozen=True)
class Geometry:
    """The grid all cases are brought to, per image axis in the fingerprint's order.

    Args:
        spacing_mm: target spacing.
        median_spacing_mm: median of the cases' spacings, which is the target unless the anisotropy rule moved it.
        median_shape: median over the cases of their shape after cropping and resampling to ``spacing_mm``; may end in
            .5.
        order: image axes as nnU-Net would order them: the coarsest first, then the others as SimpleITK reads them (z,
            y, x).
        orientation: axis codes the image axes stand for, ``None`` for 2-D images.
        num_cases: cases that count for the size of the data set.
    """

    spacing_mm: tuple[float, ...]
    median_spacing_mm: tuple[float, ...]
    median_shape: tuple[float, ...]
    order: tuple[int, ...]
    orientation: str | None
    num_cases: int

    @property
    def coarse_axis(self) -> int:
        """Image axis of the largest target spacing."""
        return self.order[0]

    @property
    def anisotropy(self) -> float:
        """Largest target spacing over the next; 1 where that of a single axis is finer than two equal ones."""
        *_, next_one, largest = sorted(self.spacing_mm)
        return largest / next_one

    @property
    def voxels(self) -> float:
        """Voxels of the whole data set on the target grid: median shape times number of cases."""
        return float(np.prod(self.median_shape, dtype=np.float64)) * self.num_cases


def measure_geometry(fingerprint: Fingerprint, num_cases: int | None = None) -> Geometry:
    """Target grid of a data set.

    Args:
        fingerprint: its cases' spacings and shapes, labelled and unlabelled alike.
        num_cases: number of training cases if the fingerprint lists fewer (nnU-Net's ``numTraining``).

    Raises:
        PlanError: the fingerprint has no case, or a case with an impossible spacing or shape.
    """
    cases = fingerprint.cases
    if not cases:
        raise PlanError(
            f"Planning {fingerprint.dataset_name}: expected at least one accepted case in the fingerprint, received "
            f"none. See rejected.json for why cases were set aside."
        )
    for case in cases:
        lengths = {len(case.spacing_mm), len(case.shape_after_crop)}
        if lengths != {fingerprint.image_dims} or min(case.spacing_mm) <= 0 or min(case.shape_after_crop) < 1:
            raise PlanError(
                f"Planning {fingerprint.dataset_name}: expected {fingerprint.image_dims} positive spacings and "
                f"sizes, received spacing {case.spacing_mm} and shape {case.shape_after_crop} in case {case.case}. "
                f"Remove the case or mend its header."
            )
    # Volumes measured by us run (x, y, z); a fingerprint without axis codes keeps the order of its file, (z, y, x).
    known_axes = fingerprint.image_dims == 3 and any(case.orientation for case in cases)
    axes = tuple(reversed(range(fingerprint.image_dims))) if known_axes else tuple(range(fingerprint.image_dims))
    spacings = np.array([[case.spacing_mm[axis] for axis in axes] for case in cases], dtype=np.float64)
    shapes = np.array([[case.shape_after_crop[axis] for axis in axes] for case in cases])
    target = target_spacing(spacings, shapes)
    resampled = [
        resampled_shape(shape, spacing, target.tolist())
        for shape, spacing in zip(shapes.tolist(), spacings.tolist(), strict=True)
    ]
    median_shape = np.median(resampled, axis=0)
    coarse = int(np.argmax(target)) if fingerprint.image_dims == 3 else 0
    back = np.argsort(axes)
    return Geometry(
        spacing_mm=_floats(target[back]),
        median_spacing_mm=_floats(np.percentile(spacings, 50, axis=0)[back]),
        median_shape=_floats(median_shape[back]),
        order=(axes[coarse], *(axis for axis in axes if axis != axes[coarse])),
        orientation=None if fingerprint.image_dims == 2 else ("RAS" if known_axes else "SAR"),
        num_cases=num_cases or len(cases),
    )


def target_spacing(spacings: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Spacing all cases are resampled to.

    The median per axis; but if one axis is more than three times as coarse as every other and has less than a third of
    their voxels, its 10th percentile: interpolating few thick slices does more harm than a finer grid costs.

    Args:
        spacings, shapes: ``(cases, axes)``, mm and voxels.
    """
    target = np.percentile(spacings, 50, axis=0)
    if len(target) < 3:
        return target
    sizes = np.percentile(shapes, 50, axis=0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(len(target)) if axis != coarse]
    finest_allowed = max(target[others])
    thick = target[coarse] > ANISOTROPY_RATIO * finest_allowed
    few = sizes[coarse] * ANISOTROPY_RATIO < min(sizes[others])
    if thick and few:
        finer = np.percentile(spacings[:, coarse], COARSE_AXIS_PERCENTILE)
        target[coarse] = finer if finer >= finest_allowed else finest_allowed + 1e-5
    return target


def resampled_shape(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]) -> tuple[int, ...]:
    """Shape of an image on the target grid; half voxels round to even, as in nnU-Net."""
    return tuple(round(float(old / new * size)) for old, new, size in zip(spacing_mm, target_mm, shape, strict=True))


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
