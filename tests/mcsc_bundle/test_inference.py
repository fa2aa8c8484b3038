"""New folders are segmented as the command does it: a case that fails costs no other, nothing is done twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from mcsc_bundle.predictions import Predictions
from tests.inference import CONFIG, infer, summary, trained_run
from tests.mcsc_bundle.images import make_affine, save
from tests.plans import make_plan


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("a run"))


@pytest.fixture
def images(tmp_path):
    """Two good images, one oblique, and one with NaN."""
    folder, rng = tmp_path / "new images", np.random.default_rng(0)
    for name, affine in (("a", make_affine("LPS", (5, 1, 1))), ("c", make_affine("PSR", (1.2, 0.9, 4), 15))):
        save(rng.random((6, 17, 16), np.float32), folder / f"{name}.nii.gz", affine)
    save(np.full((4, 4, 4), np.nan, np.float32), folder / "b.nii.gz")
    return folder


def test_a_bad_case_is_set_aside_the_others_done_and_the_exit_code_is_1(tmp_path, images, run_dir):
    with pytest.raises(SystemExit) as end:
        infer(images, run_dir, tmp_path / "masks")
    assert end.value.code == 1
    rows = summary(tmp_path / "masks")
    assert "NaN" in rows["b"]["error"] and not rows["a"]["error"] and not rows["c"]["error"]
    for name in ("a", "c"):
        image, mask = nib.load(images / f"{name}.nii.gz"), nib.load(tmp_path / "masks" / f"{name}.nii.gz")
        assert mask.shape == image.shape and np.array_equal(mask.affine, image.affine)
        voxels = (np.asarray(mask.dataobj) == 1).sum()
        assert int(rows[name]["left_voxels"]) == voxels
        volume = voxels * np.prod(image.header.get_zooms()) / 1000
        assert float(rows[name]["left_ml"]) == pytest.approx(volume, abs=1e-3)
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["a.nii.gz", "c.nii.gz", "summary.csv"]


def test_what_is_done_is_skipped_until_settings_or_image_change(tmp_path, images, run_dir):
    (images / "b.nii.gz").unlink()
    masks = tmp_path / "masks"

    def written():
        infer(images, run_dir, masks, **settings)
        return {name: (masks / f"{name}.nii.gz").stat().st_mtime_ns for name in "ac"}

    settings: dict = {}
    first = written()
    assert written() == first
    save(np.random.default_rng(1).random((6, 17, 16), np.float32), images / "a.nii.gz", make_affine("LPS", (5, 1, 1)))
    os.utime(images / "a.nii.gz", (0, 0))  # another image, and an older one
    second = written()
    assert second["a"] > first["a"] and second["c"] == first["c"]
    settings = {"mirror": False}
    third = written()
    assert third["a"] > second["a"] and third["c"] > second["c"]
    (masks / "c.nii.gz").unlink()
    fourth = written()
    assert fourth["a"] == third["a"] and fourth["c"] > third["c"]
    state = torch.load(run_dir / "models" / "model.pt", weights_only=True)
    torch.save({name: value + 0.01 for name, value in state.items()}, run_dir / "models" / "model.pt")
    fifth = written()
    torch.save(state, run_dir / "models" / "model.pt")
    assert fifth["a"] > fourth["a"] and fifth["c"] > fourth["c"]


def test_wrong_files_of_one_case_cost_no_other(tmp_path, images, run_dir):
    """Two files of one case, a link to nothing, an odd ending: the good ones are done."""
    shutil.copy(images / "a.nii.gz", images / "a.mha")
    (images / "d.nii.gz").symlink_to("gone.nii.gz")
    (images / "c.nii.gz").rename(images / "c.Nii.gz")
    with pytest.raises(SystemExit):
        infer(images, run_dir, tmp_path / "masks")
    rows = summary(tmp_path / "masks")
    assert "one file for case a" in rows["a"]["error"] and "gone.nii.gz" in rows["d"]["error"]
    assert not rows["c"]["error"] and (tmp_path / "masks" / "c.nii.gz").exists()


@pytest.mark.parametrize("branch", ["transformer", "both"])
def test_other_branches_and_probabilities(tmp_path, images, run_dir, branch):
    (images / "b.nii.gz").unlink()
    infer(images, run_dir, tmp_path / "masks", branch=branch, save_probabilities=True)
    shares = nib.load(tmp_path / "masks" / "a_probabilities.nii.gz")
    assert shares.shape == (6, 17, 16, 3) and shares.get_data_dtype() == np.float32
    mask = np.asarray(nib.load(tmp_path / "masks" / "a.nii.gz").dataobj)
    assert (np.asarray(shares.dataobj).argmax(-1) == mask).mean() > 0.999


def test_a_case_that_fails_late_is_set_aside(tmp_path, images, run_dir, monkeypatch):
    (images / "b.nii.gz").unlink()

    def exhausted(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("mcsc_bundle.inference.SaveImageMaskd.__call__", exhausted)
    with pytest.raises(SystemExit):
        infer(images, run_dir, tmp_path / "masks")
    assert all("out of memory" in row["error"] for row in summary(tmp_path / "masks").values())


def test_ctrl_c_keeps_the_masks_that_are_done(tmp_path, images, run_dir, monkeypatch, capsys):
    (images / "b.nii.gz").unlink()
    add = Predictions.add

    def add_and_press_ctrl_c(self, *args):
        add(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictions, "add", add_and_press_ctrl_c)
    with pytest.raises(SystemExit) as end:
        infer(images, run_dir, tmp_path / "masks")
    assert end.value.code == 130 and "Stopped with 1 mask written" in capsys.readouterr().err
    monkeypatch.setattr(Predictions, "add", add)
    done = (tmp_path / "masks" / "a.nii.gz").stat().st_mtime_ns
    infer(images, run_dir, tmp_path / "masks")
    assert (tmp_path / "masks" / "a.nii.gz").stat().st_mtime_ns == done and (tmp_path / "masks" / "c.nii.gz").exists()


def test_weights_of_another_plan_end_with_a_message(tmp_path, images, run_dir):
    other = tmp_path / "other"
    (other / "models").mkdir(parents=True)
    make_plan("3d").save(other / "plan.json")
    (other / "models" / "model.pt").write_bytes((run_dir / "models" / "model.pt").read_bytes())
    with pytest.raises(SystemExit, match=r"weights that fit plan\.json, received others \(.*put it back"):
        infer(images, other, tmp_path / "masks")


def test_monai_finds_its_properties(images, run_dir):
    workflow = ConfigWorkflow(
        config_file=str(CONFIG),
        workflow_type="infer",
        logging_file=False,
        dataset_dir=str(images),
        run_dir=str(run_dir),
        device="cpu",
    )
    workflow.initialize()
    assert not workflow.check_properties()


def test_it_runs_from_elsewhere_and_imports_inference_alone(tmp_path, images, run_dir):
    (images / "b.nii.gz").unlink()
    arguments = {"config_file": str(CONFIG), "dataset_dir": str(images), "output_dir": "masks", "run_dir": str(run_dir)}
    code = (
        "import sys, json; from monai.bundle import run\n"
        f"run(device='cpu', logging_file=False, **json.loads({json.dumps(json.dumps(arguments))}))\n"
        "ours = {'.'.join(name.split('.')[:2]) for name in sys.modules}\n"
        "assert 'preprocessing' not in sys.modules, 'preprocessing'\n"
        "assert not ours & {'mcsc_bundle.methods', 'mcsc_bundle.losses', 'mcsc_bundle.trainer'}, ours\n"
    )
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert (tmp_path / "masks" / "a.nii.gz").exists()


def rank_main(rank, images, run_dir, output_dir, meeting):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    try:
        infer(images, run_dir, output_dir)
    except SystemExit as end:
        assert end.code == 1
        os._exit(0)  # gloo can hang when it is torn down
    os._exit(5)  # the bad case should have given exit code 1 on every rank


def test_two_ranks_share_the_cases_and_one_summary_tells_of_all(tmp_path, images, run_dir):
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    leftover = "case,error,settings\na,left by a rank that was stopped,other\n"
    shared.mkdir()
    (shared / ".summary.7.csv").write_text(leftover)
    torch.multiprocessing.spawn(
        rank_main, (str(images), str(run_dir), str(shared), str(tmp_path / "meeting")), nprocs=2
    )
    with pytest.raises(SystemExit):
        infer(images, run_dir, alone)
    ours, theirs = summary(shared), summary(alone)
    assert set(ours) == {"a", "b", "c"} and "NaN" in ours["b"]["error"]
    assert [ours[name]["left_ml"] for name in "ac"] == [theirs[name]["left_ml"] for name in "ac"]
    assert sorted(path.name for path in shared.iterdir()) == ["a.nii.gz", "c.nii.gz", "summary.csv"]


def test_masks_never_lie_among_the_images(images, run_dir):
    """Neither in the place of one nor beside it, as with names of nnU-Net's: they would be images of the next command."""
    (images / "a.nii.gz").rename(images / "a_0000.nii.gz")
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    with pytest.raises(SystemExit, match="would take the masks for images"):
        infer(images, run_dir, images)
    assert {path.name: path.read_bytes() for path in images.iterdir()} == before


def test_masks_never_take_the_place_of_what_is_not_a_mask_of_ours(tmp_path, images, run_dir):
    """Labels bear the names of the masks, and masks written over them could not be told from them."""
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a.nii.gz").write_bytes(b"days of work")
    with pytest.raises(SystemExit, match=r"it has no summary\.csv, and the mask of a would replace .*a\.nii\.gz"):
        infer(images, run_dir, labels)
    assert [(path.name, path.read_bytes()) for path in labels.iterdir()] == [("a.nii.gz", b"days of work")]


def test_a_mask_whose_case_was_not_counted_before_a_kill_is_made_again(tmp_path, images, run_dir, monkeypatch):
    def killed(*args):
        raise SystemExit("killed")

    (images / "b.nii.gz").unlink()
    with monkeypatch.context() as patched, pytest.raises(SystemExit, match="killed"):
        patched.setattr(Predictions, "add", killed)
        infer(images, run_dir, tmp_path / "masks")
    assert (tmp_path / "masks" / "a.nii.gz").exists() and not summary(tmp_path / "masks")
    infer(images, run_dir, tmp_path / "masks")
    assert sorted(summary(tmp_path / "masks")) == ["a", "c"]
