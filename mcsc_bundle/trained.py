"""What a training leaves beside its weights: the plan and the labelled cases that made them.

``plan.json`` may be edited after a training, and the weights would not know: another spacing or normalisation gives masks
that look reasonable and are wrong. So ``models/trained.json`` keeps the plan as it trained, ``checkpoint.pt`` too, and who
uses the weights compares. Entries outside ``FIXED`` (batch, overlap, mirroring, budget, ...) may be edited at any time.
A folder without the file, from before there was one, passes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mcsc_bundle.plain import differences, to_plain
from mcsc_bundle.plan import Plan, PlanError
from mcsc_bundle.plan_files import read_json, save_json
from mcsc_bundle.tensors import TensorFileError, load_tensors

log = logging.getLogger(__name__)

FILE = "trained.json"
FIXED = (
    "channel_names",
    "labels",
    "ignore_value",
    "regions",
    "image_dims",
    "spatial_dims",
    "slice_axis",
    "orientation",
    "spacing_mm",
    "separate_z_ratio",
    "normalization",
    "previous_stage",
    "patch_size",
    "cnn",
    "transformer",
)
"""Entries of a plan that decide what the weights see and are; the crop to the non-zero box is the same in every plan."""
TOLD = ("batch_labeled", "batch_unlabeled", "batch_dice", "contrast", "projection_dim", "mirror_axes")
"""Entries that a training may go on with when they were edited, but not in silence."""
SHOWN = 4
ACCOUNT = "cross_validation.json"  # in a fold's folder: what it was trained with, and whether it is done


class HeldOutError(ValueError):
    """Cases that are no test of the weights; the message says why and what to do."""


def plan_record(plan: Plan) -> dict[str, Any]:
    """The plan as plain containers, without its reasons."""
    return {name: value for name, value in to_plain(plan).items() if name != "why"}


def save_trained(models_dir: str | Path, plan: Plan, labeled: Sequence[str] | None = None) -> None:
    """Write ``trained.json``.

    Args:
        models_dir: where the weights are.
        plan: that trains, or has trained, them.
        labeled: cases whose labels train them; ``None`` leaves them out (a bundle names no case).
    """
    cases = {} if labeled is None else {"labeled": sorted(labeled)}
    save_json(Path(models_dir) / FILE, {"plan": plan_record(plan), **cases})


def read_trained(models_dir: str | Path) -> dict[str, Any]:
    """Content of ``trained.json``; empty without the file.

    Raises:
        PlanError: not such a file.
    """
    path = Path(models_dir) / FILE
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content["plan"], dict):
            return content
    except (ValueError, KeyError, TypeError):
        pass
    raise PlanError(
        f"{path}: expected the plan that trained the weights beside it, received something else. Restore it."
    )


def check_trained(models_dir: str | Path, plan: Plan, source: str | Path = "plan.json") -> None:
    """Refuse a plan that is not the one that trained the weights in ``models_dir``.

    Args:
        models_dir: of a run or a packed bundle.
        plan: that they are to be used with.
        source: where it is from, for the message.

    Raises:
        PlanError: naming the entries, both values and the remedy.
    """
    refuse_edits(read_trained(models_dir).get("plan", {}), plan, str(models_dir), source)


def mirrored_in_training(models_dir: str | Path, plan: Plan) -> Plan:
    """The plan without mirror axes that its training did not have: networks never saw such images. As it is without a record."""
    known = read_trained(models_dir).get("plan", {}).get("mirror_axes")
    axes = plan.mirror_axes if known is None else tuple(axis for axis in plan.mirror_axes if axis in known)
    if axes == plan.mirror_axes:
        return plan
    log.warning("plan.json mirrors axes that the training did not (%s); inference leaves them out.", plan.mirror_axes)
    return plan.replace(mirror_axes=axes)


def refuse_edits(trained: Mapping[str, Any], plan: Plan, weights: str, source: str | Path = "plan.json") -> None:
    """``check_trained`` for a record that is at hand; an empty one passes.

    Raises:
        PlanError: see ``check_trained``.
    """
    found = edits(trained, plan, FIXED)
    if found:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise PlanError(
            f"{source}: expected the plan that trained the weights in {weights}, received "
            f"{'; '.join([*found[:SHOWN], *more])}. Put the trained values back ({FILE} beside the weights holds them "
            "all), or train anew with the edited plan in another output_dir."
        )


def tell_edits(trained: Mapping[str, Any], plan: Plan) -> None:
    """Say in the log what a training goes on with that was edited since it began."""
    found = edits(trained, plan, TOLD)
    if found:
        log.warning("plan.json was edited since the training began; going on with %s.", "; ".join(found))


def edits(trained: Mapping[str, Any], plan: Plan, entries: Sequence[str]) -> list[str]:
    """``entry = value (trained with value)`` of each value that differs; what the record does not hold is not compared.

    Args:
        trained: a ``plan_record``, maybe of an older version.
        plan: as it is now.
        entries: which to compare.
    """
    now = plan_record(plan)
    before = {**trained, **_in_words_of_today(trained, now)}
    return list(described(before, now, [entry for entry in entries if entry in trained], "trained with"))


def _in_words_of_today(trained: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The record as this version would write it: what an older one did not know has its default."""
    try:
        read = plan_record(Plan.from_dict({**now, **{name: trained[name] for name in now if name in trained}}))
    except PlanError:  # no plan together with what it does not hold: compared as it stands
        return {}
    return {name: read[name] for name in now if name in trained}


