"""Scores of one mask against its reference on the original grid: Dice, HD95, ASD and surface Dice of each class.

Empty masks: where reference and prediction are both empty there is nothing to score (NaN, not counted). Where one of
them is empty the structure was missed: Dice and surface Dice are 0 and the distances infinite, so the mean distance of a
class that was missed in one case is infinite too. (The paper's code counts a missed structure as 0 mm.)

Surfaces are the voxels that an erosion by one voxel removes, as MONAI defines them; distances between their centres are in
mm. HD95 is the larger of the two directed 95th percentiles.

Voxels that the reference ignores are background in both masks, so nothing that is predicted there is right or wrong, and a
structure that reaches into them ends at their border in both.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

from mcsc_bundle.components import boxes_of
from mcsc_bundle.csv_log import read_rows, write_rows
from mcsc_bundle.labels import Values, as_tuple, inside

SURFACE_TOLERANCE_MM = 2.0


@dataclass(frozen=True)
class CaseMetric:
    """Scores of one class in one case.

    Args:
        case, class_name: which.
        dice: volume overlap in [0, 1].
        surface_dice: share of both surfaces within the tolerance of each other, in [0, 1].
        hd95_mm: 95th percentile of the distances from one surface to the other, the larger of both directions.
        asd_mm: mean distance from one surface to the other, over both surfaces (symmetric).
        predicted_voxels, reference_voxels: sizes.
        tolerance_mm: of the surface Dice.
    """

    case: str
    class_name: str
    dice: float
    surface_dice: float
    hd95_mm: float
    asd_mm: float
    predicted_voxels: int
    reference_voxels: int
    tolerance_mm: float = SURFACE_TOLERANCE_MM


COLUMNS = tuple(field.name for field in dataclasses.fields(CaseMetric))  # of metrics.csv


def case_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: Mapping[str, Values],
    spacing_mm: Sequence[float],
    case: str = "",
    tolerance_mm: float = SURFACE_TOLERANCE_MM,
    ignore_value: int | None = None,
) -> list[CaseMetric]:
    """Scores of every class but the background.

    Args:
        prediction, reference: label values ``(*spatial)`` on one grid.
        labels: class name to label value, or region to its values, background first.
        spacing_mm: per axis.
        case: name for the rows.
        tolerance_mm: of the surface Dice. 2 mm is about one voxel of cine MR in plane.
        ignore_value: value in the reference of voxels that are not scored (``plan.ignore_value``).

    Raises:
        ValueError: the shapes differ, or a mask holds a value that ``labels`` does not declare.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"case {case}: expected a mask of shape {reference.shape}, received {prediction.shape}.")
    prediction, reference = without_ignored(prediction, reference, ignore_value)
    for role, mask in (("mask", prediction), ("reference", reference)):
        undeclared = np.setdiff1d(mask, [value for own in labels.values() for value in as_tuple(own)]).tolist()
        if undeclared:
            raise ValueError(
                f"case {case}: expected the label values {dict(labels)}, received {undeclared} in the {role}."
            )
    return [
        _class_metric(inside(prediction, own), inside(reference, own), spacing_mm, case, name, tolerance_mm)
        for name, own in list(labels.items())[1:]
    ]


def without_ignored(
    prediction: np.ndarray, reference: np.ndarray, ignore_value: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Both masks with background (0) where the reference has ``ignore_value``; as they are if that is ``None``."""
    if ignore_value is None:
        return prediction, reference
    ignored = reference == ignore_value
    return np.where(ignored, 0, prediction), np.where(ignored, 0, reference)


def _class_metric(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    case: str,
    name: str,
    tolerance_mm: float,
) -> CaseMetric:
    sizes = int(prediction.sum()), int(reference.sum())
    if not all(sizes):
        score = math.nan if not any(sizes) else 0.0
        distance = math.nan if not any(sizes) else math.inf
        return CaseMetric(case, name, score, score, distance, distance, *sizes, tolerance_mm)
    dice = 2 * int((prediction & reference).sum()) / sum(sizes)
    # of both masks: nothing outside it has a surface, and its border counts as one
    box = boxes_of((prediction | reference).view(np.uint8))[0]
    mine, truth = (torch.from_numpy(mask[box])[None, None] for mask in (prediction, reference))
    spacing = tuple(float(s) for s in spacing_mm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns of an argument that it passes itself
        surface = compute_surface_dice(mine, truth, [tolerance_mm], include_background=True, spacing=spacing)
        hd95 = compute_hausdorff_distance(mine, truth, include_background=True, percentile=95, spacing=spacing)
        asd = compute_average_surface_distance(mine, truth, include_background=True, symmetric=True, spacing=spacing)
    return CaseMetric(case, name, dice, float(surface), float(hd95), float(asd), *sizes, tolerance_mm)


def write_metrics(rows: Sequence[CaseMetric], path: str | os.PathLike) -> None:
    """``metrics.csv``: one row per case and class, written whole or not at all."""
    write_rows(path, map(dataclasses.asdict, rows), COLUMNS)


def read_metrics(path: str | os.PathLike) -> list[CaseMetric]:
    """The rows of ``metrics.csv``; none if there is no such file."""
    types = {"case": str, "class_name": str, "predicted_voxels": int, "reference_voxels": int}
    return [CaseMetric(**{k: types.get(k, float)(v) for k, v in row.items()}) for row in read_rows(Path(path))]
