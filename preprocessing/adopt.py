"""Train on the plan of another run or packed bundle: its grid, normalisation and networks, this data set's names."""

from __future__ import annotations

from pathlib import Path

from mcsc_bundle.plan import Fingerprint, Plan, PlanError

OWN = ("dataset_name", "labels", "ignore_value", "regions", "why")
"""What stays this data set's; everything else decides what the weights have learnt to see."""


def adopt_plan(run_dir: str | Path, own: Plan, fingerprint: Fingerprint) -> Plan:
    """The plan of ``run_dir`` with the names and labels of this data set.

    The normalisation stays theirs, with its statistics: the weights were trained on images normalised that way.

    Args:
        run_dir: a run folder or a packed bundle, with ``plan.json``.
        own: the plan that would be made here.
        fingerprint: of this data set.

    Raises:
        PlanError: another number of channels or dimensions.
    """
    theirs = Plan.load(Path(run_dir) / "plan.json")
    for name, here, there in (
        ("channels", len(fingerprint.channel_names), theirs.in_channels),
        ("image dimensions", fingerprint.image_dims, theirs.image_dims),
    ):
        if here != there:
            raise PlanError(
                f"plan_from: expected {there} {name} as in {run_dir}, received {here} in {fingerprint.dataset_name}. "
                "Train without --plan_from."
            )
    reason = f"as in the plan of {theirs.dataset_name} (plan_from)"
    why = {name: reason if name not in OWN else text for name, text in own.why.items()}
    mine = {name: getattr(own, name) for name in OWN if name != "why"}
    adopted = theirs.replace(**mine, device=own.device, why=why)
    if own.batch_unlabeled == 0:  # nothing here is unlabelled: the whole batch is for labels
        batch = theirs.batch_labeled + theirs.batch_unlabeled
        return adopted.replace(batch_labeled=batch, batch_unlabeled=0)
    unlabeled = theirs.batch_unlabeled or own.batch_unlabeled
    return adopted.replace(batch_unlabeled=unlabeled)
