"""Dice over the number of labelled cases: methods x label budgets x seeds on one data set, with the product's own commands.

    python -m benchmarks.label_efficiency --dataset_dir DATA --output_dir OUT --methods supervised,mcsc --budgets 4,10
    ... --splits 3=benchmarks/splits/acdc_3.json,7=benchmarks/splits/acdc_7.json   # cases named by file; seeds are weights alone
    ... --protocol acdc_cpu                                # ACDC on two cores, see benchmarks/coarse_plan.py
    ... --protocol gpu                                     # the plan, batch and length of a training on a GPU
    ... --protocol paper                                   # the paper's networks, slices and steps: for a GPU
    ... --methods mcsc --variant 'no contrast={"method#contrast_weight": 0}' --baseline mcsc      # an ablation

Each run is ``monai.bundle run training`` and then ``run evaluate`` on labelled cases that were kept out of everything
(``num_test``, drawn by patient, the same for every budget of one split seed). Seed ``s`` also draws another labelled subset
(``split_seed`` decides both), since with few patients the choice of patients matters as much as the initial weights. Nothing is
chosen on the test cases: the last (EMA) weights are used. Runs that are done are skipped, so the command can be repeated after
an interruption (on another machine, too, with the same ``--results``); one that was done under other settings is an error. A run
that fails is named at the end (exit code 1), and the others go on. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import statistics
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from benchmarks.kept_results import check_source, kept_result, patients_of, source
from benchmarks.label_protocols import PROTOCOLS
from benchmarks.label_table import (
    BASELINE,
    DISTANCES,
    mean_dice_per_case,
    mean_per_class,
    missed_per_class,
    plot,
    summary,
    table,
)
from benchmarks.voxel_distances import voxel_distances
from mcsc_bundle.files import save_text
from mcsc_bundle.options import OptionError, check_options
from preprocessing.dataset import DatasetError, read_dataset

ROOT = Path(__file__).resolve().parents[1]


ONE_PASS = {"mirror": False, "postprocess": False}
"""Scores are of what the networks know; what inference adds is measured by ``benchmarks.inference_gains``."""


@dataclass(frozen=True)
class Job:
    """One training: a method, or one with some settings changed, on a number of labelled cases (``None``: all).

    A variant whose name begins with that of a method, as ``supervised EMA``, is one of it; any other is one of ``mcsc``.
    """

    name: str
    budget: int | None
    seed: int
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        first = self.name.split(" ")[0]
        return first if first in ("full", *methods()) else "mcsc"

    @property
    def folder(self) -> str:
        return f"{re.sub('[^A-Za-z0-9]+', '_', self.name)}_{'all' if self.budget is None else self.budget}_{self.seed}"


def methods() -> list[str]:
    """Names of the default method and of every overlay ``configs/method_*.yaml``."""
    return ["mcsc", *sorted(path.stem.removeprefix("method_") for path in (ROOT / "configs").glob("method_*.yaml"))]


def config_files(method: str) -> list[str]:
    """The main config and, but for the default method, its overlay."""
    files = [str(ROOT / "configs" / "train.yaml")]
    if method not in ("mcsc", "full"):
        files.append(str(ROOT / "configs" / f"method_{method}.yaml"))
    if method == "full":  # the upper bound: every label, supervised
        files.append(str(ROOT / "configs" / "method_supervised.yaml"))
    return files


class RunError(Exception):
    """A run that ended with a sentence for the user."""


def innermost(error: BaseException) -> BaseException:
    """What a chain of errors began with: MONAI's own says only which expression failed."""
    while (cause := error.__cause__) is not None:
        error = cause
    return error


def run_workflow(files: list[str], run_id: str, overrides: dict[str, Any]) -> None:
    """What ``python -m monai.bundle run RUN_ID --config_file FILES ...`` does, in this process."""
    try:
        workflow = workflow_of(files, run_id, overrides)
        workflow.run()
        workflow.finalize()
    except SystemExit as error:
        if error.code in (0, 130, None):  # 130: Ctrl-C
            raise
        raise RunError(error.code) from error


def workflow_of(files: list[str], run_id: str, overrides: dict[str, Any]) -> ConfigWorkflow:
    """An initialised workflow of the product's configs."""
    workflow = ConfigWorkflow(
        config_file=files,
        workflow_type="train",
        run_id=run_id,
        logging_file=str(ROOT / "configs" / "logging.conf"),
        **{"bundle_root": str(ROOT), **overrides},
    )
    workflow.initialize()
    return workflow


