"""What is left of the labels once they are on the plan's grid and parted into training and validation.

A small structure of a few fine scans can vanish where coarse scans set the spacing, and foreground can lie where the image is 0
and is cropped away. A training on what is left would teach that nothing is there.
"""

from __future__ import annotations

from collections.abc import Sequence

from mcsc_bundle.plan import Fingerprint, Plan, PlanError
from mcsc_bundle.store import CaseStore
from mcsc_bundle.words import counted, listed, per_axis
from preprocessing.case_fingerprint import class_members


def lost_labels(fingerprint: Fingerprint, plan: Plan, store: CaseStore, cases: Sequence[str]) -> list[str]:
    """Warnings about classes that cases have in their label files and not in the store.

    Args:
        fingerprint: with the voxels of each class in the files.
        plan: whose grid it is.
        store: the cases on it.
        cases: labelled cases that are stored.

    Raises:
        PlanError: a class is lost in all cases that have it.
    """
    members = class_members(fingerprint.labels, fingerprint.regions)
    measured = {case.case: case for case in fingerprint.cases if case.case in set(cases)}
    there = {name: set(store.open(name).foreground) for name in measured}
    warnings = []
    for label in list(members)[1:]:
        having = [case for case in measured.values() if case.class_voxels.get(label)]
        lost = [case for case in having if not there[case.case] & set(members[label])]
        if not lost:
            continue
        first = lost[0]
        what = (
            f"{label} to be left on the plan's grid of {per_axis(plan.spacing_mm)} mm, received none in {len(lost)} of "
            f"{counted(len(having), 'labelled case')} that have it: {listed([case.case for case in lost])} ({first.case} has "
            f"{first.class_voxels[label]} voxels of {per_axis(first.spacing_mm)} mm). It was lost in resampling, or lies where "
            f"the image is 0, which is cropped away. "
        )
        if len(lost) == len(having):
            raise PlanError(
                f"expected {what}Give a finer spacing_mm in plan.json, or keep coarse scans in another data set."
            )
        warnings.append(
            f"Expected {what}These cases teach that nothing is there; leave their label files away, or plan finer."
        )
    return warnings


def unlearnt_classes(fingerprint: Fingerprint, train: Sequence[str], val: Sequence[str]) -> list[str]:
    """Warnings about classes that only cases of the validation part have.

    Args:
        fingerprint: with the voxels of each class.
        train: labelled cases that train.
        val: cases that validate.
    """
    voxels = {case.case: case.class_voxels for case in fingerprint.labeled}
    warnings = []
    for label in list(fingerprint.labels)[1:]:
        trains = any(voxels[name].get(label) for name in train if name in voxels)
        watched = [name for name in val if voxels.get(name, {}).get(label)]
        if watched and not trains:
            warnings.append(
                f"Class {label} is in no case that trains: {listed(watched)} validate{'s' * (len(watched) == 1)}. Use --fold "
                f"all, or another --fold, so that it can be learnt."
            )
    return warnings
