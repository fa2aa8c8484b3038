"""The contrastive loss beside its dense form: seconds, peak memory and agreement at the paper's two shapes.

    python -m benchmarks.contrastive [--device cpu|cuda] [--quick] [--groups 100] [--plot FILE.png]

Forward and backward in float32. The dense form is the formula in plain PyTorch, one N x N matrix per group under
autograd (at the paper's shape it holds over 10 GB; --groups 20 compares on fewer). Seconds are medians of repeats in
which both forms take turns. Peak memory is what is held above the inputs: the allocator's peak on a GPU; on a CPU the
peak of the resident set (VmHWM of Linux) minus its size before the call, in a process of its own for each figure. Then
peak memory over N, dense only as far as it fits. The last line is one JSON object; exits non-zero when values or
gradients disagree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mcsc_bundle.losses.contrastive import balanced_contrastive_loss
from preprocessing.machine import available_bytes, told_bytes

WIDTH, CLASSES, TEMPERATURE = 128, 4, 0.1
TOLERANCE = 1e-5  # of the value; gradients are float32 sums over N terms and may differ ten times as much
SIZES = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
DENSE_SIZES = 8192  # largest single group the dense form is asked for
# glibc keeps freed blocks of up to 32 MiB, just the size of the paper's N x N matrix, and the dense form then holds up to twice
# what it uses. So, what is freed goes back at once; but each new block is zeroed by the kernel, which costs the dense form time.
FRUGAL = "glibc.malloc.mmap_threshold=131072:glibc.malloc.hugetlb=1"
DENSE_MATRICES = 6  # N x N of 4 bytes that the dense form may hold for each group without it


def dense_loss(features: Tensor, labels: Tensor) -> Tensor:
    """The formula of ``balanced_contrastive_loss`` as one would write it down, group by group."""
    losses = []
    for z, y in zip(F.normalize(features, dim=2), labels, strict=True):
        itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
        same = y[:, None] == y
        positive = (same & ~itself).float()
        keys = same.sum(1).float() - same.float()  # m_ia
        logits = z @ z.T / TEMPERATURE
        weights = (~itself) / keys.clamp(min=1)
        log_denominator = ((logits.exp() * weights).sum(1) + 1e-6).log()
        positives = positive.sum(1)
        losses.append((positives * log_denominator - (logits * positive).sum(1)).div(positives + 1e-6).mean())
    return torch.stack(losses).mean()


def our_loss(features: Tensor, labels: Tensor) -> Tensor:
    return balanced_contrastive_loss(features, labels, CLASSES, TEMPERATURE)


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ours": our_loss, "dense": dense_loss}


def draw(groups: int, size: int, device: str) -> tuple[Tensor, Tensor]:
    """Features and labels of which three quarters are background, as in a heart; each group holds every class."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(groups, size, WIDTH, generator=generator)
    labels = (torch.rand(groups, size, generator=generator) * 4 * (CLASSES - 1)).long()
    labels = labels.where(labels < CLASSES, 0)
    return features.to(device).requires_grad_(), labels.to(device)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def step(form: str, features: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Value and gradient."""
    features.grad = None
    value = FORMS[form](features, labels)
    value.backward()
    assert features.grad is not None
    return value.item(), features.grad


def seconds(shape: tuple[int, int], device: str, repeats: int) -> tuple[dict[str, list[float]], str]:
    """Lower quartile, median and upper quartile of the seconds of a step of both forms, which take turns; and the allocator.

    On a CPU with glibc's own settings, which are the faster ones for the dense form, where it fits in memory with them.
    """
    if device == "cuda":
        return own_seconds(shape, device, repeats), ""
    groups, size = shape
    fits = DENSE_MATRICES * 4 * groups * size**2 < 0.8 * available_bytes()
    allocator = "" if fits else FRUGAL
    printed = own_process("--seconds", *shape, repeats, allocator=allocator)
    if not printed:
        raise SystemExit("error: the timing was ended, most likely for lack of memory; compare fewer --groups.")
    return json.loads(printed), allocator


def own_seconds(shape: tuple[int, int], device: str, repeats: int) -> dict[str, list[float]]:
    """The seconds, measured in this process."""
    features, labels = draw(*shape, device)
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(repeats + 1):  # the first warms up
        for form, taken in times.items():
            synchronise(device)
            began = time.perf_counter()
            step(form, features, labels)
            synchronise(device)
            taken.append(time.perf_counter() - began)
    return {form: statistics.quantiles(taken[1:], n=4, method="inclusive") for form, taken in times.items()}


def errors(shape: tuple[int, int], device: str) -> tuple[float, float]:
    """Relative difference of the value, and of the gradient in the Euclidean norm."""
    features, labels = draw(*shape, device)
    value, gradient = step("ours", features, labels)
    judge, right = step("dense", features, labels)
    return abs(value - judge) / abs(judge), float((gradient - right).norm() / right.norm())


def peak_mib(form: str, shape: tuple[int, int], device: str) -> float:
    """Peak memory of a step above its inputs."""
    if device == "cuda":
        return own_peak_mib(form, shape, device)
    return float(own_process("--peak", form, *shape) or "nan")


def own_process(*words: object, allocator: str = FRUGAL) -> str:
    """What this script prints in a process of its own; nothing if it was killed for memory."""
    command = [sys.executable, "-m", "benchmarks.contrastive", *map(str, words)]
    environment = os.environ | ({"GLIBC_TUNABLES": allocator} if allocator else {})
    folder = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def own_peak_mib(form: str, shape: tuple[int, int], device: str) -> float:
    """The same, measured in this process: on a CPU it must not have held more before."""
    features, labels = draw(*shape, device)
    step(form, *draw(1, 64, device))  # libraries are loaded on first use
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(form, features, labels)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resident_kib("VmRSS")
    step(form, features, labels)
    return (resident_kib("VmHWM") - before) / 2**10


def resident_kib(entry: str) -> int:
    """Size of the resident set now (``VmRSS``) or at its peak (``VmHWM``)."""
    return told_bytes(Path("/proc/self/status"))[entry] // 2**10


def compare(device: str = "cpu", quick: bool = False, groups: int = 100) -> dict[str, Any]:
    """All figures as the JSON object of the last line; prints the tables.

    Args:
        device: ``cpu`` or ``cuda``.
        quick: few groups, repeats and sizes.
        groups: groups of the full-size scale that are compared (the released code has 100 on 224 x 224).
    """
    groups, repeats, sizes = (2, 3, SIZES[:3]) if quick else (groups, 5, SIZES)
    shapes = {"224 x 224, blocks of 19": (groups, 2888), "28 x 28, blocks of 14": (4, 1568)}
    result: dict[str, Any] = {"device": device, "threads": torch.get_num_threads(), "agree": True, "shapes": {}}
    for name, shape in shapes.items():
        mib = {form: peak_mib(form, shape, device) for form in FORMS}
        taken, allocator = seconds(shape, device, repeats)
        value_error, gradient_error = errors((min(4, shape[0]), shape[1]), device)
        agree = value_error <= TOLERANCE and gradient_error <= 10 * TOLERANCE
        ratios = {"faster": taken["dense"][1] / taken["ours"][1], "smaller": mib["dense"] / mib["ours"]}
        print(f"{name}: {shape[0]} groups of {shape[1]} vectors" + (f", timed with {allocator}" if allocator else ""))
        for form in FORMS:
            low, middle, high = (1e3 * value for value in taken[form])
            print(f"  {form:5} {middle:8.0f} ms ({low:.0f} to {high:.0f}) {mib[form]:8.0f} MiB")
        print(f"  ratio {ratios['faster']:8.1f} x  {ratios['smaller']:8.1f} x")
        print(f"  differ by {value_error:.0e} (value), {gradient_error:.0e} (gradient): {agree=}", flush=True)
        result["shapes"][name] = {
            "shape": shape,
            "seconds": taken,
            "allocator": allocator,
            "peak_mib": mib,
            **ratios,
            "value_error": value_error,
            "gradient_error": gradient_error,
        }
        result["agree"] &= agree
    result["peak_mib_over_n"] = {}
    for size in sizes:
        forms = [form for form in FORMS if form == "ours" or size <= DENSE_SIZES]
        mib = {form: peak_mib(form, (1, size), device) for form in forms}
        print(
            f"one group of {size:6d}: " + ", ".join(f"{form} {value:8.1f} MiB" for form, value in mib.items()),
            flush=True,
        )
        result["peak_mib_over_n"][size] = mib
    return result


def plot(mib_over_n: dict[int, dict[str, float]], path: Path) -> None:
    """Peak memory over the number of vectors in a group, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5))
    for form in FORMS:
        points = [(size, mib[form]) for size, mib in mib_over_n.items() if form in mib]
        axes.loglog(*zip(*points, strict=True), marker="o", label=form)
    axes.set(xlabel="vectors in a group", ylabel="peak memory above the inputs (MiB)")
    axes.legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true", help="two groups, few repeats, small sizes")
    parser.add_argument("--groups", type=int, default=100, help="groups of the full-size scale")
    parser.add_argument("--plot", type=Path, help="where to draw peak memory over N")
    parser.add_argument(
        "--peak", nargs=3, metavar=("FORM", "G", "N"), help="print the peak MiB of one step, nothing else"
    )
    parser.add_argument(
        "--seconds",
        nargs=3,
        type=int,
        metavar=("G", "N", "REPEATS"),
        help="print the seconds of both forms, nothing else",
    )
    arguments = parser.parse_args()
    if arguments.peak:
        form, groups, size = arguments.peak
        print(own_peak_mib(form, (int(groups), int(size)), "cpu"))
        return 0
    if arguments.seconds:
        groups, size, repeats = arguments.seconds
        print(json.dumps(own_seconds((groups, size), "cpu", repeats)))
        return 0
    result = compare(arguments.device, arguments.quick, arguments.groups)
    if arguments.plot:
        plot(result["peak_mib_over_n"], arguments.plot)
    print(json.dumps(result))
    return 0 if result["agree"] else 1


if __name__ == "__main__":
    sys.exit(main())