def settings(arguments: argparse.Namespace, job: Job) -> dict[str, Any]:
    """The config overrides of a job but for its folders."""
    protocol = PROTOCOLS[arguments.protocol]
    iterations = arguments.iterations or protocol.iterations
    overrides = {
        "num_labeled": job.budget,
        "num_test": arguments.num_test,
        "split_seed": job.seed,
        "seed": job.seed,
        "fold": "all",
        "epoch_length": protocol.epoch_length,
        "max_epochs": iterations // protocol.epoch_length,
        "val_interval": 10**6,
        **protocol.overrides,
        **json.loads(arguments.overrides),
        **job.overrides,
    }
    splits = named_splits(arguments.splits)
    if splits:
        part = {
            "split_file": splits["all" if job.budget is None else str(job.budget)].replace("{seed}", str(job.seed)),
            "num_labeled": None,
            "num_test": None,
        }
        overrides |= part
    return overrides


def named_splits(text: str) -> dict[str, str]:
    """``--splits``: the file of each budget."""
    return dict(entry.split("=", 1) for entry in text.split(",")) if text else {}


def one_run(arguments: argparse.Namespace, job: Job) -> dict[str, Any]:
    """Train and evaluate once; the result is kept in ``--results`` and read back the next time.

    Raises:
        SystemExit: the result that is there was made under other settings, or on another data set.
    """
    folder = Path(arguments.output_dir) / job.folder
    chosen = settings(arguments, job)
    result_file = Path(arguments.results or arguments.output_dir) / f"{job.folder}.json"
    if (result := kept_result(result_file, chosen)) is not None:
        check_source(result_file, result, arguments.dataset_dir)
        return result
    made_of, began = source(arguments.dataset_dir, chosen), time.perf_counter()
    overrides = {
        "dataset_dir": arguments.dataset_dir,
        "output_dir": str(folder),
        "cache_dir": str(Path(arguments.output_dir) / "preprocessed"),
        **chosen,
    }
    run_workflow(config_files(job.method), "training", overrides)
    trained = time.perf_counter()
    evaluate = [*config_files(job.method), str(ROOT / "configs" / "evaluate.yaml")]
    run_workflow(evaluate, "evaluate", {**overrides, **ONE_PASS})
    cases = mean_dice_per_case(folder / "metrics.csv")
    result = {
        **made_of, "method": job.name, "budget": job.budget, "seed": job.seed, "settings": chosen,
        "dice": 100 * statistics.mean(cases.values()), "cases": cases,
        "patients": patients_of(arguments.dataset_dir, cases),
        "classes": {k: 100 * v for k, v in mean_per_class(folder / "metrics.csv", "dice").items()},
        "missed": missed_per_class(folder / "metrics.csv"),
        **{column: mean_per_class(folder / "metrics.csv", column) for column in DISTANCES},
        **voxel_distances(folder, arguments.dataset_dir, cases),
        "train_seconds": trained - began,
    }  # fmt: skip
    result_file.parent.mkdir(parents=True, exist_ok=True)
    save_text(result_file, json.dumps(result) + "\n")
    for heavy in ("checkpoint.pt", "pair.pt"):
        (folder / "models" / heavy).unlink(missing_ok=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument(
        "--methods", default="supervised,mean_teacher,cross_teaching,mcsc_paper,mcsc", help=f"of {', '.join(methods())}"
    )
    parser.add_argument("--budgets", help="numbers of labelled cases; without --splits 4,10")
    parser.add_argument(
        "--seeds", default="3", help="a number of seeds, or a list of them (`2,` with its comma: seed 2 alone)"
    )
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), default="cpu")
    parser.add_argument("--iterations", type=int, help="instead of the protocol's")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="mcsc, or the method that is the first word of NAME, with these config overrides, repeatable",
    )
    parser.add_argument("--num_test", type=int, default=40)
    parser.add_argument(
        "--splits",
        default="",
        help="BUDGET=FILE,...: files that name the cases, {seed} in a name stands for the seed; all=FILE for --upper_bound",
    )
    parser.add_argument("--baseline", default=BASELINE, help="method or variant that the others are compared with")
    parser.add_argument("--upper_bound", action="store_true", help="also train on every label")
    parser.add_argument(
        "--results", help="folder of one small file a run; of another machine they need no runs; the output folder"
    )
    parser.add_argument("--overrides", default="{}", help="JSON of further config overrides")
    arguments = parser.parse_args()
    unknown = set(arguments.methods.split(",")) - set(methods())
    if unknown:
        parser.error(f"--methods: expected names out of {', '.join(methods())}, received {', '.join(sorted(unknown))}.")
    named = {*arguments.methods.split(","), *(text.partition("=")[0] for text in arguments.variant), BASELINE}
    if arguments.baseline not in named:
        parser.error(f"--baseline: expected one of {', '.join(sorted(named))}, received {arguments.baseline}.")
    splits = named_splits(arguments.splits)
    arguments.budgets = arguments.budgets or (",".join(name for name in splits if name != "all") if splits else "4,10")
    missing = {*arguments.budgets.split(","), *(["all"] if arguments.upper_bound else [])} - set(splits)
    if splits and missing:
        parser.error(f"--splits: expected a file for {', '.join(sorted(missing))}, received {arguments.splits}.")
    if problem := impossible(arguments):
        parser.error(problem)
    logging.getLogger().setLevel(logging.WARNING)
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    results, failed = [], []
    jobs = all_jobs(arguments)
    for number, job in enumerate(jobs, start=1):
        try:
            results.append(one_run(arguments, job))
        except (Exception, RunError) as error:  # the others are worth having
            (Path(arguments.output_dir) / f"{job.folder}.error.txt").write_text(
                traceback.format_exc(), encoding="utf-8"
            )
            failed.append(f"{job.folder}: {innermost(error)}")
            print(f"{number}/{len(jobs)} {failed[-1]}", file=sys.stderr, flush=True)
            continue
        print(f"{number}/{len(jobs)} {job.folder}: Dice {results[-1]['dice']:.2f}", flush=True)
    if not results:
        raise SystemExit("no run succeeded.")
    rows = summary(results, arguments.baseline)
    print(table(rows, arguments.baseline))
    plot(rows, Path(arguments.output_dir) / "label_efficiency.png")
    print(json.dumps({"dataset": Path(arguments.dataset_dir).name, "failed": failed, "rows": rows}))
    return 1 if failed else 0


