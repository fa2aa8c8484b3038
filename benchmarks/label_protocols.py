"""Length and settings of the trainings of ``benchmarks.label_efficiency``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """Length and settings of a run.

    Args:
        iterations, epoch_length: optimiser steps, and those between two checkpoints.
        overrides: of the config.
    """

    iterations: int
    epoch_length: int
    overrides: dict[str, Any] = field(default_factory=dict)


PROTOCOLS = {
    "cpu": Protocol(
        600, 25, {"step_seconds": 1.0}
    ),  # networks half as wide as a CPU plan's and half its batch, so that there can be many runs
    "acdc_cpu": Protocol(
        1500,
        25,
        {
            "plan_from": "benchmarks/protocols/acdc_cpu_plan.json",
            "amp_dtype": "bfloat16",
            "transformer_lr": 1e-3,  # at the CNN's 3e-3 its loss on the labels of acdc_tune_0 is 0.81 after 750 steps, so 0.62
        },
    ),  # half the resolution (benchmarks/coarse_plan.py), so that labels and not steps limit the baseline
    "acdc_quarter": Protocol(  # a quarter of it, where 6000 steps are a few minutes: for choices on the tuning splits
        6000,
        250,
        {
            "plan_from": "benchmarks/protocols/acdc_quarter_plan.json",
            "amp_dtype": "bfloat16",
            "transformer_lr": 1e-3,
        },
    ),
    "gpu": Protocol(40000, 250),  # as ``run training`` on a GPU: the data set's own plan and length, any dimension
    "paper": Protocol(  # the authors' script: 40 000 steps, 5e-4 for the CNN and the projectors, a fifth for Swin
        40000,
        250,
        {
            "preset": "paper",
            "configuration": "2d",
            "lr": 5e-4,
            "transformer_lr": 1e-4,
            "deep_supervision": False,  # nobody had it
        },
    ),
}
