"""Scores of masks against references on the original grid: Dice, HD95, ASD and surface Dice, per case and class.

Empty masks: where reference and prediction are both empty there is nothing to score (NaN, not counted). Where one of
them is empty the structure was missed: Dice and surface Dice are 0 and the distances infinite, so the mean distance of a
class that was missed in one case is infinite too. The table says so, with the mean over the cases where it was found
beside it. (The paper's code counts a missed structure as 0 mm.)

Surfaces are the voxels that an erosion by one voxel removes, as MONAI defines them; distances between their centres are in
mm. HD95 is the larger of the two directed 95th percentiles.

Voxels that the reference ignores are background in both masks, so nothing that is predicted there is right or wrong, and a
structure that reaches into them ends at their border in both.

    python -m mcsc_bundle.metrics --prediction_dir MASKS --reference_dir LABELS --plan RUN/plan.json --output metrics.csv
"""

from __future__ import annotations

import csv
import dataclasses
import logging
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import fire
import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from tqdm import tqdm

from mcsc_bundle.files import replacing
from mcsc_bundle.io import IMAGE_SUFFIXES, case_name, load_label, same_grid, spacing_mm
from mcsc_bundle.labels import Values, as_tuple, inside
from mcsc_bundle.plan import Plan

log = logging.getLogger(__name__)

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
    box = _joint_box(prediction | reference)
    mine, truth = (torch.from_numpy(mask[box])[None, None] for mask in (prediction, reference))
    spacing = tuple(float(s) for s in spacing_mm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns of an argument that it passes itself
        surface = compute_surface_dice(mine, truth, [tolerance_mm], include_background=True, spacing=spacing)
        hd95 = compute_hausdorff_distance(mine, truth, include_background=True, percentile=95, spacing=spacing)
        asd = compute_average_surface_distance(mine, truth, include_background=True, symmetric=True, spacing=spacing)
    return CaseMetric(case, name, dice, float(surface), float(hd95), float(asd), *sizes, tolerance_mm)


def _joint_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Box of both masks: nothing outside it has a surface, and its border counts as one."""
    box = []
    for axis in range(mask.ndim):
        inside = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(inside[0], inside[-1] + 1))
    return tuple(box)


def evaluate(
    prediction_dir: str | os.PathLike,
    references: Mapping[str, str | os.PathLike],
    labels: Mapping[str, Values],
    output: str | os.PathLike | None = None,
    tolerance_mm: float = SURFACE_TOLERANCE_MM,
    ignore_value: int | None = None,
) -> list[CaseMetric]:
    """Score a folder of masks; a case that cannot be scored is named and the rest goes on.

    Args:
        prediction_dir: masks, named as the cases.
        references: label file of each case.
        labels: class name to label value, or region to its values, background first.
        output: ``metrics.csv`` to write.
        tolerance_mm: of the surface Dice.
        ignore_value: as in ``case_metrics``.

    Returns:
        One entry per case and class.
    """
    rows, failed = score_cases(prediction_dir, references, labels, tolerance_mm, ignore_value)
    if output is not None:
        write_metrics(rows, output)
    log.log(logging.WARNING if failed else logging.INFO, "%s", summary_table(rows, failed))
    return rows


def score_cases(
    prediction_dir: str | os.PathLike,
    references: Mapping[str, str | os.PathLike],
    labels: Mapping[str, Values],
    tolerance_mm: float = SURFACE_TOLERANCE_MM,
    ignore_value: int | None = None,
) -> tuple[list[CaseMetric], dict[str, str]]:
    """Scores of the cases that can be scored, and the reason for each of the others. Arguments as ``evaluate``."""
    masks = masks_in(prediction_dir)
    rows: list[CaseMetric] = []
    failed: dict[str, str] = {}
    for case, path in tqdm(sorted(references.items()), desc="scoring", unit="case", delay=5, disable=None):
        try:
            rows += _score_files(case, masks, Path(path), labels, tolerance_mm, ignore_value)
        except ValueError as error:  # ImageError is one
            failed[case] = str(error)
    return rows, failed


def _score_files(
    case: str,
    masks: Mapping[str, Path],
    reference_file: Path,
    labels: Mapping[str, Values],
    tolerance_mm: float,
    ignore_value: int | None,
) -> list[CaseMetric]:
    if case not in masks:
        raise ValueError("expected a mask of this name, found none.")
    prediction, reference = load_label(masks[case]), load_label(reference_file)
    if not same_grid(prediction, reference):
        raise ValueError(
            f"{masks[case]} and {reference_file} lie on different grids: expected a mask on the grid of its reference."
        )
    mask, truth = (np.asarray(x.as_tensor()[0]) for x in (prediction, reference))
    return case_metrics(mask, truth, labels, spacing_mm(reference), case, tolerance_mm, ignore_value)


def masks_in(folder: str | os.PathLike) -> dict[str, Path]:
    """Image files of a folder by case name.

    Raises:
        ValueError: no such folder.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"expected a folder of masks, received {folder}. Check the path.")
    files = (path for path in sorted(Path(folder).iterdir()) if path.name.lower().endswith(tuple(IMAGE_SUFFIXES)))
    return {case_name(path): path for path in files if not path.name.startswith(".")}


