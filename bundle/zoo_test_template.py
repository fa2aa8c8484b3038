"""Unit test of a bundle, for the model zoo: an epoch of training, evaluation and inference on random NIfTI files.

In the zoo's checkout: ``python ci/unit_tests/runner.py --b NAME``. Sizes, channels and classes come from the bundle's plan.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow
from utils import check_workflow

NAME = "bundle_name"
BUNDLE = Path("models") / NAME
CASES = 10
SHORT: dict[str, Any] = {
    "epoch_length": 2,
    "max_epochs": 1,
    "val_interval": 1,
    "workers": 1,
    "num_labeled": 6,
    "num_test": 2,
}


def write_scans(plan: dict[str, Any], images: Path, labels: Path) -> None:
    """Random scans on the plan's spacing, a little smaller than its window, and label maps of its classes."""
    rng = np.random.default_rng(0)
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    window = list(plan["patch_size"])
    if plan["slice_axis"] is not None:  # 2-D networks on volumes
        window.insert(plan["slice_axis"], 6)
    shape = [max(6, size * 3 // 4) for size in window]
    spacing = [size or 1.0 for size in plan["spacing_mm"]]
    affine = np.diag([*spacing, *([1.0] * (4 - len(spacing)))])
    values = np.array(list(plan["labels"].values()), np.int16)
    for case in range(CASES):
        for channel in range(len(plan["channel_names"])):
            scan = nib.Nifti1Image(rng.normal(100, 20, shape).astype(np.float32), affine)
            nib.save(scan, images / f"case_{case}_{channel:04d}.nii.gz")
        classes = values[rng.integers(0, len(values), shape)]
        nib.save(nib.Nifti1Image(classes, affine), labels / f"case_{case}.nii.gz")


def workflow(kind: str, *configs: str, **options: Any) -> ConfigWorkflow:
    """The bundle's configs, logging and metadata as the zoo's tests load them."""
    return ConfigWorkflow(
        workflow_type=kind,
        config_file=[str(BUNDLE / "configs" / f"{config}.json") for config in configs],
        logging_file=str(BUNDLE / "configs" / "logging.conf"),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        bundle_root=str(BUNDLE),
        **options,
    )


class TestBundle(unittest.TestCase):
    """Train, evaluate, infer."""

    def setUp(self) -> None:
        sys.path.insert(0, os.path.abspath(BUNDLE))  # properties are looked at before MONAI does this
        self.work = Path(tempfile.mkdtemp())
        self.data = self.work / "data"
        plan = json.loads((BUNDLE / "plan.json").read_text(encoding="utf-8"))
        write_scans(plan, self.data / "imagesTr", self.data / "labelsTr")
        names = dict(enumerate(plan["channel_names"]))
        declared = {"channel_names": names, "labels": plan["labels"], "file_ending": ".nii.gz", "numTraining": CASES}
        (self.data / "dataset.json").write_text(json.dumps(declared), encoding="utf-8")

    def tearDown(self) -> None:
        sys.path.remove(os.path.abspath(BUNDLE))
        shutil.rmtree(self.work)

    def test_train_eval_config(self) -> None:
        """An epoch; then the scores of the bundle's weights, and of those just trained."""
        run = self.work / "run"
        options = {"dataset_dir": str(self.data), **SHORT}
        check_workflow(workflow("train", "train", output_dir=str(run), **options), check_properties=True)
        self.assertTrue((run / "models" / "model.pt").exists())
        for name, extra in (("shipped", {}), ("trained", {"run_dir": str(run)})):
            scores = self.work / name
            evaluation = workflow("train", "train", "evaluate", output_dir=str(scores), **options, **extra)
            check_workflow(evaluation, check_properties=True)
            self.assertTrue((scores / "metrics.csv").exists())

    def test_infer_config(self) -> None:
        """A mask of every scan, on its grid, of the plan's classes alone."""
        masks = self.work / "masks"
        scans = self.data / "imagesTr"
        inference = workflow("infer", "inference", dataset_dir=str(scans), output_dir=str(masks))
        check_workflow(inference, check_properties=True)
        plan = json.loads((BUNDLE / "plan.json").read_text(encoding="utf-8"))
        for case in range(CASES):
            scan: Any = nib.load(scans / f"case_{case}_0000.nii.gz")
            mask: Any = nib.load(masks / f"case_{case}.nii.gz")
            self.assertEqual(mask.shape, scan.shape)
            self.assertTrue(np.allclose(mask.affine, scan.affine))
            self.assertLessEqual(set(np.unique(np.asarray(mask.dataobj)).tolist()), set(plan["labels"].values()))


if __name__ == "__main__":
    unittest.main()
