"""Our plans beside nnU-Net's own, from the same fingerprints.

    python benchmarks/plans.py --nnunet-python PYTHON_WITH_NNUNETV2 [--memory_gb 8] [--preset resenc_l] \\
        [--real NAME=FINGERPRINT,DATASET_JSON ...]
    python benchmarks/plans.py --nnunet-python PYTHON_WITH_NNUNETV2 --fuzz 300 [--seed 0]      # random ones

Makes fingerprints that span what people segment, lets nnU-Net v2 plan them in its own environment, plans them here with
``networks="cnn"`` (one network, GPU rules) and with the pair, and prints a table. Exits non-zero when any entry of a
one-network plan differs from nnU-Net's. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.plan_examples import EXAMPLES, WITHOUT_IMAGES, place, write_example
from benchmarks.plan_fuzz import random_files
from mcsc_bundle.plan import Plan, PlanError
from mcsc_bundle.plan_parts import CONFIGURATIONS
from preprocessing.families import FAMILIES
from preprocessing.nnunet import plan_from_nnunet
from preprocessing.nnunet_plans import SCHEMES
from preprocessing.plan_from_files import plan_from_files

ORACLE = """
import json, os, sys
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncL, nnUNetPlannerResEncM, nnUNetPlannerResEncXL,
)
kinds = {"plan": ExperimentPlanner, "resenc_m": nnUNetPlannerResEncM, "resenc_l": nnUNetPlannerResEncL,
         "resenc_xl": nnUNetPlannerResEncXL}
plans = {}
for name in json.loads(sys.argv[1]):
    try:
        plans[name] = kinds[sys.argv[4]](name, gpu_memory_target_in_gb=float(sys.argv[2])).plan_experiment()
    except Exception as error:
        plans[name] = {"refused": repr(error)}
