"""On a CPU, slices at half their resolution, where labels lose little by it.

nnU-Net plans at the median spacing and narrows nothing, since a GPU has the time. In the half hour of a CPU's training that
leaves too few steps: at half the resolution a step costs a quarter, and what the labels lose by it is less than what the steps
bring (``docs/recipe.md``). How much they lose is measured on the label maps themselves. Volumes that are seen in 3-D have
nnU-Net's ``3d_lowres`` instead, and a GPU's plans stay at full resolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from skimage.measure import block_reduce

from mcsc_bundle.components import boxes_of, joint_box
from mcsc_bundle.labels import STORED_IGNORED, inside
from mcsc_bundle.plan import Fingerprint
from preprocessing.sizing import CPU_MEMORY_CAP_GB, Sizing, Task, fit_networks

LEAST_KEPT = 0.93
"""Least Dice of the usual labelled case with itself at half the resolution. ACDC's hearts keep 0.955, abdominal organs in MR and
sarcomas in CT 0.98; the hippocampus, of few voxels, would keep 0.91 in the plane."""


def halved_dice(classes: np.ndarray, members: Mapping[str, Sequence[int]], slice_axis: int | None) -> float | None:
    """Mean over the classes of a label map of their Dice with themselves at half the resolution in the plane.

    A pixel of half the resolution belongs to a class that has half of its four pixels or more.

    Args:
        classes: class indices ``(*spatial)``, uint8, ``STORED_IGNORED`` where nobody annotated.
        members: name to the indices that belong to it, background first.
        slice_axis: axis that keeps its resolution, if any.

    Returns:
        Between 0 and 1; ``None`` without a foreground voxel.
    """
    boxes, kept = boxes_of(classes, STORED_IGNORED - 1), []
    block = tuple(1 if axis == slice_axis else 2 for axis in range(classes.ndim))
    for indices in list(members.values())[1:]:
        if (box := joint_box(boxes, indices)) is None:
            continue
        mask = inside(classes[box], indices)
        coarse = block_reduce(mask.astype(np.float32), block, np.mean) >= 0.5
        for axis, times in enumerate(block):
            coarse = coarse.repeat(times, axis)
        coarse = coarse[tuple(slice(length) for length in mask.shape)]
        kept.append(2 * np.count_nonzero(mask & coarse) / (np.count_nonzero(mask) + np.count_nonzero(coarse)))
    return float(np.mean(kept)) if kept else None


@dataclass(frozen=True)
class Halved:
    """A 2-D plan at half the resolution.

    Args:
        task: with twice the spacing, and the shapes on that grid.
        sizing: what fits there.
        kept: Dice of the usual labelled case with itself there.
        full_seconds: time of a step at full resolution that would not narrow the plan, on two cores.
    """

    task: Task
    sizing: Sizing
    kept: float
    full_seconds: float


def plan_halved(task: Task, fingerprint: Fingerprint) -> Halved | None:
    """Half the resolution, where the time of a step narrows the plan and labels lose little by it; else ``None``.

    Args:
        task: at full resolution.
        fingerprint: says what the labels keep.
    """
    measured = [case.halved_dice for case in fingerprint.labeled if case.halved_dice is not None]
    if task.device != "cpu" or task.dims != 2 or not task.pair or not measured or median(measured) < LEAST_KEPT:
        return None
    # with the usual memory, so that how much is free today does not decide on the grid
    roomy = replace(task, memory_gb=max(task.memory_gb, CPU_MEMORY_CAP_GB))
    timed, whole = fit_networks(roomy), fit_networks(replace(roomy, step_seconds=math.inf))
    if _size(timed) == _size(whole):
        return None
    halved = replace(
        task,
        spacing_mm=tuple(2 * size for size in task.spacing_mm),
        median_shape=tuple(length / 2 for length in task.median_shape),
        dataset_voxels=task.dataset_voxels / 4,
    )
    return Halved(halved, fit_networks(halved), median(measured), whole.networks.step_seconds(whole.batch))


def _size(sizing: Sizing) -> tuple[object, ...]:
    return sizing.networks.topology.patch, sizing.networks.cnn.features, sizing.batch