def impossible(arguments: argparse.Namespace) -> str:
    """What cannot be done, found before the first training; empty if all can."""
    length = PROTOCOLS[arguments.protocol].epoch_length
    try:
        overrides = [
            json.loads(text) for text in (arguments.overrides, *(v.partition("=")[2] for v in arguments.variant))
        ]
        seeds = list_of_seeds(arguments.seeds)
    except ValueError as error:
        return (
            f"expected JSON in --overrides and --variant NAME=JSON, whole numbers in --seeds; received other ({error})."
        )
    length = overrides[0].get("epoch_length", length)
    if arguments.iterations and arguments.iterations % length:
        return (
            f"--iterations: expected a multiple of {length}, the length of an epoch, received {arguments.iterations}."
        )
    for job in all_jobs(arguments):
        given = {**overrides[0], **job.overrides}
        given.pop("deep_supervision", None)  # methods that have none need not be left out of the command
        try:
            check_options(config_files(job.method), given)
        except OptionError as error:
            return f"{job.name}: {error}"
    if not arguments.splits and Path(arguments.dataset_dir).is_dir() and seeds:
        try:
            labelled = sum(case.label is not None for case in read_dataset(arguments.dataset_dir).cases)
        except DatasetError as error:
            return str(error)
        most = max(int(budget) for budget in arguments.budgets.split(","))
        if labelled < most + arguments.num_test:
            return (
                f"{arguments.dataset_dir} has {labelled} labelled cases; expected at least {most} to train (--budgets) and "
                f"{arguments.num_test} to test (--num_test)."
            )
    return ""


def list_of_seeds(text: str) -> list[int]:
    """``3`` are seeds 0, 1 and 2; ``0,2`` and ``2,`` are those that are named."""
    return list(range(int(text))) if "," not in text else [int(seed) for seed in text.split(",") if seed]


def all_jobs(arguments: argparse.Namespace) -> list[Job]:
    """Seed by seed, so that an interrupted table is complete for the seeds it has."""
    seeds = list_of_seeds(arguments.seeds)
    variants: dict[str, dict[str, Any]] = {method: {} for method in arguments.methods.split(",")}
    for text in arguments.variant:
        name, _, overrides = text.partition("=")
        variants[name] = json.loads(overrides)
    jobs = [
        Job(name, int(budget), seed, overrides)
        for seed in seeds
        for budget in arguments.budgets.split(",")
        for name, overrides in variants.items()
    ]
    return jobs + ([Job("full", None, seed) for seed in seeds] if arguments.upper_bound else [])


if __name__ == "__main__":
    sys.exit(main())
