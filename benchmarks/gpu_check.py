"""Everything worth knowing on a GPU, in one call; tiny shapes without one, so that it always runs.

    python -m benchmarks.gpu_check [--device cuda|cpu] [--quick] [--limit_s 540]

In order of worth, so that a call that is cut short has measured what matters:

1. laws on the device: AMP bf16 and fp16 with its scaler, resume;
2. the contrastive loss by its kernels against its own tiles;
3. seconds and peak memory of a training step by method, as ratios to its floor (forward and backward of the two bare networks on
   the same batch) and to cross teaching, in bf16, then in fp32;
4. the contrastive loss at the paper's shapes against the dense form, and windows per second in prediction;
5. ``torch.compile``: its law, and the steps once more.

After ``limit_s`` seconds nothing new is begun, and what was left out is named. The last line is one JSON object; exits non-zero
when a law fails, the forms of the contrastive loss disagree, or a GPU does not run its kernels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from benchmarks.contrastive import CLASSES, TOLERANCE, compare, draw
from benchmarks.gpu_laws import check_laws, compiles
from benchmarks.gpu_steps import synchronise, time_methods
from benchmarks.random_training import METHODS, cardiac_plan
from mcsc_bundle.losses import contrastive
from mcsc_bundle.losses.contrastive import balanced_contrastive_loss
from mcsc_bundle.losses.fused import usable
from mcsc_bundle.networks import NetworkPair
from preprocessing.paper import paper_plan

FEW = ("cross_teaching", "mcsc_paper", "mcsc", "supervised")  # each takes a minute to compile


def time_contrast(device: torch.device, quick: bool) -> dict[str, Any]:
    """The loss at the paper's larger shape: milliseconds by kernels, which a GPU must run, and in tiles; whether both agree."""
    features, labels = draw(2 if quick else 100, 2888, device.type)
    kernels = usable(features.device, features.dtype, features.shape[2], CLASSES)
    milliseconds, results = {}, {}
    for name in ("tiles", "kernels") if kernels else ("tiles",):

        def once() -> None:
            features.grad = None
            value = balanced_contrastive_loss(features, labels, CLASSES)
            value.backward()
            synchronise(device)
            results[name] = value.detach(), features.grad  # noqa: B023

        with mock.patch.object(contrastive, "usable", lambda *_: name == "kernels"):  # noqa: B023
            milliseconds[name] = 1e3 * median_seconds(once, 2, 3 if quick else 10)
    (value, gradient), (other, slope) = results["tiles"], results["kernels" if kernels else "tiles"]
    errors = [float(abs(other - value) / value), float((slope - gradient).norm() / gradient.norm()) / 10]
    agree = all(error <= TOLERANCE for error in errors) and (kernels or device.type == "cpu")
    print(f"contrast at {tuple(features.shape)}: {milliseconds} ms, {kernels=}, {errors=}", flush=True)
    return {"kernels": kernels, "ms": milliseconds, "agree": agree}


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
        print(f"  {name} {rates[name]:.1f}")
    return rates


def median_seconds(work: Callable[[], None], warmup: int, repeats: int) -> float:
    seconds = []
    for _ in range(warmup + repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[warmup:])


class Agenda:
    """Does one thing after the other while there is time, and keeps what each gave and what was left out."""

    def __init__(self, limit_s: float) -> None:
        self.end = time.monotonic() + limit_s
        self.results: dict[str, Any] = {}
        self.left_out: list[str] = []

    def in_time(self) -> bool:
        return time.monotonic() < self.end

    def do(self, name: str, work: Callable[[], Any]) -> None:
        """``work``, whose result is kept under the name."""
        if not self.in_time():
            self.left_out.append(name)
            return
        print(f"{name}:", flush=True)
        self.results[name] = work()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="tiny shapes (the default on a CPU)")
    parser.add_argument("--limit_s", type=float, default=540, help="begin nothing new after so many seconds")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    cuda, quick = device.type == "cuda", arguments.quick or device.type == "cpu"
    plans = (
        {"small": cardiac_plan(64, 1, 256)}
        if quick
        else {"paper 2+2": paper_plan(cardiac_plan()), "plan 12+12": cardiac_plan(224, 12)}
    )
    agenda = Agenda(arguments.limit_s)

    def steps(precision: str, methods: tuple[str, ...], counts: tuple[int, int, int]) -> None:
        for name, plan in plans.items():
            agenda.do(
                f"steps, {name}, {precision}",
                lambda: time_methods(name, plan, precision, methods, device, counts, agenda.in_time),  # noqa: B023
            )

    counts = (1, 2, 3) if quick else (3, 5, 15)
    agenda.do("laws", lambda: check_laws(device))
    agenda.do("contrast forms", lambda: time_contrast(device, quick))
    if cuda:
        steps("bf16", tuple(METHODS), counts)
    steps("fp32", tuple(METHODS), counts)
    agenda.do("contrastive", lambda: compare(device=device.type, quick=quick))
    agenda.do("windows per second", lambda: time_prediction(device, quick))
    if cuda:
        agenda.do("compile near eager", lambda: compiles(device))
        steps("bf16 compiled", FEW, (1, *counts[1:]))
    hardware = torch.cuda.get_device_name() if cuda else "CPU"
    result = {"hardware": hardware, "torch": torch.__version__, "left_out": agenda.left_out, **agenda.results}
    laws = dict(agenda.results.get("laws", {}))
    if "compile near eager" in agenda.results:
        laws["compile near eager"] = agenda.results["compile near eager"]
    for name, kept in laws.items():
        print(f"  {'kept  ' if kept else 'BROKEN'} {name}")
    if agenda.left_out:
        print(f"Left out for want of time: {'; '.join(agenda.left_out)}.")
    print(json.dumps(result))
    agree = all(agenda.results.get(name, {"agree": True})["agree"] for name in ("contrastive", "contrast forms"))
    return 0 if all(laws.values()) and agree else 1


if __name__ == "__main__":
    sys.exit(main())
