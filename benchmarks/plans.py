"""Our plans beside nnU-Net's own, from the same fingerprints.

    python benchmarks/plans.py --nnunet-python PYTHON_WITH_NNUNETV2 [--memory_gb 8] [--real
    NAME=FINGERPRINT,DATASET_JSON ...]

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mcsc_bundle.plan import Plan, PlanError
from preprocessing.nnunet import plan_from_nnunet

SCHEME_NAMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}

ORACLE = """
import json, os, sys
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
plans = {}
for name in json.loads(sys.argv[1]):
    plans[name] = ExperimentPlanner(name, gpu_memory_target_in_gb=float(sys.argv[2])).plan_experiment()
    plans[name]["transpose_forward"] = [int(axis) for axis in plans[name]["transpose_forward"]]
open(sys.argv[3], "w").write(json.dumps(plans, default=lambda value: value.tolist()))
"""


@dataclass(frozen=True)
class Example:
    """A made-up data set: median spacing and shape in file order (z, y, x), and how much the cases vary."""

    name: str
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    cases: int = 40
    channels: tuple[str, ...] = ("MRI",)
    labels: int = 2
    vary_spacing: float = 0.0
    vary_shape: float = 0.0
    kept: float = 1.0


EXAMPLES = (
    Example("isotropic cube", (1, 1, 1), (64, 64, 64), channels=("CT",)),
    Example(
        "isotropic brain", (1, 1, 1), (155, 192, 160), cases=484, channels=("FLAIR", "T1w", "t1gd", "T2w"), kept=0.3
    ),
    Example("abdominal CT", (1.5, 0.8, 0.8), (200, 512, 512), channels=("CT",), labels=3),
    Example("liver CT, mixed", (1.0, 0.77, 0.77), (432, 512, 512), 131, ("CT",), 3, 0.3, 0.3),
    Example("whole-body CT", (0.8, 0.8, 0.8), (900, 512, 512), 60, ("CT",), 105, 0.1, 0.2),
    Example("huge CT", (0.5, 0.4, 0.4), (1200, 768, 768), 25, ("CT",), 4),
    Example("lung CT, thick", (5, 0.7, 0.7), (60, 512, 512), 63, ("CT",), 2, 0.2, 0.2),
    Example("pelvic CT, coarse", (2.5, 0.98, 0.98), (110, 512, 512), 30, ("CT",), 6),
    Example("cardiac cine", (10, 1.5, 1.5), (10, 256, 216), 140, labels=4),
    Example("cardiac cine, mixed", (9, 1.5, 1.5), (10, 240, 210), 140, labels=4, vary_spacing=0.4, vary_shape=0.2),
    Example("prostate T2", (3.6, 0.62, 0.62), (20, 320, 320), 32, ("T2", "ADC"), 3, 0.1, 0.1),
    Example("prostate at the threshold", (1.8, 0.6, 0.6), (60, 320, 320), 48),
    Example("abdominal MR", (7.7, 1.25, 1.25), (34, 256, 256), 14, labels=5),
    Example("spine MR, sagittal", (0.6, 0.6, 4.4), (512, 512, 15), 80, labels=8, vary_spacing=0.1, vary_shape=0.1),
    Example("knee MR, sagittal middle", (0.36, 0.7, 0.36), (384, 160, 384), 100, labels=6),
    Example("hippocampus crops", (1, 1, 1), (36, 50, 35), 260, labels=3, vary_shape=0.15),
    Example("tiny crops", (1, 1, 1), (14, 16, 13), 50),
    Example("tiny anisotropic crops", (3, 0.5, 0.5), (6, 30, 26), 50),
    Example("single thick slice", (8, 1, 1), (1, 256, 256), 90, labels=3),
    Example("cell images", (999, 1, 1), (1, 696, 520), 120, ("rgb_to_0_1",) * 3, 3, 0.0, 0.2),
    Example("dermoscopy", (999, 1, 1), (1, 1536, 2048), 900, ("R", "G", "B")),
    Example("small slides", (999, 1, 1), (1, 96, 96), 30),
    Example("many channels", (2, 1, 1), (80, 192, 192), 60, tuple(f"echo{index}" for index in range(24)), 4),
    Example("three cases", (1, 0.9, 0.9), (180, 220, 200), 3, labels=4, vary_spacing=0.2, vary_shape=0.1),
    Example("one case", (3, 1, 1), (40, 128, 128), 1),
    Example("PET and CT", (3, 4.07, 4.07), (326, 168, 168), 200, ("CT", "zscore"), 2),
    Example("microscopy, thin z", (0.2, 0.1, 0.1), (30, 1024, 1024), 12, ("rescale_to_0_1",), 2),
    Example("ultrasound", (0.25, 0.25, 0.3), (400, 350, 300), 75, ("noNorm",), 2, 0.2, 0.2),
    Example("mouse micro-CT", (0.1, 0.1, 0.1), (560, 310, 280), 140, ("CT",), 7, 0.05, 0.1),
    Example("just divisible", (1, 1, 1), (128, 128, 128), 20),
    Example("elongated", (1, 1, 1), (24, 24, 400), 50),
    Example("plate", (0.5, 2.5, 0.5), (300, 12, 300), 50, vary_spacing=0.3),
)


def write_example(example: Example, raw: Path, preprocessed: Path, seed: int) -> None:
    """nnU-Net's two files for a made-up data set."""
    random = np.random.default_rng(seed)
    stretch = np.exp(random.normal(0, 1, (example.cases, 3)))
    spacings = np.array(example.spacing) * stretch**example.vary_spacing
    flat = example.shape[0] == 1
    if flat:
        spacings[:, 0] = example.spacing[0]
    shapes = np.array(example.shape) * np.exp(random.normal(0, 1, (example.cases, 3))) ** example.vary_shape
    shapes = np.maximum(1, shapes.round().astype(int))
    if flat:
        shapes[:, 0] = 1
    statistics = {"mean": 60.0, "median": 62.0, "std": 30.0, "min": -200.0, "max": 400.0}
    statistics |= {"percentile_00_5": -100.0, "percentile_99_5": 250.0}
    measured = {
        "spacings": spacings.tolist(),
        "shapes_after_crop": shapes.tolist(),
        "median_relative_size_after_cropping": example.kept,
        "foreground_intensity_properties_per_channel": {str(i): statistics for i in range(len(example.channels))},
    }
    declared = {
        "name": example.name,
        "channel_names": {str(index): name for index, name in enumerate(example.channels)},
        "labels": {"background": 0, **{f"class_{index}": index for index in range(1, example.labels)}},
        "numTraining": example.cases,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}},
    }
    for folder, name, content in (
        (raw, "dataset.json", declared),
        (preprocessed, "dataset_fingerprint.json", measured),
    ):
        folder.mkdir(parents=True)
        (folder / name).write_text(json.dumps(content))