open(sys.argv[3], "w").write(json.dumps(plans, default=lambda value: value.tolist()))
"""


def nnunet_plans(python: str, work: Path, names: list[str], memory_gb: float, preset: str) -> dict[str, Any]:
    """Let nnU-Net plan the data sets of a folder; ``{"refused": why}`` where it cannot."""
    variables = {f"nnUNet_{kind}": str(work / kind) for kind in ("raw", "preprocessed", "results")}
    result = work / "plans.json"
    command = [python, "-c", ORACLE, json.dumps(names), str(memory_gb), str(result), preset]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"nnU-Net did not plan:\n{done.stderr[-3000:]}")
    return json.loads(result.read_text())


def as_nnunet(plan: Plan) -> dict[str, Any]:
    """Our plan's entries under nnU-Net's; axes planned from its fingerprint are in its order."""
    return {
        "spacing": [plan.spacing_mm[axis] for axis in plan.network_axes],
        "median shape": [plan.median_shape[axis] for axis in plan.network_axes],
        "patch": list(plan.patch_size),
        "batch": plan.batch_labeled + plan.batch_unlabeled,
        "strides": [list(stage) for stage in plan.cnn.strides],
        "kernels": [list(stage) for stage in plan.cnn.kernel_sizes],
        "features": list(plan.cnn.features),
        "blocks": list(plan.cnn.blocks_per_stage),
        "batch dice": plan.batch_dice,
        "normalization": [entry.scheme for entry in plan.normalization],
        "masked": [entry.inside_mask for entry in plan.normalization],
    }


def of_nnunet(configuration: dict[str, Any]) -> dict[str, Any]:
    """The same entries of nnU-Net's configuration."""
    network = configuration["architecture"]["arch_kwargs"]
    return {
        "spacing": configuration["spacing"],
        "median shape": [round(length) for length in configuration["median_image_size_in_voxels"]],
        "patch": configuration["patch_size"],
        "batch": configuration["batch_size"],
        "strides": network["strides"],
        "kernels": network["kernel_sizes"],
        "features": network["features_per_stage"],
        "blocks": list(network.get("n_blocks_per_stage", ())),
        "batch dice": configuration["batch_dice"],
        "normalization": [SCHEMES[name] for name in configuration["normalization_schemes"]],
        "masked": configuration["use_mask_for_norm"],
    }


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Entries that differ; spacings may differ by rounding."""
    return {
        name: (ours[name], theirs[name])
        for name in ours
        if not (np.allclose(ours[name], theirs[name], rtol=1e-9) if name == "spacing" else ours[name] == theirs[name])
    }


def compare(
    name: str, files: tuple[Path, Path], plans: dict[str, Any], planning: dict[str, Any]
) -> list[dict[str, Any]]:
    """One row per configuration that nnU-Net planned."""
    rows = []
    for title in CONFIGURATIONS:
        request = {**planning, "configuration": title}
        if title not in plans["configurations"]:
            refused = False
            try:
                plan_from_nnunet(*files, networks="cnn", **request)
            except PlanError:
                refused = True
            rows.append(
                {"name": name, "configuration": title, "differences": {} if refused else {"refused": (False, True)}}
            )
            continue
        theirs = of_nnunet(plans["configurations"][title])
        ours = as_nnunet(plan_from_nnunet(*files, networks="cnn", **request))
        pair = as_nnunet(plan_from_nnunet(*files, networks="pair", **request))
        rows.append(
            {"name": name, "configuration": title, "nnunet": theirs, "ours": ours, "pair": pair}
            | {"differences": differences(ours, theirs)}
        )
    return rows


def compare_default(files: tuple[Path, Path], plans: dict[str, Any], planning: dict[str, Any]) -> dict[str, Any]:
    """Differences of what the command line gives without further options, and of nnU-Net's plans when imported."""
    title = "3d_fullres" if "3d_fullres" in plans["configurations"] else "2d"
    theirs = of_nnunet(plans["configurations"][title])
    plans_file = files[0].parent / f"{plans['plans_name']}.json"
    made = {
        "planned": lambda: plan_from_files(
            fingerprint=str(files[0]), dataset_json=str(files[1]), networks="cnn", **planning
        ),
        "imported": lambda: plan_from_files(nnunet_plans=str(plans_file), dataset_json=str(files[1]), networks="cnn"),
    }
    found: dict[str, Any] = {}
    for way, make in made.items():
        try:
            found |= {f"{way} {entry}": pair for entry, pair in differences(as_nnunet(make()), theirs).items()}
        except PlanError as error:
            found[way] = (str(error), "planned")
    return found


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table for docs/planning.md."""

    def sizes(values: list[Any]) -> str:
        return " x ".join(f"{value:.4g}" for value in values)

    lines = [
        "| data set | configuration | spacing (mm) | patch | halvings | batch | one network = nnU-Net | the pair: "
        "patch, batch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "nnunet" not in row:
            verdict = "yes (both refuse)" if not row["differences"] else f"NO: {row['differences']}"
            lines.append(f"| {row['name']} | {row['configuration']} | | | | | {verdict} | |")
            continue
        theirs, pair = row["nnunet"], row["pair"]
        halvings = np.log2(np.prod(theirs["strides"], axis=0)).astype(int).tolist()
        verdict = "yes" if not row["differences"] else f"NO: {row['differences']}"
        same = (pair["patch"], pair["batch"]) == (theirs["patch"], theirs["batch"])
        lines.append(
            f"| {row['name']} | {row['configuration']} | {sizes(theirs['spacing'])} | {sizes(theirs['patch'])} | "
            f"{', '.join(map(str, halvings))} | {theirs['batch']} | {verdict} | "
            f"{'same' if same else sizes(pair['patch']) + ', ' + str(pair['batch'])} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Plan everything twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet-python", required=True, help="interpreter of an environment with nnunetv2")
    parser.add_argument("--preset", choices=list(FAMILIES), default="plan", help="family of the CNN")
    parser.add_argument("--memory_gb", type=float, help="without, what the family is planned for")
    parser.add_argument("--real", nargs="*", default=[], metavar="NAME=FINGERPRINT,DATASET_JSON")
    parser.add_argument("--fuzz", type=int, default=0, metavar="N", help="random fingerprints instead of the examples")
    parser.add_argument("--seed", type=int, default=0, help="of the first random fingerprint")
    options = parser.parse_args()
    memory_gb = FAMILIES[options.preset].memory_gb if options.memory_gb is None else options.memory_gb
    options.planning = {"memory_gb": memory_gb, "preset": options.preset}
    with tempfile.TemporaryDirectory() as folder:
        summary = (fuzz if options.fuzz else table)(options, Path(folder))
    print(json.dumps(summary))
    raise SystemExit(1 if summary["differences"] else 0)


def table(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The examples and real data sets, printed as a table."""
    files = {}
    for index, example in enumerate(EXAMPLES, start=1):
        files[example.name] = place(work, f"Dataset{index:03d}_Example")
        write_example(example, *(path.parent for path in reversed(files[example.name])), seed=index)
    for index, entry in enumerate(options.real, start=len(EXAMPLES) + 1):
        name, _, paths = entry.partition("=")
        files[name] = place(work, f"Dataset{index:03d}_Real")
        for source, target in zip(paths.split(","), files[name], strict=True):
            target.parent.mkdir(parents=True)
            content = json.loads(Path(source).read_text())
            target.write_text(json.dumps(content | (WITHOUT_IMAGES if target.name == "dataset.json" else {})))
    folders = {name: pair[1].parent.name for name, pair in files.items()}
    plans = nnunet_plans(options.nnunet_python, work, list(folders.values()), **options.planning)
    refused = {name: plans[folder]["refused"] for name, folder in folders.items() if "refused" in plans[folder]}
    if refused:
        raise SystemExit(f"expected nnU-Net to plan every data set of the table, it refused {refused}.")
    rows = [row for name, pair in files.items() for row in compare(name, pair, plans[folders[name]], options.planning)]
    print(markdown(rows))
    wrong = {f"{row['name']} {row['configuration']}": row["differences"] for row in rows if row["differences"]}
    return {
        "fingerprints": len(files),
        "configurations": len(rows),
        "equal": len(rows) - len(wrong),
        "differences": wrong,
    }


def fuzz(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Random fingerprints: what the command line gives beside nnU-Net's plan, which is also imported."""
    files, refused, wrong = {}, {}, {}
    for seed in range(options.seed, options.seed + options.fuzz):
        files[seed] = place(work, f"Dataset{seed - options.seed + 1:03d}_Fuzz")
        for path, content in zip(files[seed], random_files(seed), strict=True):
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(content))
    folders = {seed: pair[1].parent.name for seed, pair in files.items()}
    plans = nnunet_plans(options.nnunet_python, work, list(folders.values()), **options.planning)
    for seed, pair in files.items():
        made = plans[folders[seed]]
        if "refused" in made:
            refused[seed] = made["refused"]
        elif found := compare_default(pair, made, options.planning):
            wrong[seed] = found
            print(f"seed {seed}: {found}")
    equal = len(files) - len(refused) - len(wrong)
    return {"fingerprints": len(files), "equal": equal, "nnunet_refused": refused, "differences": wrong}


if __name__ == "__main__":
    main()
