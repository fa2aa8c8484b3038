"""Scores of a folder of masks against references on the original grid (``case_metrics``), and their table (``score_table``).

python -m mcsc_bundle.metrics --prediction_dir MASKS --reference_dir LABELS --plan RUN/plan.json --output metrics.csv
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import fire
import numpy as np
from tqdm import tqdm

from mcsc_bundle.case_metrics import SURFACE_TOLERANCE_MM, CaseMetric, case_metrics, write_metrics
from mcsc_bundle.files import DiskError
from mcsc_bundle.flags import check_flags_or_exit
from mcsc_bundle.io import IMAGE_SUFFIXES, case_name, load_label, same_grid, spacing_mm
from mcsc_bundle.labels import Values
from mcsc_bundle.plan import Plan
from mcsc_bundle.score_table import summary_table

log = logging.getLogger(__name__)


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


def score_folder(
    prediction_dir: str,
    reference_dir: str,
    plan: str,
    output: str = "metrics.csv",
    tolerance_mm: float = SURFACE_TOLERANCE_MM,
) -> None:
    """Command line: score a folder of masks against a folder of label files of the same names.

    Args:
        prediction_dir: masks.
        reference_dir: label files, on the grids of the masks.
        plan: ``plan.json``, for the classes.
        output: ``metrics.csv`` to write.
        tolerance_mm: of the surface Dice.

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
    print(summary_table(rows, failed))
    try:
        write_metrics(rows, output)
    except DiskError as error:
        raise SystemExit(f"error: {error}") from None
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    check_flags_or_exit(sys.argv[1:], score_folder)
    fire.Fire(score_folder)
