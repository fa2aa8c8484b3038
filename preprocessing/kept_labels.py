"""What is left of the labels once they are on the plan's grid and parted into training and validation.

A small structure of a few fine scans can vanish where coarse scans set the spacing, and foreground can lie where the image is 0
and is cropped away. What is left would teach that nothing is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from mcsc_bundle.plan import Fingerprint, Plan
from mcsc_bundle.store import CaseStore
from mcsc_bundle.words import counted, listed, per_axis
from preprocessing.case_fingerprint import class_members


def kept_classes(fingerprint: Fingerprint, store: CaseStore, cases: Sequence[str]) -> dict[str, set[str]]:
    """Names of the classes, or regions, that each case has on the plan's grid; the background is none.

    Args:
        fingerprint: tells which class indices belong to a name.
        store: the cases on the plan's grid.
        cases: labelled cases that are stored.
    """
    members = class_members(fingerprint.labels, fingerprint.regions)
    there = {case: set(store.open(case).foreground) for case in cases}
    return {case: {name for name, own in members.items() if there[case] & set(own)} for case in cases}


def lost_labels(fingerprint: Fingerprint, plan: Plan, kept: Mapping[str, Set[str]]) -> list[str]:
    """Warnings about classes that cases have in their label files and not on the plan's grid.

    Args:
        fingerprint: with the voxels of each class in the files.
        plan: whose grid it is.
        kept: from ``kept_classes``.
    """
    warnings = []
    for name in list(fingerprint.labels)[1:]:
        having = [case for case in fingerprint.labeled if case.case in kept and case.class_voxels.get(name)]
        lost = [case for case in having if name not in kept[case.case]]
        if lost:
            first = lost[0]
            warnings.append(
                f"Expected class {name} on the plan's grid of {per_axis(plan.spacing_mm)} mm in each labelled case that has it "
                f"({len(having)}), received none of it in {counted(len(lost), 'case')}: {listed([case.case for case in lost])} "
                f"({first.case} has {first.class_voxels[name]} voxels of {per_axis(first.spacing_mm)} mm in its file). It was "
                f"lost in resampling, or lies where the image is 0, which is cropped away; these cases teach that nothing is "
                f"there. Plan a finer spacing_mm, keep coarse scans in another data set, or leave these label files away."
            )
    return warnings


def unlearnt_classes(kept: Mapping[str, Set[str]], train: Sequence[str], val: Sequence[str]) -> list[str]:
    """Warnings about classes that no case of the training part has and one that validates does.

    Args:
        kept: from ``kept_classes``, of both parts.
        train, val: labelled cases that train, and that validate.
    """
    learnt = set().union(*(kept[case] for case in train))
    watched = sorted(set().union(*(kept[case] for case in val)) - learnt)
    return [
        f"Expected class {name} in a case that trains, received it in validation alone "
        f"({listed([case for case in val if name in kept[case]])}). Use --fold all, or another --fold, so that it is learnt."
        for name in watched
    ]
