"""Train every fold, score the cases it left out, and decide the post-processing on them.

    python -m mcsc_bundle cross_validate DATA RUNS [--folds 0,1,2] [--max_epochs 80] [any other training option]
    python -m mcsc_bundle cross_validate DATA RUNS --configurations 2d,3d_fullres    # each in RUNS/2d, ...; then `choose`
    torchrun --nproc_per_node=4 -m mcsc_bundle cross_validate DATA RUNS      # a fold for each process at a time

``RUNS`` gets the plan and the preprocessed cases, once for all folds; ``RUNS/fold_0``, ``RUNS/fold_1``, ... are run folders
like any other, trained and evaluated by ``configs/train.yaml`` and ``configs/evaluate.yaml``. A fold that is done is
skipped, one that was stopped goes on. ``cross_validation.csv`` holds the scores of every
labelled case, each by the networks that never saw it. Fold ``k`` trains with ``seed + k``. To average the folds on new scans,
give ``--run_dir RUNS`` to ``configs/inference.json``.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from mcsc_bundle import fold_account
from mcsc_bundle.case_metrics import write_metrics
from mcsc_bundle.first_stage import check_refined
from mcsc_bundle.fold_scores import left_out, result_keys, summarise
from mcsc_bundle.option_values import OptionError, check_values
from mcsc_bundle.options import check_options
from mcsc_bundle.plan import save_json
from mcsc_bundle.plan_files import folds_of
from mcsc_bundle.plan_parts import CASCADE, LOWRES
from mcsc_bundle.trained import ACCOUNT, account

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
PLANNING = (
    "splits.json",
    "fingerprint.json",
    "fingerprint.key",
    "rejected.json",
    "plan.json",
    "plan.key",
    "planned.json",
)
OWN = ("fold", "output_dir", "held_out")
GROUPS = itertools.count()
SPLITTING = ("dataset_dir", "num_labeled", "num_test", "split_seed", "split_file")
MAX_FOLDS = 5  # of preprocessing.split.make_split


def cross_validate(
    dataset_dir: str,
    runs_dir: str,
    folds: int | Sequence[int] | None = None,
    config_file: str | Sequence[str] | None = None,
    configurations: str | Sequence[str] | None = None,
    **options: Any,
) -> None:
    """Train and score the folds that are not done yet; with all of them done, decide the post-processing.

    Args:
        dataset_dir: the data set.
        runs_dir: folder of the runs.
        folds: which, e.g. ``0,1``; ``None`` takes all that the labelled patients allow (five, or one per patient).
        config_file: ``configs/train.yaml``, or a list of it and overlays (another method).
        configurations: one after the other, each in its own folder below ``runs_dir``, with the same folds.
        **options: of the training, as for ``monai.bundle run training``.

    Raises:
        SystemExit: with a message for a user's mistake; with code 1 if a case could not be predicted.
    """
    if configurations is not None:
        return _cross_validate_all(configurations, dataset_dir, Path(runs_dir), folds, config_file, options)
    given = [name for name in OWN if name in options]
    if given:
        raise SystemExit(
            f"error: expected no option {', '.join(given)}, which each fold has for itself. To train some folds: --folds 0,1."
        )
    runs, files = Path(runs_dir), _files(config_file)
    if (runs / "models").exists():  # inference would take it for one run
        raise SystemExit(
            f"error: expected a folder for the runs, received {runs}, which is a run itself. Give another one."
        )
    try:
        check_options(files, options, also=("folds", "configurations"))
    except OptionError as error:
        raise SystemExit(f"error: {error}") from None
    _check_folds(folds, range(MAX_FOLDS))  # before hours of preprocessing; how many the patients allow is known after
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    options = {"bundle_root": str(ROOT), "cache_dir": str(runs / "preprocessed"), **options, "dataset_dir": dataset_dir}
    items = prepare_folds(files, {**options, "output_dir": str(runs), "fold": "all"}, world)
    references = {case: item["label"] for case, item in items.items()}
    possible = range(len(folds_of(runs)))
    mine = _check_folds(folds, possible)[rank::world]
    if world > 1 and torch.cuda.is_available():
        options.setdefault("device", f"$torch.device('cuda', {os.environ.get('LOCAL_RANK', 0)})")
    incomplete = [fold for fold in mine if not run_fold(fold, runs, files, options)]
    print(summarise(runs, possible, references))
    if incomplete:
        log.error("Not every case of fold %s could be predicted; the same command tries again.", incomplete)
        raise SystemExit(1)


def _cross_validate_all(
    configurations: str | Sequence[str],
    dataset_dir: str,
    runs: Path,
    folds: int | Sequence[int] | None,
    config_file: str | Sequence[str] | None,
    options: Mapping[str, Any],
) -> None:
    """Each configuration in turn; they share the folder of preprocessed cases, and the folds, as the split is the same."""
    names = configurations.split(",") if isinstance(configurations, str) else list(configurations)
    if "configuration" in options or len(set(names)) < len(names):
        raise SystemExit(
            f"error: expected each configuration once under --configurations and no --configuration, received {names}."
        )
    try:
        for name in names:  # a misspelt last one is not to cost the training of the first
            check_values({"configuration": name})
    except OptionError as error:
        raise SystemExit(f"error: {error}") from None
    if CASCADE in names and "previous" not in options:
        before = names[: names.index(CASCADE)]
        if LOWRES not in before and not (runs / LOWRES / "splits.json").exists():
            raise SystemExit(
                f"error: expected {LOWRES} before {CASCADE}, which refines its masks, received {','.join(names)}."
            )
    shared = {"cache_dir": str(runs / "preprocessed"), **options}
    for name in names:
        stage = {"previous": str(runs / LOWRES)} if name == CASCADE and "previous" not in options else {}
        if stage:
            _wait_for_others()  # their folds of the first stage
        cross_validate(dataset_dir, str(runs / name), folds, config_file, configuration=name, **stage, **shared)
    print(f"To choose among them: python -m mcsc_bundle choose {runs}")


def _wait_for_others() -> None:
    """Under torchrun, until every process has come here."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        with _process_group():
            torch.distributed.barrier()


