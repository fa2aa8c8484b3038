"""Which GPU is the current one, for all that PyTorch does not ask: budgets, pinned memory, processes of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from mcsc_bundle.option_values import OptionError

Result = TypeVar("Result")
# How CUDA's driver and Triton, cuBLAS, and cuDNN say that a GPU is full.
NO_ROOM = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def selected(device: str | torch.device) -> str:
    """Make a numbered GPU (``cuda:1``) the current one.

    Args:
        device: as PyTorch writes it, or ``auto``.

    Returns:
        ``cpu``, ``cuda`` or ``auto``, as plans know devices.

    Raises:
        OptionError: no device, or a GPU that is not there.
    """
    if device == "auto":
        return "auto"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise OptionError(f"device: expected cpu, cuda, cuda:1 or auto, received {device!r}.") from None
    if chosen.type == "cuda" and chosen.index is not None and torch.cuda.is_available():
        if chosen.index >= torch.cuda.device_count():
            raise OptionError(
                f"device: expected one of {torch.cuda.device_count()} GPUs, counted from 0, received {device}."
            )
        torch.cuda.set_device(chosen)
    return chosen.type


def out_of_memory(error: BaseException) -> bool:
    """Whether there was no room: Python's or PyTorch's error, how libraries and the driver say it, or MONAI's because of one."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    if error.__cause__ is not None:
        return out_of_memory(error.__cause__)
    return any(words in str(error) for words in NO_ROOM)


def with_room(compute: Callable[..., Result], *tensors: Tensor) -> Result:
    """``compute(*tensors)``; where the GPU has no room for it, of the same tensors in main memory."""
    try:
        return compute(*tensors)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # outside of the handler, which holds what the attempt had made
    return compute(*(tensor.cpu() for tensor in tensors))


def usable_cores() -> int:
    """Cores that this process may use, of those that the processes of a ``torchrun`` share on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def with_current_gpu(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """An environment for a new process, in which the current GPU is the only one; unchanged without a GPU."""
    if not torch.cuda.is_available():
        return dict(environment)
    index, visible = torch.cuda.current_device(), environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if visible == [""]:
        return {**environment, "CUDA_VISIBLE_DEVICES": str(index)}
    return {**environment, "CUDA_VISIBLE_DEVICES": visible[index]} if index < len(visible) else dict(environment)