def described(old: Mapping[str, Any], new: Mapping[str, Any], entries: Sequence[str], was: str) -> Iterator[str]:
    """``entry = new value (was old value)`` for each value in which two plain plans differ."""
    for entry in entries:
        for name, before, after in differences(entry, old[entry], new[entry]):
            yield f"{name} = {_shown(after)} ({was} {_shown(before)})"


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def check_held_out(models_dir: str | Path, cases: Sequence[Mapping[str, Any]], training_key: str = "") -> None:
    """Refuse to score weights on cases that trained them, or on none.

    Args:
        models_dir: of the run.
        cases: items with ``case`` that are to be scored.
        training_key: of the training that the options describe; compared where ``trained.json`` names no cases.

    Raises:
        HeldOutError: the message says what to do.
        TensorFileError: the checkpoint, if it has to be asked, is damaged.
    """
    if not cases:
        raise HeldOutError(
            "expected labelled cases that were kept out of the training, received none. If it trained with "
            "--fold K, --num_labeled or --num_test, give them here too. If they could not be used, rejected.json in the run "
            "folder says why. If it trained on every label (--fold all, or fewer than five labelled "
            "patients), train with --num_test N or --fold 0 in another output_dir, cross-validate (python -m "
            "mcsc_bundle cross_validate DATA RUNS), or score a folder of masks: python -m mcsc_bundle.metrics."
        )
    labeled = read_trained(models_dir).get("labeled")
    remedy = "Evaluate with the options of the training (--fold, --num_labeled, --num_test, --split_file)."
    if labeled is not None:
        seen = sorted({str(item["case"]) for item in cases} & set(labeled))
        if seen:
            raise HeldOutError(
                f"expected cases that were kept out of the training in {models_dir}, received {len(seen)} of "
                f"{len(cases)} that it was trained on: {', '.join(seen[:5])}. {remedy}"
            )
        return
    checkpoint = Path(models_dir) / "checkpoint.pt"
    if checkpoint.exists() and training_key:
        state = load_tensors(checkpoint, mmap=True)
        if state.get("training_key", training_key) not in ("", training_key):
            raise HeldOutError(
                f"expected the cases that {checkpoint} was trained with, received options of others. {remedy}"
            )


def check_held_out_or_exit(models_dir: str | Path, cases: Sequence[Mapping[str, Any]], training_key: str = "") -> None:
    """``check_held_out`` for configs: a user's mistake ends the program with its message instead of a traceback."""
    try:
        check_held_out(models_dir, cases, training_key)
    except (HeldOutError, PlanError, TensorFileError) as error:
        raise SystemExit(f"error: {error}") from None


def account(folder: Path) -> dict[str, Any]:
    """What a fold was trained with, and whether it is ``done``; empty without a training."""
    return read_json(folder / ACCOUNT, {})


def check_start(run_dir: str | Path, dataset_name: str, kept_out: Iterable[str]) -> None:
    """Refuse to start from weights that know the labels of cases which this training is to be scored on.

    Args:
        run_dir: run folder whose weights are taken over; a packed bundle names no cases and passes, with a warning where it
            is of this data set.
        dataset_name: of this training. Cases of another data set may bear the same names.
        kept_out: cases that validate or test.

    Raises:
        PlanError: it was trained on some of them.
    """
    source, scored = read_trained(Path(run_dir) / "models"), set(kept_out)
    if not source or not scored or source["plan"]["dataset_name"] != dataset_name:
        return
    if "labeled" not in source:
        log.warning(
            "init_from: %s was trained on %s, too, and does not say which cases it learnt. If some of those that this training "
            "is scored on were among them, its scores flatter it.",
            run_dir, dataset_name,
        )  # fmt: skip
    seen = sorted({*source.get("labeled", ())} & scored)
    if seen:
        raise PlanError(
            f"init_from: expected weights that were trained without the cases this training is scored on, received those of "
            f"{run_dir}, which learnt {', '.join(seen[:5])}. Keep the same cases out of both (--fold, --num_labeled, --num_test, "
            "--split_seed), or start from another run."
        )
