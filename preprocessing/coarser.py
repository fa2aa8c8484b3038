"""On a CPU, slices at a half or a quarter of their resolution, where labels lose little by it.

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

FACTORS = (2, 4)

LEAST_KEPT = 0.9
"""Least Dice with itself at the coarser resolution, of the class that loses most in the usual labelled case. At a half ACDC's
myocardium keeps 0.93, abdominal organs in MR and sarcomas in CT 0.98; at a quarter 0.85, 0.95 and 0.96 (``usual_dice``)."""


def coarse_dice(
    classes: np.ndarray, members: Mapping[str, Sequence[int]], slice_axis: int | None
) -> dict[str, tuple[float, ...]]:
    """Dice of each class of a label map with itself at each of ``FACTORS`` times the spacing in the plane.

    A coarser pixel belongs to a class that has half of its pixels or more.

    Args:
        classes: class indices ``(*spatial)``, uint8, ``STORED_IGNORED`` where nobody annotated.
        members: name to the indices that belong to it, background first.
        slice_axis: axis that keeps its resolution, if any.

    Returns:
        By name, between 0 and 1; without the background and classes that are not there.
    """
    boxes, kept = boxes_of(classes, STORED_IGNORED - 1), {}
    for name, indices in list(members.items())[1:]:
        if (box := joint_box(boxes, indices)) is not None:
            mask = inside(classes[box], indices)
            blocks = ([1 if axis == slice_axis else factor for axis in range(mask.ndim)] for factor in FACTORS)
            kept[name] = tuple(_dice(mask, _through(mask, block)) for block in blocks)
    return kept


def _through(mask: np.ndarray, block: Sequence[int]) -> np.ndarray:
    """A mask made coarser by ``block`` and brought back to its grid."""
    coarse = block_reduce(mask.astype(np.float32), tuple(block), np.mean) >= 0.5
    for axis, times in enumerate(block):
        coarse = coarse.repeat(times, axis)
    return coarse[tuple(slice(length) for length in mask.shape)]


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


@dataclass(frozen=True)
class Coarser:
    """A 2-D plan at a coarser resolution.

    Args:
        factor: of the spacing.
        task: with that spacing, and the shapes on that grid.
        sizing: what fits there.
        loses_most: the class that does, and its Dice with itself there.
        full_seconds: time of a step at full resolution that would not narrow the plan, on two cores.
    """

    factor: int
    task: Task
    sizing: Sizing
    loses_most: tuple[str, float]
    full_seconds: float


def plan_coarser(task: Task, fingerprint: Fingerprint) -> Coarser | None:
    """The finest resolution at which the time of a step narrows nothing, or the coarsest at which labels lose little.

    Args:
        task: at full resolution.
        fingerprint: says what the labels keep.

    Returns:
        ``None`` where that is full resolution.
    """
    kept = usual_dice(fingerprint)
    if task.device != "cpu" or task.dims != 2 or not task.pair or not kept:
        return None
    found, there = None, task
    for index, factor in enumerate(FACTORS):
        name, dice = min(((name, each[index]) for name, each in kept.items()), key=lambda item: item[1])
        if dice < LEAST_KEPT or not _held_back(there):
            break
        there = replace(
            task,
            spacing_mm=tuple(factor * size for size in task.spacing_mm),
            median_shape=tuple(length / factor for length in task.median_shape),
            dataset_voxels=task.dataset_voxels / factor**2,
        )
        found = Coarser(factor, there, fit_networks(there), (name, dice), _untimed_seconds(task))
    return found


def usual_dice(fingerprint: Fingerprint) -> dict[str, tuple[float, ...]]:
    """``coarse_dice`` of each class in the usual labelled case that holds it, the median."""
    cases: dict[str, list[tuple[float, ...]]] = {}
    for case in fingerprint.labeled:
        for name, dice in case.class_coarse_dice.items():
            cases.setdefault(name, []).append(dice)
    return {name: tuple(map(median, zip(*each, strict=True))) for name, each in cases.items()}


def _held_back(task: Task) -> bool:
    """Whether the time of a step narrows networks, batch or patch.

    With the usual memory, so that how much is free today does not decide on the grid.
    """
    timed, whole = (fit_networks(each) for each in (_roomy(task), _untimed(task)))
    return _size(timed) != _size(whole)


def _untimed_seconds(task: Task) -> float:
    whole = fit_networks(_untimed(task))
    return whole.networks.step_seconds(whole.batch)


def _roomy(task: Task) -> Task:
    return replace(task, memory_gb=max(task.memory_gb, CPU_MEMORY_CAP_GB))


def _untimed(task: Task) -> Task:
    return replace(_roomy(task), step_seconds=math.inf)


def _size(sizing: Sizing) -> tuple[object, ...]:
    return sizing.networks.topology.patch, sizing.networks.cnn.features, sizing.batch
