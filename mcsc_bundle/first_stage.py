"""Which networks the masks of a cascade come from: a second stage refines those whose masks trained it, and no others.

They are known by their weights, not by their place, so that the folders of both stages may be moved together.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from pathlib import Path

from mcsc_bundle.ensemble import run_folders
from mcsc_bundle.plan import PlanError
from mcsc_bundle.plan_files import read_json
from mcsc_bundle.tensors import TensorFileError, load_tensors
from mcsc_bundle.trained import account

FILE = "previous.json"
"""In a run of the second stage: where the first one lies, relative to the run, and ``weights``, the ``weights_key`` of it."""
KEY_LENGTH = 8  # of a stage in the names of its masks


def previous_dir(run: Path) -> Path | None:
    """The folder of the stage before; ``None`` if the run remembers none."""
    path = run / FILE
    return Path(os.path.normpath(run / read_json(path, needs=("run_dir",))["run_dir"])) if path.exists() else None


def stage_key(folder: Path | None) -> str:
    """Short name of the networks of a stage before, wherever they lie: cascades of several may keep their cases in one folder."""
    return "" if folder is None else weights_key(folder)[:KEY_LENGTH]


def remembered_key(run: Path) -> str:
    """The ``stage_key`` of the stage before as it was when the run was prepared; empty if the run remembers none."""
    known = _known_weights(run)
    return known[:KEY_LENGTH] if known is not None else stage_key(previous_dir(run))


def weights_key(folder: Path) -> str:
    """Changes with the weights of any run in ``folder``, not with where it lies."""
    return _joint_key(_digests(folder))


def is_same_stage(run: Path, folder: Path) -> bool:
    """Whether all networks that the run remembers are in ``folder``; folds that were trained later may be there, too."""
    known, there = _known_weights(run), _digests(folder)
    some = (part for count in range(len(there), 0, -1) for part in combinations(there, count))
    return known is None or any(_joint_key(part) == known for part in some)


def check_stage(run: Path, folder: Path) -> None:
    """Refuse to refine the masks of other networks than those whose masks trained ``run``.

    Raises:
        PlanError: with the remedy.
    """
    if not is_same_stage(run, folder):
        raise PlanError(
            f"{run / FILE}: expected the networks whose masks trained {run}, received others in {folder}: they are of other "
            "runs, were trained on since, or are gone. Put them back, or train this stage anew in another output_dir."
        )


def check_refined(runs: Path, folder: Path, max_epochs: int) -> None:
    """Refuse to train a first stage on once a second one has learnt to refine its masks.

    Raises:
        SystemExit: naming both, with the remedy.
    """
    if not (folder / "models" / "model.pt").exists():
        return
    after = refined_by(runs, folder)
    if after and (trained := _trained_epochs(folder)) < max_epochs:
        raise SystemExit(
            f"error: expected {folder} to stay as it is, whose masks trained {after[0]}, received --max_epochs {max_epochs} "
            f"after {trained}. Give the --max_epochs it was trained with; --configurations 3d_cascade_fullres alone trains the "
            "second stage longer. To train both longer, choose another folder for the runs, or delete those of the second stage."
        )


def _trained_epochs(folder: Path) -> int:
    """After which epoch a training goes on; 0 where it starts anew."""
    try:
        state = load_tensors(folder / "models" / "checkpoint.pt", mmap=True)
        return int(state["iteration"]) // int(state["epoch_length"])
    except (TensorFileError, KeyError):  # none, or damaged, which the training tells
        return 0


def refined_by(runs: Path, fold: Path) -> list[Path]:
    """Runs beside ``runs`` that have learnt to refine the masks of its networks as they are, or of the fold alone."""
    first = {runs.resolve(), fold.resolve()}
    found = sorted(path.parent for pattern in (f"*/{FILE}", f"*/fold_*/{FILE}") for path in runs.parent.glob(pattern))
    stages = {run: previous_dir(run) for run in found if _has_learnt(run)}
    return [run for run, stage in stages.items() if stage and stage.resolve() in first and is_same_stage(run, stage)]


def _has_learnt(run: Path) -> bool:
    return (run / "models" / "checkpoint.pt").exists() or bool(account(run).get("done"))


def _known_weights(run: Path) -> str | None:
    """What the run remembers of the stage before; ``None`` for none, and for a run of an older version."""
    return read_json(run / FILE, {}).get("weights")


def _joint_key(digests: Sequence[bytes]) -> str:
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()


def _digests(folder: Path) -> list[bytes]:
    """Of the weights of each run in ``folder`` that has any."""
    files = [run.resolve() / "models" / "model.pt" for run in run_folders(folder)]
    states = [(file, file.stat()) for file in files if file.exists()]
    return [_digest(file, state.st_mtime_ns, state.st_size) for file, state in states]


@lru_cache
def _digest(path: Path, changed: int, size: int) -> bytes:
    """``changed`` and ``size`` make a file that was written anew be read anew."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
