"""Which classes are one piece in every labelled case: masks keep the largest component of those.

The rule of nnU-Net's first version (Isensee et al., 2018, https://arxiv.org/abs/1809.10486): a class that is one component in
all labels is taken to be one in every scan, and whatever else a mask has of it is removed. Since 2021 nnU-Net asks a
cross-validation instead, of the whole foreground first and then of each class, and so do we where there is one
(``mcsc_bundle.postprocessing``); but with a handful of labels all of them train, and that is where networks leave most
islands. Where we differ, so that few labels decide with care: a class must be there in every labelled case, of three patients
at least, and be of similar size in all, which tumours and lesions are not; a few stray voxels in a label do not count; the
whole foreground is asked, too; and of regions nothing else is, since an island of an inner one is still of the outer one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from mcsc_bundle.plan import CaseFingerprint, Fingerprint
from mcsc_bundle.words import counted

LEAST_PATIENTS = 3
LEAST_SHARE = 0.95  # of a class's voxels in its largest component
MOST_SPREAD = 0.8  # size_spread; of organs, and what tumours have: docs/benchmarks.md
NAMED, SPELT = 3, 6  # classes that the reason speaks of; that are spelt out where they are taken together

Groups = tuple[tuple[str, ...], ...]


def plan_largest_component(fingerprint: Fingerprint) -> tuple[Groups, str]:
    """Classes that are one piece: all together where they are, then each; and the reason.

    Args:
        fingerprint: of the data set.
    """
    against = _against_all(fingerprint)
    if against:
        return (), f"{against} Masks keep all components."
    groups = candidates(fingerprint)
    refused = {group: reason for group in groups if (reason := _against(group, fingerprint.labeled))}
    kept = tuple(group for group in groups if group not in refused)
    return kept, _why(kept, refused, fingerprint.labeled)


def candidates(fingerprint: Fingerprint) -> list[tuple[str, ...]]:
    """All classes together, if there are several, then each; of regions all together alone."""
    names = tuple(fingerprint.labels)[1:]
    together = [names] if len(names) > 1 or fingerprint.regions else []
    return together + [(name,) for name in names if not fingerprint.regions]


def _against_all(fingerprint: Fingerprint) -> str:
    """Why the labelled cases can say nothing; empty where they can."""
    cases = fingerprint.labeled
    if not all(case.class_largest for case in cases):
        return "Components of the labels were not measured."
    if any(case.ignored_voxels for case in cases):
        return "Labels with ignored voxels do not show whole objects."
    patients = len({case.patient or case.case for case in cases})
    if patients < LEAST_PATIENTS:
        return f"Labels of {counted(patients, 'patient')} do not show that a class is one piece in all ({LEAST_PATIENTS} might)."
    return ""


def _against(group: Sequence[str], cases: Sequence[CaseFingerprint]) -> str:
    """Why a class, or all classes together, need not be one piece; empty if nothing does. Without names: a bundle ships it."""
    all_cases = counted(len(cases), "labelled case")
    if absent := sum(not any(case.class_voxels[name] for name in group) for case in cases):
        return f"not in {absent} of {all_cases}"
    shares = [case.foreground_largest if len(group) > 1 else case.class_largest[group[0]] for case in cases]
    if in_pieces := [share for share in shares if share < LEAST_SHARE]:
        least, whole = math.floor(100 * min(in_pieces)), "it" if len(group) == 1 else "a class"
        return f"in pieces in {len(in_pieces)} of {all_cases} (the largest holds {least} % of {whole})"
    spread = size_spread(group, cases)
    return f"of very different sizes (a factor of {math.exp(spread):.1f} is usual)" if spread > MOST_SPREAD else ""


def size_spread(group: Sequence[str], cases: Sequence[CaseFingerprint]) -> float:
    """Standard deviation of the logarithm of the size, in mm3 or mm2; of regions that overlap, of the sum of theirs.

    Args:
        group: classes that are there in every case.
        cases: labelled ones, two or more.
    """
    sizes = [sum(case.class_voxels[name] for name in group) * math.prod(case.spacing_mm) for case in cases]
    return statistics.stdev(map(math.log, sizes))


def _why(kept: Groups, refused: Mapping[tuple[str, ...], str], cases: Sequence[CaseFingerprint]) -> str:
    but = [f"{_as_whole(group)} is {reason}" for group, reason in refused.items()]
    more = f"; {len(but) - NAMED} more" if len(but) > NAMED else ""
    others = "; ".join(but[:NAMED]) + more
    if not kept:
        return f"Masks keep all components, since nothing is one piece in every labelled case: {others}."
    patients, names = len({case.patient or case.case for case in cases}), [group_name(group) for group in kept]
    listed = ", ".join(names[:SPELT]) + (f" and {len(names) - SPELT} more" if len(names) > SPELT else "")
    text = (
        f"{listed}: one piece ({LEAST_SHARE:.0%} of each class or more) of similar size in all "
        f"{counted(len(cases), 'labelled case')} ({counted(patients, 'patient')}), so that a further piece in a mask is taken "
        "for an error. What a cross-validation measures goes before this, and --postprocess False keeps all components."
    )
    return f"{text} All components are kept where that is not so: {others}." if but else text


def _as_whole(group: Sequence[str]) -> str:
    return group[0] if len(group) == 1 else f"the foreground as a whole ({group_name(group)})"


def group_name(group: Sequence[str]) -> str:
    """``left + right`` for classes taken together; of many the number alone."""
    return " + ".join(group) if len(group) <= SPELT else f"all {len(group)} classes"
