"""Averaged runs: the mean of probabilities, one run as itself, other plans refused, and largest components on the way out."""

import json
import math
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from scipy.ndimage import label
from torch import nn

from mcsc_bundle.ensemble import Ensemble, EnsembleError, run_folders
from mcsc_bundle.networks import NetworkPair
from mcsc_bundle.postprocessing import Postprocessing, Step
from mcsc_bundle.trained_run import TrainedRun
from tests.mcsc_bundle.images import make_affine, save
from tests.plans import make_plan

CONFIG = Path(__file__).parents[2] / "configs" / "inference.json"
PLAN = make_plan("anisotropic", inference_overlap=0.0)


class Constant(nn.Module):
    """The same probabilities everywhere; its logits are shifted, which must not matter."""

    def __init__(self, *probabilities, shift=0.0):
        super().__init__()
        self.logits = torch.tensor(probabilities).log()[None, :, None, None] + shift

    def forward(self, x):
        return self.logits.expand(len(x), -1, *x.shape[2:])


def make_run(folder, seed, plan=PLAN):
    torch.manual_seed(seed)
    pair = NetworkPair.from_plan(plan)
    (folder / "models").mkdir(parents=True)
    plan.save(folder / "plan.json")
    torch.save(pair.cnn.state_dict(), folder / "models" / "model.pt")
    branches = {"cnn": pair.cnn.state_dict(), "transformer": pair.transformer.state_dict()}
    torch.save(branches, folder / "models" / "pair.pt")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cross validation")
    for fold in range(2):
        make_run(folder / f"fold_{fold}", fold)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    image = np.random.default_rng(0).random((4, 16, 16), np.float32)
    save(image, folder / "a.nii.gz", make_affine("LPS", (5, 1, 1)))
    return folder


def infer(images, run_dir, output_dir, **options):
    folders = {"dataset_dir": str(images), "output_dir": str(output_dir), "device": "cpu"}
    run_dir = list(map(str, run_dir)) if isinstance(run_dir, list) else str(run_dir)
    workflow = ConfigWorkflow(
        str(CONFIG), workflow_type="infer", logging_file=False, run_dir=run_dir, **folders, **options
    )
    workflow.initialize()
    workflow.run()


def mask_of(images, run_dir, output_dir, **options):
    infer(images, run_dir, output_dir, **options)
    return (output_dir / "a.nii.gz").read_bytes(), np.asarray(nib.load(output_dir / "a.nii.gz").dataobj)


def shares_of(output_dir):
    return np.asarray(nib.load(output_dir / "a_probabilities.nii.gz").dataobj)


def test_probabilities_are_averaged_whatever_the_scale_of_the_logits():
    both = Ensemble([Constant(0.9, 0.1), Constant(0.2, 0.8, shift=50.0)])(torch.zeros(1, 1, 2, 2))
    assert both.exp()[0, :, 0, 0].tolist() == pytest.approx([0.55, 0.45])
    assert both.exp().sum(1).allclose(torch.ones(1, 2, 2))


def test_twins_give_what_one_gives():
    one = Constant(0.3, 0.7)
    x = torch.zeros(2, 1, 3, 3)
    assert Ensemble([one, one, one])(x).allclose(Ensemble([one])(x)) and Ensemble([one])(x)[0, 0, 0, 0] == math.log(0.3)


def test_folders_of_a_run_of_folds_and_of_a_list(runs):
    folds = [runs / "fold_0", runs / "fold_1"]
    assert run_folders(runs) == folds and run_folders(str(folds[1])) == folds[1:] and run_folders(folds) == folds
    with pytest.raises(EnsembleError, match="empty list"):
        run_folders([])


@pytest.mark.parametrize("branch", ["cnn", "both"])
def test_an_ensemble_of_one_gives_the_bytes_of_the_run(tmp_path, images, runs, branch):
    alone, _ = mask_of(images, runs / "fold_1", tmp_path / "alone", branch=branch)
    listed, _ = mask_of(images, [str(runs / "fold_1")], tmp_path / "listed", branch=branch)
    assert alone == listed


def test_the_mean_of_two_runs(tmp_path, images, runs):
    """One window covers the image, which is on the plan's grid: probabilities can be averaged by hand."""
    for fold in range(2):
        mask_of(images, runs / f"fold_{fold}", tmp_path / str(fold), save_probabilities=True, mirror=False)
    _, mask = mask_of(images, runs, tmp_path / "both", save_probabilities=True, mirror=False)
    mean = (shares_of(tmp_path / "0") + shares_of(tmp_path / "1")) / 2
    assert np.abs(shares_of(tmp_path / "both") - mean).max() < 1e-3
    assert np.abs(shares_of(tmp_path / "both") - shares_of(tmp_path / "0")).max() > 1e-3
    assert (mean.argmax(-1) == mask).mean() > 0.99


def test_masks_are_made_again_with_other_runs(tmp_path, images, runs):
    mask_of(images, runs / "fold_0", tmp_path)
    first = (tmp_path / "a.nii.gz").stat().st_mtime_ns
    mask_of(images, [str(runs / "fold_0")], tmp_path)
    assert (tmp_path / "a.nii.gz").stat().st_mtime_ns == first
    mask_of(images, runs, tmp_path)
    assert (tmp_path / "a.nii.gz").stat().st_mtime_ns > first


