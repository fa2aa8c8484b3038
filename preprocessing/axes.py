"""Anatomical axes or the file's: thick slices must lie along one image axis in every case.

Turning every volume to RAS lets scans of different orientation share one network. But a stack cut obliquely through the body,
such as a short-axis heart, may lie nearest to another anatomical axis in each patient: in RAS its thick slices would run along
axis 0 here and axis 2 there, and a common grid would cut across them. Such sets keep the order of their files, as nnU-Net does.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

from mcsc_bundle.plan import CaseFingerprint, Fingerprint

THICK_RATIO = 1.5
"""A case has thick slices if its coarsest spacing exceeds the next one by this factor."""

RAS_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


def keep_slices_together(fingerprint: Fingerprint) -> tuple[Fingerprint, bool]:
    """The fingerprint in file order if RAS would scatter the thick slices over the axes, else as it is.

    Args:
        fingerprint: per-axis entries of its cases in RAS order.

    Returns:
        The fingerprint, and whether it is now in file order.
    """
    thick = [case for case in fingerprint.cases if _is_thick(case)]
    stored = [_in_file_order(case) for case in fingerprint.cases]
    scattered = _agreement(thick) < _agreement([case for case in stored if _is_thick(case)])
    if not scattered:
        return fingerprint, False
    return dataclasses.replace(fingerprint, cases=tuple(stored)), True


def _is_thick(case: CaseFingerprint) -> bool:
    if len(case.spacing_mm) != 3 or not case.orientation:
        return False
    *_, second, coarsest = sorted(case.spacing_mm)
    return coarsest > THICK_RATIO * second


def _agreement(cases: list[CaseFingerprint]) -> float:
    """Share of the cases whose coarsest axis is the commonest one."""
    if not cases:
        return 1.0
    axes = Counter(case.spacing_mm.index(max(case.spacing_mm)) for case in cases)
    return axes.most_common(1)[0][1] / len(cases)


def _in_file_order(case: CaseFingerprint) -> CaseFingerprint:
    if not case.orientation:
        return case
    order = [RAS_AXIS[code] for code in case.orientation]
    return dataclasses.replace(
        case,
        spacing_mm=tuple(case.spacing_mm[axis] for axis in order),
        shape=tuple(case.shape[axis] for axis in order),
        shape_after_crop=tuple(case.shape_after_crop[axis] for axis in order),
    )
