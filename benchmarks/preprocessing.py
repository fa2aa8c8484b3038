"""Fingerprint, plan and preprocessing of a data set: ours and nnU-Net's, side by side in one run.

    python -m benchmarks.preprocessing DATASET --nnunet-python PYTHON_WITH_NNUNETV2 [--cases 40] [--processes 2]

Both read the same exported folder, plan one network for 8 GB in 3-D (``3d_fullres``) and use the same number of processes,
one thread each; each starts from nothing, imports included. Then both stores are read back and compared voxel by voxel, in
nnU-Net's axis order. The interpreter may also be given as NNUNET_PYTHON. The last line is JSON; ratios are nnU-Net's over
ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import blosc2
import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from benchmarks.process_tree import Cost, run
from mcsc_bundle.plan import Plan
from mcsc_bundle.store import CaseStore
from preprocessing.dataset import read_dataset
from preprocessing.export import export

DATASET_ID = 501
CONFIGURATION = "3d_fullres"
MEMORY_GB = 8
TOLERANCE = 1e-3  # standard deviations; float32 splines differ by 1e-5


def run_nnunet(python: str, work: Path, processes: int, log: Path) -> Cost:
    """What nnU-Net's documentation tells to type, for one configuration."""
    command = str(Path(python).parent / "nnUNetv2_plan_and_preprocess")
    arguments = ["-d", str(DATASET_ID), "-c", CONFIGURATION, "-np", str(processes), "-npfp", str(processes)]
    variables = {f"nnUNet_{kind}": str(work / kind) for kind in ("raw", "preprocessed", "results")}
    return run([command, *arguments], environment(variables), log)


def run_ours(data: Path, output: Path, processes: int, log: Path) -> Cost:
    """The same with ours."""
    options = {"output_dir": output, "workers": processes, "networks": "cnn", "memory_gb": MEMORY_GB}
    options |= {"configuration": "3d_fullres", "device": "cuda"}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "preprocessing", str(data), *arguments]
    return run(command, environment({"PYTHONPATH": str(Path(__file__).parents[1])}), log)


def environment(variables: dict[str, str]) -> dict[str, str]:
    """One thread per process for both."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **variables}


def same_configuration(plan: Plan, theirs: dict[str, Any]) -> dict[str, bool]:
    """Whether spacing and patch are those of nnU-Net, up to the order of axes."""
    entries = {"spacing": plan.spacing_mm, "patch_size": plan.patch_size}
    return {name: bool(np.allclose(sorted(ours), sorted(theirs[name]))) for name, ours in entries.items()}


def compare(data: Path, output: Path, preprocessed: Path, plan: Plan) -> dict[str, Any]:
    """Deviation of intensities (in standard deviations, as normalised) and of labels over all cases that both have."""
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    folder = preprocessed / plans["configurations"][CONFIGURATION]["data_identifier"]
    store = CaseStore(output / "preprocessed", plan.data_key)
    largest, total, voxels, labels, other_labels, other_shapes, worst = 0.0, 0.0, 0, 0, 0, [], ""
    names = [path.stem for path in sorted(folder.glob("*.pkl"))]
    both = [name for name in names if name in store]
    for name in both:
        theirs = blosc2.open(str(folder / f"{name}.b2nd"))[:]
        their_label = blosc2.open(str(folder / f"{name}_seg.b2nd"))[:][0]
        case = store.open(name)
        start = (0,) * len(case.shape)
        affine = nib.load(data / "imagesTr" / f"{name}_0000.nii.gz").affine
        order = plans["transpose_forward"]
        ours = np.stack([_as_theirs(c, affine, plan, order) for c in case.read_image(start, case.shape)])
        our_label = _as_theirs(case.read_label(start, case.shape), affine, plan, order)
        if ours.shape != theirs.shape:
            other_shapes.append(name)
            continue
        apart = np.abs(ours - theirs)
        if apart.max() > largest:
            largest, worst = float(apart.max()), name
        total, voxels = total + float(apart.sum(dtype=np.float64)), voxels + apart.size
        labels += int((their_label > 0).sum())
        other_labels += int((our_label != np.maximum(their_label, 0)).sum())
    return {
        "cases": len(both),
        "other_shapes": other_shapes,
        "largest": largest,
        "largest_in": worst,
        "mean": total / max(1, voxels),
        "other_labels_per_foreground_voxel": other_labels / max(1, labels),
    }


def _as_theirs(volume: np.ndarray, affine: np.ndarray, plan: Plan, transpose: list[int]) -> np.ndarray:
    """Our volume, in the plan's orientation, with nnU-Net's axes: the file's, reversed and transposed."""
    if plan.orientation is not None:
        back = ornt_transform(axcodes2ornt(plan.orientation), io_orientation(affine))
        volume = apply_orientation(volume, back)
    return volume.transpose(2, 1, 0).transpose(transpose)


def subset(dataset: Path, count: int | None, folder: Path) -> dict[str, Any]:
    """Options of ``export`` for the first ``count`` labelled cases."""
    if count is None:
        return {}
    names = [case.name for case in read_dataset(dataset).cases if case.label][:count]
    path = folder / "cases.json"
    path.write_text(json.dumps({"labeled": names, "unlabeled": [], "test": []}))
    return {"split_file": str(path)}


def main() -> None:
    """Run both, compare, print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="a data set of 3-D volumes in any layout")
    parser.add_argument("--nnunet-python", default=os.environ.get("NNUNET_PYTHON"))
    parser.add_argument("--cases", type=int, help="only the first so many labelled cases")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, help="an empty folder to keep everything in; else a temporary one")
    options = parser.parse_args()
    if not options.nnunet_python:
        parser.error("expected --nnunet-python or NNUNET_PYTHON: an interpreter with nnunetv2 installed")
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        chosen = subset(options.dataset, options.cases, work)
        data, _ = export(options.dataset, work / "raw", DATASET_ID, workers=1, **chosen)
        theirs = run_nnunet(options.nnunet_python, work, options.processes, work / "nnunet.log")
        ours = run_ours(data, work / "ours", options.processes, work / "ours.log")
        plan, preprocessed = Plan.load(work / "ours" / "plan.json"), work / "preprocessed" / data.name
        plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
        result = {
            "dataset": data.name,
            "cases": json.loads((data / "dataset.json").read_text())["numTraining"],
            "processes": options.processes,
            "nnunet": dataclasses.asdict(theirs),
            "ours": dataclasses.asdict(ours),
            "times_faster": round(theirs.seconds / ours.seconds, 2),
            "times_less_cpu": round(theirs.cpu_seconds / ours.cpu_seconds, 2),
            "memory_ratio": round(theirs.peak_gb / ours.peak_gb, 2),
            "same_configuration": same_configuration(plan, plans["configurations"][CONFIGURATION]),
            "deviation": compare(data, work / "ours", preprocessed, plan),
        }
    print(json.dumps(result))
    raise SystemExit(0 if agree(result) else 1)


def agree(result: dict[str, Any]) -> bool:
    """Same configuration, same shapes, and intensities within ``TOLERANCE``."""
    deviation = result["deviation"]
    close = not deviation["other_shapes"] and deviation["largest"] <= TOLERANCE
    return deviation["cases"] > 0 and close and all(result["same_configuration"].values())


if __name__ == "__main__":
    main()