@contextmanager
def _process_group() -> Iterator[None]:
    """All processes of torchrun for a while; a training of a fold is to find none. Each group has names of its own in the store
    where processes find each other, or it would read the addresses of the group before.
    """
    store, rank, world = next(torch.distributed.rendezvous("env://"))
    own = torch.distributed.PrefixStore(f"cross_validation_{next(GROUPS)}", store)
    torch.distributed.init_process_group("gloo", store=own, rank=rank, world_size=world, timeout=timedelta(days=2))
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def run_fold(fold: int, runs: Path, files: Sequence[str], options: Mapping[str, Any]) -> bool:
    """Train one fold and score its validation cases, unless that was done.

    Returns:
        False if a case could not be predicted.

    Raises:
        SystemExit: the folder holds a training with another plan, other data or other options, or one that a second stage needs
            as it is.
    """
    folder = runs / f"fold_{fold}"
    asked = fold_account.asked(files, options)
    before = account(folder)
    fold_account.check_same(runs, folder, asked, before)
    if before.get("done") and before["options"].get("max_epochs") == asked["options"].get("max_epochs"):
        log.info("Fold %d is done.", fold)
        return True
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "models" / "checkpoint.pt").exists():
        for name in PLANNING:  # what was measured and planned once; memory that is free differs from fold to fold
            if (runs / name).exists():
                shutil.copyfile(runs / name, folder / name)
    log.info("Fold %d, in %s.", fold, folder)

    def begin(max_epochs: int) -> None:
        check_refined(runs, folder, max_epochs)
        save_json(folder / ACCOUNT, {**asked, "done": False})

    # Networks that start from other weights differ more, and gain more by being averaged.
    overrides = {**options, "output_dir": str(folder), "fold": fold, "seed": int(options.get("seed", 0)) + fold}
    run_workflow(files, "training", overrides, begin)
    if not left_out(runs)[fold]:
        log.warning("Fold %d: every case that it leaves out was set aside, so it has no scores.", fold)
        write_metrics([], folder / "metrics.csv")
        save_json(folder / ACCOUNT, {**asked, "done": True, **result_keys(folder)})
        return True
    try:
        scoring = [*files, str(ROOT / "configs" / "evaluate.yaml")]
        # whether largest components help is decided on masks as the networks make them
        run_workflow(scoring, "evaluate", {**overrides, "held_out": "$@prepared.val", "postprocess": False})
    except SystemExit as end:
        if end.code != 1:
            raise
        return False
    save_json(folder / ACCOUNT, {**asked, "done": True, **result_keys(folder)})
    return True


