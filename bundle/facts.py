"""What a run folder tells about itself: everything that metadata and model card are written from."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mcsc_bundle.fingerprint import CaseFingerprint
from mcsc_bundle.metrics import CaseMetric, read_metrics
from mcsc_bundle.networks import unet_from_plan
from mcsc_bundle.plan import Fingerprint, Plan, PlanError


class PackError(ValueError):
    """A run that cannot be packed, or a bundle that is not in order; the message says what to do."""


@dataclass(frozen=True)
class RunFacts:
    """A finished training.

    Args:
        folder: the run folder.
        plan, fingerprint: what was decided and measured.
        losses, validations: rows of ``log.csv`` and ``validation.csv``.
        scores: rows of ``metrics.csv``; empty if the run was not evaluated.
        parts: names of the cases that played each part in ``splits.json``.
        method: class name of the method; empty in runs that do not name it.
    """

    folder: Path
    plan: Plan
    fingerprint: Fingerprint
    losses: tuple[dict[str, str], ...] = ()
    validations: tuple[dict[str, str], ...] = ()
    scores: tuple[CaseMetric, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    method: str = ""

    @property
    def weights(self) -> Path:
        """The network that is shipped."""
        return self.folder / "models" / "model.pt"

    @property
    def labeled(self) -> tuple[CaseFingerprint, ...]:
        """Labelled cases that trained: a fold that was scored took no part."""
        scored = {row.case for row in self.scores}
        return tuple(case for case in self.fingerprint.labeled if case.case not in scored)

    @property
    def uses_unlabeled(self) -> bool:
        """Whether the method learns from scans without labels (an older run does not name it, but its losses)."""
        if self.method:
            return self.method != "Supervised"
        return not self.losses or any(not name.startswith("supervised") for name in self.loss_terms)

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """Names of the loss terms that were logged."""
        first = self.losses[0] if self.losses else {}
        known = {"epoch", "iteration", "seconds", "lr", "nonfinite_steps", "loss"}
        return tuple(name for name in first if name not in known)


def read_run(folder: str | Path) -> RunFacts:
    """Read a run folder and see that its weights fit its plan.

    Raises:
        PackError: no plan, no fingerprint, no weights, or weights of another network.
    """
    run = Path(folder)
    try:
        plan, fingerprint = Plan.load(run / "plan.json"), Fingerprint.load(run / "fingerprint.json")
    except PlanError as error:
        raise PackError(f"{run}: expected the folder of a training. {error}") from None
    facts = RunFacts(
        folder=run,
        plan=plan,
        fingerprint=fingerprint,
        losses=_rows(run / "log.csv"),
        validations=_rows(run / "validation.csv"),
        scores=tuple(read_metrics(run / "metrics.csv")) if (run / "metrics.csv").exists() else (),
        parts=_parts(run / "splits.json"),
        method=_method(run / "models" / "checkpoint.pt"),
    )
    _check_weights(facts)
    return facts


def load_tensors(path: Path) -> Any:
    """What a file of weights holds.

    Raises:
        PackError: the file is missing, or holds anything that would have to be unpickled as code.
    """
    if not path.exists():
        raise PackError(f"expected weights in {path}, which does not exist. Train first.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError: all mean that this is no file of tensors
        raise PackError(
            f"{path}: expected tensors and plain containers alone, received a pickle or damaged data: {_cause(error)}. "
            "Do not load it in another way."
        ) from None


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict.

    Raises:
        PackError: as ``load_tensors``, or the file holds no state dict.
    """
    state = load_tensors(path)
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise PackError(f"{path}: expected a state dict, received a {type(state).__name__} of other things.")
    return dict(state)


def _cause(error: Exception) -> str:
    """What stands in the way, without torch's advice to unpickle all the same."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"it would call {named[1]}" if named else type(error).__name__


def _check_weights(facts: RunFacts) -> None:
    network = unet_from_plan(facts.plan)
    try:
        network.load_state_dict(load_weights(facts.weights))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise PackError(f"{facts.weights}: the weights do not fit plan.json, was it edited since? {reason}") from None


def _rows(path: Path) -> tuple[dict[str, str], ...]:
    if not path.exists():
        return ()
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def _parts(path: Path) -> dict[str, tuple[str, ...]]:
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {name: tuple(content[name]) for name in ("labeled", "unlabeled", "test")}


def _method(checkpoint: Path) -> str:
    if not checkpoint.exists():
        return ""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return str(state.get("method_name", ""))
