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
import statistics
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from benchmarks.kept_results import check_source, kept_result, patients_of, source
from benchmarks.label_jobs import Job, all_jobs, config_files, impossible, methods, named_splits, result_file, settings
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

ROOT = Path(__file__).resolve().parents[1]

ONE_PASS = {"mirror": False, "postprocess": False}
"""Scores are of what the networks know; what inference adds is measured by ``benchmarks.inference_gains``."""


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


def one_run(arguments: argparse.Namespace, job: Job) -> dict[str, Any]:
    """Train and evaluate once; the result is kept in ``--results`` and read back the next time.

    Raises:
        SystemExit: the result that is there was made under other settings, or on another data set.
    """
    folder = Path(arguments.output_dir) / job.folder
    chosen = settings(arguments, job)
    kept = result_file(arguments, job)
    if (result := kept_result(kept, chosen)) is not None:
        check_source(kept, result, arguments.dataset_dir)
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
    kept.parent.mkdir(parents=True, exist_ok=True)
    save_text(kept, json.dumps(result) + "\n")
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


if __name__ == "__main__":
    sys.exit(main())
