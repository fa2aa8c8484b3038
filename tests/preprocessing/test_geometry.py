"""Target spacing, axis order and median shape."""

from __future__ import annotations

import numpy as np
import pytest

from mcsc_bundle.plan import PlanError
from preprocessing.geometry import measure_geometry, resampled_shape, target_spacing
from preprocessing.planner import make_plan
from tests.preprocessing.fingerprints import make_fingerprint


def spacing_of(spacings, shape) -> list[float]:
    return target_spacing(np.array(spacings, dtype=float), np.array([shape] * len(spacings))).tolist()


def test_the_target_is_the_median() -> None:
    assert spacing_of([(1, 1, 1), (2, 1, 1), (3, 1, 5)], (50, 50, 50)) == [2, 1, 1]


def test_thick_slices_take_the_tenth_percentile() -> None:
    spacings = [(thickness, 1, 1) for thickness in (5, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10)]
    assert spacing_of(spacings, (10, 200, 200))[0] == 10  # one case of eleven: the percentile falls on the second
    assert spacing_of([(4, 1, 1), *spacings], (10, 200, 200))[0] == pytest.approx(5.5)


def test_thick_slices_stay_when_they_are_many() -> None:
    assert spacing_of([(4, 1, 1)] * 3 + [(10, 1, 1)] * 4, (100, 200, 200))[0] == 10


def test_the_coarse_axis_never_becomes_finer_than_the_others() -> None:
    spacings = [(0.5, 1, 1)] * 3 + [(10, 1, 1)] * 4
    assert spacing_of(spacings, (10, 200, 200))[0] == pytest.approx(1 + 1e-5, abs=1e-9)


def test_half_voxels_round_to_even() -> None:
    assert resampled_shape((5, 7), (1, 1), (2, 2)) == (2, 4)


def test_measured_volumes_are_looked_at_from_the_last_axis() -> None:
    assert measure_geometry(make_fingerprint((1, 1, 1), (9, 9, 9), orientation="RAS")).order == (2, 1, 0)
    assert measure_geometry(make_fingerprint((1, 1, 1), (9, 9, 9))).order == (0, 1, 2)
    assert measure_geometry(make_fingerprint((1, 1, 4), (9, 9, 9))).order == (2, 0, 1)


def test_unlabelled_cases_count() -> None:
    geometry = measure_geometry(make_fingerprint((1, 1, 1), (9, 9, 9), cases=10, unlabeled=9))
    assert geometry.voxels == 10 * 9**3


def test_a_case_with_an_impossible_spacing_is_named() -> None:
    with pytest.raises(PlanError, match="case case_1"):
        measure_geometry(make_fingerprint((), (9, 9, 9), spacings=[(1, 1, 1), (1, 0, 1)]))


def test_a_data_set_without_cases_is_refused() -> None:
    with pytest.raises(PlanError, match="at least one accepted case"):
        measure_geometry(make_fingerprint((1, 1, 1), (9, 9, 9), cases=0))


@pytest.mark.parametrize("finest", range(3))
def test_one_fine_axis_makes_no_slices(finest: int) -> None:
    """Slices are what lies along one axis far coarser than both others, as nnU-Net's threshold has it."""
    spacing = [1.0, 1.0, 1.0]
    spacing[finest] = 0.3
    plan = make_plan(make_fingerprint(tuple(spacing), (80, 80, 80), cases=8), device="cpu", memory_gb=4)
    assert plan.configuration == "3d_fullres" and plan.slice_axis is None