def nnunet_plans(python: str, work: Path, names: list[str], memory_gb: float) -> dict[str, Any]:
    """Let nnU-Net plan the data sets of a folder."""
    variables = {f"nnUNet_{kind}": str(work / kind) for kind in ("raw", "preprocessed", "results")}
    result = work / "plans.json"
    command = [python, "-c", ORACLE, json.dumps(names), str(memory_gb), str(result)]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"nnU-Net did not plan:\n{done.stderr[-3000:]}")
    return json.loads(result.read_text())


def as_nnunet(plan: Plan, transpose: list[int]) -> dict[str, Any]:
    """Our plan's entries in nnU-Net's axis order."""
    shift = 3 - plan.image_dims  # 2-D images lack axis 0 of the file
    axes = [list(plan.network_axes).index(axis - shift) for axis in transpose if axis - shift in plan.network_axes]

    def ordered(values: Any) -> list[Any]:
        return [values[axis] for axis in axes]

    spacing = [plan.spacing_mm[axis] for axis in plan.network_axes]
    median = [plan.median_shape[axis] for axis in plan.network_axes]
    return {
        "spacing": ordered(spacing),
        "median shape": ordered(median),
        "patch": ordered(plan.patch_size),
        "batch": plan.batch_labeled + plan.batch_unlabeled,
        "strides": [ordered(stage) for stage in plan.cnn.strides],
        "kernels": [ordered(stage) for stage in plan.cnn.kernel_sizes],
        "features": list(plan.cnn.features),
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
        "batch dice": configuration["batch_dice"],
        "normalization": [SCHEME_NAMES[name] for name in configuration["normalization_schemes"]],
        "masked": configuration["use_mask_for_norm"],
    }


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Entries that differ; spacings may differ by rounding."""
    return {
        name: (ours[name], theirs[name])
        for name in ours
        if not (np.allclose(ours[name], theirs[name], rtol=1e-9) if name == "spacing" else ours[name] == theirs[name])
    }


def compare(name: str, files: tuple[Path, Path], plans: dict[str, Any], memory_gb: float) -> list[dict[str, Any]]:
    """One row per configuration that nnU-Net planned."""
    rows = []
    for title, dimensions in (("3d_fullres", 3), ("2d", 2)):
        request = {"memory_gb": memory_gb, "device": "cuda", "dimensions": dimensions}
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
        ours = as_nnunet(plan_from_nnunet(*files, networks="cnn", **request), plans["transpose_forward"])
        pair = as_nnunet(plan_from_nnunet(*files, networks="pair", **request), plans["transpose_forward"])
        rows.append(
            {"name": name, "configuration": title, "nnunet": theirs, "ours": ours, "pair": pair}
            | {"differences": differences(ours, theirs)}
        )
    return rows


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
    parser.add_argument("--memory_gb", type=float, default=8.0)
    parser.add_argument("--real", nargs="*", default=[], metavar="NAME=FINGERPRINT,DATASET_JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work, files = Path(folder), {}
        for index, example in enumerate(EXAMPLES, start=1):
            files[example.name] = place(work, f"Dataset{index:03d}_Example")
            write_example(example, *(path.parent for path in reversed(files[example.name])), seed=index)
        for index, entry in enumerate(options.real, start=len(EXAMPLES) + 1):
            name, _, paths = entry.partition("=")
            files[name] = place(work, f"Dataset{index:03d}_Real")
            for source, target in zip(paths.split(","), files[name], strict=True):
                target.parent.mkdir(parents=True)
                target.write_text(Path(source).read_text())
        folders = {name: pair[1].parent.name for name, pair in files.items()}
        plans = nnunet_plans(options.nnunet_python, work, list(folders.values()), options.memory_gb)
        rows = [
            row for name, pair in files.items() for row in compare(name, pair, plans[folders[name]], options.memory_gb)
        ]
    print(markdown(rows))
    wrong = {f"{row['name']} {row['configuration']}": row["differences"] for row in rows if row["differences"]}
    summary = {"fingerprints": len(files), "configurations": len(rows), "equal": len(rows) - len(wrong)}
    print(json.dumps({**summary, "differences": wrong}))
    raise SystemExit(1 if wrong else 0)


def place(work: Path, name: str) -> tuple[Path, Path]:
    """Where nnU-Net looks for a data set's fingerprint and ``dataset.json``."""
    return work / "preprocessed" / name / "dataset_fingerprint.json", work / "raw" / name / "dataset.json"


if __name__ == "__main__":
    main()