def write_metrics(rows: Sequence[CaseMetric], path: str | os.PathLike) -> None:
    """``metrics.csv``: one row per case and class, written whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(CaseMetric)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)


def read_metrics(path: str | os.PathLike) -> list[CaseMetric]:
    """The rows of ``metrics.csv``."""
    types = {"case": str, "class_name": str, "predicted_voxels": int, "reference_voxels": int}
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [CaseMetric(**{k: types.get(k, float)(v) for k, v in row.items()}) for row in csv.DictReader(file)]


def summary_table(rows: Sequence[CaseMetric], failed: Mapping[str, str] | None = None) -> str:
    """Mean and standard deviation over the cases: per class, and of the mean over the classes of a case.

    Args:
        rows: scores of all cases and classes.
        failed: cases that are not in ``rows``, and why.
    """
    lines = summary_rows(rows)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.append("mean +- sd over cases; empty in both: not counted; missed (empty in one): Dice 0, distance inf")
    text += [f"not scored: {case}: {reason}" for case, reason in (failed or {}).items()]
    return "\n".join(text)


def summary_rows(rows: Sequence[CaseMetric]) -> list[list[str]]:
    """Head, a line per class, and the line of the mean, as cells."""
    tolerances = "/".join(
        f"{tolerance:g}" for tolerance in sorted({row.tolerance_mm for row in rows}) or [SURFACE_TOLERANCE_MM]
    )
    lines = [["class", "Dice", f"surface Dice {tolerances} mm", "HD95 mm", "ASD mm", "cases", "missed"]]
    for name in dict.fromkeys(row.class_name for row in rows):
        lines.append(_table_line(name, [[row] for row in rows if row.class_name == name]))
    by_case = [[row for row in rows if row.case == case] for case in dict.fromkeys(row.case for row in rows)]
    return [*lines, _table_line("mean", by_case)]


def _table_line(name: str, cases: Sequence[Sequence[CaseMetric]]) -> list[str]:
    """One line of the table from the rows of each case."""
    counted = [rows for case in cases if (rows := [row for row in case if not math.isnan(row.dice)])]
    missed = sum(math.isinf(row.hd95_mm) for case in counted for row in case)
    cells = [
        _spread([float(np.mean([getattr(row, column) for row in case])) for case in counted], digits)
        for column, digits in (("dice", 3), ("surface_dice", 3), ("hd95_mm", 2), ("asd_mm", 2))
    ]
    return [name, *cells, str(len(counted)), str(missed)]


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation; with infinite values, those of the others in brackets."""
    finite = [value for value in values if math.isfinite(value)]
    text = f"{np.mean(finite):.{digits}f}" if finite else "-"
    text += f" +- {np.std(finite):.{digits}f}" if len(finite) > 1 else ""
    if len(finite) == len(values):
        return text
    return f"inf ({len(finite)} found: {text})" if finite else "inf"


def score_folder(
    prediction_dir: str,
    reference_dir: str,
    plan: str,
    output: str = "metrics.csv",
    tolerance_mm: float = SURFACE_TOLERANCE_MM,
) -> None:
    """Command line: score a folder of masks against a folder of label files of the same names.

    Raises:
        SystemExit: with code 1 if a case could not be scored, or with a message if nothing can be.
    """
    try:
        planned, references = Plan.load(plan), masks_in(reference_dir)
        if not references:
            raise ValueError(f"expected label files in {reference_dir}, found none. Check --reference_dir.")
        masks = masks_in(prediction_dir)
        if not set(masks) & set(references):
            some = ", ".join(sorted(masks)[:3]) or "none"
            raise ValueError(
                f"expected masks in {prediction_dir} named as the label files in {reference_dir} "
                f"({', '.join(sorted(references)[:3])}, ...), found {some}. Check both folders."
            )
        rows, failed = score_cases(
            prediction_dir, references, planned.scored_values, tolerance_mm, planned.ignore_value
        )
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    write_metrics(rows, output)
    print(summary_table(rows, failed))
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    fire.Fire(score_folder)
