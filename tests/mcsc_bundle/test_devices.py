"""The current GPU, on a machine that need not have one."""

import pytest
import torch

from mcsc_bundle.devices import out_of_memory, selected, usable_cores, with_current_gpu, with_room
from mcsc_bundle.option_values import OptionError


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs; gives the list of those that were made current."""
    current = [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(torch.device(device).index))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    return current


@pytest.mark.parametrize(("device", "kind", "index"), [("cuda:1", "cuda", 1), ("cuda", "cuda", 0), ("cpu", "cpu", 0)])
def test_a_numbered_gpu_becomes_the_current_one(gpus, device, kind, index):
    assert selected(device) == selected(torch.device(device)) == kind
    assert gpus[-1] == index


@pytest.mark.parametrize("device", ["gpu", "CPU", "cuda:2"])
def test_what_is_no_device_is_refused_in_words(gpus, device):
    with pytest.raises(OptionError, match=f"device: expected .* received .?{device}"):
        selected(device)


def test_without_a_gpu_one_can_be_planned_for():
    assert (selected("cuda:1"), selected("auto")) == ("cuda", "auto") or torch.cuda.is_available()


@pytest.mark.parametrize(("visible", "seen"), [("", "1"), ("4,7", "7")])
def test_a_new_process_sees_the_current_gpu_alone(gpus, visible, seen):
    selected("cuda:1")
    environment = {"HOME": "there"} | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    assert with_current_gpu(environment) == {"HOME": "there", "CUDA_VISIBLE_DEVICES": seen}


def test_without_a_gpu_the_environment_stays(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert with_current_gpu({"HOME": "there"}) == {"HOME": "there"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("CUDA driver error: out of memory"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (MemoryError(), True),
    ],
)
def test_there_are_several_ways_to_say_that_memory_is_full(error, expected):
    assert out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("cause", "expected"), [(torch.OutOfMemoryError("full"), True), (ValueError("negative"), False)]
)
def test_monai_s_error_is_what_it_comes_from(cause, expected):
    error = RuntimeError("Seems to be OOM. Please try smaller patch size")
    error.__cause__ = cause
    assert out_of_memory(error) is expected


def test_what_a_gpu_has_no_room_for_is_computed_in_main_memory(monkeypatch):
    moved, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: (moved.append(tensor), cpu(tensor))[1])

    def total(tensor):
        if not moved:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return float(tensor.sum())

    assert with_room(total, torch.ones(3)) == 3.0 and len(moved) == 1
    with pytest.raises(RuntimeError, match="another"):
        with_room(fail, torch.ones(3))


def fail(tensor):
    raise RuntimeError("another error")


def test_the_processes_of_a_torchrun_share_the_cores(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    whole = usable_cores()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert usable_cores() == max(1, whole // 2)
