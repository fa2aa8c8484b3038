"""From a folder of scans to masks for new ones, by the product's own configs."""

import csv
import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from mcsc_bundle.plan import Plan
from tests.end_to_end.road import ROOT, SHORT, command, train, workflow


def weights(path):
    return torch.load(path, weights_only=True)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_run_folder_holds_what_was_promised(run):
    for name in (
        "fingerprint.json",
        "rejected.json",
        "splits.json",
        "plan.json",
        "log.csv",
        "models/checkpoint.pt",
        "models/model.pt",
    ):
        assert (run / name).exists(), name


def test_training_is_reproducible(dataset, run, tmp_path):
    assert same(weights(run / "models" / "model.pt"), weights(train(dataset, tmp_path)))


def test_hidden_labels_are_never_read(dataset, tmp_path):
    """Labels of cases whose label is hidden are overwritten by garbage bytes: not a bit of the weights changes."""
    spoiled = tmp_path / "spoiled"
    shutil.copytree(dataset, spoiled)
    options = {"num_labeled": 1, "num_test": 1, "cache_dir": str(tmp_path / "cache")}
    clean = train(dataset, tmp_path / "clean", **options)
    split = json.loads((tmp_path / "clean" / "splits.json").read_text())
    hidden = [name for name in split["unlabeled"] if (spoiled / "labelsTr" / f"{name}.nii.gz").exists()]
    assert hidden
    for name in hidden:
        (spoiled / "labelsTr" / f"{name}.nii.gz").write_bytes(b"no image at all")
    other = train(spoiled, tmp_path / "other", **{**options, "cache_dir": str(tmp_path / "cache2")})
    assert same(weights(clean), weights(other))


@pytest.mark.parametrize("overlay", sorted(path.name for path in (ROOT / "configs").glob("method_*.yaml")))
def test_every_overlay_trains(dataset, run, tmp_path, overlay):
    assert train(dataset, tmp_path, overlay, max_epochs=1, cache_dir=str(run / "preprocessed")).exists()


