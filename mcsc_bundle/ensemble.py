"""Several runs as one: the folds of a cross-validation, or any runs of one plan, averaged at inference.

Probabilities are averaged window by window, not volume by volume: blending, mirroring and the way back to the original
grid stay those of one network, each window is cut once, and no second volume of every class has to be kept; what it takes
is room for the weights of all networks beside one window's activations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcsc_bundle.plan import Plan, to_plain
from mcsc_bundle.trained import TOLD

FOLDS = "fold_*"
# Of a plan: what two runs may differ in, since networks see the same input all the same. Windows are those of the first run.
ONLY_TRAINING = ("why", "memory_gb", "estimated_memory_gb", "device", *TOLD, "inference_overlap")


class EnsembleError(ValueError):
    """Runs that cannot be averaged; the message says why and what to do."""


class Ensemble(nn.Module):
    """Networks with one output: the log of the mean of their softmax.

    Args:
        members: networks that give ``(B, classes, *spatial)`` logits for the same input.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities ``(B, classes, *spatial)``."""
        total: Tensor | None = None
        for member in self.members:
            share = F.log_softmax(member(x), dim=1)
            total = share if total is None else torch.logaddexp(total, share)
        assert total is not None, "expected one network or more"
        return total - math.log(len(self.members))


def run_folders(run_dir: str | Path | Sequence[str | Path]) -> list[Path]:
    """The folder of each run.

    Args:
        run_dir: a run (with ``models``), a folder of fold runs (``fold_0``, ``fold_1``, ...), or a list of runs.

    Raises:
        EnsembleError: an empty list.
    """
    if not isinstance(run_dir, (str, Path)):
        if not run_dir:
            raise EnsembleError("expected run_dir to name one run or more, received an empty list.")
        return [Path(folder) for folder in run_dir]
    folder = Path(run_dir)
    folds = [] if (folder / "models").is_dir() else sorted(path for path in folder.glob(FOLDS) if path.is_dir())
    return folds or [folder]


def check_same_plan(plan: Plan, folder: Path, other: Plan, other_folder: Path) -> None:
    """Refuse to average networks that do not see the same input.

    Raises:
        EnsembleError: the plans differ in more than words, budgets and what only training needs.
    """
    mine, theirs = to_plain(plan), to_plain(other)
    differing = [name for name in mine if name not in ONLY_TRAINING and mine[name] != theirs[name]]
    if differing:
        raise EnsembleError(
            f"expected runs of one plan, received {folder} and {other_folder}, which differ in {', '.join(differing)}. "
            "Networks of other plans see another grid: predict with each of them by itself, or train with --plan_from."
        )
