"""What a run folder tells about itself: everything that metadata and model card are written from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mcsc_bundle import tensors
from mcsc_bundle.case_metrics import CaseMetric, read_metrics
from mcsc_bundle.csv_log import loss_terms, read_rows
from mcsc_bundle.ensemble import EnsembleError, check_same_plan, run_folders
from mcsc_bundle.fingerprint import CaseFingerprint
from mcsc_bundle.networks import unet_from_plan
from mcsc_bundle.plan import Fingerprint, Plan, PlanError
from mcsc_bundle.postprocessing import Postprocessing, decision
from mcsc_bundle.score_record import ScoreRecord, is_current, read_record
from mcsc_bundle.trained import check_trained, mirrored_in_training, read_trained

log = logging.getLogger(__name__)

PLANNED = "planned.json"  # preprocessing.run_plan writes it
DECIDED = "Decided on cross-validated masks: postprocessing.json has their Dice before and after."


class PackError(ValueError):
    """A run that cannot be packed, or a bundle that is not in order; the message says what to do."""


@dataclass(frozen=True)
class RunFacts:
    """A finished training, or several of one plan whose networks are averaged.

    Args:
        folder: the run folder, or that of the folds.
        runs: the folder of each network's training. Log and pictures are those of the first.
        plan, fingerprint: what was decided and measured.
        losses, validations: rows of ``log.csv`` and ``validation.csv``.
        scores: rows of ``metrics.csv`` of all runs; empty if none was evaluated.
        method: class name of the method; empty in runs that do not name it.
        planned: the plan before anybody edited it; ``None`` if it was not kept.
        taught: names of the cases whose labels trained a network; empty if older runs do not tell.
    """

    folder: Path
    plan: Plan
    fingerprint: Fingerprint
    runs: tuple[Path, ...]
    losses: tuple[dict[str, str], ...] = ()
    validations: tuple[dict[str, str], ...] = ()
    scores: tuple[CaseMetric, ...] = ()
    method: str = ""
    planned: Plan | None = None
    taught: frozenset[str] = frozenset()

    @property
    def weights(self) -> tuple[Path, ...]:
        """The networks that are shipped."""
        return tuple(run / "models" / "model.pt" for run in self.runs)

    @property
    def labeled(self) -> tuple[CaseFingerprint, ...]:
        """Labelled cases that trained: a fold that validated took no part, unless other folds trained on it."""
        if self.taught:
            return tuple(case for case in self.fingerprint.labeled if case.case in self.taught)
        if len(self.runs) > 1:
            return self.fingerprint.labeled
        scored = {row.case for row in self.scores}
        return tuple(case for case in self.fingerprint.labeled if case.case not in scored)

    @property
    def scored_as_shipped(self) -> bool:
        """Whether the scores are of the networks that are shipped, and not of the Transformer or of both."""
        record = read_record(self.runs[0])
        return record is None or record.branch == ScoreRecord.of_inference(self.plan).branch

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
        return tuple(name for name in loss_terms(first) if name != "loss")


def read_run(folder: str | Path) -> RunFacts:
    """Read a run folder, or a folder of folds, and see that the weights fit the plan.

    Raises:
        PackError: no plan, no fingerprint, no weights, or weights of another network; or a decision on other classes.
    """
    try:
        first, *others = runs = run_folders(folder, complete=True)
        plan, fingerprint = Plan.load(first / "plan.json"), Fingerprint.load(first / "fingerprint.json")
        for other in others:
            check_same_plan(plan, first, Plan.load(other / "plan.json"), other)
    except (PlanError, EnsembleError) as error:
        raise PackError(f"{folder}: expected the folder of a training. {error}") from None
    try:
        for run in runs:
            check_trained(run / "models", plan, run / "plan.json")
    except PlanError as error:
        raise PackError(str(error)) from None
    plan = _with_decision(mirrored_in_training(first / "models", plan), Path(folder))
    if plan.previous_stage:
        raise PackError(
            f"{folder}: expected networks that see an image alone, received a cascade, which needs those of "
            f"{plan.previous_stage} too. Pack a run of 3d_fullres or {plan.previous_stage}; run a cascade from its folders."
        )
    facts = RunFacts(
        folder=Path(folder),
        plan=plan,
        fingerprint=fingerprint,
        runs=tuple(runs),
        losses=tuple(read_rows(first / "log.csv")),
        validations=tuple(read_rows(first / "validation.csv")),
        scores=tuple(row for run in runs for row in _scores(run)),
        method=_method(first / "models" / "checkpoint.pt"),
        planned=Plan.load(first / PLANNED) if (first / PLANNED).exists() else None,
        taught=_taught(runs),
    )
    for weights in facts.weights:
        _check_weights(plan, weights)
    return facts


def _with_decision(plan: Plan, folder: Path) -> Plan:
    """The plan with the largest components that a cross-validation decided on: ``model.ts`` holds the plan and no other file.

    Raises:
        PackError: a decision on other classes.
    """
    try:
        path = decision(folder)
        if path is None:
            return plan
        kept, why = Postprocessing.load(path).adopted, {**plan.why, "largest_component": DECIDED}
        return plan.replace(largest_component=kept, why=why)
    except PlanError as error:
        raise PackError(f"{path}: {error}") from None


def load_tensors(path: Path, mmap: bool = False) -> Any:
    """What a file of weights holds, see ``mcsc_bundle.tensors``.

    Raises:
        PackError: the file is missing, damaged, or holds anything that would have to be unpickled as code.
    """
    if not path.exists():
        raise PackError(f"expected weights in {path}, which does not exist. Train first.")
    try:
        return tensors.load_tensors(path, mmap)
    except tensors.TensorFileError as error:
        raise PackError(str(error)) from None


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict.

    Raises:
        PackError: as ``load_tensors``, or the file holds no state dict.
    """
    state = load_tensors(path)
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise PackError(f"{path}: expected a state dict, received a {type(state).__name__} of other things.")
    return dict(state)


def _check_weights(plan: Plan, weights: Path) -> None:
    network = unet_from_plan(plan)
    try:
        network.load_state_dict(load_weights(weights))
    except RuntimeError as error:
        raise PackError(tensors.misfit(error, weights)) from None


def _scores(run: Path) -> list[CaseMetric]:
    """``metrics.csv``, unless the training went on since."""
    path = run / "metrics.csv"
    if not path.exists():
        return []
    if not is_current(run):
        log.warning("%s: left out, as the scores are of other weights than there are now. Run evaluate again.", path)
        return []
    return read_metrics(path)


def _taught(runs: Sequence[Path]) -> frozenset[str]:
    told = [read_trained(run / "models").get("labeled", ()) for run in runs]
    return frozenset(name for names in told for name in names) if all(told) else frozenset()


def _method(checkpoint: Path) -> str:
    if not checkpoint.exists():
        return ""
    return str(load_tensors(checkpoint, mmap=True).get("method_name", ""))
