"""From a data set folder to what training needs: split, fingerprint, plan, preprocessed cases. Each stage leaves a file.

Files in the run folder: ``splits.json``, ``fingerprint.json``, ``rejected.json``, ``plan.json``, ``preprocessed/``. A second call
with the same inputs reads them back; a ``plan.json`` that a person edited is used as it stands.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mcsc_bundle.devices import selected
from mcsc_bundle.files import DiskError
from mcsc_bundle.first_stage import stage_key
from mcsc_bundle.interrupt import stops_with
from mcsc_bundle.io import ImageError
from mcsc_bundle.option_values import OptionError, check_values
from mcsc_bundle.plan import Fingerprint, Plan, PlanError, save_json
from mcsc_bundle.store import CaseStore
from mcsc_bundle.trained import check_start, read_trained
from mcsc_bundle.words import MANY, counted, listed
from preprocessing.adopt import plan_file
from preprocessing.dataset import Dataset, DatasetError, read_dataset
from preprocessing.kept_labels import kept_classes, lost_labels, unlearnt_classes
from preprocessing.preprocess import preprocess
from preprocessing.previous import add_previous, check_previous, remember_previous
from preprocessing.run_fingerprint import fingerprint_of_run, set_aside
from preprocessing.run_plan import Request, check_grid, plan_of_run, text_hash
from preprocessing.split import Split, make_split, training_cases

log = logging.getLogger(__name__)


STOPPED = "Stopped while the data was prepared; the same command goes on with the cases that are left."
USER_ERRORS = (DatasetError, DiskError, ImageError, OptionError, PlanError)


@dataclass(frozen=True)
class Prepared:
    """What training needs of a data set.

    Args:
        plan: the choices made.
        store: the preprocessed cases.
        train: items ``{"case", "labeled", "image", "label"}`` of the training part; unlabelled items carry no label path.
        val: items of the fold that validation watches; nothing is selected on them but ``model_best.pt``.
        test: items of the labelled cases for the end, if the split has any: not stored here, as no training sees them.
        unusable: how many cases of ``val`` and ``test`` were set aside.
    """

    plan: Plan
    store: CaseStore
    train: list[dict[str, Any]]
    val: list[dict[str, Any]]
    test: list[dict[str, Any]]
    unusable: int = 0

    @property
    def training_key(self) -> str:
        """Changes when another case, or another label, takes part in the training."""
        return text_hash(json.dumps([[item["case"], item["labeled"]] for item in self.train]))


def prepare(
    dataset_dir: str,
    output_dir: str,
    num_labeled: int | str | None = None,
    num_test: int | None = None,
    split_seed: int = 0,
    split_file: str | None = None,
    fold: int | str = "auto",
    preset: str = "plan",
    plan_from: str | None = None,
    init_from: str | None = None,
    configuration: str = "auto",
    previous: str | None = None,
    memory_gb: float | None = None,
    step_seconds: float | None = None,
    device: str | torch.device = "auto",
    networks: str = "pair",
    cache_dir: str | None = None,
    workers: int | None = None,
    demo_dir: str | None = None,
    data_optional: bool = False,
    check_memory: bool = False,
    amp_dtype: str | None = None,
) -> Prepared:
    """Split, measure, plan and preprocess a data set, or read back what an earlier call did.

    Under ``torchrun`` the first process of the job works and the others wait for it.

    Args:
        dataset_dir: Decathlon, nnU-Net v2 or bare folder (see ``preprocessing.dataset``).
        output_dir: the run folder.
        num_labeled: keep this many label maps and hide the others, to simulate a small label budget; ``all`` as ``None``.
        num_test: labelled cases for the end, neither trained nor validated on; with ``num_labeled`` a fifth (at most 40)
            by default.
        split_seed: decides which cases keep their labels.
        split_file: a file that names the cases instead (see ``preprocessing.split``).
        fold: which fold of the labelled cases validates: a number, ``all`` (train on every label) or ``auto``: the one that
            ``output_dir`` was trained with, else see ``preprocessing.split``.
        preset: ``plan``; ``resenc_m``, ``resenc_l`` or ``resenc_xl`` for nnU-Net's residual encoders; or ``paper`` for the
            paper's networks and patch (2-D only).
        init_from: run folder whose weights the training starts from; it must not have learnt the cases that this one scores.
        plan_from: run folder, packed bundle or plan file whose plan is used instead of an own one (see
            ``preprocessing.adopt``).
        configuration: ``2d``, ``3d_fullres``, ``3d_lowres``, ``3d_cascade_fullres`` or ``auto`` (see
            ``preprocessing.configuration``).
        previous: of a cascade, folder of the runs of the stage before; ``None`` takes the one that the run remembers.
        memory_gb: memory budget; ``None`` takes what the device has, see ``default_memory_gb``.
        step_seconds: on a CPU, time budget of a step; ``None`` is 2 s.
        device: ``cpu``, ``cuda`` or ``auto``: what the plan is made for; a numbered GPU becomes the current one.
        networks: ``pair``, or ``cnn`` to plan memory for the CNN alone (method_supervised).
        cache_dir: folder of preprocessed cases, to share among runs; ``None`` takes ``output_dir/preprocessed``.
        workers: processes; ``None`` takes what cores and memory allow.
        demo_dir: a folder that is filled with the phantom set first, if it is ``dataset_dir`` and not there yet.
        data_optional: whether there may be no ``dataset_dir``, because an application (MONAI Label) hands over its cases;
            then only plan and store are prepared.
        check_memory: take two steps of a new plan on its device before anything is preprocessed, and plan again with less
            where they do not fit (see ``preprocessing.measured``). Once for a plan, in the precision asked for then; none for
            one that was trained with.
        amp_dtype: of these steps, see ``mcsc_bundle.precision``.

    Raises:
        DatasetError, ImageError, OptionError, PlanError: an option, the data or the plan cannot be used; the
            message says what to do.
    """
    choices = {"configuration": configuration, "memory_gb": memory_gb, "device": selected(device), "networks": networks}
    if step_seconds is not None:
        choices["step_seconds"] = step_seconds
    check_values(
        {
            **{"configuration": configuration, "memory_gb": memory_gb, "step_seconds": step_seconds},
            **{"num_labeled": num_labeled, "num_test": num_test, "split_seed": split_seed, "fold": fold},
            **{"preset": preset, "workers": workers, "output_dir": output_dir, "cache_dir": cache_dir},
            "check_memory": check_memory,
        }
    )
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_rank() > 0:
        torch.distributed.barrier()
    if demo_dir is not None and _same_folder(dataset_dir, demo_dir):
        _use_phantoms(demo_dir)
    run = Path(output_dir)
    if data_optional and not Path(dataset_dir).exists():
        return _without_data(run, plan_from, cache_dir)
    if plan_from is not None:
        plan_file(plan_from)  # a wrong path is told before anything is measured, a wrong fold as well
    check_previous(run, configuration, previous)
    dataset = read_dataset(dataset_dir)
    kept = num_labeled if isinstance(num_labeled, int) else None
    split = make_split(dataset, kept, num_test, split_seed, split_file)
    parts = training_cases(split, fold, read_trained(run / "models").get("labeled", ()), set_aside(run))
    if init_from is not None:
        check_start(init_from, dataset.name, (*parts[2], *split.test))
    fingerprint, rejected, measured = fingerprint_of_run(run, dataset, split, workers)
    plan = plan_of_run(run, fingerprint, measured, Request(preset, plan_from, choices, check_memory, amp_dtype))
    check_grid(plan, fingerprint)
    stage = remember_previous(run, plan, previous)
    prepared = _preprocess(run, dataset, split, parts, plan, rejected, cache_dir, workers, stage)
    _check_labels(prepared, fingerprint, began=(run / "models" / "checkpoint.pt").exists())
    if distributed and torch.distributed.get_rank() == 0:
        torch.distributed.barrier()
    return prepared


def _named(items: Sequence[Mapping[str, Any]]) -> str:
    """How many cases, and which while they are few."""
    return f"{len(items)} ({listed([item['case'] for item in items])})" if 0 < len(items) <= MANY else str(len(items))


def prepare_or_exit(*args: Any, **kwargs: Any) -> Prepared:
    """``prepare`` for configs: a user's mistake, or Ctrl-C, ends the program with one sentence instead of a traceback."""
    try:
        with stops_with(STOPPED):
            return prepare(*args, **kwargs)
    except USER_ERRORS as error:
        raise SystemExit(f"error: {error}") from None


