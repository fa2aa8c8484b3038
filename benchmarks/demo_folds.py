"""Five folds of two configurations on the demo set, the best chosen, an ensemble on new scans. ``make demo-folds`` runs it.

    python -m benchmarks.demo_folds [--output_dir runs/demo_folds] [--epochs 12] [--configurations 2d,3d_fullres]

Ten of the 24 phantoms are labelled here (the demo has four, which would be four folds of one). Every step is the command
a user would type; it is printed before it runs, and one that was stopped goes on. At the end the choice stands beside the
scores of each configuration, and of their ensemble, on the test phantoms, which nothing was chosen by. The last line is
one JSON object; exits non-zero when a fold, a decision or a mask is missing.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path

from benchmarks.demo import ROOT, bundle_run, module
from preprocessing.phantom import make_phantom_dataset

LABELED, UNLABELED = 10, 14


def test_dice(run: Path, masks: Path, data: Path, plan: Path) -> float:
    """Mean Dice (%) over classes and test phantoms of what the folds in ``run`` predict together."""
    bundle_run("run", ["inference.json"], dataset_dir=data / "imagesTs", output_dir=masks, run_dir=run)
    scores = masks.with_suffix(".csv")
    module("mcsc_bundle.metrics", prediction_dir=masks, reference_dir=data / "labelsTs", plan=plan, output=scores)
    with scores.open(newline="") as file:
        return 100 * statistics.mean(float(row["dice"]) for row in csv.DictReader(file) if row["dice"] != "nan")


def missing(output: Path, configurations: list[str], cases: int) -> list[str]:
    """What the commands should have left and did not."""
    expected = [output / "best.json", output / "postprocessing.json"]
    for name in configurations:
        folds = len(json.loads((output / name / "splits.json").read_text())["folds"])
        expected += [output / name / f"fold_{fold}" / "models" / "model.pt" for fold in range(folds)]
        expected += [output / name / "cross_validation.csv", output / name / "postprocessing.json"]
    absent = [str(path) for path in expected if not path.exists()]
    masks = len(list((output / "masks").glob("*.nii.gz")))
    return absent + ([f"{cases - masks} of {cases} masks"] if masks != cases else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="runs/demo_folds")
    parser.add_argument("--epochs", type=int, default=12, help="of 25 steps for each of the trainings; the demo has 18")
    parser.add_argument("--configurations", default="2d,3d_fullres")
    arguments = parser.parse_args()
    output, configurations = Path(arguments.output_dir).resolve(), arguments.configurations.split(",")
    data = ROOT / "data" / "demo_folds"
    if not (data / "dataset.json").exists():
        make_phantom_dataset(data, LABELED, UNLABELED)
    module(
        "mcsc_bundle", "cross_validate", str(data), str(output),
        configurations=arguments.configurations, max_epochs=arguments.epochs,
    )  # fmt: skip
    module("mcsc_bundle", "choose", str(output))
    plan = output / configurations[0] / "plan.json"  # for the names of the classes
    dice = {"chosen": test_dice(output, output / "masks", data, plan)}
    for name in configurations:
        dice[name] = test_dice(output / name, output / f"masks_{name}", data, plan)
    best = json.loads((output / "best.json").read_text())
    crossed = {
        " + ".join(each["configurations"]): 100 * statistics.mean(each["dice"].values()) for each in best["candidates"]
    }
    print("\n| configuration | cross-validated Dice (%) | test Dice (%) |\n|---|---|---|")
    for name, score in crossed.items():
        tested = dice["chosen"] if name == " + ".join(best["configurations"]) else dice.get(name)
        print(f"| {name} | {score:.2f} | {'' if tested is None else f'{tested:.2f}'} |")
    absent = missing(output, configurations, len(list((data / "imagesTs").glob("*.nii.gz"))))
    print(json.dumps({"chosen": best["configurations"], "cross_validated": crossed, "test": dice, "missing": absent}))
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
