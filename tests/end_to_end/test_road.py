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
from scipy.ndimage import label as components

from mcsc_bundle.plan import Plan, PlanError
from mcsc_bundle.score_record import ScoreRecord, read_record
from tests.end_to_end.road import ROOT, SHORT, command, small_dataset, train, workflow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("data") / "hearts")


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(dataset, folder)
    return folder


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


def test_evaluate_scores_the_held_out_cases(dataset, tmp_path):
    options = {"num_labeled": 1, "num_test": 1}
    train(dataset, tmp_path, max_epochs=1, **options)
    workflow(
        ["train.yaml", "evaluate.yaml"], dataset_dir=str(dataset), output_dir=str(tmp_path), **{**SHORT, **options}
    ).run()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert {row["class_name"] for row in rows} == {"RV", "MYO", "LV"} and (tmp_path / "report.html").exists()
    assert read_record(tmp_path) == ScoreRecord.of_inference(Plan.load(tmp_path / "plan.json"))
    raw = {path: np.asarray(nib.load(path).dataobj) for path in (tmp_path / "masks").glob("*.nii.gz")}
    edited = Plan.load(tmp_path / "plan.json").replace(
        largest_component=(("RV", "MYO", "LV"),)
    )  # two patients decide nothing
    edited.save(tmp_path / "plan.json")
    workflow(
        ["train.yaml", "evaluate.yaml"], dataset_dir=str(dataset), output_dir=str(tmp_path), **{**SHORT, **options}
    ).run()
    for path, before in raw.items():
        cleaned = np.asarray(nib.load(path).dataobj)
        assert components(before > 0, np.ones((3, 3, 3)))[1] > 1 == components(cleaned > 0, np.ones((3, 3, 3)))[1]
        assert np.array_equal(cleaned[cleaned > 0], before[cleaned > 0])


@pytest.mark.parametrize(
    ("options", "message"), [({}, "were kept out of the training, received none"), ({"fold": 0}, "1 of 1 that it was")]
)
def test_evaluate_refuses_what_is_no_test(dataset, run, options, message):
    """The run trained on all of its three labels, as there are too few patients to validate."""
    with pytest.raises(SystemExit, match=message):
        workflow(
            ["train.yaml", "evaluate.yaml"], dataset_dir=str(dataset), output_dir=str(run), **{**SHORT, **options}
        ).run()


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


def test_other_options_make_another_plan_until_a_training_began(dataset, tmp_path):
    from preprocessing.prepare import prepare

    def patch(**options):
        return prepare(str(dataset), str(tmp_path), workers=1, device="cpu", **options).plan.patch_size

    assert len(patch(configuration="3d_fullres")) == 3
    assert len(patch(configuration="2d")) == 2
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "checkpoint.pt").write_bytes(b"")
    assert patch(configuration="2d", memory_gb=1) == patch(configuration="2d")  # kept as it is, with a warning
    with pytest.raises(PlanError, match="expected --configuration to be that of the plan that the training began on"):
        patch(configuration="3d_fullres")


def test_a_failure_that_passes_costs_no_case(dataset, tmp_path, monkeypatch):
    """A case whose preprocessing failed once is tried again by the next call."""
    from mcsc_bundle.store import CaseStore
    from preprocessing.prepare import prepare

    whole, write = CaseStore.write, CaseStore.write

    def little_memory(self, case, *args, **kwargs):
        if case.endswith("1"):
            raise MemoryError
        return write(self, case, *args, **kwargs)

    monkeypatch.setattr(CaseStore, "write", little_memory)
    first = prepare(str(dataset), str(tmp_path), workers=1, device="cpu")
    monkeypatch.setattr(CaseStore, "write", whole)
    second = prepare(str(dataset), str(tmp_path), workers=1, device="cpu")
    assert len(first.train) < len(second.train) == 5
    assert (tmp_path / "rejected.json").read_text().strip() == "{}"


