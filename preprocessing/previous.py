"""Masks of the stage before for every case of a cascade, by networks that never saw its label.

A labelled case has the mask that its fold of the cross-validation of 3d_lowres left out made of it. Unlabelled cases, and those
that 3d_lowres did not know, are predicted by all its folds together; these masks lie in ``next_stage`` beside the folds.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcsc_bundle.cascade import PREVIOUS
from mcsc_bundle.devices import with_current_gpu
from mcsc_bundle.ensemble import run_folders
from mcsc_bundle.first_stage import FILE, check_stage, previous_dir, weights_key
from mcsc_bundle.fold_scores import FoldScoresError, left_out_masks
from mcsc_bundle.joined import check_joinable
from mcsc_bundle.metrics import masks_in
from mcsc_bundle.plan import Plan, PlanError, save_json
from mcsc_bundle.plan_parts import CASCADE
from mcsc_bundle.trained import read_trained
from mcsc_bundle.words import counted

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
INFERENCE = ROOT / "configs" / "inference.json"
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
MASKS = "next_stage"
REMEDY = (
    "python -m mcsc_bundle cross_validate DATA RUNS --configurations 3d_lowres,3d_cascade_fullres does both stages."
)


def check_previous(run: Path, configuration: str, previous: str | None) -> None:
    """Refuse what can be seen to fail before anything is measured.

    Raises:
        PlanError: a cascade without a stage before, a folder that is not there, or one for a configuration that needs none.
    """
    if previous is not None and configuration not in ("auto", CASCADE):
        raise PlanError(f"expected previous with the configuration {CASCADE} alone, received it with {configuration}.")
    folder = Path(previous) if previous is not None else previous_dir(run)
    if folder is None and configuration == CASCADE:
        raise PlanError(f"expected previous to name the runs whose masks {CASCADE} refines, received none. {REMEDY}")
    if folder is not None and not folder.is_dir():
        raise PlanError(f"previous: expected a folder of runs, received {folder}, which is none. {REMEDY}")


def remember_previous(run: Path, plan: Plan, previous: str | None) -> Path | None:
    """The folder of the stage before, whose path the run keeps for inference; ``None`` for a plan without one.

    Args:
        run: folder of the second stage; its ``previous.json`` gets the path.
        plan: of the second stage.
        previous: what the option says; ``None`` takes what the run remembers.

    Raises:
        PlanError: none is given, or it holds no trained network of that stage, or others than those whose masks trained the
            run, or the plan has no use for it.
    """
    if not plan.previous_stage:
        if previous is not None:
            raise PlanError(f"expected previous for a cascade alone, received it for a plan of {plan.configuration}.")
        return None
    folder = Path(previous) if previous is not None else previous_dir(run)
    if folder is None:
        raise PlanError(
            f"expected previous to name the runs of {plan.previous_stage}, whose masks this configuration refines. {REMEDY}"
        )
    for each in run_folders(folder):
        if not (each / "models" / "model.pt").exists():
            raise PlanError(f"previous: expected a trained run in {each}, found no models/model.pt. {REMEDY}")
        first = Plan.load(each / "plan.json")
        if first.configuration != plan.previous_stage:
            raise PlanError(
                f"previous: expected runs of {plan.previous_stage}, received {each} "
                f"({first.configuration or 'no configuration'}). {REMEDY}"
            )
        check_joinable({str(each): first, str(run): plan})
    if (run / "models" / "checkpoint.pt").exists():
        check_stage(run, folder)
    save_json(run / FILE, {"run_dir": os.path.relpath(folder, run), "weights": weights_key(folder)})
    return folder


def add_previous(items: Sequence[dict[str, Any]], test: Sequence[str], folder: Path, device: str) -> dict[str, str]:
    """Give each item the path of its mask, after predicting those that are not there.

    Args:
        items: with ``case``, ``labeled`` and ``image``; they get ``previous``.
        test: cases that are kept out of both stages.
        folder: of the stage before.
        device: to predict on.

    Returns:
        Case and reason where no mask could be made.

    Raises:
        PlanError: the stage before was trained on a case that is to test this one, or its masks were replaced.
    """
    runs = run_folders(folder)
    labeled = {case for run in runs for case in read_trained(run / "models").get("labeled", ())}
    seen = sorted(labeled & set(test))
    if seen:
        raise PlanError(
            f"previous: expected {folder} to have trained without the test cases, received {', '.join(seen[:5])} among the "
            "cases that trained it. Give both stages the same --num_labeled, --num_test and --split_seed."
        )
    try:
        apart = left_out_masks(folder)
    except FoldScoresError as error:
        raise PlanError(f"previous: {error}") from None
    rest = [item for item in items if item["case"] not in apart]
    known = [item["case"] for item in rest if item["case"] in labeled]
    if known:
        log.warning(
            "%s was trained on the labels of %s it now gives masks of (%s, ...): they look better than those of new scans "
            "will. %s", folder, counted(len(known), "case"), known[0], REMEDY,
        )  # fmt: skip
    made = _predicted(rest, folder, runs, device)
    for item in items:
        mask = apart.get(item["case"], made.get(item["case"]))
        item[PREVIOUS] = "" if mask is None else str(mask)
    return {item["case"]: f"{folder} gives no mask of it; see the log" for item in items if not item[PREVIOUS]}


def _predicted(items: Sequence[Mapping[str, Any]], folder: Path, runs: Sequence[Path], device: str) -> dict[str, Path]:
    """Masks by all runs of ``folder``; made where there are none since the networks were trained."""
    output = folder / MASKS
    newest = max((run / "models" / "model.pt").stat().st_mtime for run in runs)
    done = masks_in(output) if output.exists() else {}
    if all(item["case"] in done and done[item["case"]].stat().st_mtime > newest for item in items):
        return done
    log.info("Predicting %s with %s.", counted(len(items), "case"), folder)
    with tempfile.TemporaryDirectory() as work:
        arguments = Path(work) / "arguments.json"
        save_json(arguments, {
            "config_file": str(INFERENCE),
            "bundle_root": str(ROOT),
            "cases": [{"case": item["case"], "image": list(item["image"])} for item in items],
            "output_dir": str(output.resolve()),
            "run_dir": [str(run.resolve()) for run in runs],
            "device": f"$torch.device('{device}')",
            "postprocess": False,
        })  # fmt: skip
        # A process of its own: where several train (torchrun), this one alone predicts, and the others wait.
        command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--args_file", str(arguments)]
        alone = {name: value for name, value in with_current_gpu().items() if name not in TORCHRUN}
        path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        ended = subprocess.run(command, env={**alone, "PYTHONPATH": path.strip(os.pathsep)}, check=False)
    if ended.returncode not in (0, 1):  # 1: some could not be predicted, and are set aside
        raise PlanError(
            f"expected masks of {folder} for the next stage, received none; the reason is above. Mend it and repeat."
        )
    return masks_in(output) if output.exists() else {}
