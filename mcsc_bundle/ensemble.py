"""Several runs as one: the folds of a cross-validation, or any runs of one plan, averaged at inference.

Probabilities are averaged window by window, not volume by volume: blending, mirroring and the way back to the original
grid stay those of one network, each window is cut once, and no second volume of every class has to be kept; what it takes
is room for the weights of all networks beside one window's activations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mcsc_bundle.networks import unet_from_plan
from mcsc_bundle.outputs import Classes, outputs_of
from mcsc_bundle.plain import in_order
from mcsc_bundle.plan import Plan, to_plain
from mcsc_bundle.plan_files import folds_of
from mcsc_bundle.trained import TOLD, account

MEMBER = "members.{index}."  # how the names of a member's weights begin in a file of several

FOLD = re.compile(r"fold_(\d+)")
# Of a plan: what two runs may differ in, since networks see the same input all the same. Windows and kept components are those
# of the first run.
ONLY_TRAINING = (
    "why",
    "memory_gb",
    "estimated_memory_gb",
    "measured_memory_gb",
    "device",
    *TOLD,
    "inference_overlap",
    "largest_component",
)


class EnsembleError(ValueError):
    """Runs that cannot be averaged; the message says why and what to do."""


class Ensemble(nn.Module):
    """Networks with one output: logits of the mean of their probabilities.

    Args:
        members: networks that give ``(B, C, *spatial)`` logits for the same input.
        outputs: what their channels mean; ``None`` for exclusive classes, whose logits are then log-probabilities.
    """

    def __init__(self, members: Iterable[nn.Module], outputs: Classes | None = None) -> None:
        super().__init__()
        self.outputs = outputs or Classes()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, C, *spatial)``."""
        total = x  # replaced by the first member's; TorchScript wants a value before the loop, and no slice of members
        for index, member in enumerate(self.members):
            share = self.outputs.log_probability(member(x))
            total = share if index == 0 else torch.logaddexp(total, share)
        return self.outputs.logits(total - math.log(len(self.members)))


class PackedEnsemble(Ensemble):
    """An ensemble whose weights lie in one file, as a packed bundle ships them.

    So whatever loads ``network_def`` and ``model.pt`` (MONAI Label, Deploy, the exports) gets the average of all members.
    """


def network_from_plan(plan: Plan, members: int = 1) -> nn.Module:
    """The CNN of ``plan``, or several of them averaged, for ``network_def`` in a packed bundle."""
    if members == 1:
        return unet_from_plan(plan)
    return PackedEnsemble((unet_from_plan(plan) for _ in range(members)), outputs_of(plan))


def joined_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The weights of several CNNs as those of a ``PackedEnsemble``; of one, as they are."""
    if len(states) == 1:
        return dict(states[0])
    return {
        MEMBER.format(index=index) + name: value for index, state in enumerate(states) for name, value in state.items()
    }


def count_members(state: Mapping[str, Tensor]) -> int:
    """How many networks a file of weights holds."""
    return len({name.split(".")[1] for name in state if name.startswith("members.")}) or 1


def run_folders(run_dir: str | Path | Sequence[str | Path], complete: bool = False) -> list[Path]:
    """The folder of each run.

    Args:
        run_dir: a run (with ``models``), a folder of fold runs (``fold_0``, ``fold_1``, ...), or a list of runs.
        complete: a folder of fold runs must hold all folds of its cross-validation.

    Raises:
        EnsembleError: an empty list, or a fold that is not trained.
        PlanError: a damaged ``splits.json``, or account of a fold.
    """
    if not isinstance(run_dir, (str, Path)):
        if not run_dir:
            raise EnsembleError("expected run_dir to name one run or more, received an empty list.")
        return [Path(folder) for folder in run_dir]
    folder = Path(run_dir)
    if (folder / "models").is_dir() or not folder.is_dir():
        return [folder]
    numbers = {int(found[1]): path for path in folder.iterdir() if (found := FOLD.fullmatch(path.name))}
    if complete and numbers and (folder / "splits.json").exists():
        _check_complete(folder)
    return [numbers[number] for number in sorted(numbers)] or [folder]


def _check_complete(folder: Path) -> None:
    """Best configuration and post-processing were decided on all folds, and a fold that was stopped is no result."""
    folds = len(folds_of(folder))
    runs = {number: folder / f"fold_{number}" for number in range(folds)}
    left = [number for number, run in runs.items() if not _is_trained(run)]
    if left:
        there = [str(run) for number, run in runs.items() if number not in left]
        raise EnsembleError(
            f"expected all {folds} folds in {folder} to be trained, received some that are not "
            f"({', '.join(map(str, left))}). Repeat the cross-validation, which goes on where it stopped, or name the runs "
            f"to average: {there}."
        )


def _is_trained(run: Path) -> bool:
    """A fold that was trained by itself has no account."""
    return (run / "models" / "model.pt").exists() and account(run).get("done", True)


def check_same_plan(plan: Plan, folder: Path, other: Plan, other_folder: Path) -> None:
    """Refuse to average networks that do not see the same input.

    Raises:
        EnsembleError: the plans differ in more than words, budgets and what only training needs.
    """
    mine, theirs = to_plain(plan), to_plain(other)
    differing = [name for name in mine if name not in ONLY_TRAINING and in_order(mine[name]) != in_order(theirs[name])]
    if differing:
        raise EnsembleError(
            f"expected runs of one plan, received {folder} and {other_folder}, which differ in {', '.join(differing)}. "
            "Networks of other plans see another grid: predict with each of them by itself, or train with --plan_from."
        )
