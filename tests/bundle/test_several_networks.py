"""The folds of a cross-validation as one bundle: one file of weights, the average wherever network_def is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from nibabel import load

import bundle.pack
from bundle.facts import PackError, read_run
from bundle.pack import pack
from bundle.verify import make_images, verify
from mcsc_bundle.application import ReplaceWeights
from mcsc_bundle.ensemble import Ensemble, count_members, joined_weights, network_from_plan
from mcsc_bundle.networks import unet_from_plan
from mcsc_bundle.networks.pair import NetworkPair
from mcsc_bundle.networks.transfer import init_from
from mcsc_bundle.plan import Plan
from mcsc_bundle.trained_run import TrainedRun
from tests.bundle.runs import TERMS, make_run
from tests.bundle.test_verify import edit, failures
from tests.inference import infer
from tests.plans import make_plan


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three folds of other weights each, and the bundle that averages them."""
    folder = tmp_path_factory.mktemp("home")
    for seed in range(3):
        make_run(folder / "runs" / f"fold_{seed}", seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle.pack, "export_torchscript", lambda bundle: None)
        pack(folder / "runs", "tiny_mri_segmentation", TERMS, folder)
    return folder


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path / "models" / "model.pt", weights_only=True)


def test_the_one_file_gives_what_the_folds_give_together(home):
    packed, plan = home / "tiny_mri_segmentation", Plan.load(home / "tiny_mri_segmentation" / "plan.json")
    parser = ConfigParser()
    parser.read_config(str(packed / "configs" / "inference.json"))
    parser.config["bundle_root"] = str(packed)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(state(packed))
    folds = [unet_from_plan(plan).eval() for _ in range(3)]
    for index, fold in enumerate(folds):
        fold.load_state_dict(state(home / "runs" / f"fold_{index}"))
    x = torch.randn(2, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.stack([fold(x).softmax(1) for fold in folds]).mean(0)
        assert torch.allclose(network(x).exp(), expected, atol=1e-6)
        assert torch.equal(torch.jit.script(network)(x), network(x))  # MONAI Deploy, the zoo
        assert torch.equal(network(x), Ensemble(folds)(x))


def test_masks_are_those_of_the_folder_of_folds(home, tmp_path):
    make_images(Plan.load(home / "tiny_mri_segmentation" / "plan.json"), tmp_path / "scans", 1)
    infer(tmp_path / "scans", home / "runs", tmp_path / "ours")
    masks = tmp_path / "packed"
    parser = ConfigParser()
    parser.read_config(str(home / "tiny_mri_segmentation" / "configs" / "inference.json"))
    given = {"bundle_root": home / "tiny_mri_segmentation", "dataset_dir": tmp_path / "scans", "output_dir": masks}
    parser.config |= {name: str(path) for name, path in given.items()} | {"device": "cpu"}
    parser.get_parsed_content("run#1")  # run#0 looks at the command line
    ours, packed = (np.asarray(load(folder / "case_0.nii.gz").dataobj) for folder in (tmp_path / "ours", masks))
    assert np.array_equal(ours, packed)


def test_it_is_verified_and_says_what_it_is(home):
    packed = home / "tiny_mri_segmentation"
    points = {point.name: point for point in verify(packed, run=False).points}
    assert not [point for point in points.values() if point.passed is False]
    assert "3 networks averaged" in points["metadata is true"].detail
    metadata = json.loads((packed / "configs" / "metadata.json").read_text())
    assert "log-probabilities, averaged over 3 networks" in metadata["pred_classes"]
    card = (packed / "docs" / "README.md").read_text()
    assert "3 U-Nets whose probabilities are averaged" in card and "cross-validation" in card


def test_another_number_of_networks_than_the_config_says_is_refused(home, tmp_path):
    changed = shutil.copytree(home / "tiny_mri_segmentation", tmp_path / "tiny_mri_segmentation")
    edit(
        changed / "configs" / "inference.json",
        lambda config: config["network_def"].update(members="$1 if @run_dir else 2"),
    )
    assert "expected 2 network(s)" in failures(changed)["metadata is true"]


def test_joining_and_counting():
    plan = make_plan("2d")
    states = [unet_from_plan(plan).state_dict() for _ in range(2)]
    assert count_members(joined_weights(states)) == 2 and count_members(joined_weights(states[:1])) == 1
    network_from_plan(plan, 2).load_state_dict(joined_weights(states))
    assert joined_weights(states[:1]) == states[0]


def test_a_training_starts_from_the_first_of_them(home):
    plan = Plan.load(home / "tiny_mri_segmentation" / "plan.json")
    pair = NetworkPair.from_plan(plan)
    init_from({"cnn": pair.cnn}, home / "tiny_mri_segmentation")
    first = state(home / "runs" / "fold_0")
    assert all(torch.equal(value, first[name]) for name, value in pair.cnn.state_dict().items() if value.ndim > 1)


def test_folds_of_different_plans_are_refused(tmp_path):
    make_run(tmp_path / "fold_0")
    make_run(tmp_path / "fold_1", spacing_mm=(2.0, 1.0, 1.0))
    with pytest.raises(PackError, match="differ in spacing_mm"):
        read_run(tmp_path)


def test_an_application_cannot_replace_several_networks_by_one(home):
    with pytest.raises(SystemExit, match="expected a bundle of one network"):
        ReplaceWeights(str(home / "tiny_mri_segmentation"), "models")


def test_the_checksum_is_of_the_one_file(home):
    assert TrainedRun(home / "tiny_mri_segmentation").weights.name == "model.pt"
