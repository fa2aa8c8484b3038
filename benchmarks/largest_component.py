"""What keeping the largest component does to masks that are there: Dice before and after, by the rule of the plan.

    python -m benchmarks.largest_component --dataset_dir ../shared/data/acdc OUT/mcsc_3_0 OUT/supervised_3_0 ...

Each run was evaluated with ``--postprocess False``, as ``benchmarks.label_efficiency`` does. Which classes are one piece
(``preprocessing.largest_component``) is measured anew on the labels that trained it, so that runs whose plan came from a file
count, too. Exits with an error if a run's table of scores and its masks disagree.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks.label_table import mean_dice_per_case
from mcsc_bundle.io import load_label
from mcsc_bundle.labels import as_tuple
from mcsc_bundle.metrics import masks_in
from mcsc_bundle.plan import Plan
from mcsc_bundle.plan_files import load_json
from mcsc_bundle.postprocessing import dice_of, keep_largest
from preprocessing.dataset import Dataset, read_dataset
from preprocessing.fingerprint import measure
from preprocessing.largest_component import Groups, group_name, plan_largest_component
from preprocessing.split import Split

logging.getLogger().setLevel(logging.ERROR)
SAME = 1e-6  # of a Dice in metrics.csv and one of the mask


def measured_groups(dataset: Dataset, run: Path) -> tuple[Groups, str]:
    """Classes of one piece by the labels that trained a run, and the reason."""
    split = dataclasses.replace(load_json(run / "splits.json", Split), unlabeled=(), test=())
    return plan_largest_component(measure(dataset, split)[0])


def compare(dataset: Dataset, run: Path) -> dict[str, Any]:
    """Mean Dice (%) over the cases of a run, of each the mean over its classes, before and after.

    Raises:
        SystemExit: the masks are not those that were scored.
    """
    plan = Plan.load(run / "plan.json")
    groups, why = measured_groups(dataset, run)
    values = [[value for name in group for value in as_tuple(plan.scored_values[name])] for group in groups]
    references, scores = {case.name: case.label for case in dataset.cases}, mean_dice_per_case(run / "metrics.csv")
    before, after = [], []
    for case, path in masks_in(run / "masks").items():
        mask, reference = load_label(path).as_tensor(), load_label(references[case]).as_tensor().numpy()
        for found, kept in ((before, mask), (after, keep_largest(mask, values))):
            dice = dice_of(kept.numpy(), reference, plan.scored_values, plan.ignore_value)
            found.append(statistics.mean(value for value in dice.values() if not math.isnan(value)))
        if abs(before[-1] - scores[case]) > SAME:
            raise SystemExit(f"{run}, {case}: expected Dice {scores[case]} as in metrics.csv, received {before[-1]}.")
    return {
        "run": run.name,
        "groups": [group_name(group) for group in groups],
        "why": why,
        "before": 100 * statistics.mean(before),
        "after": 100 * statistics.mean(after),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("runs", nargs="+", type=Path)
    arguments = parser.parse_args()
    dataset, rows = read_dataset(arguments.dataset_dir), []
    print("| run | as the networks made them | largest components | difference |\n|---|---|---|---|")
    for run in arguments.runs:
        row = compare(dataset, run)
        rows.append(row)
        change = row["after"] - row["before"]
        print(f"| {row['run']} | {row['before']:.2f} | {row['after']:.2f} | {change:+.2f} |", flush=True)
    print(json.dumps({"rows": rows, "mean_difference": statistics.mean(row["after"] - row["before"] for row in rows)}))


if __name__ == "__main__":
    main()
