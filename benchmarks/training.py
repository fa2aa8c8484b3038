"""A supervised training: ours and nnU-Net's, side by side on the same labelled cases, scored on the same others.

    python -m benchmarks.training DATASET SPLIT.json PLAN.json --nnunet-python PYTHON_WITH_NNUNETV2 [--iterations 6000] [--seed 0]

The labelled and test cases of the split are exported once. Both get the network, spacing, patch and batch of the plan and as many
steps, and each trains in its own way: nnU-Net with its trainer as it is (SGD, its augmentation, all axes mirrored), ours with
``method_supervised.yaml``; both in float32, one thread, patches read in the training process. Then each predicts the test
cases with its own command, without mirrored windows and without postprocessing. nnU-Net draws its random numbers anew each
time, so ``--seed`` is ours alone. Our time includes planning and preprocessing, nnU-Net's does not. A part that is done is kept
in ``--work`` and skipped. The interpreter may also be given as NNUNET_PYTHON. The last line is JSON; ratios are nnU-Net's over
ours. It exits with 1 if the two are further apart in Dice than a failed training would put them.

Only for data whose files have the orientation of the plan (hippocampus, ACDC): nnU-Net never turns an image.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.label_efficiency import ROOT
from benchmarks.label_jobs import config_files
from benchmarks.prediction import PASSIVE, nnunet_plans, predict_nnunet, predict_ours, with_plan
from benchmarks.preprocessing import DATASET_ID, environment
from benchmarks.process_tree import Cost, run
from mcsc_bundle.metrics import masks_in, score_cases
from mcsc_bundle.plan import Plan
from mcsc_bundle.shipped import file_digest
from preprocessing.export import export

EPOCH = 250  # nnU-Net's; its rate changes once an epoch
NEAR = 25.0  # points of Dice: further apart, one of both has failed

TRAINER = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class ShortTrainer(nnUNetTrainer):
    '''nnU-Net's own, for fewer steps; without validation, which decides nothing here and would count as training.'''
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_iterations_per_epoch, self.num_epochs = {epoch}, {epochs}
        self.num_val_iterations_per_epoch = 1

    def perform_actual_validation(self, save_probabilities=False):
        pass
"""


def variables(work: Path) -> dict[str, str]:
    """What nnU-Net's commands read from the environment, for one thread in one process."""
    folders = {f"nnUNet_{kind}": str(work / kind) for kind in ("raw", "preprocessed", "results")}
    return environment({**PASSIVE, **folders, "nnUNet_extTrainer": str(work / "trainer"), "nnUNet_n_proc_DA": "0"})


