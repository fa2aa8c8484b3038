"""The table over cases: mean and spread of each class, and of each case's mean over its classes.

The mean distance of a class that was missed in one case is infinite; the mean over the cases where it was found stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mcsc_bundle.case_metrics import SURFACE_TOLERANCE_MM, CaseMetric
from mcsc_bundle.words import aligned


def summary_table(rows: Sequence[CaseMetric], failed: Mapping[str, str] | None = None) -> str:
    """Mean and standard deviation over the cases: per class, and of the mean over the classes of a case.

    Args:
        rows: scores of all cases and classes.
        failed: cases that are not in ``rows``, and why.
    """
    text = aligned(summary_rows(rows))
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
    return [*lines, _table_line("mean of cases", by_case)]


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
