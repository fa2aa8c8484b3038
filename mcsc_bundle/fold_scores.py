"""Scores of a cross-validation: every labelled case by the networks that never saw it, and what follows from them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcsc_bundle.files import replacing
from mcsc_bundle.metrics import CaseMetric, masks_in, read_metrics
from mcsc_bundle.plan import Plan
from mcsc_bundle.postprocessing import FILE, Postprocessing, decide, mean_dice

ACCOUNT = "cross_validation.json"  # in a fold's folder: what it was trained with, and whether it is done


def account(folder: Path) -> dict[str, Any]:
    """What a fold was trained with, and whether it is ``done``; empty without a training."""
    path = folder / ACCOUNT
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def summarise(runs: Path, folds: Sequence[int], references: Mapping[str, str]) -> str:
    """Write ``cross_validation.csv`` of the folds that are done; with all of them, also ``postprocessing.json``.

    A decision that was made on the same scores is kept, edited or not.

    Args:
        runs: folder of the runs.
        folds: all of the split.
        references: label file of each labelled case.

    Returns:
        Tables and reasons, for the console.
    """
    done = [fold for fold in folds if account(runs / f"fold_{fold}").get("done")]
    rows = {fold: read_metrics(runs / f"fold_{fold}" / "metrics.csv") for fold in done}
    if not any(rows.values()):
        return "No fold has scores yet."
    unchanged = _write_csv(runs / "cross_validation.csv", rows)
    text = [table(rows), f"Scores of every case: {runs / 'cross_validation.csv'}"]
    left = [fold for fold in folds if fold not in done]
    if left:
        return "\n".join([*text, f"Left: fold {', '.join(map(str, left))}. Post-processing is decided on all folds."])
    if not (unchanged and (runs / FILE).exists()):
        scored = {row.case for of_fold in rows.values() for row in of_fold}
        masks = {name: path for fold in done for name, path in masks_in(runs / f"fold_{fold}" / "masks").items()}
        plan, chosen = Plan.load(runs / "plan.json"), {name: masks[name] for name in sorted(scored)}
        decide(chosen, references, plan.scored_values, plan.ignore_value).save(runs / FILE)
    steps = Postprocessing.load(runs / FILE).steps
    text += [f"{'adopted' if step.adopted else 'not adopted'}: {step.why}" for step in steps]
    return "\n".join([*text, f"Post-processing: {runs / FILE}"])


def table(rows: Mapping[int, Sequence[CaseMetric]]) -> str:
    """Mean Dice of each class, and of the classes together, over all cases, over the folds, and in each fold.

    Args:
        rows: scores of each fold.
    """
    overall = _with_mean(row for of_fold in rows.values() for row in of_fold)
    by_fold = [_with_mean(of_fold) for of_fold in rows.values()]
    lines = [["class", "Dice", "mean +- sd of folds", *(f"fold {fold}" for fold in rows)]]
    for name, dice in overall.items():
        values = [scores[name] for scores in by_fold if name in scores]
        spread = f"{np.mean(values):.3f}" + (f" +- {np.std(values):.3f}" if len(values) > 1 else "")
        cells = [f"{scores[name]:.3f}" if name in scores else "-" for scores in by_fold]
        lines.append([name, f"{dice:.3f}", spread, *cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _with_mean(rows: Iterable[CaseMetric]) -> dict[str, float]:
    """Mean Dice of each class over its cases, and the mean of these."""
    classes = mean_dice([{row.class_name: row.dice} for row in rows])
    return {**classes, "mean": float(np.mean(list(classes.values())))} if classes else {}


def _write_csv(path: Path, rows: Mapping[int, Sequence[CaseMetric]]) -> bool:
    """One row per case and class, with its fold. True if the file held the same before."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, ["fold", *(field.name for field in dataclasses.fields(CaseMetric))])
    writer.writeheader()
    writer.writerows({"fold": fold, **dataclasses.asdict(row)} for fold, of_fold in rows.items() for row in of_fold)
    text = buffer.getvalue().encode()
    if path.exists() and path.read_bytes() == text:
        return True
    with replacing(path) as temporary:
        temporary.write_bytes(text)
    return False
