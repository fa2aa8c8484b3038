"""An optimizer's groups: what the user decides of them, and how they are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Adam, AdamW, Optimizer

KERNELS = ("foreach", "fused", "capturable", "differentiable")
"""Entries of a group that say how it is computed, not what."""


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """What the user decides of a group of the optimizer; ``lr`` itself follows from ``initial_lr``."""
    return {name: value for name, value in group.items() if name not in ("params", "lr", *KERNELS)}


def use_fused_kernels(optimizer: Optimizer, device: torch.device) -> None:
    """One call for all weights instead of a dozen for each, where Adam was not told otherwise; it reads this from the group."""
    if type(optimizer) in (Adam, AdamW) and device.type in ("cpu", "cuda"):
        for group in optimizer.param_groups:
            if group["fused"] is None and not any(group[name] for name in KERNELS):
                group["fused"] = group["foreach"] is None


def computed_as(now: Sequence[Mapping[str, Any]], state: Mapping[str, Any]) -> dict[str, Any]:
    """The optimizer's state with the kernels of these groups, which decide on what device it counts its steps."""
    kernels = [{name: group[name] for name in KERNELS if name in group} for group in now]
    groups = state["param_groups"]
    if len(groups) != len(kernels):  # of another method: loading it says so
        return dict(state)
    return {**state, "param_groups": [group | how for group, how in zip(groups, kernels, strict=True)]}
