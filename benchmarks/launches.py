"""How many operations a training step hands to a GPU, by method; counted on a CPU, so it needs no GPU.

    python -m benchmarks.launches [--tiles] [--details mcsc_paper]

A step of small networks on a fast GPU lasts as long as its launches take, so the ratio of two methods' counts is about that of
their steps. Counted are ATen operations that are no views, in the second step of the trainer (bf16 autocast, fused AdamW), with
the contrast laid out as on a GPU. It counts too much in attention, which is one operation on a GPU and about ten here, in all
methods alike.

``--tiles`` counts the contrast without its kernels, as it is where they do not run. ``--details`` names the functions that a
method's operations come from. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from typing import Any
from unittest import mock

import torch
from ignite.engine import Events
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.random_training import cardiac_plan, make_trainer
from mcsc_bundle.losses import contrastive, fused
from mcsc_bundle.methods import MCSC
from mcsc_bundle.plan import Plan
from preprocessing.paper import paper_plan

METHODS = ("supervised", "mean_teacher", "cross_teaching", "mcsc_paper", "mcsc")
NO_LAUNCH = {  # views, and what stays on the host
    "_local_scalar_dense", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk", "detach", "diagonal", "empty",
    "empty_like", "empty_strided", "expand", "lift_fresh", "narrow", "new_empty", "new_empty_strided", "permute",
    "scalar_tensor", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold",
    "unsqueeze", "view",
}  # fmt: skip

WITHIN = {"class_sums": 5, "slope": 2}  # launches of an operation of ours: its kernel, casts and copies


class Launches(TorchDispatchMode):
    """Counts operations by the function of ours that asked for them."""

    def __init__(self) -> None:
        super().__init__()
        self.by_function: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if name not in NO_LAUNCH:
            self.by_function[self._asked_by()] += WITHIN.get(name, 1)
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _asked_by() -> str:
        frame: Any = sys._getframe(2)
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.startswith("mcsc_bundle."):
                name = f"{module.removeprefix('mcsc_bundle.')}.{frame.f_code.co_name}"
                return "backward" if name == "trainer._iteration" else name
            frame = frame.f_back
        return "backward"


def count(plan: Plan, name: str, tiles: bool = False, deep: bool = True) -> Counter[str]:
    """Operations of the trainer's second step (the first makes what is kept); the contrast in tiles or by its kernels."""
    engine = make_trainer(plan, name, torch.device("cpu"), 2, deep, amp=True, amp_dtype="bfloat16")
    launches = Launches()
    engine.add_event_handler(Events.ITERATION_STARTED(once=2), lambda: launches.__enter__())
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda: launches.__exit__(None, None, None))
    edge = contrastive._least_edge(on_cpu=False)
    gpu_layout = {"_on_cpu": lambda _: False, "_least_edge": lambda _: edge, "usable": lambda *_: not tiles}
    no_kernel = mock.patch.object(
        fused, "_launch", lambda *_: None
    )  # counted as it is asked for, no value is looked at
    with no_kernel, mock.patch.multiple(contrastive, **gpu_layout):
        if isinstance(engine.method, MCSC):  # which teacher answers is drawn by chance: take the one that costs more
            with mock.patch.object(MCSC, "teacher", lambda self: self.transformer_teacher):
                engine.run()
        else:
            engine.run()
    return launches.by_function


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", action="store_true", help="the contrast without its kernels")
    parser.add_argument("--details", choices=METHODS, help="print where this method's operations come from")
    arguments = parser.parse_args()
    result: dict[str, dict[str, dict[str, float]]] = {}
    plans = {"plan 2 + 2": cardiac_plan(224, 2, 2048), "paper 2 + 2": paper_plan(cardiac_plan(224, 2))}
    for plan_name, plan in plans.items():
        counts = {name: count(plan, name, arguments.tiles) for name in METHODS}
        reference = sum(counts["cross_teaching"].values())
        rows = {name: sum(counted.values()) for name, counted in counts.items()}
        result[plan_name] = {
            n: {"launches": r, "over_cross_teaching": round(r / reference, 3)} for n, r in rows.items()
        }
        for name, row in result[plan_name].items():
            print(f"{plan_name:12s} {name:15s} {row['launches']:6d}  x{row['over_cross_teaching']:.2f} cross teaching")
            if name == arguments.details:
                print("\n".join(f"    {number:5d}  {function}" for function, number in counts[name].most_common()))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
