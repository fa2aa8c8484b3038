"""Packed bundles at work, in processes of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from bundle.pack import pack
from bundle.verify import make_images, verify
from mcsc_bundle.plan import Plan
from tests.bundle.runs import TERMS, make_run
from tests.end_to_end.road import command
from tests.mcsc_bundle.methods.cases import REGIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs of different dimensions, labels and channels, packed."""
    folder = tmp_path_factory.mktemp("home")
    volumes = make_run(folder / "volumes", "3d", labels={"background": 0, "lesion": 7})
    slices = make_run(folder / "slices", "slicewise", seed=1, channel_names=("T1", "T2"))
    regions = make_run(folder / "regions", "3d", seed=2, ignore_value=3, **REGIONS)
    pack(regions, "region_mri_segmentation", TERMS, folder)
    pack(volumes, "volume_mri_segmentation", TERMS, folder)
    pack(slices, "slice_mri_segmentation", TERMS, folder)
    return folder


@pytest.mark.parametrize("name", ["volume_mri_segmentation", "slice_mri_segmentation", "region_mri_segmentation"])
def test_every_point_of_the_checklist(home, name):
    points = verify(home / f"{name}_v0.1.0.zip", train=True).points
    assert all(point.passed for point in points), "\n".join(map(str, points))


def test_the_torchscript_file_is_reproducible_too(home, tmp_path):
    _, archive = pack(home / "volumes", "volume_mri_segmentation", TERMS, tmp_path)
    assert archive.read_bytes() == (home / archive.name).read_bytes()


@pytest.mark.parametrize(
    ("run", "name"), [("volumes", "volume_mri_segmentation"), ("slices", "slice_mri_segmentation")]
)
def test_masks_equal_the_repository_s_bit_for_bit_where_there_is_no_repository(home, tmp_path, run, name):
    images = tmp_path / "new scans"
    make_images(Plan.load(home / run / "plan.json"), images, 2)
    far = shutil.copytree(home / name, tmp_path / "far away" / name)
    packed = command(config_file="configs/inference.json", cwd=far, dataset_dir=images, output_dir=tmp_path / "packed")
    ours = command(
        config_file="configs/inference.json", dataset_dir=images, output_dir=tmp_path / "ours", run_dir=home / run
    )
    assert packed.returncode == ours.returncode == 0, packed.stderr + ours.stderr
    for case in ("case_0", "case_1"):
        one, other = (np.asarray(nib.load(tmp_path / by / f"{case}.nii.gz").dataobj) for by in ("packed", "ours"))
        assert np.array_equal(one, other)


SCRIPT = """
import json, sys
import torch
import monai.bundle
home, names, images = json.loads(sys.argv[1])
for name in names:
    sys.path.insert(0, f"{home}/{name}")
    network = monai.bundle.load(name, bundle_dir=home, workflow_type="inference", source="github")
    size = (1, 1, 16, 16, 16) if "volume" in name else (1, 2, 16, 16)
    print(name, tuple(network.eval()(torch.rand(size)).shape))
    workflow = monai.bundle.create_workflow(
        config_file=f"{home}/{name}/configs/inference.json", workflow_type="infer", bundle_root=f"{home}/{name}",
        dataset_dir=f"{images}/{name}", output_dir=f"{images}/masks/{name}", logging_file=False,
    )
    workflow.run()
"""


def python(code, *arguments, cwd):
    call = [sys.executable, "-W", "ignore", "-c", code, json.dumps(arguments)]
    return subprocess.run(call, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_two_bundles_load_and_predict_in_one_process(home, tmp_path):
    names = ["volume_mri_segmentation", "slice_mri_segmentation"]
    for name in names:
        make_images(Plan.load(home / name / "plan.json"), tmp_path / name, 1)
    ended = python(SCRIPT, str(home), names, str(tmp_path), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "(1, 2, 16, 16, 16)" in ended.stdout and "(1, 3, 16, 16)" in ended.stdout
    for name in names:
        assert (tmp_path / "masks" / name / "case_0.nii.gz").exists()


def test_a_bundle_with_other_code_is_refused_in_the_same_process(home, tmp_path):
    second = shutil.copytree(home / "slice_mri_segmentation", tmp_path / "slice_mri_segmentation")
    shutil.copytree(home / "volume_mri_segmentation", tmp_path / "volume_mri_segmentation")
    package = second / "mcsc_bundle" / "inferers.py"
    package.write_text(package.read_text() + "\n# a later version\n")
    config = second / "configs" / "inference.json"
    content = json.loads(config.read_text())
    digest = [sys.executable, "-c", "import mcsc_bundle.shipped as s; print(s.code_digest())"]
    content["trained"]["code"] = subprocess.check_output(digest, cwd=second, text=True).strip()
    config.write_text(json.dumps(content))
    names = ["volume_mri_segmentation", "slice_mri_segmentation"]
    for name in names:
        make_images(Plan.load(home / name / "plan.json"), tmp_path / "scans" / name, 1)
    alone = python(SCRIPT, str(tmp_path), names[1:], str(tmp_path / "scans"), cwd=tmp_path / "scans")
    assert alone.returncode == 0, alone.stderr
    both = python(SCRIPT, str(tmp_path), names, str(tmp_path / "scans"), cwd=tmp_path / "scans")
    assert both.returncode == 1 and "in a process of its own" in both.stderr, both.stderr
