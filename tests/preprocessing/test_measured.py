"""The planned step is tried before training: what is noted, what shrinks, what is refused."""

import math
import subprocess
from types import SimpleNamespace

import pytest
import torch

from mcsc_bundle.plan import PlanError
from preprocessing import measured
from preprocessing.measured import fit_measured, measured_gigabytes, take_steps
from preprocessing.planner import default_memory_gb, make_plan
from preprocessing.run_plan import Request
from tests.plans import make_plan as tiny_plan
from tests.preprocessing.fingerprints import make_fingerprint

VOLUMES = make_fingerprint((1, 1, 1), (160, 160, 160), channels=("MRI",), orientation="RAS", unlabeled=20)


def plan_for(memory_gb):
    return make_plan(VOLUMES, memory_gb, "cuda")


def takes(monkeypatch, factor):
    """Every step takes this many times what its plan expects; the expectations are returned in order."""
    seen = []

    def step(plan, networks, amp_dtype):
        seen.append(plan.estimated_memory_gb)
        return factor * plan.estimated_memory_gb

    monkeypatch.setattr(measured, "measured_gigabytes", step)
    return seen


def test_a_step_that_fits_is_noted_and_changes_nothing(monkeypatch):
    takes(monkeypatch, 0.9)
    plan = plan_for(8)
    found = fit_measured(plan, "pair", plan_for)
    assert found.measured_memory_gb == pytest.approx(0.9 * plan.estimated_memory_gb, abs=0.01)
    assert found.replace(measured_memory_gb=None, why=plan.why) == plan


def test_a_step_that_does_not_fit_shrinks_the_plan_by_its_own_rules(monkeypatch):
    expected = takes(monkeypatch, 1.6)
    plan = plan_for(8)
    found = fit_measured(plan, "pair", plan_for)
    assert len(expected) > 1 and sorted(expected, reverse=True) == expected
    assert found.measured_memory_gb <= found.memory_gb == 8
    assert math.prod(found.patch_size) * found.batch_labeled < math.prod(plan.patch_size) * plan.batch_labeled
    assert "shrunk" in found.why["measured_memory_gb"]


def test_what_never_fits_is_refused_with_the_figure(monkeypatch):
    monkeypatch.setattr(measured, "measured_gigabytes", lambda plan, networks, amp_dtype: 20.0)
    with pytest.raises(PlanError, match="a step that fits 8 GB, received 20 GB"):
        fit_measured(plan_for(8), "pair", plan_for)


def test_a_plan_of_the_user_is_never_changed_but_warned_of(monkeypatch, caplog):
    takes(monkeypatch, 1.6)
    plan = plan_for(8)
    assert fit_measured(plan, "pair", None).patch_size == plan.patch_size
    assert "expect it to fail" in caplog.text


def test_what_is_not_measured_stays_unknown(monkeypatch):
    monkeypatch.setattr(measured, "measured_gigabytes", lambda plan, networks, amp_dtype: None)
    assert fit_measured(plan_for(8), "pair", plan_for).measured_memory_gb is None


def test_a_real_step_is_measured_elsewhere():
    plan = tiny_plan("3d", batch_labeled=1, batch_unlabeled=1, device="cpu")
    state = torch.get_rng_state()
    taken = measured_gigabytes(plan, "pair")
    assert 0 < taken < 2
    assert torch.equal(torch.get_rng_state(), state)


def test_the_step_is_tried_in_the_training_s_precision(monkeypatch):
    asked = []
    monkeypatch.setattr(measured, "measured_gigabytes", lambda plan, networks, amp_dtype: asked.append(amp_dtype))
    fit_measured(plan_for(8), "pair", plan_for, "float32")
    Request("plan", None, {"networks": "pair"}, True, "float16").tried(plan_for(8), VOLUMES)
    assert asked == ["float32", "float16"]


@pytest.mark.parametrize("amp_dtype", [None, "float32"])
def test_the_other_process_is_told_the_precision(monkeypatch, amp_dtype):
    told = []

    def run(command, **_):
        told.append(command[-1])
        return subprocess.CompletedProcess(command, 0, stdout="1.5")

    monkeypatch.setattr(measured.subprocess, "run", run)
    plan = tiny_plan("3d", device="cpu")
    assert measured_gigabytes(plan, "pair", amp_dtype) == 1.5 and told == [amp_dtype or "pair"]


def test_a_gpu_s_budget_leaves_a_tenth(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=24e9))
    assert default_memory_gb("cuda") == pytest.approx(21.6)


@pytest.mark.parametrize("amp_dtype", [None, "bfloat16"])
def test_a_step_is_taken_in_that_precision(monkeypatch, amp_dtype):
    seen, cnn = [], torch.nn.functional.conv3d
    monkeypatch.setattr(
        torch.nn.functional,
        "conv3d",
        lambda x, *more: (seen.append(torch.is_autocast_enabled("cpu")), cnn(x, *more))[1],
    )
    take_steps(tiny_plan("3d", batch_labeled=1, batch_unlabeled=1, device="cpu"), "cnn", amp_dtype, steps=1)
    assert set(seen) == {amp_dtype is not None}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_plan_cannot_be_tried_without_a_gpu():
    assert measured_gigabytes(plan_for(8), "pair") is None
