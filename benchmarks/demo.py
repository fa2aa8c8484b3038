"""The whole road on a small set: data, plan, train, predict, evaluate, one picture. ``make demo`` runs it.

    python -m benchmarks.demo [--run_dir runs/demo] [--task Task04_Hippocampus]

Every step is the command a user would type; it is printed before it runs.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

from monai.apps import DecathlonDataset

from mcsc_bundle.case_metrics import read_metrics
from preprocessing.phantom import make_phantom_dataset

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 18  # of 25 steps


def bundle_run(run_id: str, configs: list[str], **overrides: object) -> None:
    """Print and run one ``monai.bundle`` command from the repository's root."""
    files = (
        "[" + ",".join(f"'configs/{name}'" for name in configs) + "]" if len(configs) > 1 else f"configs/{configs[0]}"
    )
    module("monai.bundle", "run", run_id, "--config_file", files, **overrides)


def module(name: str, *words: str, **options: object) -> None:
    """Print and run ``python -m name ...``; a failing command ends the demo with its own message."""
    command = ["-m", name, *words, *(part for key, value in options.items() for part in (f"--{key}", str(value)))]
    print("\n$ " + shlex.join(["python", *command]), flush=True)
    code = subprocess.run([sys.executable, "-W", "ignore", *command], cwd=ROOT).returncode
    if code:
        raise SystemExit(code)


def predict_test(data: Path, run: Path, masks: Path, plan: Path, scores: Path, **options: object) -> None:
    """Segment the test phantoms by what was trained in ``run``, and score the masks by the classes of ``plan``."""
    bundle_run("run", ["inference.json"], dataset_dir=data / "imagesTs", output_dir=masks, run_dir=run, **options)
    module("mcsc_bundle.metrics", prediction_dir=masks, reference_dir=data / "labelsTs", plan=plan, output=scores)


def dice_percent(scores: Path) -> float:
    """Mean Dice over all cases and classes of a ``metrics.csv``."""
    return 100 * statistics.mean(row.dice for row in read_metrics(scores) if not math.isnan(row.dice))


def download_decathlon(folder: Path, task: str) -> Path:
    """Fetch a task of the Medical Segmentation Decathlon by MONAI, for those who are online.

    Args:
        folder: the task becomes a folder in it.
        task: e.g. ``Task04_Hippocampus``.

    Raises:
        SystemExit: no such task, or it cannot be fetched.
    """
    if task not in DecathlonDataset.resource:
        raise SystemExit(f"error: expected a task of {sorted(DecathlonDataset.resource)}, received {task!r}.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        DecathlonDataset(root_dir=str(folder), task=task, section="training", download=True, cache_num=0)
    except (OSError, RuntimeError) as error:
        raise SystemExit(
            f"error: could not download {task} ({error}). Without a network run `make demo`, which makes its own data, "
            f"or unpack the task into {folder} by hand."
        ) from None
    return folder / task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_dir", default="runs/demo")
    parser.add_argument(
        "--task", help="a Decathlon task to download instead of the phantom set, e.g. Task04_Hippocampus"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    began = time.perf_counter()
    run = Path(arguments.run_dir)
    data = ROOT / "data" / (arguments.task or "demo")
    few: dict[str, object] = {}
    if arguments.task:
        download_decathlon(data.parent, arguments.task)
        few = {"num_labeled": 10}
    elif not (data / "dataset.json").exists():
        print(f"Making the phantom heart set in {data}", flush=True)
        make_phantom_dataset(data)
    bundle_run("training", ["train.yaml"], dataset_dir=data, output_dir=run, max_epochs=arguments.epochs, **few)
    if arguments.task:
        bundle_run(
            "evaluate",
            ["train.yaml", "evaluate.yaml"],
            dataset_dir=data,
            output_dir=run,
            max_epochs=arguments.epochs,
            **few,
        )
    else:
        predict_test(data, run, run / "masks", run / "plan.json", run / "metrics.csv")
        module("mcsc_bundle.report", run_dir=run, images=data / "imagesTs", references=data / "labelsTs")
    minutes = (time.perf_counter() - began) / 60
    print(f"\nDone in {minutes:.1f} minutes. Report: {run}/report.html, picture: {run}/overlay.png")
    print(json.dumps({"minutes": round(minutes, 2), "mean_dice": round(dice_percent(run / "metrics.csv"), 2)}))


if __name__ == "__main__":
    main()
