"""The overlay for TensorRT, with the bundle's TorchScript file in place of an engine: ``torch.jit.load`` reads both."""

import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import torch

from bundle.pack import pack
from bundle.verify import make_images
from mcsc_bundle.networks import unet_from_plan
from mcsc_bundle.plan import Plan
from tests.bundle.runs import TERMS, make_run
from tests.inference import infer


def test_masks_of_an_engine_come_from_the_engine(tmp_path):
    run = make_run(tmp_path / "run")
    pack(run, "tiny", TERMS, tmp_path)
    plan = Plan.load(run / "plan.json")
    make_images(plan, tmp_path / "scans", 1)
    infer(tmp_path / "scans", run, tmp_path / "ours")
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "torch_tensorrt.py").write_text("")  # the real one teaches torch.jit.load to read engines
    engine = tmp_path / "tiny" / "models" / "model_trt.ts"
    shutil.copy(tmp_path / "tiny" / "models" / "model.ts", engine)
    assert np.array_equal(predicted(tmp_path, "masks"), mask(tmp_path / "ours"))
    torch.manual_seed(1)  # other weights: if they count, it is the engine that predicts, and the masks are made anew
    torch.jit.script(unet_from_plan(plan).eval()).save(str(engine))
    assert not np.array_equal(predicted(tmp_path, "masks"), mask(tmp_path / "ours"))


def predicted(folder, name):
    bundle = folder / "tiny"
    files = [str(bundle / "configs" / config) for config in ("inference.json", "inference_trt.json")]
    options = {"config_file": str(files), "bundle_root": bundle, "dataset_dir": folder / "scans"}
    options |= {"output_dir": folder / name, "device": "cpu"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run"]
        + [part for key, value in options.items() for part in (f"--{key}", str(value))],
        cwd=folder, capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "PYTHONPATH": str(folder / "stub"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return mask(folder / name)


def mask(folder):
    return np.asarray(nib.load(folder / "case_0.nii.gz").dataobj)
