"""Everything worth knowing on a GPU, in one call; tiny shapes without one, so that it always runs.

    python -m benchmarks.gpu_check [--device cuda|cpu] [--quick] [--limit_s 540] [--output RESULTS.json]

In order of worth, so that a call that is cut short has measured what matters:

1. whether the contrast's kernels run, in a process of its own, since a kernel that fails may take its process with it; if not,
   all that follows goes without them;
2. laws on the device: AMP bf16 and fp16 with its scaler, resume; the contrastive loss by its kernels against its own tiles;
3. seconds and peak memory of a training step by method, as ratios to its floor (forward and backward of the two bare networks on
   the same batch) and to cross teaching, in bf16, then in fp32;
4. the contrastive loss at the paper's shapes against the dense form, and windows per second in prediction;
5. ``torch.compile``: its law, and the steps once more.

After ``limit_s`` seconds nothing new is begun (what compiles: well before), and what was left out is named. A part that fails is
named, and the others go on; ``--output`` is written after each. The last line is one JSON object; exits non-zero when a part or a
law fails, the forms of the contrastive loss disagree, or a GPU does not run its kernels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.contrastive import CLASSES, TOLERANCE, compare, draw
from benchmarks.gpu_laws import check_laws, compiles
from benchmarks.gpu_steps import synchronise, time_methods
from benchmarks.random_training import METHODS, cardiac_plan
from mcsc_bundle.devices import selected, with_current_gpu
from mcsc_bundle.losses import contrastive
from mcsc_bundle.losses.contrastive import balanced_contrastive_loss
from mcsc_bundle.networks import NetworkPair
from preprocessing.paper import paper_plan

FEW = ("cross_teaching", "mcsc_paper", "mcsc", "supervised")  # each takes a minute to compile
COMPILE_S = 150  # left of the time, or nothing that compiles is begun
KERNELS_S = 150  # the trial compiles each kernel twice
TRIAL = "from mcsc_bundle.losses.fused import works; raise SystemExit(not (works('cuda', 0, False) and works('cuda', 0, True)))"


def kernels_run() -> bool:
    """Whether the contrast's kernels pass their trial in another process, which a broken kernel cannot outlive."""
    try:
        command = [sys.executable, "-c", TRIAL]
        return subprocess.run(command, env=with_current_gpu(), timeout=KERNELS_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def time_contrast(device: torch.device, quick: bool) -> dict[str, Any]:
    """The loss at the paper's larger shape: milliseconds by kernels, which a GPU must run, and in tiles; whether both agree."""
    features, labels = draw(2 if quick else 100, 2888, device.type)
    kernels = contrastive.usable(features.device, features.dtype, features.shape[2], CLASSES)
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
        print(f"  {name} {rates[name]:.1f}", flush=True)
    return rates


def median_seconds(work: Callable[[], None], warmup: int, repeats: int) -> float:
    seconds = []
    for _ in range(warmup + repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[warmup:])


class Agenda:
    """Does one thing after the other while there is time, and keeps what each gave, what failed and what was left out.

    Args:
        limit_s: seconds.
        output: a file that has the results so far after each part; ``None`` writes none.
        about: what goes with the results.
    """

    def __init__(self, limit_s: float, output: Path | None = None, about: Mapping[str, Any] | None = None) -> None:
        self.end, self.output, self.about = time.monotonic() + limit_s, output, dict(about or {})
        self.results: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        self.left_out: list[str] = []

    def in_time(self, needed_s: float = 0.0) -> bool:
        return time.monotonic() + needed_s < self.end

    def do(self, name: str, work: Callable[[], Any], needed_s: float = 0.0) -> Any:
        """``work``, whose result is kept under the name; ``None`` if it failed or less than ``needed_s`` is left."""
        if not self.in_time(needed_s):
            self.left_out.append(name)
            return None
        print(f"{name}:", flush=True)
        try:
            self.results[name] = work()
        except Exception as error:  # the other parts are worth having
            self.failed[name] = f"{type(error).__name__}: {error}"
            print(f"  FAILED {name}\n{traceback.format_exc()}", flush=True)
        if self.output is not None:
            self.output.write_text(json.dumps(self.report()))
        return self.results.get(name)

    def report(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {**self.about, "failed": self.failed, "left_out": self.left_out, **self.results}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="tiny shapes (the default on a CPU)")
    parser.add_argument("--limit_s", type=float, default=540, help="begin nothing new after so many seconds")
    parser.add_argument("--output", type=Path, help="a file for the results so far, written after each part")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    selected(device)  # also for what asks for the current one
    cuda, quick = device.type == "cuda", arguments.quick or device.type == "cpu"
    plans = (
        {"small": cardiac_plan(64, 1, 256)}
        if quick
        else {"paper 2+2": paper_plan(cardiac_plan()), "plan 12+12": cardiac_plan(224, 12)}
    )
    hardware = torch.cuda.get_device_name() if cuda else "CPU"
    agenda = Agenda(arguments.limit_s, arguments.output, {"hardware": hardware, "torch": torch.__version__})

    def steps(precision: str, methods: tuple[str, ...], counts: tuple[int, int, int], needed_s: float = 0.0) -> None:
        for name, plan in plans.items():
            rows = agenda.do(
                f"steps, {name}, {precision}",
                lambda: time_methods(
                    name, plan, precision, methods, device, counts, lambda: agenda.in_time(needed_s)  # noqa: B023
                ),
                needed_s,
            )  # fmt: skip
            missing = sorted(set(methods) - {row["method"] for row in rows}) if rows is not None else []
            agenda.left_out += [f"{method}, {name}, {precision}" for method in missing]

    counts = (1, 2, 3) if quick else (3, 5, 15)
    if cuda and not agenda.do("kernels", kernels_run):
        contrastive.usable = lambda *_: False
    agenda.do("laws", lambda: told(check_laws(device)))
    agenda.do("contrast forms", lambda: time_contrast(device, quick))
    if cuda:
        steps("bf16", tuple(METHODS), counts)
    steps("fp32", tuple(METHODS), counts)
    agenda.do("contrastive", lambda: compare(device=device.type, quick=quick))
    agenda.do("windows per second", lambda: time_prediction(device, quick))
    if cuda:
        agenda.do("compiled laws", lambda: told({"compile near eager": compiles(device)}), COMPILE_S)
        steps("bf16 compiled", FEW, (1, *counts[1:]), COMPILE_S)
    if agenda.left_out:
        print(f"Left out for want of time: {'; '.join(agenda.left_out)}.")
    print(json.dumps(agenda.report()))
    laws = {**agenda.results.get("laws", {}), **agenda.results.get("compiled laws", {})}
    agree = all(agenda.results.get(name, {"agree": True})["agree"] for name in ("contrastive", "contrast forms"))
    return 0 if all(laws.values()) and agree and not agenda.failed else 1


def told(laws: dict[str, bool]) -> dict[str, bool]:
    """The laws, each printed at once."""
    for name, kept in laws.items():
        print(f"  {'kept  ' if kept else 'BROKEN'} {name}", flush=True)
    return laws


if __name__ == "__main__":
    sys.exit(main())
