"""What keeping the largest component does to masks that are there: Dice before and after, by the rule of the plan.

    python -m benchmarks.largest_component --dataset_dir ../shared/data/acdc OUT/mcsc_3_0 OUT/supervised_3_0 ...
    python -m benchmarks.largest_component --dataset_dir ../shared/data/sts_pet         # how often the rule applies

Each run was evaluated with ``--postprocess False``, as ``benchmarks.label_efficiency`` does. Which classes are one piece
(``preprocessing.largest_component``) is measured anew on the labels that trained it, so that runs whose plan came from a file
count, too. Exits with an error if a run's table of scores and its masks disagree. Without runs: for how many random draws
of 3, 6 and 20 labelled patients the rule holds, of each class.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import random
import statistics
from pathlib import Path
from typing import Any

from benchmarks.label_table import mean_dice_per_case
from mcsc_bundle.io import load_label
from mcsc_bundle.labels import as_tuple
from mcsc_bundle.metrics import masks_in
from mcsc_bundle.plan import Fingerprint, Plan
from mcsc_bundle.plan_files import load_json
from mcsc_bundle.postprocessing import dice_of, keep_largest
from preprocessing.dataset import Dataset, read_dataset
from preprocessing.fingerprint import measure
from preprocessing.largest_component import Groups, group_name, plan_largest_component
from preprocessing.split import Split

logging.getLogger().setLevel(logging.ERROR)
PATIENTS, DRAWS = (3, 6, 20), 1000
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


def drawn(fingerprint: Fingerprint, patients: int, generator: random.Random) -> Groups:
    """The rule on all cases of so many patients, drawn at random."""
    chosen = set(generator.sample(sorted({case.patient for case in fingerprint.cases}), patients))
    cases = tuple(case for case in fingerprint.cases if case.patient in chosen)
    return plan_largest_component(dataclasses.replace(fingerprint, cases=cases))[0]


def shares_of_draws(dataset: Dataset) -> list[dict[str, Any]]:
    """For each number of patients, the share of draws in which each group of classes is planned."""
    labeled = tuple(case.name for case in dataset.cases if case.label is not None)
    fingerprint = measure(dataset, Split(labeled, (), (), (), groups={}))[0]
    names = tuple(fingerprint.labels)[1:]
    groups = ([names] if len(names) > 1 else []) + [(name,) for name in names]
    rows = []
    for patients in (number for number in PATIENTS if number <= len({case.patient for case in fingerprint.cases})):
        generator = random.Random(0)
        planned = [drawn(fingerprint, patients, generator) for _ in range(DRAWS)]
        shares = {group_name(group): sum(group in one for one in planned) / DRAWS for group in groups}
        print(f"{patients} patients: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
        rows.append({"patients": patients, "shares": shares})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("runs", nargs="*", type=Path)
    arguments = parser.parse_args()
    dataset, rows = read_dataset(arguments.dataset_dir), []
    if not arguments.runs:
        print(json.dumps({"draws": shares_of_draws(dataset)}))
        return
    print("| run | as the networks made them | largest components | difference |\n|---|---|---|---|")
    for run in arguments.runs:
        row = compare(dataset, run)
        rows.append(row)
        change = row["after"] - row["before"]
        print(f"| {row['run']} | {row['before']:.2f} | {row['after']:.2f} | {change:+.2f} |", flush=True)
    print(json.dumps({"rows": rows, "mean_difference": statistics.mean(row["after"] - row["before"] for row in rows)}))


if __name__ == "__main__":
    main()
