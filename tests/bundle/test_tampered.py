"""Bundles from somebody else, used by ``monai.bundle run`` alone: what is not in order is refused before it does anything."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from bundle.pack import pack
from bundle.torchscript import run_monai
from bundle.verify import make_dataset, verify
from mcsc_bundle.plan import Plan
from tests.bundle.runs import TERMS, make_run
from tests.mcsc_bundle.test_tensors import Writes

SHORT = {"epoch_length": 1, "max_epochs": 1, "workers": 1, "num_labeled": 2, "num_test": 1}
ROADS = {  # name: config, what is given beside data and output
    "inference": ("inference", {}),
    "evaluation": ("evaluate", {}),
    "training": ("train", SHORT),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    run = make_run(folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bundle.pack.export_torchscript", lambda bundle: None)
        pack(run, "tiny_mri_segmentation", TERMS, folder)
    make_dataset(Plan.load(run / "plan.json"), folder / "data")
    return folder


def exchanged(bundle, marker):
    path = bundle / "models" / "model.pt"
    torch.save({name: value + 1 for name, value in torch.load(path, weights_only=True).items()}, path)


def code(bundle, marker):
    torch.save({"a": Writes(marker)}, bundle / "models" / "model.pt")


def lie(bundle, marker):
    path = bundle / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    content["network_data_format"]["inputs"]["image"].update(num_channels=2, channel_def={"0": "T1", "1": "T2"})
    path.write_text(json.dumps(content))


TAMPERED = {
    exchanged: "expected sha256",
    code: "expected sha256",
    lie: "expected input channels 1, as in plan.json, received 2",
}


@pytest.mark.slow
@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
def test_it_is_refused_with_the_reason(home, tmp_path, tamper, road):
    bundle, marker, output = tmp_path / "tiny_mri_segmentation", tmp_path / "marker", tmp_path / "output"
    shutil.copytree(home / bundle.name, bundle)
    tamper(bundle, marker)
    config, options = ROADS[road]
    ended = run_monai(
        bundle, "run", path=False, config_file=f"configs/{config}.json", dataset_dir=home / "data", output_dir=output,
        device="cpu", **options,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr and "error: " in ended.stderr and TAMPERED[tamper] in ended.stderr
    assert not marker.exists()
    assert not list(output.rglob("*.nii.gz")) and not list(output.rglob("*.pt"))


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
def test_verify_names_it_without_running_anything(home, tmp_path, tamper):
    bundle, marker = tmp_path / "tiny_mri_segmentation", tmp_path / "marker"
    shutil.copytree(home / bundle.name, bundle)
    tamper(bundle, marker)
    checklist = verify(bundle)
    point = "metadata is true" if tamper is lie else "checksums"
    assert point in [point.name for point in checklist.failed]
    assert [point.passed for point in checklist.points if point.name == "runs elsewhere"] == [None]
    assert not marker.exists()
