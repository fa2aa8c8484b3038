"""Everything worth knowing on a GPU, in one call; tiny shapes without one, so that it always runs.

    python -m benchmarks.gpu_check [--device cuda|cpu] [--quick]

1. laws on the device: AMP bf16 and fp16 with its scaler, resume, ``torch.compile``;
2. seconds and peak memory of a training step by method and precision, as ratios to its floor (forward and backward of the two
   bare networks on the same batch) and to cross teaching;
3. contrastive loss at the paper's shapes against the dense form, and by its kernels against its own tiles;
4. windows per second in prediction.

The last line is one JSON object; exits non-zero when a law fails or the forms of the contrastive loss disagree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.contrastive import CLASSES, TOLERANCE, compare, draw
from benchmarks.random_training import METHODS, Batches, cardiac_plan, make_trainer
from mcsc_bundle.losses.contrastive import balanced_contrastive_loss
from mcsc_bundle.losses.fused import usable
from mcsc_bundle.networks import NetworkPair
from mcsc_bundle.plan import Plan
from mcsc_bundle.trainer import MCSCTrainer
from preprocessing.paper import paper_plan

ROW = (
    "  {plan:18s} {precision:14s} {method:15s} {ms:8.1f} ms (iqr {iqr_ms:.1f})  "
    "x{over_floor:.2f} floor  {peak_gib:.2f} GiB"
)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


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


def check_laws(device: torch.device) -> dict[str, bool]:
    """AMP, scaler state, resume and compile on this device."""
    plan = cardiac_plan(size=64, pixels=256)
    laws: dict[str, bool] = {}

    def losses_of(**kwargs: Any) -> tuple[MCSCTrainer, float]:
        engine = make_trainer(plan, "mcsc", device, 6, **kwargs)
        engine.run()
        return engine, float(engine.state.output["loss"])

    _, exact = losses_of()
    laws["finite fp32"] = exact == exact
    if device.type == "cuda":
        for dtype in (torch.bfloat16, torch.float16):
            engine, loss = losses_of(amp=True, amp_dtype=dtype)
            name = str(dtype).removeprefix("torch.")
            laws[f"{name} near fp32"] = abs(loss - exact) < 0.05 * abs(exact)
            laws[f"{name} scaler on only for fp16"] = engine.grad_scaler.is_enabled() == (dtype == torch.float16)
        laws["fp16 scaler state in checkpoint"] = bool(engine.training_state()["scaler"])
        laws["resume repeats the run"] = resumes(plan, device)
        _, compiled = losses_of(compile=True)
        laws["compile near eager"] = abs(compiled - exact) < 0.02 * abs(exact)
    return laws


def resumes(plan: Plan, device: torch.device) -> bool:
    """Six fp16 steps in one go against three, a saved state, and three more: equal to float tolerance of CUDA atomics."""
    whole = make_trainer(plan, "mcsc", device, 3, amp=True, amp_dtype=torch.float16)
    whole.state.max_epochs = 2
    whole.run()
    first = make_trainer(plan, "mcsc", device, 3, amp=True, amp_dtype=torch.float16)
    first.state.max_epochs = 2  # the schedule hangs on the planned length
    from ignite.engine import Events

    first.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda engine: engine.terminate())
    first.run()
    second = make_trainer(plan, "mcsc", device, 3, amp=True, amp_dtype=torch.float16)
    second.state.max_epochs = 2
    state = first.training_state()
    second.add_event_handler(Events.STARTED, lambda engine: engine.load_training_state(state))
    second.run()
    one, two = (nn.utils.parameters_to_vector(engine.method.parameters()) for engine in (whole, second))
    return (
        bool((one - two).norm() / one.norm() < 1e-3) and whole.grad_scaler.get_scale() == second.grad_scaler.get_scale()
    )


def time_methods(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """One row per plan, precision and method."""
    warmup, steps = (2, 3) if quick else (8, 25)
    plans = (
        {"plan": cardiac_plan(64, 1, 256)}
        if quick
        else {"plan 224 b12+12": cardiac_plan(224, 12), "paper 224 b2+2": paper_plan(cardiac_plan())}
    )
    precisions: list[tuple[str, dict[str, Any], torch.dtype | None]] = [("fp32", {}, None)]
    if device.type == "cuda":
        precisions += [("bf16", {"amp": True, "amp_dtype": torch.bfloat16}, torch.bfloat16)]
        precisions += [("bf16 compiled", {"amp": True, "amp_dtype": torch.bfloat16, "compile": True}, torch.bfloat16)]
    rows = []
    for plan_name, plan in plans.items():
        for precision, options, dtype in precisions:
            floor = statistics.median(floor_seconds(plan, device, dtype, warmup, steps))
            for name in METHODS:
                engine = make_trainer(plan, name, device, warmup + steps, **options)
                seconds, peak = step_seconds(engine, device, warmup, steps)
                median = statistics.median(seconds)
                spread = statistics.quantiles(seconds, n=4)
                row = {"plan": plan_name, "precision": precision, "method": name, "ms": 1e3 * median}
                row |= {"iqr_ms": 1e3 * (spread[2] - spread[0]), "over_floor": median / floor, "peak_gib": peak}
                rows.append(row)
                print(ROW.format(**row), flush=True)
    return rows


def time_contrast(device: torch.device, quick: bool) -> dict[str, Any]:
    """Value, gradient and milliseconds of the loss at the paper's larger shape, by kernels where they run, and in tiles."""
    features, labels = draw(2 if quick else 100, 2888, device.type)
    kernels = usable(features.device, features.dtype, features.shape[2], CLASSES)
    forms: dict[str, int | None] = {"tiles": 256 if device.type == "cpu" else 2048}
    if kernels:
        forms["kernels"] = None
    milliseconds, results = {}, {}
    for name, chunk in forms.items():

        def once() -> None:
            features.grad = None
            value = balanced_contrastive_loss(features, labels, CLASSES, chunk_size=chunk)  # noqa: B023
            value.backward()
            synchronise(device)
            results[name] = value.detach(), features.grad  # noqa: B023

        milliseconds[name] = 1e3 * median_seconds(once, 2, 3 if quick else 10)
    (value, gradient), (other, slope) = results["tiles"], results["kernels" if kernels else "tiles"]
    error = max(float(abs(other - value) / value), float((slope - gradient).norm() / gradient.norm()) / 10)
    print(f"contrast at {tuple(features.shape)}: {milliseconds} ms, {kernels=}, {error=:.0e}", flush=True)
    return {"kernels": kernels, "ms": milliseconds, "agree": error <= TOLERANCE}


