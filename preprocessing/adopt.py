"""Train on a plan that was made elsewhere: of a run or packed bundle, or a plan file (``plan_from``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mcsc_bundle.plan import Fingerprint, Plan, PlanError
from preprocessing.mirroring import keep_sides
from preprocessing.planner import split_batch

OWN = ("dataset_name", "labels", "ignore_value", "regions", "largest_component", "why")
"""What stays this data set's; everything else decides what the weights have learnt to see."""


def plan_file(source: str | Path) -> Path:
    """The ``plan.json`` of a run folder or packed bundle, or the plan file itself.

    Raises:
        PlanError: neither.
    """
    path = Path(source)
    path = path / "plan.json" if path.is_dir() else path
    if not path.is_file():
        raise PlanError(
            f"plan_from: expected a run folder, a packed bundle or a plan file, received {source}: there is no {path}. "
            "Check the path, or train without --plan_from."
        )
    return path


def adopt_plan(source: str | Path, own: Plan, fingerprint: Fingerprint) -> Plan:
    """The plan of ``source``: of a run or a bundle with the names and labels of this data set, of a file as it stands.

    The normalisation stays theirs, with its statistics: the weights were trained on images normalised that way. Of the mirror
    axes those stay that do not confuse the sides of this data set's labels (``preprocessing.mirroring``).

    Args:
        source: a run folder or a packed bundle, with ``plan.json``; or a plan file.
        own: the plan that would be made here.
        fingerprint: of this data set.

    Raises:
        PlanError: no plan there, one for other dimensions or another number of channels, or a file for other labels.
    """
    path = plan_file(source)
    theirs = Plan.load(path)
    _check_fit(
        path, "dimensions", theirs.image_dims == fingerprint.image_dims, theirs.image_dims, fingerprint.image_dims
    )
    own_labels = Path(source).is_dir()
    remedy = " To keep this data set's labels, give the run or bundle by its folder."
    for name, planned, found in misfits(theirs, fingerprint):
        if name == "channels" or not own_labels:
            _check_fit(path, name, False, planned, found, "" if name == "channels" else remedy)
    if own_labels:
        kept = keep_sides(theirs, fingerprint.labels)
        adopted = _with_own_names(kept, own)
        reason = adopted.why if kept is theirs else adopted.why | {"mirror_axes": kept.why["mirror_axes"]}
        return adopted.replace(why=reason)
    return keep_sides(theirs, fingerprint.labels)


def misfits(plan: Plan, fingerprint: Fingerprint) -> Iterator[tuple[str, object, object]]:
    """What a data set declares and a plan does not know: its name, as planned, as declared.

    A plan may know more labels, or ignore a value where nothing is declared.
    """
    ignored = fingerprint.ignore_value
    if plan.in_channels != len(fingerprint.channel_names):
        yield "channels", plan.channel_names, fingerprint.channel_names
    if not set(fingerprint.labels.values()) <= set(plan.label_values):
        yield "labels", dict(plan.labels), dict(fingerprint.labels)
    if plan.regions != fingerprint.regions:
        yield "regions", plan.regions, fingerprint.regions
    if ignored not in (None, plan.ignore_value):
        yield "the ignore label", plan.ignore_value, ignored


def _with_own_names(theirs: Plan, own: Plan) -> Plan:
    reason = f"as in the plan of {theirs.dataset_name} (plan_from)"
    why = {name: reason if name not in OWN else text for name, text in own.why.items()}
    mine = {name: getattr(own, name) for name in OWN if name != "why"}
    adopted = theirs.replace(**mine, device=own.device, why=why)
    if own.batch_unlabeled == 0:  # nothing here is unlabelled: the whole batch is for labels
        batch = theirs.batch_labeled + theirs.batch_unlabeled
        return adopted.replace(batch_labeled=batch, batch_unlabeled=0)
    if theirs.batch_unlabeled == 0:  # of a run without unlabelled cases: its batch is shared out, not added to
        labeled, unlabeled = split_batch(max(2, theirs.batch_labeled), True)
        return adopted.replace(batch_labeled=labeled, batch_unlabeled=unlabeled)
    return adopted


def _check_fit(path: Path, name: str, fits: bool, planned: object, found: object, remedy: str = "") -> None:
    if not fits:
        raise PlanError(
            f"{path}: expected a plan for {name} {found}, as the data set has, received {planned}. "
            f"Plan anew: leave --plan_from out, or with a packed bundle give --plan_from '$None'.{remedy}"
        )
