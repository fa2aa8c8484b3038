"""A plan at half the in-plane resolution, for label-efficiency runs that labels limit and not the steps of two CPU cores.

    python -m benchmarks.coarse_plan RUN/plan.json benchmarks/protocols/acdc_cpu_plan.json
    python -m benchmarks.coarse_plan benchmarks/protocols/acdc_cpu_plan.json benchmarks/protocols/acdc_quarter_plan.json --widen 2

At full resolution a CPU step of MCSC on ACDC takes a second, and after the 600 of a run the supervised baseline still gains
more from further steps than any method could bring. With twice the spacing, half the patch, one halving less and a Transformer
of one stage less, a step takes a quarter, so 1500 fit. The plan is used through ``--plan_from``; masks are scored on the scans'
own grids all the same.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from preprocessing.contrast import COARSE_BLOCKS, FINE_BLOCKS, block_edges

FACTOR = 2
EDITED = "Edited by benchmarks.coarse_plan: {}."


def coarse(plan: dict[str, Any], widen: int = 1) -> dict[str, Any]:
    """The 2-D plan with doubled spacing in the plane and networks to suit; reasons of what changed say so.

    Args:
        plan: content of a ``plan.json``.
        widen: factor of the CNN's features, which cost little at a coarse resolution.
    """
    cnn, transformer, fine = plan["cnn"], plan["transformer"], plan["contrast"]
    patch = [size // FACTOR for size in plan["patch_size"]]
    changed = {
        "spacing_mm": [spacing and FACTOR * spacing for spacing in plan["spacing_mm"]],
        "patch_size": patch,
        "median_shape": [
            size if axis == plan["slice_axis"] else size // FACTOR for axis, size in enumerate(plan["median_shape"])
        ],
        "cnn": cnn
        | {key: cnn[key][:-1] for key in ("kernel_sizes", "strides")}
        | {"features": [widen * features for features in cnn["features"][:-1]]},
        "transformer": transformer | {key: transformer[key][:-1] for key in ("merges", "depths", "heads")},
        "contrast": [
            scale | {"block": block_of(scale["stride"], patch, pieces)}
            for scale, pieces in zip(fine, (FINE_BLOCKS, COARSE_BLOCKS), strict=True)
        ],
    }
    reasons = {
        "spacing_mm": f"{FACTOR} times the median spacing, so that a step is cheap enough for many",
        "median_shape": f"that of the cases divided by {FACTOR} in the plane",
        "patch_size": f"the planned patch divided by {FACTOR}: the same millimetres",
        "cnn": "the planned one without its last halving" + (f", {widen} times as wide" if widen > 1 else ""),
        "transformer": "the planned one without its last stage",
        "contrast": "planned strides and pixels, blocks as the planner cuts maps of this size",
    }
    why = plan["why"] | {key: EDITED.format(reason) for key, reason in reasons.items()}
    return plan | changed | {"why": why, "measured_memory_gb": None}


def block_of(stride: list[int], patch: list[int], pieces: int) -> list[int]:
    """The block of the map that a patch has at a stride, as the planner cuts it."""
    return list(block_edges([size // step for size, step in zip(patch, stride, strict=True)], pieces))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, help="plan.json of a 2-D run")
    parser.add_argument("output", type=Path)
    parser.add_argument("--widen", type=int, default=1, help="factor of the CNN's features")
    arguments = parser.parse_args()
    made = coarse(json.loads(arguments.plan.read_text()), arguments.widen)
    arguments.output.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
