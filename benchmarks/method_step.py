"""What a training step of each method costs beside cross teaching, with the same networks and batch, on a CPU.

    OMP_NUM_THREADS=1 python -m benchmarks.method_step [--plans hippocampus acdc acdc_halved paper] \\
        [--methods cross_teaching mcsc_paper mcsc]

A step is forward, backward, AdamW and the teachers' update at the end of the ramps, on one random batch of the plan (``paper``:
the paper's networks, 2 + 2 slices of 224 x 224). The methods take turns step by step, and processor seconds are counted, so that
other programs do not. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks.random_training import METHODS, Batches, cardiac_plan, make_method
from benchmarks.step_cost import SHAPES, fingerprint
from mcsc_bundle.methods import Method
from mcsc_bundle.plan import Plan
from preprocessing.paper import paper_plan
from preprocessing.planner import make_plan

BASELINE, HALVED = "cross_teaching", "acdc_halved"


class Stepper:
    """One method and its optimiser; each call is a step and gives its processor seconds."""

    def __init__(self, method: Method) -> None:
        self.method = method.train()
        self.optimizer = torch.optim.AdamW(method.parameter_groups(1e-3), fused=True)

    def __call__(self, batch: Mapping[str, Tensor]) -> float:
        began = time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(self.method(batch, 1.0).values())).sum().backward()
        self.optimizer.step()
        self.method.after_step(1.0)
        return time.process_time() - began


def ratios(plan: Plan, names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of each method, and the quartiles of its ratio to the baseline in the same round."""
    steppers = {name: Stepper(make_method(plan, name)) for name in (BASELINE, *names)}
    batch = Batches(plan, torch.device("cpu")).batch
    for stepper in steppers.values():
        stepper(batch)  # the first step allocates
    times = {name: [0.0] * rounds for name in steppers}
    for index in range(rounds):
        for name, stepper in steppers.items():
            times[name][index] = stepper(batch)
    found = {}
    for name, seconds in times.items():
        low, middle, high = statistics.quantiles([a / b for a, b in zip(seconds, times[BASELINE], strict=True)], n=4)
        found[name] = {"seconds": statistics.median(seconds), "ratio": middle, "low": low, "high": high}
    return found


def plan_of(name: str) -> Plan:
    """The CPU plan of a data set like that of the name, of ACDC at half its resolution as well, or the paper's."""
    if name == "paper":
        return paper_plan(cardiac_plan())
    return make_plan(fingerprint("acdc", (0.95, 0.9)) if name == HALVED else fingerprint(name), 8.0, "cpu")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--plans", nargs="+", choices=[*SHAPES, HALVED, "paper"], default=["hippocampus", "acdc", HALVED, "paper"]
    )
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=["supervised", "mcsc_paper", "mcsc"])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    result = {}
    for name in arguments.plans:
        result[name] = ratios(
            plan_of(name), [method for method in arguments.methods if method != BASELINE], arguments.rounds
        )
        for method, row in result[name].items():
            spread = f"(quartiles {row['low']:.2f}, {row['high']:.2f})"
            print(
                f"{name:12s} {method:15s} {row['seconds']:7.2f} s  x{row['ratio']:.2f} {BASELINE} {spread}", flush=True
            )
    print(json.dumps({"threads": torch.get_num_threads(), "plans": result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