def test_runs_of_other_plans_are_refused(tmp_path, runs):
    other = make_run(tmp_path / "other", 0, PLAN.replace(spacing_mm=(4.0, 1.0, 1.0)))
    same = make_run(
        tmp_path / "same", 0, PLAN.replace(why={"patch_size": "another reason"}, memory_gb=4.0, batch_labeled=3)
    )
    with pytest.raises(SystemExit, match=r"expected runs of one plan, .* which differ in spacing_mm"):
        TrainedRun([runs / "fold_0", other])
    assert len(TrainedRun([runs / "fold_0", same]).others) == 1


def test_weights_of_a_member_that_do_not_fit_end_with_a_message(tmp_path, images, runs):
    shutil.copytree(runs, tmp_path / "runs")
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "runs" / "fold_1" / "models" / "model.pt")
    with pytest.raises(SystemExit, match=r"fit plan\.json, received others in .*fold_1.*put it back"):
        infer(images, tmp_path / "runs", tmp_path / "masks")


def test_postprocessing_beside_the_runs_is_applied_on_the_original_grid(tmp_path, images, runs):
    shutil.copytree(runs, tmp_path / "runs")
    raw, before = mask_of(images, tmp_path / "runs", tmp_path / "raw")
    parts = {name: label(before == value, np.ones((3, 3, 3))) for name, value in (("left", 1), ("right", 2))}
    name = max(parts, key=lambda key: parts[key][1])
    assert parts[name][1] > 1  # else the test shows nothing
    steps = [
        Step((key,), key == name, 0.5, 0.6, {}, {}, "only the one with more parts is adopted")
        for key in ("left", "right")
    ]
    Postprocessing(2, tuple(steps)).save(tmp_path / "runs" / "postprocessing.json")
    off, _ = mask_of(images, tmp_path / "runs", tmp_path / "off", postprocess=False)
    _, cleaned = mask_of(images, tmp_path / "runs", tmp_path / "on")
    removed = (parts[name][0] > 0) & (parts[name][0] != np.bincount(parts[name][0].ravel())[1:].argmax() + 1)
    assert np.array_equal(cleaned, np.where(removed, 0, before)) and off == raw


def test_the_plan_says_which_components_are_kept_where_no_cross_validation_decided(tmp_path):
    plan = PLAN.replace(largest_component=(("left",),))
    fold, alone = make_run(tmp_path / "fold_0", 0, plan), make_run(tmp_path / "alone", 0, plan)
    for run_dir in (fold, alone, [fold, alone]):
        assert TrainedRun(run_dir).postprocessing() == [("left",)]
        assert TrainedRun(run_dir).postprocessing(False) == []
    step = Step(("right",), True, 0.5, 0.6, {}, {}, "measured")
    Postprocessing(2, (step,)).save(tmp_path / "postprocessing.json")
    assert TrainedRun(fold).postprocessing() == [("right",)]
    assert TrainedRun(alone).postprocessing() == [("left",)]
    assert TrainedRun(fold).scored_postprocessing() == [] and TrainedRun(fold).scored_postprocessing(True) == [
        ("right",)
    ]
    assert (
        TrainedRun(alone).scored_postprocessing() == [("left",)]
        and TrainedRun(alone).scored_postprocessing(False) == []
    )
    linked = tmp_path / "runs" / "fold_0"
    linked.parent.mkdir()
    linked.symlink_to(alone)
    Postprocessing(2, (step,)).save(linked.parent / "postprocessing.json")
    assert TrainedRun(linked).postprocessing() == [("right",)]
    Postprocessing(2, ()).save(alone / "postprocessing.json")  # nothing was adopted
    assert TrainedRun(alone).postprocessing() == []


def test_a_part_of_a_cross_validation_is_averaged_only_if_its_runs_are_named(runs, tmp_path):
    runs = Path(shutil.copytree(runs, tmp_path / "runs"))
    shutil.copytree(runs / "fold_0", runs / "fold_0_old")  # a copy that somebody kept
    (runs / "splits.json").write_text(json.dumps({"folds": [{}, {}]}))
    folds = [runs / "fold_0", runs / "fold_1"]
    assert run_folders(runs, complete=True) == folds
    (runs / "fold_1" / "cross_validation.json").write_text(json.dumps({"done": False}))
    with pytest.raises(EnsembleError, match=r"all 2 folds .*not \(1\).*fold_0'"):
        run_folders(runs, complete=True)
    with pytest.raises(SystemExit, match="all 2 folds"):
        TrainedRun(runs)
    (runs / "fold_1" / "cross_validation.json").write_text("{")
    with pytest.raises(
        SystemExit, match=r"error: .*cross_validation\.json is not valid JSON.* Or delete it and repeat"
    ):
        TrainedRun(runs)
    assert run_folders(folds, complete=True) == folds
    shutil.rmtree(runs / "fold_1")
    with pytest.raises(EnsembleError, match="Repeat the cross-validation"):
        run_folders(runs, complete=True)
