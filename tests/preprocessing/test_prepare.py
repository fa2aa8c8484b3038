"""From a folder to what a training takes: what is tried again, kept, refused, set aside."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from mcsc_bundle.files import DiskError
from mcsc_bundle.plan import PlanError, save_json
from mcsc_bundle.store import CaseStore
from preprocessing.prepare import USER_ERRORS, DatasetError, prepare, prepare_or_exit
from tests.end_to_end.road import small_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("data") / "hearts")


def test_other_options_make_another_plan_until_a_training_began(dataset, tmp_path, caplog):
    def patch(**options):
        return prepare(str(dataset), str(tmp_path), workers=1, device="cpu", **options).plan.patch_size

    assert len(patch(configuration="3d_fullres")) == 3
    assert len(patch(configuration="2d")) == 2
    assert "planned anew, with another configuration, spacing_mm, patch_size" in caplog.text
    caplog.clear()
    patch(configuration="2d", memory_gb=7.5)
    assert "planned anew" not in caplog.text  # other options, but the same plan
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "checkpoint.pt").write_bytes(b"")
    assert patch(configuration="2d", memory_gb=1) == patch(configuration="2d")  # kept as it is, with a warning
    with pytest.raises(PlanError, match="expected --configuration to be that of the plan that the training began on"):
        patch(configuration="3d_fullres")


def test_an_edited_plan_is_compared_with_what_the_data_set_declares_now(dataset, tmp_path, caplog):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(dataset, data)
    prepare(str(data), str(run), workers=1, device="cpu")
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(plan | {"inference_overlap": 0.25}))
    declared = json.loads((data / "dataset.json").read_text())

    def again(**changes):
        (data / "dataset.json").write_text(json.dumps(declared | changes))
        return prepare(str(data), str(run), workers=1, device="cpu").plan

    values = {name: index for index, name in enumerate(plan["labels"])}
    assert again().inference_overlap == 0.25
    again(labels={"background": 0, **{f"{name} renamed": value for name, value in values.items() if value}})
    assert "the plan's are used, as it was edited" in caplog.text
    with pytest.raises(PlanError, match=r"plan\.json: expected labels .*'more': 9.* delete it to plan again"):
        again(labels={**values, "more": 9})


def test_what_an_older_version_measured_is_measured_again_until_a_training_began(dataset, tmp_path):
    prepare(str(dataset), str(tmp_path), workers=1, device="cpu")
    file = tmp_path / "fingerprint.json"
    whole = json.loads(file.read_text())
    older = {
        **whole,
        "cases": [{name: case[name] for name in case if name != "class_coarse_dice"} for case in whole["cases"]],
    }
    file.write_text(json.dumps(older))
    prepare(str(dataset), str(tmp_path), workers=1, device="cpu")
    assert json.loads(file.read_text()) == whole
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "checkpoint.pt").touch()
    file.write_text(json.dumps(older))
    prepare(str(dataset), str(tmp_path), workers=1, device="cpu")
    assert json.loads(file.read_text()) == older


def test_names_may_have_umlauts(dataset, tmp_path, ascii_locale):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(dataset, data)
    declared = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**declared, "name": "Gefäße"}))
    plan = prepare(str(data), str(run), workers=1, device="cpu").plan
    save_json(run / "fingerprint.rejected.json", {"Müller": "NaN"})
    assert plan.dataset_name == "Gefäße" and prepare(str(data), str(run), workers=1, device="cpu").plan == plan


def test_a_failure_that_passes_costs_no_case(dataset, tmp_path, monkeypatch):
    """A case whose preprocessing failed once is tried again by the next call."""
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


def test_a_test_label_may_be_mended_after_the_training(dataset, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(dataset, data)
    labeled = sorted(path.name.removesuffix(".nii.gz") for path in (data / "labelsTr").iterdir())
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"labeled": labeled[:1], "test": labeled[1:]}))
    file = data / "labelsTr" / f"{labeled[1]}.nii.gz"
    good = file.read_bytes()
    mask = nib.load(file)
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj)[:-1], mask.affine), file)
    options = {"split_file": str(split), "workers": 1, "device": "cpu"}
    first = prepare(str(data), str(run), **options)
    assert (len(first.test), first.unusable) == (len(labeled) - 2, 1)
    (run / "models").mkdir()
    (run / "models" / "checkpoint.pt").write_bytes(b"")
    file.write_bytes(good)
    mended = prepare(str(data), str(run), **options)
    assert (len(mended.test), mended.unusable) == (len(labeled) - 1, 0)
    assert mended.training_key == first.training_key and not json.loads((run / "rejected.json").read_text())


def test_a_full_disk_ends_the_preparation_and_room_lets_it_go_on(dataset, tmp_path, monkeypatch):
    """Trained on the cases that fit, the run could not go on once there is room for all: that would be another training."""
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
    with pytest.raises(USER_ERRORS, match=message):
        prepare(str(dataset), str(tmp_path / "run"), **options)
    assert not (tmp_path / "run").exists()


def test_test_cases_are_neither_stored_nor_watched(dataset, tmp_path):
    prepared = prepare(str(dataset), str(tmp_path), num_labeled=1, num_test=1, workers=1)
    (test,) = (item["case"] for item in prepared.test)
    assert not prepared.val and test not in prepared.store and test not in {item["case"] for item in prepared.train}
    watched = prepare(str(dataset), str(tmp_path), num_labeled="all", num_test=1, workers=1, fold=0, configuration="2d")
    assert {item["case"] for item in watched.val} and test not in {
        item["case"] for item in (*watched.val, *watched.train)
    }


def test_who_trains_on_phantoms_is_told(dataset, tmp_path, caplog):
    prepare(str(dataset), str(tmp_path), workers=1, demo_dir=str(dataset))
    assert any("PHANTOMS" in message and "--dataset_dir DATA" in message for message in caplog.messages)
    caplog.clear()
    prepare(str(dataset), str(tmp_path), workers=1, demo_dir=str(tmp_path / "demo"))
    assert not any("PHANTOMS" in message for message in caplog.messages) and not (tmp_path / "demo").exists()


def test_a_listed_image_that_is_not_there_is_set_aside(dataset, tmp_path):
    (tmp_path / "data").mkdir()
    content = json.loads((dataset / "dataset.json").read_text())
    for entry in content["training"]:
        entry.update({key: str(dataset / path) for key, path in entry.items()})
    content["training"].append({"image": "imagesTr/gone.nii.gz"})
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(content))
    prepare(str(tmp_path / "data"), str(tmp_path / "run"), workers=1)
    (rejected,) = json.loads((tmp_path / "run" / "rejected.json").read_text()).items()
    assert rejected[0] == "gone" and "gone.nii.gz" in rejected[1]
