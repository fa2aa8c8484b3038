"""Which GPU is the current one, for all that PyTorch does not ask: budgets, pinned memory, processes of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch


def selected(device: str | torch.device) -> str:
    """Make a numbered GPU (``cuda:1``) the current one.

    Args:
        device: as PyTorch writes it, or ``auto``.

    Returns:
        ``cpu``, ``cuda`` or ``auto``, as plans know devices.
    """
    if device == "auto":
        return "auto"
    device = torch.device(device)
    if device.type == "cuda" and device.index is not None and torch.cuda.is_available():
        torch.cuda.set_device(device)
    return device.type


def with_current_gpu(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """An environment for a new process, in which the current GPU is the only one; unchanged without a GPU."""
    if not torch.cuda.is_available():
        return dict(environment)
    visible, index = environment.get("CUDA_VISIBLE_DEVICES", ""), torch.cuda.current_device()
    return {**environment, "CUDA_VISIBLE_DEVICES": visible.split(",")[index] if visible else str(index)}
