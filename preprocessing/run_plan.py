"""The plan of a run folder: read back, edited or not, or made, or made anew.

``plan.json`` is the plan, ``planned.json`` what it was before anybody edited it, and ``plan.key`` tells whether somebody did, and
what was asked for when it was made.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mcsc_bundle.files import save_text
from mcsc_bundle.plan import CaseFingerprint, Fingerprint, Plan, PlanError
from mcsc_bundle.trained import check_trained
from mcsc_bundle.words import listed
from preprocessing.adopt import adopt_plan, misfits, plan_file
from preprocessing.axes import RAS_AXIS
from preprocessing.machine import total_bytes
from preprocessing.measured import fit_measured
from preprocessing.paper import paper_plan
from preprocessing.planner import make_plan

log = logging.getLogger(__name__)

PLANNED = "planned.json"
OPTIONS_OF_A_PLAN = "--preset, --plan_from, --configuration, --memory_gb, --step_seconds, --device"
BYTES_PER_VOXEL = 8  # of a channel while it is resampled: what was read and what comes out, float32


@dataclass(frozen=True)
class Request:
    """What a plan is asked to be.

    Args:
        preset: ``plan``, a family of ``families``, or ``paper`` for the paper's networks and patch.
        plan_from: run, bundle or plan file whose plan is used, see ``preprocessing.adopt``.
        options: of ``make_plan``.
        check_memory: try a step of a new plan for its memory, see ``preprocessing.measured``.
        amp_dtype: of that step.
    """

    preset: str
    plan_from: str | None
    options: dict[str, Any]
    check_memory: bool = False
    amp_dtype: str | None = None

    @cached_property
    def key(self) -> str:
        """Changes when what is asked for does, the content of the other plan included."""
        source = None if self.plan_from is None else plan_file(self.plan_from).read_text(encoding="utf-8")
        return text_hash(json.dumps({**self.options, "preset": self.preset, "plan_from": source}, sort_keys=True))

    @property
    def family(self) -> dict[str, Any]:
        """``preset`` of ``make_plan``: the paper's plan is changed from a plain one, whatever the time of a step."""
        return {"step_seconds": math.inf} if self.preset == "paper" else {"preset": self.preset}

    def make(self, fingerprint: Fingerprint) -> Plan:
        """The plan, its memory not yet measured."""
        configuration, family = plan_kind(self)
        if self.plan_from is not None and (configuration or family):
            given = " and ".join(
                name for name, value in (("--configuration", configuration), ("--preset", family)) if value
            )
            raise PlanError(f"expected --plan_from without {given}, as the plan in {self.plan_from} has its own.")
        plan = make_plan(fingerprint, **{**self.options, **self.family})
        if self.preset == "paper":
            plan = paper_plan(plan)
        if self.plan_from is not None:
            plan = adopt_plan(self.plan_from, plan, fingerprint).replace(measured_memory_gb=None)
        return plan

    def tried(self, plan: Plan, fingerprint: Fingerprint) -> Plan:
        """The plan with its measured memory, or a smaller one; as it is if it has been measured, or need not be."""
        if not self.check_memory or plan.measured_memory_gb is not None:
            return plan
        log.info("Trying a training step for its memory.")

        def replan(memory_gb: float) -> Plan:
            return make_plan(fingerprint, **{**self.options, **self.family, "memory_gb": memory_gb})

        as_it_stands = self.preset == "paper" or self.plan_from is not None
        return fit_measured(plan, self.options["networks"], None if as_it_stands else replan, self.amp_dtype)


def plan_of_run(run: Path, fingerprint: Fingerprint, measured_anew: bool, request: Request) -> Plan:
    """Read back the plan, edited or not, or make it.

    ================================  =========================  ====================================================
    the plan in the folder            before a training          once a training has begun
    ================================  =========================  ====================================================
    made for this request             kept; made anew for a      kept
                                      new fingerprint
    made for another request          made anew                  kept, with a warning; refused if of another kind
    edited by hand                    kept, if the data set      kept, unless the weights depend on what was edited
                                      still fits
    gone                              made                       made, and refused if it is not the one that trained
    ================================  =========================  ====================================================

    Args:
        run: the run folder.
        fingerprint: of the data set.
        measured_anew: the fingerprint is another one than when the plan was made.
        request: what is asked for now.

    Raises:
        PlanError: the plan in the folder cannot be used, or none can be made.
    """
    path, made = run / "plan.json", run / "plan.key"
    trained, same = (run / "models" / "checkpoint.pt").exists(), False
    if path.exists():
        text, *before = made.read_text(encoding="utf-8").split() if made.exists() else ("",)
        edited, same = text != text_hash(path.read_text(encoding="utf-8")), before == [request.key]
        if edited:
            log.info("Using %s as edited; delete it to plan again.", path)
        elif trained and not same:
            _check_followed(plan_kind(request), Plan.load(path), run)
            log.warning(
                "Keeping %s, made with another of these options: %s. A training has begun on it.",
                path,
                OPTIONS_OF_A_PLAN,
            )
        if edited or trained or (same and not measured_anew):
            return _read_back(run, fingerprint, request, edited, trained)
    plan = request.make(fingerprint)
    if path.exists() and not same:
        _tell_replaced(path, plan)
    if trained:
        check_trained(run / "models", plan, f"the plan made anew, as {path} is gone,")
    plan = request.tried(plan, fingerprint)
    _save(plan, run, request)
    log.info("Planned: %s. The reasons: python -m preprocessing show %s", _summary(plan), shlex.quote(str(run)))
    return plan