def time_prediction(device: torch.device, quick: bool) -> dict[str, float]:
    """Windows of 224 x 224 per second through the plan's CNN, by precision."""
    plan = cardiac_plan(64 if quick else 224)
    network = NetworkPair.from_plan(plan).cnn.to(device).eval()
    image = torch.randn(4 if quick else 32, 1, *plan.patch_size, device=device)
    rates = {}
    for name, dtype in (("fp32", None), ("bf16", torch.bfloat16)):

        def once() -> None:
            with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is not None):  # noqa: B023
                network(image)
            synchronise(device)

        rates[name] = len(image) / median_seconds(once, 3, 10)
    return rates


def median_seconds(work: Callable[[], None], warmup: int, repeats: int) -> float:
    seconds = []
    for _ in range(warmup + repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[warmup:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="tiny shapes (the default on a CPU)")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    quick = arguments.quick or device.type == "cpu"
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {hardware}")
    laws = check_laws(device)
    for name, kept in laws.items():
        print(f"  {'kept  ' if kept else 'BROKEN'} {name}", flush=True)
    rows = time_methods(device, quick)
    forms = time_contrast(device, quick)
    contrastive = compare(device=device.type, quick=quick)
    prediction = time_prediction(device, quick)
    print("windows per second:", prediction)
    result = {
        "hardware": hardware,
        "torch": torch.__version__,
        "laws": laws,
        "steps": rows,
        "contrastive": contrastive,
        "contrast_forms": forms,
        "windows_per_second": prediction,
    }
    print(json.dumps(result))
    return 0 if all(laws.values()) and contrastive["agree"] and forms["agree"] else 1


if __name__ == "__main__":
    sys.exit(main())
