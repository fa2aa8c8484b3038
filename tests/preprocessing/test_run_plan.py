"""The plan of a run folder: which grids are refused."""

from __future__ import annotations

import dataclasses

import pytest

from mcsc_bundle.plan import PlanError
from preprocessing import machine, run_plan
from preprocessing.planner import make_plan
from preprocessing.run_plan import check_grid
from tests.preprocessing.fingerprints import make_fingerprint


def cubes(cases: int = 20):
    """A set of small volumes, and its plan."""
    fingerprint = make_fingerprint((1, 1, 1), (40, 48, 40), cases=cases, channels=("MRI",))
    return fingerprint, make_plan(fingerprint, device="cpu", memory_gb=4)


def test_a_grid_that_no_memory_holds_is_refused() -> None:
    fingerprint, plan = cubes()
    check_grid(plan, fingerprint)
    with pytest.raises(PlanError, match=r"spacing_mm \(0.0001, 1.0, 0.001\), which makes 6.14e\+03 GB of case"):
        check_grid(plan.replace(spacing_mm=(0.0001, 1.0, 0.001)), fingerprint)


@pytest.mark.parametrize("cases", [2, 20])
def test_one_wrong_header_stops_nothing(cases) -> None:
    fingerprint, plan = cubes(cases)
    odd = dataclasses.replace(fingerprint.cases[0], spacing_mm=(1000.0,) * 3)
    check_grid(plan, dataclasses.replace(fingerprint, cases=(odd, *fingerprint.cases[1:])))


def test_what_other_programs_hold_at_the_moment_does_not_count(tmp_path, monkeypatch) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 1 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    fingerprint, plan = cubes()
    check_grid(plan, fingerprint)


@pytest.mark.parametrize(
    ("orientation", "spacing"),
    [("RAS", (0.8, 1.0, 4.0)), ("SAR", (4.0, 1.0, 0.8)), ("IPL", (4.0, 1.0, 0.8)), (None, (1.0, 4.0, 0.8))],
)
def test_a_grid_is_compared_in_the_order_of_the_plans_axes(monkeypatch, orientation, spacing) -> None:
    """Cases are measured in RAS, here 0.8 x 1 x 4 mm; on the same grid they keep their voxels, in whatever order."""
    fingerprint = make_fingerprint((0.8, 1.0, 4.0), (50, 40, 10), cases=3, channels=("MRI",), orientation="PSR")
    planned = make_plan(fingerprint, 4, "cpu", configuration="3d_fullres")
    plan = planned.replace(orientation=orientation, spacing_mm=spacing)
    needed = 50 * 40 * 10 * run_plan.BYTES_PER_VOXEL
    monkeypatch.setattr(run_plan, "total_bytes", lambda: needed + 1)
    check_grid(plan, fingerprint)
    monkeypatch.setattr(run_plan, "total_bytes", lambda: needed - 1)
    with pytest.raises(PlanError, match="of median size"):
        check_grid(plan, fingerprint)


def test_slices_keep_their_distance_in_a_plan_of_other_axes(monkeypatch) -> None:
    """Imported plans walk along axis 0 of SAR; the cases' axis 0 runs left to right."""
    fingerprint = make_fingerprint((0.8, 1.0, 6.0), (50, 40, 10), cases=3, channels=("MRI",), orientation="LPS")
    planned = make_plan(fingerprint, 4, "cpu", configuration="2d")
    plan = planned.replace(orientation="SAR", slice_axis=0, spacing_mm=(None, 1.0, 0.8))
    monkeypatch.setattr(run_plan, "total_bytes", lambda: 50 * 40 * 10 * run_plan.BYTES_PER_VOXEL)
    check_grid(plan, fingerprint)
