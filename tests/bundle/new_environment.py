"""A packed bundle on a machine that has never seen this repository.

    python -m tests.bundle.new_environment BUNDLE RUN SCANS DATA WORK [--python PYTHON]

Makes a virtual environment in WORK, installs what the bundle's metadata name and nothing else (or takes the PYTHON of one that
exists), copies the bundle into a path with spaces, and from a foreign folder runs training, evaluation and inference by
``python -m monai.bundle run`` alone. The masks of SCANS must equal those of this repository's inference with RUN bit for bit.
DATA is a data set folder to train and evaluate on, briefly. The last line is a JSON object; the exit code is 1 if a step fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PLACE = "a place with spaces"
SHORT = {"epoch_length": 2, "max_epochs": 1, "val_interval": 1, "workers": 1, "num_labeled": 4, "num_test": 2}


def requirements(bundle: Path) -> list[str]:
    """What the zoo's CI installs for a bundle: every version that its metadata name, exactly."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    core = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    named = {package: metadata[key] for package, key in core.items()} | metadata["required_packages_version"]
    return [f"{package}=={version}" for package, version in named.items()]


def make_environment(folder: Path, packages: list[str]) -> Path:
    """A new virtual environment with these packages; its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def run(python: Path, foreign: Path, bundle: Path, *configs: str, **options: Any) -> None:
    """``python -m monai.bundle run`` from a foreign folder, with nothing of ours on the path.

    Raises:
        RuntimeError: it failed; the message ends with the last lines that it wrote.
    """
    files = [str(bundle / "configs" / f"{name}.json") for name in configs]
    options = {"config_file": files[0] if len(files) == 1 else str(files), "bundle_root": bundle, **options}
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [str(python), "-W", "ignore", "-m", "monai.bundle", "run", *flags]
    ended = subprocess.run(command, cwd=foreign, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{'+'.join(configs)} failed:\n{(ended.stdout + ended.stderr)[-3000:]}")


def unequal(ours: Path, theirs: Path) -> list[str]:
    """Masks that differ in a voxel, in grid or in data type, or that only one side has."""
    names = {path.name for folder in (ours, theirs) for path in folder.glob("*.nii.gz")}
    return sorted(name for name in names if not _equal(ours / name, theirs / name))


def _equal(one: Path, other: Path) -> bool:
    if not (one.exists() and other.exists()):
        return False
    first, second = (nib.load(path) for path in (one, other))
    voxels = [np.asarray(image.dataobj) for image in (first, second)]  # type: ignore[attr-defined]
    same_grid = np.array_equal(first.affine, second.affine)  # type: ignore[attr-defined]
    return same_grid and voxels[0].dtype == voxels[1].dtype and np.array_equal(*voxels)


def try_out(python: Path, bundle: Path, run_dir: Path, scans: Path, data: Path, work: Path) -> dict[str, Any]:
    """Train, evaluate and infer in the new environment; compare masks with the repository's.

    Returns:
        ``masks``: how many were compared; ``unequal``: the names of those that differ.
    """
    foreign, place = work / "foreign", work / PLACE
    foreign.mkdir(parents=True)
    copy = Path(shutil.copytree(bundle, place / bundle.name))
    absent = "import importlib.util as u, sys; sys.exit(any(u.find_spec(n) for n in ('mcsc_bundle', 'preprocessing')))"
    subprocess.run([str(python), "-c", absent], cwd=foreign, check=True)
    common: dict[str, Any] = {"device": "cpu"}
    trained = place / "trained"
    run(python, foreign, copy, "train", dataset_dir=data, output_dir=trained, **common, **SHORT)
    run(python, foreign, copy, "evaluate", dataset_dir=data, output_dir=place / "scores", run_dir=trained, **common)
    assert (place / "scores" / "metrics.csv").exists()
    run(python, foreign, copy, "inference", dataset_dir=scans, output_dir=place / "masks", **common)
    options = ["--config_file", "configs/inference.json", "--run_dir", str(run_dir), "--device", "cpu"]
    options += ["--dataset_dir", str(scans), "--output_dir", str(work / "ours")]
    subprocess.run([sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", *options], cwd=ROOT, check=True)
    masks = len(list((place / "masks").glob("*.nii.gz")))
    return {"bundle": bundle.name, "masks": masks, "unequal": unequal(work / "ours", place / "masks")}


def main() -> None:
    """Parse, run, say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bundle", "run", "scans", "data", "work"):
        parser.add_argument(name, type=lambda text: Path(text).resolve())
    parser.add_argument("--python", type=Path, help="of an environment that exists already")
    given = parser.parse_args()
    python = given.python.absolute() if given.python else None
    python = python or make_environment(given.work / "environment", requirements(given.bundle))
    seen = try_out(python, given.bundle, given.run, given.scans, given.data, given.work)
    print(json.dumps(seen))
    raise SystemExit(bool(seen["unequal"]) or not seen["masks"])


if __name__ == "__main__":
    main()
