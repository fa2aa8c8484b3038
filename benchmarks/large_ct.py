"""Large CTs by the user's own command: memory of the process tree from the files to the weights, and bytes read per patch.

    python -m benchmarks.large_ct                             # three cases of 512 x 512 x 700, two of them labelled
    python -m benchmarks.large_ct --size 128 128 150          # quick

Runs ``python -m preprocessing`` (two workers), then ``monai.bundle run training`` for a few steps, each watched with all its
processes. Then reads patches from a stored case: how much of its file they touch, beside the patch and the whole file.
The last line is a JSON object; exits 1 where either takes more than 6 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.process_tree import Cost, run
from mcsc_bundle.plan import Plan
from mcsc_bundle.store import CaseStore, StoredCase

ROOT = Path(__file__).resolve().parents[1]
LIMIT_GB = 6 * 2**30 / 1e9
CASES, LABELED = 3, 2
SPACING_MM = (0.8, 0.8, 1.0)
NOISE = ((150, 150, 200), (300, 300, 400))  # voxels of two cases of noise
SLAB = 50  # slices made at once
OPTIONS = ["--workers", "2", "--configuration", "3d_fullres"]  # auto would take a coarser grid for so few labels


def make_dataset(folder: Path, size: tuple[int, int, int]) -> None:
    """A body with two organs, int16 with noise, in Decathlon layout; made in slabs, so that making it takes little memory."""
    nib.openers.Opener.default_compresslevel = 1
    items = []
    for index in range(CASES):
        rng, name = np.random.default_rng(index), f"ct_{index}.nii.gz"
        image, label = np.empty(size, np.int16), np.empty(size, np.uint8)
        x, y = (np.linspace(-1, 1, size[axis], dtype=np.float32) for axis in (0, 1))
        plane = np.hypot(*np.meshgrid(x, 1.3 * y, indexing="ij"))
        for start in range(0, size[2], SLAB):
            part = slice(start, min(start + SLAB, size[2]))
            bulge = 0.1 * np.sin(np.arange(part.start, part.stop) / 30 + index)
            radius = plane[..., None] + bulge.astype(np.float32)
            label[..., part] = (radius < 0.5).astype(np.uint8) + (radius < 0.25)
            inside = np.where(radius < 0.95, 40 + 60 * label[..., part], -1000)
            image[..., part] = inside + rng.integers(-30, 30, inside.shape, dtype=np.int16)
        affine = np.diag([*SPACING_MM, 1.0])
        for kind, array in (("imagesTr", image), ("labelsTr", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            if kind == "imagesTr" or index < LABELED:
                nib.save(nib.Nifti1Image(array, affine), folder / kind / name)
        label_entry = {"label": f"./labelsTr/{name}"} if index < LABELED else {}
        items.append({"image": f"./imagesTr/{name}", **label_entry})
    content = {
        "name": "LargeCT",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "organ", "2": "core"},
        "training": items,
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def patch_bytes(store: CaseStore, patch_size: Sequence[int], case: str, patches: int = 12) -> dict[str, float]:
    """Megabytes of the stored image that reading a patch touches (median over random places), beside patch and stored image.

    Counted are the pages of the mapped file that are in memory after one read through a new mapping. What the disk reads ahead of
    that is a setting of the machine, and no part of it.
    """
    rng, (file,) = np.random.default_rng(0), store.folder.glob(f"{case}.image*")
    touched = []
    for _ in range(patches):
        stored = StoredCase(store.folder, case)
        start = [int(rng.integers(0, max(1, n - p))) for n, p in zip(stored.shape, patch_size, strict=True)]
        stored.read_image(start, patch_size)
        touched.append(_mapped_bytes(file))
        del stored
    patch = int(np.prod(patch_size)) * 4
    sizes = {"touched_mb": statistics.median(touched), "patch_mb": patch, "stored_mb": file.stat().st_size}
    return {name: value / 1e6 for name, value in sizes.items()}


def noise_bytes(folder: Path, shape: tuple[int, ...], patch_size: Sequence[int]) -> dict[str, float]:
    """``patch_bytes`` of a case of noise, which hardly compresses, so that what a larger case costs shows."""
    store = CaseStore(folder, "x".join(map(str, shape)))
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    store.write("noise", image, None, "noise", patch_size)
    return patch_bytes(store, patch_size, "noise")


def _mapped_bytes(file: Path) -> int:
    """Resident bytes of all mappings of a file in this process."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and not line.split()[0].endswith(":"):
            ours = line.endswith(str(file.resolve()))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def command(folder: Path, training: bool) -> list[str]:
    """The user's command."""
    data, run_dir = str(folder / "data"), str(folder / "run")
    if not training:
        return [sys.executable, "-m", "preprocessing", data, "--output_dir", run_dir, *OPTIONS]
    words = ["--config_file", "configs/train.yaml", "--dataset_dir", data, "--output_dir", run_dir, *OPTIONS]
    return [sys.executable, "-m", "monai.bundle", "run", "training", *words, "--max_epochs", "1", "--epoch_length", "4"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 700), help="voxels per axis")
    parser.add_argument("--work_dir", help="where the data go for the time being")
    arguments = parser.parse_args()
    size = tuple(arguments.size)
    costs: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory(dir=arguments.work_dir) as temporary:
        folder = Path(temporary)
        make_dataset(folder / "data", size)
        os.chdir(ROOT)
        for name, training in (("preprocessing", False), ("training", True)):
            costs[name] = run(command(folder, training), os.environ, folder / f"{name}.log")
            print(f"{name}: {costs[name].peak_gb:.2f} GB, {costs[name].seconds:.0f} s", flush=True)
        plan = Plan.load(folder / "run" / "plan.json")
        reads = patch_bytes(CaseStore(folder / "run" / "preprocessed", plan.data_key), plan.patch_size, "ct_0")
        noise = {str(size): noise_bytes(folder, size, plan.patch_size) for size in NOISE}
    print("a patch: " + ", ".join(f"{name} {value:.2f}" for name, value in reads.items()))
    result: dict[str, Any] = {name: vars(cost) for name, cost in costs.items()}
    print(json.dumps({"size": size, "patch_size": plan.patch_size, **result, "patch": reads, "noise": noise}))
    return int(any(cost.peak_gb > LIMIT_GB for cost in costs.values()))


if __name__ == "__main__":
    sys.exit(main())
