"""The labelled cases of a data set as items to be scored by a model that is finished."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mcsc_bundle.plan_files import PlanError, read_json
from mcsc_bundle.words import counted
from preprocessing.dataset import read_dataset
from preprocessing.folders import DatasetError

log = logging.getLogger(__name__)


def labelled_cases(dataset_dir: str, run_dir: str | None = None) -> list[dict[str, Any]]:
    """Items ``{"case", "image": [paths], "label": path}`` of a data set folder.

    Args:
        dataset_dir: in any layout of ``preprocessing.dataset``.
        run_dir: the training whose model is scored, if its folder is at hand: then only the cases that it kept out.
            ``None`` takes all; who scores cases that the model was trained on sees too good a score.

    Raises:
        DatasetError: no labelled case, or the training kept none out.
        PlanError: its ``splits.json`` is damaged.
    """
    if run_dir is not None and sorted(Path(run_dir).glob("*/splits.json")):
        raise DatasetError(
            f"{run_dir}: expected one training to score, received the folder of several, whose networks were trained on each "
            "other's cases. Give one of them."
        )
    items = items_with_label(dataset_dir)
    splits = Path(run_dir) / "splits.json" if run_dir is not None else None
    if splits is None or not splits.exists():
        log.info(
            "Scoring %s, all there are; any that trained the model scores too well.",
            counted(len(items), "labelled case"),
        )
    else:
        kept_out = set(read_json(splits, needs=("test",))["test"])
        items = [item for item in items if item["case"] in kept_out]
        if not items:
            raise DatasetError(
                f"{run_dir}: expected a training that kept cases of {dataset_dir} out, received none. Score other "
                "cases with another --dataset_dir, or train with --num_test."
            )
    return items


def items_with_label(dataset_dir: str) -> list[dict[str, Any]]:
    """Items as of ``labelled_cases``, of all that a data set has.

    Raises:
        DatasetError: no data set.
    """
    return [
        {"case": case.name, "image": [str(path) for path in case.images], "label": str(case.label)}
        for case in read_dataset(dataset_dir).cases
        if case.label is not None
    ]


def labelled_cases_or_exit(dataset_dir: str, run_dir: str | None = None) -> list[dict[str, Any]]:
    """``labelled_cases`` for configs: a user's mistake ends the program with its message instead of a traceback."""
    try:
        return labelled_cases(dataset_dir, run_dir)
    except (DatasetError, PlanError) as error:
        raise SystemExit(f"error: {error}") from None