def test_inference_from_elsewhere_with_a_space_in_the_path_keeps_the_grid(dataset, run, tmp_path):
    home = tmp_path / "some where"
    new = home / "new scans"
    shutil.copytree(dataset / "imagesTs", new)
    (new / "broken.nii.gz").write_bytes(b"no image at all")
    result = command(
        "--config_file",
        str(ROOT / "configs" / "inference.json"),
        cwd=home,
        dataset_dir=new,
        output_dir=home / "masks",
        run_dir=run,
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stdout + result.stderr
    (image_file,) = new.glob("heart*.nii.gz")
    image, mask = nib.load(image_file), nib.load(home / "masks" / image_file.name)
    assert image.shape == mask.shape and np.array_equal(image.affine, mask.affine)
    assert int(image.header["qform_code"]) == int(mask.header["qform_code"])
    rows = {row["case"]: row for row in csv.DictReader((home / "masks" / "summary.csv").open())}
    assert "broken.nii.gz" in rows["broken"]["error"] and rows[image_file.name.split(".")[0]]["error"] == ""


def test_inference_imports_neither_preprocessing_nor_methods(run, dataset, tmp_path):
    script = (
        "import sys; from tests.end_to_end.road import workflow\n"
        "for name in [n for n in sys.modules if n.startswith(('preprocessing', 'mcsc_bundle'))]: del sys.modules[name]\n"
        f"folders = dict(dataset_dir={str(dataset / 'imagesTs')!r}, output_dir={str(tmp_path)!r}, run_dir={str(run)!r})\n"
        "w = workflow(['inference.json'], 'infer', **folders)\n"
        "w.run()\n"
        "training = ('preprocessing', *('mcsc_bundle.' + part for part in ('methods', 'trainer', 'losses')))\n"
        "print([n for n in sys.modules if n.startswith(training)])"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.stdout.splitlines()[-1:] == ["[]"], result.stdout + result.stderr


def test_a_plan_edited_after_the_training_is_refused_before_anything_is_preprocessed(dataset, run, tmp_path):
    edited = tmp_path / "run"
    shutil.copytree(run, edited, ignore=shutil.ignore_patterns("preprocessed"))
    plan = Plan.load(edited / "plan.json")
    spacing = (2 * (plan.spacing_mm[0] or 1.0), *plan.spacing_mm[1:])
    plan.replace(spacing_mm=spacing).save(edited / "plan.json")
    with pytest.raises(SystemExit, match=r"spacing_mm\[0\] = .* \(trained with"):
        train(dataset, edited, max_epochs=3)
    assert not (edited / "preprocessed").exists()
    plan.replace(batch_labeled=plan.batch_labeled + 1).save(edited / "plan.json")
    train(dataset, edited, max_epochs=3, cache_dir=str(run / "preprocessed"))
    assert len((edited / "log.csv").read_text().splitlines()) == 4


def test_validation_picks_the_best_and_keeps_the_last(dataset, tmp_path):
    train(dataset, tmp_path, fold=0, val_interval=1)
    assert (tmp_path / "models" / "model_best.pt").exists()
    assert len((tmp_path / "validation.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("configs", "kind"),
    [(["train.yaml"], "train"), (["train.yaml", "evaluate.yaml"], "train"), (["inference.json"], "infer")],
)
def test_bundle_properties(dataset, run, tmp_path, configs, kind):
    options = (
        {"run_dir": str(run), "output_dir": str(tmp_path)} if kind == "infer" else {"output_dir": str(run), **SHORT}
    )
    assert not workflow(configs, kind, dataset_dir=str(dataset), **options).check_properties()


def test_a_wrong_folder_ends_with_a_message(tmp_path):
    result = command(
        "training", config_file="configs/train.yaml", dataset_dir=tmp_path / "nowhere", output_dir=tmp_path / "run"
    )
    assert result.returncode == 1 and "nowhere" in result.stderr and "Traceback" not in result.stderr


def test_an_impossible_edit_of_the_plan_is_refused(dataset, run, tmp_path):
    edited = tmp_path / "run"
    shutil.copytree(run, edited, ignore=shutil.ignore_patterns("preprocessed"))
    text = (edited / "plan.json").read_text()
    (edited / "plan.json").write_text(text.replace('"patch_size": [\n  96,', '"patch_size": [\n  97,'))
    result = command("training", config_file="configs/train.yaml", dataset_dir=dataset, output_dir=edited)
    assert result.returncode == 1 and "Possible: 96 or 112" in result.stderr and "Traceback" not in result.stderr


def test_a_run_is_a_starting_point_for_another(dataset, run, tmp_path):
    """With a learning rate of 0 the CNN that is shipped is the one that was taken over."""
    options = {"init_from": str(run), "plan_from": str(run), "lr": 0.0, "max_epochs": 1}
    state = train(dataset, tmp_path / "fine_tuned", "method_supervised.yaml", **options)
    assert same(weights(run / "models" / "model.pt"), weights(state))


def test_the_baseline_reads_no_patch_that_it_would_not_learn_from(dataset, tmp_path):
    made = workflow(
        ["train.yaml", "method_supervised.yaml"],
        dataset_dir=str(dataset),
        output_dir=str(tmp_path),
        fold="all",
        **SHORT,
    )
    labelled, unlabelled = made.parser.get_parsed_content("train#dataset").streams
    assert (len(labelled), len(unlabelled)) == (3, 0)


def test_a_plan_at_low_resolution_trains_and_its_masks_are_at_full(tmp_path):
    """Boxes of 80 x 80 x 80 voxels and little memory: the plan sees them whole on a coarser grid."""
    data = tmp_path / "data"
    rng = np.random.default_rng(0)
    for index in range(4):
        image = rng.normal(size=(80, 80, 80)).astype(np.float32)
        label = np.zeros(image.shape, np.uint8)
        label[20:44, 20:44, 20 : 40 + index] = 1
        for folder, array in (("images", image + 3 * label), ("labels", label)):
            (data / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([1, 1, 1, 1])), data / folder / f"box_{index}.nii.gz")
    options = {"configuration": "3d_lowres", "memory_gb": 0.3, "max_epochs": 1, "epoch_length": 1, "fold": "all"}
    train(data, tmp_path / "run", **options)
    plan = Plan.load(tmp_path / "run" / "plan.json")
    assert plan.configuration == "3d_lowres" and min(plan.spacing_mm) > 1.25
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(data / "images" / "box_0.nii.gz", new)
    result = command(
        config_file="configs/inference.json", dataset_dir=new, output_dir=tmp_path / "masks", run_dir=tmp_path / "run"
    )
    assert result.returncode == 0, result.stderr
    assert nib.load(tmp_path / "masks" / "box_0.nii.gz").shape == (80, 80, 80)


def test_a_residual_encoder_walks_the_road(dataset, tmp_path):
    weights = train(dataset, tmp_path / "run", preset="resenc_m", max_epochs=1)
    plan = Plan.load(tmp_path / "run" / "plan.json")
    assert plan.cnn.preset == "resenc" and plan.cnn.blocks_per_stage[:3] == (1, 3, 4)
    assert any("shortcut" in name for name in torch.load(weights, weights_only=True))
    folders = {"dataset_dir": str(dataset / "imagesTs"), "output_dir": str(tmp_path / "masks")}
    workflow(["inference.json"], "infer", run_dir=str(tmp_path / "run"), **folders).run()
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 1