def _tell_replaced(path: Path, plan: Plan) -> None:
    """Another plan than the one in the folder was asked for, perhaps because an option was not repeated."""
    try:
        before = Plan.load(path)
    except PlanError:  # of another version
        return
    parts = ("configuration", "spacing_mm", "patch_size", "batch_labeled", "batch_unlabeled", "cnn", "transformer")
    if differ := [name for name in parts if getattr(before, name) != getattr(plan, name)]:
        log.warning(
            "%s is planned anew, with another %s: it was made with other options. To keep a plan, repeat its options (%s).",
            path,
            listed(differ),
            OPTIONS_OF_A_PLAN,
        )


def plan_kind(request: Request) -> tuple[str, str]:
    """Configuration and family of the CNN that are asked for; empty where the plan may decide."""
    asked = request.options.get("configuration", "auto")
    kind = {"plan": "", "paper": "paper"}.get(request.preset, "resenc")
    return "" if asked == "auto" else asked, kind


def _check_followed(asked: tuple[str, str], plan: Plan, run: Path) -> None:
    """Refuse to go on in silence with a plan of another kind than was asked for.

    Raises:
        PlanError: names both.
    """
    for option, wanted, there in zip(
        ("--configuration", "--preset"), asked, (plan.configuration, plan.cnn.preset), strict=True
    ):
        if wanted and there != wanted:
            raise PlanError(
                f"{run}: expected {option} to be that of the plan that the training began on ({there}), received {wanted}. "
                "Leave it out to go on, or choose another --output_dir."
            )


def _read_back(run: Path, fingerprint: Fingerprint, request: Request, edited: bool, trained: bool) -> Plan:
    path = run / "plan.json"
    plan = Plan.load(path)
    if trained:
        check_trained(run / "models", plan, path)  # before hours of preprocessing for another grid
        return plan
    if edited:  # it is the user's: measured, if asked for, but neither changed nor written
        _check_declared(path, plan, fingerprint)
        if not request.check_memory:
            return plan
        return fit_measured(plan, request.options["networks"], replan=None, amp_dtype=request.amp_dtype)
    tried = request.tried(plan, fingerprint)
    if tried != plan:
        _save(tried, run, request)
    return tried


def _check_declared(path: Path, plan: Plan, fingerprint: Fingerprint) -> None:
    """Refuse a plan that was edited before the data set declared other labels or channels; other names are told.

    Raises:
        PlanError: values that the plan does not know, another ignore label, other regions, more or fewer channels.
    """
    for name, planned, declared in misfits(plan, fingerprint):
        raise PlanError(
            f"{path}: expected {name} {declared}, as the data set has, received {planned}: it was edited, so that it is not "
            "made anew where the data set has changed. Correct that in it, or delete it to plan again."
        )
    for name, planned, declared in (
        ("labels", plan.labels, fingerprint.labels),
        ("channel_names", plan.channel_names, fingerprint.channel_names),
    ):
        if list(planned) != list(declared):
            log.warning(
                "%s: %s are %s, in the data set %s; the plan's are used, as it was edited.",
                path,
                name,
                planned,
                declared,
            )


def _save(plan: Plan, run: Path, request: Request) -> None:
    path = run / "plan.json"
    plan.save(path)
    plan.save(run / PLANNED)
    save_text(run / "plan.key", f"{text_hash(path.read_text(encoding='utf-8'))} {request.key}")


def text_hash(text: str) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_grid(plan: Plan, fingerprint: Fingerprint) -> None:
    """Refuse a grid on which scans as they usually are exceed the machine's memory: a spacing that was edited to 0.001 mm.

    A single scan that is too large, by a wrong header for example, is none of the plan's: it is set aside when its turn comes.

    Raises:
        PlanError: names the case of median size.
    """
    if plan.image_dims != fingerprint.image_dims:  # each case is told on its own
        return
    ordered = sorted((_voxels(case, plan), index) for index, case in enumerate(fingerprint.cases))
    voxels, index = ordered[(len(ordered) - 1) // 2]
    needed, memory, usual = voxels * plan.in_channels * BYTES_PER_VOXEL, total_bytes(), fingerprint.cases[index]
    if needed > memory:
        raise PlanError(
            f"expected a grid on which scans fit into memory (this machine has {memory / 1e9:.3g} GB), received spacing_mm "
            f"{plan.spacing_mm}, which makes {needed / 1e9:.3g} GB of case {usual.case}, of median size (spacing "
            f"{usual.spacing_mm} mm, shape {usual.shape_after_crop}). Mend spacing_mm in plan.json, or the headers of the scans "
            f"if they are wrong."
        )


def _voxels(case: CaseFingerprint, plan: Plan) -> float:
    """Voxels of a case on the plan's grid."""
    codes = plan.orientation or case.orientation  # without one, axes stay those of each file
    order = [RAS_AXIS[code] for code in codes] if case.orientation else range(plan.image_dims)  # measured axes are RAS
    steps = ((case.shape_after_crop[axis], case.spacing_mm[axis]) for axis in order)
    return math.prod(
        size * (1 if new is None else old / new) for (size, old), new in zip(steps, plan.spacing_mm, strict=True)
    )


def _summary(plan: Plan) -> str:
    kind = f"{plan.spatial_dims}-D" + (f" slices along axis {plan.slice_axis}" if plan.slice_axis is not None else "")
    spacing = " x ".join(f"{s:.4g}" for s in plan.spacing_mm if s is not None)  # None: slices keep their distance
    patch = " x ".join(map(str, plan.patch_size))
    return f"{kind}, spacing {spacing} mm, patch {patch}, batch {plan.batch_labeled} + {plan.batch_unlabeled}, for {plan.device}"