def _use_phantoms(folder: str) -> None:
    """Say so loudly: who forgot ``--dataset_dir`` must not take the result for one of own scans."""
    log.warning(
        "*** PHANTOMS, not scans of yours: %s is the made-up demo set. For your own: --dataset_dir DATA ***", folder
    )
    if not (Path(folder) / "dataset.json").exists():
        from preprocessing.phantom import make_phantom_dataset

        log.info("Making the phantom set in %s.", folder)
        make_phantom_dataset(folder)


def _without_data(run: Path, plan_from: str | None, cache_dir: str | None) -> Prepared:
    plan = Plan.load(run / "plan.json" if plan_from is None else plan_file(plan_from))
    plan.save(run / "plan.json")
    return Prepared(plan, CaseStore(cache_dir or run / "preprocessed", plan.data_key), [], [], [])


def _preprocess(
    run: Path,
    dataset: Dataset,
    split: Split,
    parts: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]],
    plan: Plan,
    rejected: dict[str, str],
    cache_dir: str | None,
    workers: int | None,
    stage: Path | None,
) -> Prepared:
    """Store every training and validation case on the plan's grid; cases that fail join ``rejected.json``."""
    labeled, unlabeled, val = parts
    roles = {**dict.fromkeys(unlabeled, False), **dict.fromkeys((*labeled, *val, *split.test), True)}
    cases = {case.name: case for case in dataset.cases}
    items = {
        name: {
            "case": name,
            "labeled": has_label,
            "image": [str(path) for path in cases[name].images],
            **({"label": str(cases[name].label)} if has_label else {}),
        }
        for name, has_label in roles.items()
        if name not in rejected
    }
    store = CaseStore(cache_dir or run / "preprocessed", plan.data_key, stage_key(stage))
    needed = [items[name] for name in (*labeled, *unlabeled, *val) if name in items]
    without = {} if stage is None else add_previous(needed, split.test, stage, plan.device)
    failed = without | preprocess([item for item in needed if item["case"] not in without], plan, store, workers)
    save_json(run / "rejected.json", {**rejected, **failed})
    usable = {name: item for name, item in items.items() if name not in failed}
    train, watched, test = (
        [usable[name] for name in names if name in usable] for names in ((*labeled, *unlabeled), val, split.test)
    )
    if not any(bool(item["labeled"]) for item in train):
        raise DatasetError(
            f"{dataset.root}: expected a labelled case to train on, received none that can be used: {run / 'rejected.json'} says "
            "why of each. Mend one."
        )
    with_label = sum(bool(item["labeled"]) for item in train)
    log.info(
        "Training part: %d labelled and %s; validation: %s; test: %s; set aside: %d.",
        with_label, counted(len(train) - with_label, "unlabelled case"), _named(watched), _named(test),
        len(rejected) + len(failed),
    )  # fmt: skip
    if val and not watched:
        log.warning(
            "Nothing will be validated: %s of the fold cannot be used, see rejected.json. Mend them, or choose another --fold.",
            listed(val),
        )
    if split.left_out:
        log.info(
            "In no part: %s (other scans of the patient are labelled or for the test, or the split file leaves them out).",
            listed(split.left_out),
        )
    return Prepared(plan, store, train, watched, test, len(val) + len(split.test) - len(watched) - len(test))


def _check_labels(prepared: Prepared, fingerprint: Fingerprint, began: bool) -> None:
    """What of the labels can be learnt, see ``kept_labels``; if nothing, a training that has not begun is refused."""
    train, val = ([item["case"] for item in part if item["labeled"]] for part in (prepared.train, prepared.val))
    kept = kept_classes(fingerprint, prepared.store, [*train, *val])
    warnings = lost_labels(fingerprint, prepared.plan, kept)
    if warnings and not began and not any(kept[case] for case in train):
        raise PlanError(f"nothing is left to be learnt. {' '.join(warnings)}")
    for warning in (*unlearnt_classes(kept, train, val), *warnings):
        log.warning("%s", warning)


def _same_folder(one: str, other: str) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)
