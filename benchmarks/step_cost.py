"""What a training step of planned networks really takes, beside what the planner expected.

    python benchmarks/step_cost.py [--device cpu|cuda] [--names hippocampus ...]

Each plan runs in a process of its own: forward and backward of both networks on the plan's batch, cross-entropy,
AdamW. Memory is the allocator's peak on a GPU and the growth of the resident set on a CPU; seconds on a CPU are
processor seconds over the threads, so that other programs do not count. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mcsc_bundle.networks.pair import NetworkPair
from mcsc_bundle.plan import CaseFingerprint, Fingerprint, IntensityStats, Plan
from preprocessing.compute import FORWARD_AND_BACKWARD, cnn_flops, transformer_flops
from preprocessing.memory import cnn_count, transformer_count
from preprocessing.planner import make_plan
from preprocessing.topology import Topology

SHAPES = {  # spacing, median shape, classes: like the data sets of these names
    "hippocampus": ((1.0, 1.0, 1.0), (35, 50, 36), 3),
    "acdc": ((1.5, 1.5, 10.0), (216, 256, 9), 4),
    "abdomen_ct": ((0.8, 0.8, 2.0), (512, 512, 150), 6),
    "brain_mr": ((1.0, 1.0, 1.0), (140, 170, 140), 4),
    "prostate_mr": ((0.6, 0.6, 1.5), (320, 320, 60), 3),
}


def fingerprint(name: str, coarse_dice: tuple[float, ...] | None = None) -> Fingerprint:
    """A data set of 40 equal cases, half of them labelled; ``coarse_dice`` as if measured on the labels."""
    spacing, shape, classes = SHAPES[name]
    kept = {"class_1": coarse_dice} if coarse_dice else {}
    cases = tuple(
        CaseFingerprint(f"case_{index}", index % 2 == 0, spacing, shape, shape, "RAS", 0.0, 1.0, class_coarse_dice=kept)
        for index in range(40)
    )
    labels = {"background": 0, **{f"class_{index}": index for index in range(1, classes)}}
    return Fingerprint(name, ("MR",), labels, 3, cases, (IntensityStats(0, 0, 1, -1, 1, -1, 1, 1),))


def measure(plan: Plan, branch: str, steps: int = 3) -> dict[str, float]:
    """Peak gigabytes and seconds per step of the pair or of one of its networks."""
    device = torch.device(plan.device)
    pair = NetworkPair.from_plan(plan).to(device)
    networks = [pair.cnn, pair.transformer] if branch == "pair" else [getattr(pair, branch)]
    optimizer = torch.optim.AdamW([weight for network in networks for weight in network.parameters()])
    batch = plan.batch_labeled + plan.batch_unlabeled
    shape = (batch, plan.in_channels, *plan.patch_size)
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(steps):
        image = torch.randn(shape, device=device)
        target = torch.randint(plan.num_classes, (batch, *plan.patch_size), device=device)
        if device.type == "cuda":
            torch.cuda.synchronize()
        start, start_cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            outputs = [network(image) for network in networks]
        loss = sum(torch.nn.functional.cross_entropy(output.float(), target) for output in outputs)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        else:
            times.append((time.process_time() - start_cpu) / torch.get_num_threads())
    peak = (
        torch.cuda.max_memory_allocated() / 1e9
        if device.type == "cuda"
        else (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - baseline) * 1024 / 1e9
    )
    parameters = sum(weight.numel() for network in networks for weight in network.parameters())
    return {"peak_gb": peak, "seconds": min(times), "parameters": parameters}


def expected(plan: Plan, branch: str) -> dict[str, float]:
    """Feature-map voxels and operations of a step, as the planner counts them."""
    batch, ends = plan.batch_labeled + plan.batch_unlabeled, (plan.in_channels, plan.num_classes)
    topology = Topology(plan.patch_size, plan.cnn.strides, plan.cnn.kernel_sizes)
    counts = {
        "cnn": cnn_count(topology, plan.cnn.features, plan.num_classes),
        "transformer": transformer_count(plan.patch_size, plan.transformer, plan.num_classes),
    }
    flops = {
        "cnn": cnn_flops(plan.patch_size, plan.cnn, *ends),
        "transformer": transformer_flops(plan.patch_size, plan.transformer, *ends),
    }
    chosen = ("cnn", "transformer") if branch == "pair" else (branch,)
    return {
        "count": sum(counts[name] for name in chosen) * batch,
        "flops": sum(flops[name] for name in chosen) * batch * FORWARD_AND_BACKWARD,
    }


def main() -> None:
    """Measure each plan and branch in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory_gb", type=float, default=8.0)
    parser.add_argument("--names", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--branch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.branch:
        plan = make_plan(fingerprint(options.names[0]), options.memory_gb, options.device)
        row = {**measure(plan, options.branch), **expected(plan, options.branch)}
        row["planned_gb"] = plan.estimated_memory_gb
        print(json.dumps({**row, "patch": plan.patch_size, "batch": plan.batch_labeled + plan.batch_unlabeled}))
        return
    table = {}
    for name in options.names:
        for branch in ("cnn", "transformer", "pair"):
            command = [sys.executable, __file__, "--device", options.device, "--names", name, "--branch", branch]
            command += ["--memory_gb", str(options.memory_gb)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            row = json.loads(done.stdout.splitlines()[-1])
            table[f"{name}/{branch}"] = row
            per_count = (row["peak_gb"] * 1e9 - row["parameters"] * 16) / row["count"]
            print(
                f"{name:12} {branch:12} patch {row['patch']!s:16} batch {row['batch']:3} peak {row['peak_gb']:6.2f} GB "
                f"({per_count:5.1f} bytes per voxel; pair planned {row['planned_gb']:.2f} GB) {row['seconds']:6.3f} s, "
                f"{row['flops'] / row['seconds'] / 1e9:7.1f} GFLOP/s",
                flush=True,
            )
    print(json.dumps(table))


if __name__ == "__main__":
    main()
