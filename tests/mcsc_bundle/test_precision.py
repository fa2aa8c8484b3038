"""Which mixed precision, on a machine that need not have a GPU."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from mcsc_bundle.inferers import window_inferer
from mcsc_bundle.precision import autocast_dtype, forget_overflow
from tests.plans import make_plan

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def card(monkeypatch):
    """Sets whether the GPU computes bf16 itself; every GPU emulates it."""

    def of(computes: bool) -> None:
        monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or computes
        )

    return of


@pytest.mark.parametrize(("computes", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_bf16_where_a_gpu_computes_it_and_does_not_emulate_it(card, computes, expected):
    card(computes)
    assert autocast_dtype(GPU, None) == expected
    assert autocast_dtype(GPU, "float16") == torch.float16


@pytest.mark.parametrize("device", [GPU, CPU])
def test_float32_is_no_mixed_precision(device):
    assert autocast_dtype(device, "float32") is None


@pytest.mark.parametrize(("told", "expected"), [(None, torch.float16), ("bfloat16", torch.bfloat16), ("float32", None)])
def test_a_gpu_predicts_in_the_precision_of_the_training(card, told, expected, monkeypatch):
    card(False)
    seen = []

    class OnGPU(torch.Tensor):
        is_cuda = True
        device = GPU

    def in_precision(x, network, dtype):
        seen.append(dtype)
        return network(x)

    monkeypatch.setattr("mcsc_bundle.inferers.in_precision", in_precision)
    inferer = window_inferer(make_plan("2d"), amp_dtype=told)
    inferer.windows = lambda **_: lambda inputs, predict: predict(inputs)
    inferer(torch.zeros(1, 1, 16, 24).as_subclass(OnGPU), lambda x: x)
    assert seen == ([] if expected is None else [expected])


def test_running_statistics_begin_anew_after_an_overflow_alone():
    """Momentum 0.1, means 2: after two batches 2 (1 - 0.9^2)."""
    norm, plain = nn.BatchNorm1d(1), nn.InstanceNorm1d(1)
    for overflow in (False, False, True):
        norm(torch.tensor([[1.0], [float("inf") if overflow else 3.0]]))
        kept = norm.running_mean.clone()
        forget_overflow(nn.Sequential(norm, plain))
        if not overflow:
            assert torch.equal(norm.running_mean, kept)
    assert float(norm.running_mean) == 0 and float(norm.running_var) == 1
    for _ in range(2):
        norm(torch.tensor([[1.0], [3.0]]))
    assert float(norm.running_mean) == pytest.approx(2 * (1 - 0.9**2))
