"""Processor time to augment a training patch: ours beside nnU-Net's own transforms, with the same probabilities.

    python -m benchmarks.augmentation --nnunet-python PYTHON_WITH_NNUNETV2 [--patches 100] [--rounds 3]

Both get the same smooth image and label in memory, as large as they ask for (nnU-Net always a region that any rotation fits
in, ours one for the rotation that was drawn), and make patches as for a training: rotation, scaling, noise, blur, brightness,
contrast, low resolution, gamma, mirroring. One thread each, in processes that take turns. Patches are random, so what is compared
is the spread of their intensities and their share of foreground; exits non-zero where these differ by more than a tenth. The
last line is one JSON object; ratios are nnU-Net's over ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.preprocessing import environment
from benchmarks.random_training import cardiac_plan
from mcsc_bundle.augmentation import PatchAugmentation
from mcsc_bundle.plan import Plan

SHAPES = {  # patch, spacing in mm
    "2-D": ((256, 224), (1.5, 1.5)),
    "3-D, small": ((40, 56, 40), (1.0, 1.0, 1.0)),
    "3-D, thick slices": ((20, 256, 224), (10.0, 1.5, 1.5)),
    "3-D, large": ((128, 128, 128), (1.0, 1.0, 1.0)),
}
DIFFERENCE = 0.1
# The same image for both, from formulas, so that neither needs the other's libraries.
SCENE = """
import torch

def scene(size, patch):
    axes = torch.meshgrid(*[torch.arange(n) - n / 2 for n in size], indexing="ij")
    waves = sum(torch.sin(0.2 * (i + 1) * axis + i) for i, axis in enumerate(axes))
    inside = sum((3 * axis / n) ** 2 for axis, n in zip(axes, patch)) < 1
    return ((waves + 2 * inside) / 1.5)[None], inside[None]
"""
PEER = (
    SCENE
    + """
import json, sys, time
import numpy as np
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class Asked:  # what the method below asks of a trainer
    print_to_log_file = staticmethod(lambda *a, **k: None)

torch.set_num_threads(1)
patch, patches, seed = json.loads(sys.argv[1])
np.random.seed(seed); torch.manual_seed(seed)
asked = Asked()
asked.configuration_manager = type("Configuration", (), {"patch_size": patch})
rotation, flat, first, mirror = nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(asked)
augment = nnUNetTrainer.get_training_transforms(np.array(patch), rotation, None, mirror, flat)
image, inside = scene([int(n) for n in first], patch)
image, label = image.float(), inside.short()
seconds, spread, share = [], [], []
for _ in range(patches + 5):
    given = {"image": image.clone(), "segmentation": label.clone()}
    began = time.process_time()
    made = augment(**given)
    seconds.append(time.process_time() - began)
    spread.append(float(made["image"].std())); share.append(float((made["segmentation"] > 0).float().mean()))
assert made["image"].shape[1:] == torch.Size(patch)
print(json.dumps([sum(seconds[5:]) / patches, sum(spread) / len(spread), sum(share) / len(share)]))
"""
)


def plan_of(patch: tuple[int, ...], spacing: tuple[float, ...]) -> Plan:
    """A plan with this patch and spacing; what else it holds is of no concern here."""
    dims, plan = len(patch), cardiac_plan()
    if dims == 2:
        return plan.replace(patch_size=patch)
    cnn = dataclasses.replace(plan.cnn, kernel_sizes=((3,) * 3,) * 5, strides=((1,) * 3,) * 5)
    swin = dataclasses.replace(
        plan.transformer, patch=(4,) * 3, merges=((1,) * 3,) * len(plan.transformer.merges), window=(4,) * 3
    )
    new = {"spatial_dims": dims, "slice_axis": None, "patch_size": patch, "spacing_mm": spacing, "contrast": ()}
    return plan.replace(**new, cnn=cnn, transformer=swin, mirror_axes=tuple(range(dims)))


def own(patch: tuple[int, ...], spacing: tuple[float, ...], patches: int, seed: int) -> list[float]:
    """Mean processor seconds of a patch, spread of intensities, share of foreground."""
    torch.set_num_threads(1)
    augment = PatchAugmentation(plan_of(patch, spacing))
    augment.set_random_state(seed=seed)
    names: dict[str, Any] = {}
    exec(SCENE, names)
    reach = math.ceil(1.4 * math.hypot(*patch)) + 2  # whatever the rotation and the scale; slices are not left
    whole = [n if axis == augment.flat else reach for axis, n in enumerate(patch)]
    image, inside = names["scene"](whole, patch)
    seconds, spread, share = [], [], []
    for _ in range(patches + 5):
        began = time.process_time()
        region = augment.draw()
        assert all(m <= n for m, n in zip(region, whole, strict=True))
        box = (slice(None), *(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(whole, region, strict=True)))
        seconds.append(time.process_time() - began)
        given = {"image": image[box].float().clone(), "label": inside[box].to(torch.uint8).clone()}
        began = time.process_time()
        made = augment(given)
        seconds[-1] += time.process_time() - began
        spread.append(float(made["image"].std()))
        share.append(float((made["label"] > 0).float().mean()))
    assert made["image"].shape[1:] == torch.Size(patch)
    return [sum(seconds[5:]) / patches, sum(spread) / len(spread), sum(share) / len(share)]


def in_a_process(command: list[str]) -> list[float]:
    """The JSON list that it prints last, on one thread."""
    folder = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=folder, env=environment({}), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet-python", default=os.environ.get("NNUNET_PYTHON"), help="interpreter with nnunetv2")
    parser.add_argument("--patches", type=int, default=100, help="patches of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--own", nargs=3, metavar=("SHAPE", "PATCHES", "SEED"), help="print our figures, nothing else")
    arguments = parser.parse_args()
    if arguments.own:
        name, patches, seed = arguments.own
        print(json.dumps(own(*SHAPES[name], int(patches), int(seed))))
        return 0
    if not arguments.nnunet_python:
        parser.error("--nnunet-python: expected an interpreter with nnunetv2, received none.")
    result: dict[str, Any] = {}
    for name, (patch, _) in SHAPES.items():
        ours, peers = [], []
        for seed in range(arguments.rounds):
            mine = [sys.executable, "-m", "benchmarks.augmentation", "--own", name, str(arguments.patches), str(seed)]
            ours.append(in_a_process(mine))
            task = json.dumps([patch, arguments.patches, seed])
            peers.append(in_a_process([arguments.nnunet_python, "-W", "ignore", "-c", PEER, task]))
        ratios = [peer[0] / mine[0] for mine, peer in zip(ours, peers, strict=True)]
        (mine, spread, share), peer = (
            [statistics.median(column) for column in zip(*rows, strict=True)] for rows in (ours, peers)
        )
        agree = abs(spread / peer[1] - 1) < DIFFERENCE and abs(share / peer[2] - 1) < DIFFERENCE
        result[name] = {
            "ms": 1e3 * mine,
            "nnunet_ms": 1e3 * peer[0],
            "ratio": statistics.median(ratios),
            "ratios": ratios,
        }
        result[name] |= {"spread": [spread, peer[1]], "foreground": [share, peer[2]], "agree": agree}
        print(
            f"{name:18s} {patch}: nnU-Net {1e3 * peer[0]:.1f} ms, ours {1e3 * mine:.1f} ms, "
            f"{result[name]['ratio']:.1f} x ({min(ratios):.1f} to {max(ratios):.1f}), {agree=}",
            flush=True,
        )
    print(json.dumps(result))
    return 0 if all(row["agree"] for row in result.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