def train_nnunet(python: str, data: Path, work: Path, plan: Plan, iterations: int) -> Cost:
    """``nnUNetv2_train`` with our plan on all labelled cases."""
    plans, _ = nnunet_plans(python, work)
    configuration = with_plan(plans, plan)
    (work / "preprocessed" / data.name / "nnUNetPlans.json").write_text(json.dumps(plans))
    (work / "trainer").mkdir(exist_ok=True)
    (work / "trainer" / "short.py").write_text(TRAINER.format(epoch=EPOCH, epochs=iterations // EPOCH))
    folder = Path(python).parent
    prepare = [str(folder / "nnUNetv2_preprocess"), "-d", str(DATASET_ID), "-c", configuration, "-np", "1"]
    run(prepare, variables(work), work / "preprocess.log")
    train = [str(folder / "nnUNetv2_train"), str(DATASET_ID), configuration, "all", "-tr", "ShortTrainer"]
    return run([*train, "-device", "cpu"], variables(work), work / "train_nnunet.log")


def train_ours(data: Path, run_dir: Path, plan: Path, iterations: int, options: dict[str, Any]) -> Cost:
    """``run training`` with the supervised overlay on the same cases."""
    shutil.rmtree(run_dir, ignore_errors=True)  # a training that goes on would cost less than one
    files = str(config_files("supervised"))
    settings = {"dataset_dir": data, "output_dir": run_dir, "plan_from": plan, "fold": "all", "bundle_root": ROOT}
    settings |= {"epoch_length": EPOCH, "max_epochs": iterations // EPOCH, "device": "$torch.device('cpu')", **options}
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "training", "--config_file", files]
    command += [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return run(command, environment({**PASSIVE, "PYTHONPATH": str(ROOT)}), run_dir.with_suffix(".log"))


def scores(masks: Path, labels: Path, plan: Plan) -> dict[str, Any]:
    """Mean Dice of the cases, and of each class, in percent."""
    rows, failed = score_cases(str(masks), masks_in(labels), plan.scored_values, ignore_value=plan.ignore_value)
    if failed:
        raise SystemExit(f"{masks}: expected a mask of each test case, received none that can be scored: {failed}")
    names = list(dict.fromkeys(row.class_name for row in rows))
    classes = {name: 100 * statistics.mean(row.dice for row in rows if row.class_name == name) for name in names}
    return {"dice": round(statistics.mean(classes.values()), 2)} | {n: round(v, 2) for n, v in classes.items()}


def kept(path: Path, make: Callable[[], Cost]) -> dict[str, Any]:
    """The cost of a part, from the file if it was done before."""
    if not path.exists():
        path.write_text(json.dumps(dataclasses.asdict(make())))
    return json.loads(path.read_text())


def check_same_work(file: Path, settings: list[Any]) -> None:
    """What is kept in a folder is of one split, plan and length."""
    if file.exists() and json.loads(file.read_text()) != settings:
        raise SystemExit(f"{file.parent} holds parts of another split, plan or length: give another --work.")
    file.write_text(json.dumps(settings))


def exported(dataset: Path, split_file: Path, work: Path) -> Path:
    """The split's labelled and test cases in nnU-Net's layout; the unlabelled ones play no part here."""
    found = list((work / "raw").glob(f"Dataset{DATASET_ID}_*"))
    if found:
        return found[0]
    split = json.loads(split_file.read_text())
    (work / "split.json").write_text(json.dumps({**split, "unlabeled": []}))
    return export(dataset, work / "raw", DATASET_ID, workers=1, split_file=str(work / "split.json"))[0]


def main() -> None:
    """Train and predict with both, score, print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("split", type=Path, help="names the labelled and the test cases")
    parser.add_argument("plan", type=Path, help="plan.json with a plain CNN")
    parser.add_argument("--nnunet-python", default=os.environ.get("NNUNET_PYTHON"))
    parser.add_argument("--iterations", type=int, default=6000, help=f"a multiple of {EPOCH}")
    parser.add_argument("--seed", type=int, default=0, help="of ours")
    parser.add_argument(
        "--overrides", default="{}", help='JSON of config overrides of ours, as {"deep_supervision":false}'
    )
    parser.add_argument("--work", type=Path, required=True, help="a folder to keep everything in; one per seed")
    options = parser.parse_args()
    if not options.nnunet_python:
        parser.error("expected --nnunet-python or NNUNET_PYTHON: an interpreter with nnunetv2 installed")
    if options.iterations < EPOCH or options.iterations % EPOCH:
        parser.error(f"--iterations: expected a multiple of {EPOCH}, received {options.iterations}")
    python, work, plan = options.nnunet_python, options.work, Plan.load(options.plan)
    work.mkdir(parents=True, exist_ok=True)
    check_same_work(work / "settings.json", [file_digest(options.split), file_digest(options.plan), options.iterations])
    overrides = json.loads(options.overrides)
    name = "_".join(["ours", str(options.seed), *(re.sub(r"\W+", "_", str(item)) for item in overrides.items())])
    data = exported(options.dataset, options.split, work)
    images, labels, steps = data / "imagesTs", data / "labelsTs", options.iterations
    theirs = kept(work / "cost_nnunet.json", lambda: train_nnunet(python, data, work, plan, steps))
    run_dir, masks = work / name, work / f"{name}_masks"
    options_of_ours = {"seed": options.seed, **overrides}
    ours = kept(work / f"{name}.json", lambda: train_ours(data, run_dir, options.plan, steps, options_of_ours))
    (model,) = (work / "results" / data.name).glob("ShortTrainer__*")
    os.environ |= variables(work)
    kept(
        work / "predict_nnunet.json",
        lambda: predict_nnunet(python, images, model, work / "theirs", False, "cpu", "all"),
    )
    kept(work / f"{name}_predict.json", lambda: predict_ours(run_dir, images, masks, False, "cpu", None))
    result = {
        "dataset": data.name,
        "split": options.split.name,
        "iterations": steps,
        "seed": options.seed,
        "overrides": overrides,
        "nnunet": {**theirs, **scores(work / "theirs", labels, plan)},
        "ours": {**ours, **scores(masks, labels, plan)},
        "times_faster": round(theirs["seconds"] / ours["seconds"], 2),
        "times_less_cpu": round(theirs["cpu_seconds"] / ours["cpu_seconds"], 2),
        "memory_ratio": round(theirs["peak_gb"] / ours["peak_gb"], 2),
    }
    print(json.dumps(result))
    raise SystemExit(0 if abs(result["nnunet"]["dice"] - result["ours"]["dice"]) < NEAR else 1)


if __name__ == "__main__":
    main()
