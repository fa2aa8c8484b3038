"""Five folds of two configurations on the demo set, the best chosen, an ensemble on new scans. ``make demo-folds`` runs it.

    python -m benchmarks.demo_folds [--output_dir runs/demo_folds] [--epochs 12] [--configurations 2d,3d_fullres]

Ten of the 24 phantoms are labelled here (the demo has four, which would be four folds of one). Every step is the command
a user would type; it is printed before it runs, and one that was stopped goes on. At the end the choice stands beside the
scores of each configuration, and of their ensemble, on the test phantoms, which nothing was chosen by. The last line is
one JSON object; a command that fails ends all with its own message.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.demo import ROOT, dice_percent, module, predict_test
from preprocessing.phantom import make_phantom_dataset

LABELED, UNLABELED = 10, 14


def ensemble_dice(run: Path, masks: Path, data: Path, plan: Path) -> float:
    """Mean Dice (%) over classes and test phantoms of what the folds in ``run`` predict together."""
    scores = masks.with_suffix(".csv")
    predict_test(data, run, masks, plan, scores)
    return dice_percent(scores)


def main() -> None:
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
    dice = {"chosen": ensemble_dice(output, output / "masks", data, plan)}
    for name in configurations:
        dice[name] = ensemble_dice(output / name, output / f"masks_{name}", data, plan)
    best = json.loads((output / "best.json").read_text())
    crossed = {
        " + ".join(each["configurations"]): 100 * statistics.mean(each["dice"].values()) for each in best["candidates"]
    }
    print("\n| configuration | cross-validated Dice (%) | test Dice (%) |\n|---|---|---|")
    for name, score in crossed.items():
        tested = dice["chosen"] if name == " + ".join(best["configurations"]) else dice.get(name)
        print(f"| {name} | {score:.2f} | {'' if tested is None else f'{tested:.2f}'} |")
    print(json.dumps({"chosen": best["configurations"], "cross_validated": crossed, "test": dice}))


if __name__ == "__main__":
    main()
