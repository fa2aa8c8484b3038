"""Thick slices lie along one axis, in RAS or in the file's order."""

import dataclasses

from preprocessing.axes import keep_slices_together
from preprocessing.planner import make_plan
from tests.preprocessing.fingerprints import make_fingerprint


def fingerprint(*cases):
    """Each case: axis codes of the file and spacing in RAS order."""
    base = make_fingerprint((1, 1, 8), (96, 96, 9), cases=len(cases))
    made = [
        dataclasses.replace(case, orientation=codes, spacing_mm=spacing, shape=shape, shape_after_crop=shape)
        for case, (codes, spacing, shape) in zip(base.cases, cases, strict=True)
    ]
    return dataclasses.replace(base, cases=tuple(made))


AXIAL = ("LPS", (1.0, 2.0, 8.0), (90, 80, 9))
FLIPPED = ("RAS", (1.0, 2.0, 8.0), (90, 80, 9))
OBLIQUE = ("SAR", (8.0, 2.0, 1.0), (9, 80, 90))  # the file's third axis is nearest to left-right here


def test_one_slice_axis_in_ras_stays_ras():
    kept, as_stored = keep_slices_together(fingerprint(AXIAL, FLIPPED))
    assert not as_stored and kept.cases[0].spacing_mm == (1.0, 2.0, 8.0)


def test_scattered_slices_keep_the_files_order():
    kept, as_stored = keep_slices_together(fingerprint(AXIAL, OBLIQUE))
    assert as_stored and {case.spacing_mm for case in kept.cases} == {(1.0, 2.0, 8.0)}
    assert {case.shape for case in kept.cases} == {(90, 80, 9)}


def test_slices_that_even_the_files_scatter_stay_ras():
    other_plane = ("RAS", (8.0, 2.0, 1.0), (9, 80, 90))
    assert not keep_slices_together(fingerprint(AXIAL, other_plane))[1]


def test_isotropic_scans_stay_ras():
    assert not keep_slices_together(fingerprint(("SAR", (1, 1, 1), (9, 9, 9)), ("LPS", (1, 1, 1), (9, 9, 9))))[1]


def test_the_plan_says_so():
    plan = make_plan(fingerprint(AXIAL, OBLIQUE), 8, "cpu")
    assert plan.orientation is None and plan.slice_axis == 2 and "obliquely" in plan.why["orientation"]
