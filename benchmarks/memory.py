"""Peak memory and time of preprocessing and of folder inference on a synthetic CT, each in a process of its own.

    python -m benchmarks.memory                      # 512 x 512 x 400
    python -m benchmarks.memory --size 128 128 100   # quick

The image is resampled from 0.7 x 0.7 x 1.0 mm to 0.8 x 0.8 x 1.25 mm. The network is narrow, for a CPU.
The last line is JSON, in GB (1e9 bytes).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from scipy import ndimage

from mcsc_bundle.networks import unet_from_plan
from mcsc_bundle.plan import ChannelNormalization, CNNPlan, ContrastScale, Plan, TransformerPlan
from mcsc_bundle.store import CaseStore
from preprocessing.preprocess import store_case

CONFIG = Path(__file__).parents[1] / "configs" / "inference.json"


def make_ct(folder: Path, size: tuple[int, ...]) -> dict[str, Any]:
    """A body of soft tissue with two organs, noisy, int16, and its label map."""
    rng = np.random.default_rng(0)
    coarse = ndimage.gaussian_filter(rng.standard_normal((16, 16, 16)), 2)
    body = ndimage.zoom(coarse, [n / 16 for n in size], order=1)
    label = (body > np.quantile(coarse, 0.8)).astype(np.uint8) + (body > np.quantile(coarse, 0.9))
    voxels = (label * 60 - 20 + rng.integers(-30, 30, size, dtype=np.int16)).astype(np.int16)
    affine = np.diag([0.7, 0.7, 1.0, 1.0])
    for array, name in ((voxels, "images/ct.nii.gz"), (label, "label.nii.gz")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), folder / name)
    return {"case": "ct", "image": [str(folder / "images/ct.nii.gz")], "label": str(folder / "label.nii.gz")}


def make_run(folder: Path, classes: int) -> Plan:
    """A run folder with an untrained, narrow CNN."""
    plan = Plan(
        dataset_name="SyntheticCT",
        channel_names=("CT",),
        labels={"background": 0, **{f"organ_{index}": index for index in range(1, classes)}},
        image_dims=3,
        spatial_dims=3,
        slice_axis=None,
        orientation="RAS",
        spacing_mm=(0.8, 0.8, 1.25),
        median_shape=(448, 448, 320),
        normalization=(ChannelNormalization("CT", "ct", lower=-100, upper=300, mean=50, std=60),),
        patch_size=(128, 128, 96),
        batch_labeled=1,
        batch_unlabeled=1,
        batch_dice=False,
        cnn=CNNPlan("plan", (4, 8, 16, 32), ((3, 3, 3),) * 4, ((1, 1, 1), *((2, 2, 2),) * 3)),
        transformer=TransformerPlan("plan", (4, 4, 4), ((1, 1, 1), (2, 2, 2)), 12, (2, 2), (3, 6), (4, 4, 4), True),
        contrast=(ContrastScale((4, 4, 4), (8, 8, 8), pixels=512),),
        inference_overlap=0.0,
    )
    torch.manual_seed(0)
    (folder / "models").mkdir(parents=True)
    plan.save(folder / "plan.json")
    torch.save(unet_from_plan(plan).state_dict(), folder / "models" / "model.pt")
    return plan


def preprocess_case(folder: Path, item: dict[str, Any], plan: Plan) -> None:
    """One labelled case into a store."""
    failed = store_case(item, plan, CaseStore(folder / "store", plan.data_key))
    if failed is not None:
        raise SystemExit(failed)


def infer_case(folder: Path, item: dict[str, Any], plan: Plan) -> None:
    """One case through ``configs/inference.json``."""
    paths = {"dataset_dir": folder / "images", "output_dir": folder / "masks", "run_dir": folder / "run"}
    workflow = ConfigWorkflow(
        str(CONFIG),
        workflow_type="infer",
        logging_file=False,
        device="cpu",
        **{key: str(path) for key, path in paths.items()},
    )
    workflow.initialize()
    workflow.run()


def in_new_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``work``."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def measure(work: Callable[..., None], *arguments: Any) -> dict[str, float]:
    """Seconds and peak memory of ``work``, and the memory that imports alone take."""
    Path("/proc/self/clear_refs").write_text("5")  # the count of peak memory starts anew (Linux)
    imports, began = _peak_gb(), time.perf_counter()
    work(*arguments)
    return {"peak_gb": _peak_gb(), "imports_gb": imports, "seconds": round(time.perf_counter() - began, 1)}


def _peak_gb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9, 2)


def main() -> None:
    """Make the image, measure both, print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 400), help="voxels per axis")
    parser.add_argument("--classes", type=int, default=3, help="classes of the network, background included")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        item, plan = make_ct(folder, tuple(options.size)), make_run(folder / "run", options.classes)
        result = {
            name: measure(work, folder, item, plan)
            for name, work in (("preprocess", preprocess_case), ("infer", infer_case))
        }
    float32_gb = round(float(np.prod(options.size)) * 4 / 1e9, 2)
    print(
        json.dumps({"size": list(options.size), "classes": options.classes, "image_float32_gb": float32_gb, **result})
    )


if __name__ == "__main__":
    main()
