"""The shipped network as PyTorch, TorchScript and ONNX Runtime run it on a CPU: do they agree, and what does a window take?

    python -m benchmarks.export RUN [RUN ...] [--windows 20] [--rounds 3] [--threads 1]     # pip install '.[export]'

For each run: windows from the middle of its stored cases, the network with its weights, scripted and as ONNX. The forms take
turns on every window, so that other work on the machine slows all alike; a ratio is the median, over windows and rounds, of
a form's time over PyTorch's on the same window and round. Beside it the quartiles. The last line is JSON; the exit code is 1
if a form gives another class to more than 0.01 % of a window's voxels.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bundle.export import MIN_SAME_SHARE, Parity, compare, export_onnx, onnx_session, stored_windows
from bundle.facts import load_weights
from mcsc_bundle.networks import unet_from_plan
from mcsc_bundle.plan import Plan


def measure(run: Path, windows: int, rounds: int) -> dict[str, Any]:
    """Deviations, shares of equal classes, and times of one run's network in all forms."""
    plan = Plan.load(run / "plan.json")
    network = unet_from_plan(plan).eval()
    network.load_state_dict(load_weights(run / "models" / "model.pt"))
    batches = stored_windows(plan, run, windows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(network, batches[0], path)
        forms = {"TorchScript": torch.jit.script(network).eval(), "ONNX Runtime": onnx_session(path)}
        turns = [compare(network, forms, batches) for _ in range(rounds)]
    rows = [_joined([turn[index] for turn in turns], [turn[0] for turn in turns]) for index in range(len(turns[0]))]
    return {"data_set": plan.dataset_name, "window": list(batches[0].shape), "windows": windows, "forms": rows}


def _joined(rows: list[Parity], eager: list[Parity]) -> dict[str, Any]:
    times = np.concatenate([row.times for row in rows])
    ratios = times / np.concatenate([row.times for row in eager])
    return {
        "form": rows[0].form,
        "largest_deviation": max(row.deviation for row in rows),
        "same_class": min(row.same for row in rows),
        "ms": _quartiles(times, 1),
        "ratio": _quartiles(ratios, 2),
    }


def _quartiles(values: np.ndarray, digits: int) -> list[float]:
    """Median, then the lower and the upper quartile."""
    return [round(float(value), digits) for value in np.quantile(values, (0.5, 0.25, 0.75))]


def table(results: list[dict[str, Any]]) -> str:
    """The table of ``docs/benchmarks.md``."""
    lines = [
        "| data set, window | form | largest deviation of a logit | same class | ms per window (quartiles) | over PyTorch |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        window = " x ".join(map(str, result["window"][2:]))
        for row in result["forms"]:
            milliseconds, ratio = (f"{m:g} ({low:g} to {high:g})" for m, low, high in (row["ms"], row["ratio"]))
            cells = [f"{result['data_set']}, {window}", row["form"], f"{row['largest_deviation']:.1e}"]
            lines.append("| " + " | ".join([*cells, f"{row['same_class']:.4%}", milliseconds, ratio]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(given.threads)
    results = [measure(run, given.windows, given.rounds) for run in given.runs]
    print(table(results))
    print(json.dumps({"threads": given.threads, "torch": torch.__version__, "results": results}))
    sys.exit(any(row["same_class"] < MIN_SAME_SHARE for result in results for row in result["forms"]))


if __name__ == "__main__":
    main()
