"""Seconds and peak memory of a training step, by method, as ratios to its floor and to cross teaching."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.random_training import Batches, make_trainer
from mcsc_bundle.networks import NetworkPair
from mcsc_bundle.plan import Plan
from mcsc_bundle.trainer import MCSCTrainer

REFERENCE = "cross_teaching"
ROW = (
    "  {plan:16s} {precision:14s} {method:15s} {ms:8.1f} ms (iqr {iqr_ms:.1f})  x{over_floor:.2f} floor  "
    "x{over_cross_teaching:.2f} cross teaching  {peak_gib:.2f} GiB"
)
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"amp": True, "amp_dtype": torch.bfloat16},
    "bf16 compiled": {"amp": True, "amp_dtype": torch.bfloat16, "compile": True},
}


def time_methods(
    plan_name: str,
    plan: Plan,
    precision: str,
    methods: Sequence[str],
    device: torch.device,
    counts: tuple[int, int, int],
    in_time: Callable[[], bool],
) -> list[dict[str, Any]]:
    """One row for each method; they take turns, so that a slow minute of the machine is everybody's.

    Args:
        plan_name, plan: networks, patch and batch.
        precision: of ``PRECISIONS``.
        methods: names; cross teaching is measured first.
        device: where.
        counts: rounds, and in each the steps to warm up and to time.
        in_time: whether there is time for another turn; without it, what was measured so far makes the rows.
    """
    rounds, warmup, steps = counts
    options = PRECISIONS[precision]
    floor = statistics.median(floor_seconds(plan, device, options.get("amp_dtype"), warmup, steps))
    seconds: dict[str, list[float]] = {name: [] for name in dict.fromkeys((REFERENCE, *methods))}
    peaks = dict.fromkeys(seconds, 0.0)
    for _ in range(rounds):
        for name, taken in seconds.items():
            if in_time():
                start_afresh(device)
                more, peak = step_seconds(
                    make_trainer(plan, name, device, warmup + steps, **options), device, warmup, steps
                )
                taken += more
                peaks[name] = max(peaks[name], peak)
    reference = statistics.median(seconds[REFERENCE] or [float("nan")])
    rows = []
    for name, taken in seconds.items():
        if taken:
            low, median, high = statistics.quantiles(taken, n=4)
            row = {"plan": plan_name, "precision": precision, "method": name, "ms": 1e3 * median}
            row |= {"iqr_ms": 1e3 * (high - low), "peak_gib": peaks[name], "rounds": len(taken) // steps}
            rows.append(row | {"over_floor": median / floor, "over_cross_teaching": median / reference})
            print(ROW.format(**rows[-1]), flush=True)
    return rows


def step_seconds(engine: MCSCTrainer, device: torch.device, warmup: int, steps: int) -> tuple[list[float], float]:
    """Seconds of each step after the warm-up, and the peak memory in GiB (0 on a CPU)."""
    from ignite.engine import Events

    stamps: list[float] = []

    def stamp(_: Any) -> None:
        synchronise(device)
        stamps.append(time.perf_counter())
        if device.type == "cuda" and len(stamps) == warmup:
            torch.cuda.reset_peak_memory_stats()

    engine.add_event_handler(Events.ITERATION_COMPLETED, stamp)
    engine.run()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return [b - a for a, b in zip(stamps[warmup - 1 :], stamps[warmup:], strict=False)], peak


def start_afresh(device: torch.device) -> None:
    """No earlier trainer in memory (engine and handlers refer to each other), and no graph that was compiled for its shapes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    torch.compiler.reset()


def floor_seconds(plan: Plan, device: torch.device, dtype: torch.dtype | None, warmup: int, steps: int) -> list[float]:
    """Forward and backward of the two bare networks on the batch: what no method with both can go below."""
    torch.manual_seed(0)
    networks = NetworkPair.from_plan(plan).to(device).train()
    image = Batches(plan, device).batch["image"]
    seconds = []
    for _ in range(warmup + steps):
        synchronise(device)
        began = time.perf_counter()
        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            loss = sum(logits.float().mean() for logits in networks(image))
        loss.backward()
        networks.zero_grad(set_to_none=True)
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    return seconds[warmup:]


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