def test_a_copy_of_the_data_set_goes_on_with_the_training_and_other_data_do_not(dataset, tmp_path):
    """Files that were copied, or unpacked again, have other times; so may the folder another name."""
    from preprocessing.prepare import DatasetError, prepare

    run, copy = tmp_path / "run", tmp_path / "a copy"
    first = prepare(str(dataset), str(run), workers=1, device="cpu")
    (run / "models").mkdir()
    (run / "models" / "checkpoint.pt").write_bytes(b"")
    shutil.copytree(dataset, copy, copy_function=shutil.copyfile)
    measured = json.loads((run / "fingerprint.json").read_text())
    for case in measured["cases"]:  # as an older version left it
        del case["class_largest"], case["foreground_largest"], case["patient"]
    (run / "fingerprint.json").write_text(json.dumps(measured))
    before = (run / "plan.json").read_bytes()
    again = prepare(str(copy), str(run), workers=1, device="cpu")
    assert again.training_key == first.training_key and (run / "plan.json").read_bytes() == before
    (label,) = (item["label"] for item in again.train if item["case"] == first.train[0]["case"])
    mask = nib.load(label)
    voxels = np.array(mask.dataobj)
    voxels[tuple(np.argwhere(voxels > 0)[0])] = 0
    nib.save(nib.Nifti1Image(voxels, mask.affine, mask.header), label)
    with pytest.raises(DatasetError, match="holds a training on other data"):
        prepare(str(copy), str(run), workers=1, device="cpu")


def test_a_full_disk_ends_the_preparation_and_room_lets_it_go_on(dataset, tmp_path, monkeypatch):
    """Trained on the cases that fit, the run could not go on once there is room for all: that would be another training."""
    from mcsc_bundle.files import DiskError
    from mcsc_bundle.store import CaseStore
    from preprocessing.prepare import prepare, prepare_or_exit

    write = CaseStore.write

    def full_disk(self, case, *args, **kwargs):
        if case.endswith("1"):
            raise DiskError(f"{case}.image.b2nd: cannot be written")
        return write(self, case, *args, **kwargs)

    with (
        monkeypatch.context() as patched,
        pytest.raises(SystemExit, match=r"error: .*\.image\.b2nd: cannot be written"),
    ):
        patched.setattr(CaseStore, "write", full_disk)
        prepare_or_exit(str(dataset), str(tmp_path), workers=1, device="cpu")
    assert len(prepare(str(dataset), str(tmp_path), workers=1, device="cpu").train) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "papper"}, "preset: expected plan, resenc_m, resenc_l, resenc_xl or paper, received 'papper'"),
        ({"memory_gb": "8GB"}, "memory_gb: expected a number"),
        ({"split_seed": None}, "split_seed: expected a whole number, received None"),
        ({"fold": 9}, "expected fold to be one of auto, all, 0, 1, 2,"),
        ({"plan_from": "nowhere"}, "plan_from: expected a run folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(dataset, tmp_path, options, message):
    from preprocessing.prepare import USER_ERRORS, prepare

    with pytest.raises(USER_ERRORS, match=message):
        prepare(str(dataset), str(tmp_path / "run"), **options)
    assert not (tmp_path / "run").exists()


def test_test_cases_are_neither_stored_nor_watched(dataset, tmp_path):
    from preprocessing.prepare import prepare

    prepared = prepare(str(dataset), str(tmp_path), num_labeled=1, num_test=1, workers=1)
    (test,) = (item["case"] for item in prepared.test)
    assert not prepared.val and test not in prepared.store and test not in {item["case"] for item in prepared.train}
    watched = prepare(str(dataset), str(tmp_path), num_labeled="all", num_test=1, workers=1, fold=0, configuration="2d")
    assert {item["case"] for item in watched.val} and test not in {
        item["case"] for item in (*watched.val, *watched.train)
    }


def test_who_trains_on_phantoms_is_told(dataset, tmp_path, caplog):
    from preprocessing.prepare import prepare

    prepare(str(dataset), str(tmp_path), workers=1, demo_dir=str(dataset))
    assert any("PHANTOMS" in message and "--dataset_dir DATA" in message for message in caplog.messages)
    caplog.clear()
    prepare(str(dataset), str(tmp_path), workers=1, demo_dir=str(tmp_path / "demo"))
    assert not any("PHANTOMS" in message for message in caplog.messages) and not (tmp_path / "demo").exists()


def test_a_listed_image_that_is_not_there_is_set_aside(dataset, tmp_path):
    from preprocessing.prepare import prepare

    (tmp_path / "data").mkdir()
    content = json.loads((dataset / "dataset.json").read_text())
    for entry in content["training"]:
        entry.update({key: str(dataset / path) for key, path in entry.items()})
    content["training"].append({"image": "imagesTr/gone.nii.gz"})
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(content))
    prepare(str(tmp_path / "data"), str(tmp_path / "run"), workers=1)
    (rejected,) = json.loads((tmp_path / "run" / "rejected.json").read_text()).items()
    assert rejected[0] == "gone" and "gone.nii.gz" in rejected[1]


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
