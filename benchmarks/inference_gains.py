"""What inference adds to one pass of the network: the mean over mirrored windows, and largest components. Dice and HD95 of each.

    python -m benchmarks.inference_gains --dataset_dir ../shared/data/acdc OUT/mcsc_3_0 OUT/supervised_3_0 ...
    python -m benchmarks.inference_gains --dataset_dir ../shared/data/sts_pet   # how often the rule of largest components applies

Runs of ``benchmarks.label_efficiency``, whose masks are of one pass. Mirrored masks are made by ``configs/inference.json`` in
``RUN/mirrored``, scores of every case in ``RUN/gains``. Which classes are one piece (``preprocessing.largest_component``) is
measured anew on the labels that trained the run, so that runs whose plan came from a file count, too. Exits with an error if a
run's table of scores and its masks disagree. Without runs: for how many random draws of 3, 6 and 20 labelled patients the rule
holds, of each class.
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

from monai.bundle import ConfigWorkflow

from benchmarks.label_efficiency import ROOT
from benchmarks.label_table import mean_dice_per_case, mean_per_class
from mcsc_bundle.case_metrics import case_metrics, write_metrics
from mcsc_bundle.io import load_label, spacing_mm
from mcsc_bundle.keep_largest import keep_largest
from mcsc_bundle.labels import as_tuple
from mcsc_bundle.metrics import masks_in
from mcsc_bundle.plan import Fingerprint, Plan
from mcsc_bundle.plan_files import load_json
from preprocessing.dataset import Dataset, read_dataset
from preprocessing.fingerprint import measure
from preprocessing.largest_component import Groups, group_name, plan_largest_component, size_spread
from preprocessing.split import Split

PATIENTS, DRAWS = (3, 6, 20), 1000
SAME = 1e-6  # of a Dice in metrics.csv and one of the mask


def measured_groups(dataset: Dataset, run: Path) -> tuple[Groups, str]:
    """Classes of one piece by the labels that trained a run, and the reason."""
    split = dataclasses.replace(load_json(run / "splits.json", Split), unlabeled=(), test=())
    return plan_largest_component(measure(dataset, split)[0])


def mirrored(dataset: Dataset, run: Path, amp_dtype: str | None) -> Path:
    """The folder of masks of the scored cases, by the mean over flips and otherwise as they were scored."""
    images = {case.name: [str(path) for path in case.images] for case in dataset.cases}
    workflow = ConfigWorkflow(
        config_file=str(ROOT / "configs" / "inference.json"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(ROOT),
        run_dir=str(run),
        output_dir=str(run / "mirrored"),
        cases=[{"case": case, "image": images[case]} for case in mean_dice_per_case(run / "metrics.csv")],
        postprocess=False,
        amp_dtype=amp_dtype,
    )
    workflow.initialize()
    workflow.run()
    return run / "mirrored"


def compare(dataset: Dataset, run: Path, amp_dtype: str | None) -> dict[str, Any]:
    """Mean Dice (%) over the cases of a run, and HD95 (mm), mean over cases where the structure was found, then over classes.

    Raises:
        SystemExit: the masks are not those that were scored.
    """
    groups, why = measured_groups(dataset, run)
    tables = {"one_pass": score(dataset, run, run / "masks", (), "one_pass")}
    scored = mean_dice_per_case(run / "metrics.csv")
    for case, dice in mean_dice_per_case(tables["one_pass"]).items():
        if abs(dice - scored[case]) > SAME:
            raise SystemExit(f"{run}, {case}: expected Dice {scored[case]} as in metrics.csv, received {dice}.")
    flipped = mirrored(dataset, run, amp_dtype)
    tables["largest"] = score(dataset, run, run / "masks", groups, "largest")
    tables["mirrored"] = score(dataset, run, flipped, (), "mirrored")
    tables["both"] = score(dataset, run, flipped, groups, "both")
    return {
        "run": run.name,
        "groups": [group_name(group) for group in groups],
        "why": why,
        **{name: 100 * statistics.mean(mean_dice_per_case(table).values()) for name, table in tables.items()},
        "hd95_mm": {name: statistics.mean(mean_per_class(table, "hd95_mm").values()) for name, table in tables.items()},
    }


def score(dataset: Dataset, run: Path, folder: Path, groups: Groups, name: str) -> Path:
    """The table ``RUN/gains/NAME.csv`` of the masks in a folder, with the largest components of some groups of classes alone."""
    plan, references = Plan.load(run / "plan.json"), {case.name: case.label for case in dataset.cases}
    values = [[value for name in group for value in as_tuple(plan.scored_values[name])] for group in groups]
    rows = []
    for case, path in masks_in(folder).items():
        reference = load_label(references[case])
        kept = keep_largest(load_label(path).as_tensor(), values)[0].numpy()
        truth = reference.as_tensor()[0].numpy()
        rows += case_metrics(
            kept, truth, plan.scored_values, spacing_mm(reference), case, ignore_value=plan.ignore_value
        )
    table = run / "gains" / f"{name}.csv"
    table.parent.mkdir(exist_ok=True)
    write_metrics(rows, table)
    return table


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
    spread = {group_name(group): math.exp(size_spread(group, fingerprint.cases)) for group in groups}
    print("sizes spread by a factor of: " + ", ".join(f"{name} {factor:.2f}" for name, factor in spread.items()))
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
    parser.add_argument("--amp_dtype", default="bfloat16", help="as the runs were evaluated with; None for float32")
    parser.add_argument("runs", nargs="*", type=Path)
    arguments = parser.parse_args()
    arguments.amp_dtype = None if arguments.amp_dtype == "None" else arguments.amp_dtype
    logging.disable(logging.WARNING)
    dataset, rows = read_dataset(arguments.dataset_dir), []
    if not arguments.runs:
        print(json.dumps({"draws": shares_of_draws(dataset)}))
        return
    print("| run | one pass | largest components | mirrored | both |\n|---|---|---|---|---|")
    for run in arguments.runs:
        row = compare(dataset, run, arguments.amp_dtype)
        rows.append(row)
        cells = [f"{row[name]:.2f} ({row[name] - row['one_pass']:+.2f})" for name in ("largest", "mirrored", "both")]
        print(f"| {row['run']} | {row['one_pass']:.2f} | {' | '.join(cells)} |", flush=True)
        print(f"| HD95 mm | {' | '.join(f'{distance:.2f}' for distance in row['hd95_mm'].values())} |", flush=True)
    gains = {
        name: statistics.mean(row[name] - row["one_pass"] for row in rows) for name in ("largest", "mirrored", "both")
    }
    print(json.dumps({"rows": rows, "mean_gain": gains}))


if __name__ == "__main__":
    main()
