"""What ``label_efficiency`` makes of its runs: scores read back, one row per budget and method, a table, a plot."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import ttest_1samp

from mcsc_bundle.csv_log import read_rows

BASELINE = "supervised"
DISTANCES = ("hd95_mm", "asd_mm")
ALL_DISTANCES = (*DISTANCES, "hd95_voxels", "asd_voxels")


def mean_dice_per_case(path: Path) -> dict[str, float]:
    """Mean over the classes for each case."""
    per_case: dict[str, list[float]] = {}
    for row in read_rows(path):
        if row["dice"] not in ("", "nan"):
            per_case.setdefault(row["case"], []).append(float(row["dice"]))
    return {case: statistics.mean(values) for case, values in per_case.items()}


def mean_per_class(path: Path, column: str) -> dict[str, float]:
    """Mean over the cases for each class, finite values only."""
    per_class: dict[str, list[float]] = {}
    for row in read_rows(path):
        value = float(row.get(column) or "nan")
        if math.isfinite(value):
            per_class.setdefault(row["class_name"], []).append(value)
    return {name: statistics.mean(values) for name, values in per_class.items()}


def missed_per_class(path: Path) -> dict[str, int]:
    """Cases of each class that only the mask or only the reference holds: they have no distance, and their Dice is 0."""
    missed: dict[str, int] = {}
    for row in read_rows(path):
        without = not math.isfinite(float(row.get("hd95_mm") or "nan")) and row["dice"] not in ("", "nan")
        missed[row["class_name"]] = missed.get(row["class_name"], 0) + without
    return missed


def summary(results: list[dict[str, Any]], baseline: str = BASELINE) -> list[dict[str, Any]]:
    """One row per budget and method: mean and spread over seeds, gain over the baseline and its tests."""
    rows = []
    for budget in dict.fromkeys(r["budget"] for r in results):
        runs = [r for r in results if r["budget"] == budget]
        base = {r["seed"]: r for r in runs if r["method"] == baseline}
        for method in dict.fromkeys(r["method"] for r in runs):
            mine = [r for r in runs if r["method"] == method]
            scores = [r["dice"] for r in mine]
            row = {"labels": budget, "method": method, "dice": statistics.mean(scores), "seeds": len(scores)}
            row["sd"] = statistics.stdev(scores) if len(scores) > 1 else None
            row |= {column: mean_distance(mine, column) for column in ALL_DISTANCES}
            counted = [sum(r["missed"].values()) for r in mine if "missed" in r]
            row["missed"] = sum(counted) if len(counted) == len(mine) else None
            row["train_minutes"] = statistics.mean(r["train_seconds"] for r in mine) / 60
            pairs = [(r, base[r["seed"]]) for r in mine if r["seed"] in base]
            if pairs and method != baseline:
                row |= gain(pairs)
            rows.append(row)
    return rows


def gain(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Gain in Dice points over runs of the baseline with the same seeds.

    Two questions, two paired t tests. ``p_patients``: would these very runs differ on other patients? A patient of several
    scans, or one that several seeds test, counts once, with the mean. ``p_seeds``: would other labelled cases and weights show
    it too? Each seed counts once; with three seeds only a gain that hardly varies gets below 0.05.

    Args:
        pairs: runs of the method and of the baseline. Only cases that both scored are compared.
    """
    per_patient: dict[str, list[float]] = {}
    per_seed = []
    for mine, theirs in pairs:
        common = mine["cases"].keys() & theirs["cases"].keys()
        differences = {case: 100 * (mine["cases"][case] - theirs["cases"][case]) for case in sorted(common)}
        per_seed.append(statistics.mean(differences.values()))
        for case, difference in differences.items():
            per_patient.setdefault(mine.get("patients", {}).get(case, case), []).append(difference)
    return {
        "gain": statistics.mean(per_seed),
        "gain_sd": statistics.stdev(per_seed) if len(per_seed) > 1 else None,
        "p_patients": p_of_mean([statistics.mean(values) for values in per_patient.values()]),
        "p_seeds": p_of_mean(per_seed),
    }


def p_of_mean(differences: list[float]) -> float | None:
    """Two-sided t test that the mean is 0; ``None`` for fewer than two values, or where all are equal."""
    if len(set(differences)) < 2:
        return None
    return float(ttest_1samp(differences, 0).pvalue)


def mean_distance(results: list[dict[str, Any]], column: str) -> float | None:
    """Mean over runs and classes in mm; ``None`` if no run has one (``metrics.csv`` leaves out classes that were missed)."""
    means = [value for result in results for value in result.get(column, {}).values()]
    return statistics.mean(means) if means else None


def table(rows: list[dict[str, Any]], baseline: str = BASELINE) -> str:
    """The summary as a markdown table."""
    lines = [
        f"| labels | method | Dice (of seeds) | sd | gain over {baseline} | its sd over seeds | p over patients, over seeds "
        "| HD95 / ASD mm | in voxels | missed | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        tests = f"{_text(r.get('p_patients'), '.1e')}, {_text(r.get('p_seeds'), '.2f')}"
        values = [_text(r[column], ".2f") for column in ALL_DISTANCES]
        distances = f"{values[0]} / {values[1]} | {values[2]} / {values[3]}"
        lines.append(
            f"| {r['labels'] or 'all'} | {r['method']} | {r['dice']:.2f} ({r['seeds']}) | {_text(r['sd'], '.2f')} "
            f"| {_text(r.get('gain'), '+.2f')} | {_text(r.get('gain_sd'), '.2f')} | {tests} "
            f"| {distances} | {_text(r['missed'], 'd')} | {r['train_minutes']:.1f} |"
        )
    return "\n".join(lines)


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Dice over the number of labelled cases, one line per method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5))
    labelled = [r for r in rows if r["labels"]]
    budgets = sorted({r["labels"] for r in labelled})
    methods = list(dict.fromkeys(r["method"] for r in labelled))
    for number, method in enumerate(methods):
        mine = sorted((r for r in labelled if r["method"] == method), key=lambda r: r["labels"])
        shift = 0.08 * (number - (len(methods) - 1) / 2)  # side by side, so that no bar of spread hides another
        axes.errorbar(
            [budgets.index(r["labels"]) + shift for r in mine],
            [r["dice"] for r in mine],
            [r["sd"] or 0.0 for r in mine],
            marker="o",
            capsize=3,
            label=method,
        )
    for row in rows:
        if not row["labels"]:
            axes.axhline(row["dice"], color="grey", linestyle=":", label=f"all labels ({row['method']})")
    axes.set_xticks(range(len(budgets)), budgets)
    axes.set(xlabel="labelled cases", ylabel="mean Dice on held-out cases (%)")
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
