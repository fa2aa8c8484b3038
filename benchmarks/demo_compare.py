"""MCSC beside the supervised baseline on the phantom set: same 4 labels, same steps, several seeds.

    python -m benchmarks.demo_compare [--seeds 3] [--epochs 48] [--methods supervised,mcsc,full]

Each run is the product's own training command; masks of ``imagesTs`` are scored against ``labelsTs``. ``full`` is the supervised
baseline on the labels of all 24 cases: how much there is to win. Runs that are done are skipped. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from benchmarks.demo import ROOT, bundle_run, dice_percent, predict_test
from benchmarks.label_efficiency import ONE_PASS
from preprocessing.phantom import make_phantom_dataset


def dice_of(run: Path, data: Path, method: str, seed: int, epochs: int) -> float:
    """Train, predict and score one run, or read its score back."""
    scores = run / "metrics.csv"
    if not scores.exists():
        overlay = [] if method == "mcsc" else [f"method_{method.replace('full', 'supervised')}.yaml"]
        options = {"cache_dir": run.parent / f"preprocessed_{data.name}", "seed": seed, "max_epochs": epochs}
        bundle_run("training", ["train.yaml", *overlay], dataset_dir=data, output_dir=run, **options)
        predict_test(data, run, run / "masks", run / "plan.json", scores, **ONE_PASS)
    return dice_percent(scores)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="runs/demo_compare")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=48, help="of 25 steps; the demo itself has 18")
    parser.add_argument("--methods", default="supervised,mcsc")
    arguments = parser.parse_args()
    output = Path(arguments.output_dir).resolve() / f"epochs_{arguments.epochs}"
    few, every = ROOT / "data" / "demo", output.parent / "demo_all_labels"
    results: dict[str, list[float]] = {method: [] for method in arguments.methods.split(",")}
    for seed in range(arguments.seeds):
        for method, scores in results.items():
            data = every if method == "full" else few
            if not (data / "dataset.json").exists():
                make_phantom_dataset(data, label_all=method == "full")
            scores.append(dice_of(output / f"{method}_{seed}", data, method, seed, arguments.epochs))
    print("\n| method | mean Dice (%) | sd over seeds | seeds |\n|---|---|---|---|")
    for method, scores in results.items():
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        print(f"| {method} | {statistics.mean(scores):.2f} | {spread:.2f} | {', '.join(f'{s:.2f}' for s in scores)} |")
    print(json.dumps({"epochs": arguments.epochs, "dice": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