def run_workflow(
    files: Sequence[str], run_id: str, overrides: Mapping[str, Any], begin: Callable[[int], None] | None = None
) -> None:
    """What ``python -m monai.bundle run RUN_ID --config_file FILES ...`` does, in this process.

    Args:
        files: configs.
        run_id: what to run.
        overrides: options.
        begin: called with ``max_epochs`` when the data is prepared, before anything is trained.
    """
    workflow = _workflow(files, run_id, overrides)
    workflow.initialize()
    if begin is not None:
        workflow.parser.get_parsed_content("prepared")
        begin(workflow.parser.get_parsed_content("max_epochs"))
    workflow.run()
    workflow.finalize()
    del workflow
    gc.collect()  # networks and optimiser refer to each other: they would stay until some later time
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def prepare_folds(files: Sequence[str], overrides: Mapping[str, Any], world: int = 1) -> dict[str, dict[str, Any]]:
    """Split, plan and preprocess in ``RUNS``; under torchrun the first process works and the others wait.

    Returns:
        Every labelled case with the files of its ``image`` and its ``label``.
    """
    workflow = _workflow(files, "training", overrides)
    if world > 1 and workflow.parser.get("initialize"):
        raise SystemExit(
            "error: expected a config without `initialize` (multi_gpu_train.yaml) under torchrun, as each process "
            "trains folds of its own. Leave it out, or start one process."
        )
    with _process_group() if world > 1 else nullcontext():
        workflow.initialize()
        _check_patients({name: workflow.parser.get_parsed_content(name) for name in SPLITTING})
        prepared = workflow.parser.get_parsed_content("prepared")
    return {item["case"]: item for item in (*prepared.train, *prepared.val) if item["labeled"]}


def _check_patients(options: Mapping[str, Any]) -> None:
    """Refuse to part one patient, before anything is measured.

    Raises:
        SystemExit: with what can be done instead.
    """
    from preprocessing.dataset import DatasetError, read_dataset
    from preprocessing.split import make_split

    folder, number, *rest = (options[name] for name in SPLITTING)
    if not Path(folder).exists():  # the demo set before its first use; who prepares the data will see
        return
    reader = logging.getLogger("preprocessing.dataset")
    reader.disabled = True  # preparing reads it again, and tells
    try:
        split = make_split(read_dataset(folder), number if isinstance(number, int) else None, *rest)
    except DatasetError as error:
        raise SystemExit(f"error: {error}") from None
    finally:
        reader.disabled = False
    if not split.folds:
        next_label = "; python -m mcsc_bundle suggest RUN then says which scan to label next" if split.unlabeled else ""
        raise SystemExit(
            "error: expected labelled scans of two patients or more to cross-validate, received those of one. Train on them with "
            f"--fold all{next_label}."
        )


def _workflow(files: Sequence[str], run_id: str, overrides: Mapping[str, Any]) -> ConfigWorkflow:
    logging_file = str(ROOT / "configs" / "logging.conf")
    return ConfigWorkflow(list(files), workflow_type="train", run_id=run_id, logging_file=logging_file, **overrides)


def _files(config_file: str | Sequence[str] | None) -> list[str]:
    if config_file is None:
        return [str(ROOT / "configs" / "train.yaml")]
    return [config_file] if isinstance(config_file, str) else list(config_file)


def _check_folds(folds: int | Sequence[int] | None, possible: range) -> list[int]:
    """Those that are meant, all by default.

    Raises:
        SystemExit: one that is not possible.
    """
    if folds is None:
        return list(possible)
    chosen = [folds] if isinstance(folds, (int, str)) else list(folds)
    if not all(isinstance(fold, int) and fold in possible for fold in chosen):
        names = ", ".join(map(str, possible))
        raise SystemExit(f"error: expected folds out of {names}, received {', '.join(map(str, chosen))}.")
    return chosen
