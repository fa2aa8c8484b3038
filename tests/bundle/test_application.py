"""MONAI Label trains a packed bundle on labelled items; its steps (monailabel/tasks/train/bundle.py), followed."""

from __future__ import annotations

import shutil

import monai.bundle
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser

from bundle.checks_of_files import check_sizes
from bundle.pack import pack, seal
from bundle.verify import make_dataset, verify
from mcsc_bundle.application import ReplaceWeights
from mcsc_bundle.plan import Plan
from mcsc_bundle.shipped import file_digest
from mcsc_bundle.trained_run import TrainedRun
from tests.bundle.runs import TERMS, make_run


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bundle.pack.export_torchscript", lambda bundle: (bundle / "models" / "model.ts").write_text("old")
    )
    return pack(make_run(tmp_path / "run"), "tiny_mri_segmentation", TERMS, tmp_path)[0]


def items(tmp_path, bundle):
    data = make_dataset(Plan.load(bundle / "plan.json"), tmp_path / "datastore")
    return [
        {
            "image": str(data / "imagesTr" / f"case_{i}_0000.nii.gz"),
            "label": str(data / "labelsTr" / f"case_{i}.nii.gz"),
        }
        for i in range(4)
    ]


def label_trains(bundle, train, validate, max_epochs=1, **overrides):
    """As ``BundleTrainTask.__call__``: a loader of the bundle's weights first, then its own lists and device."""
    config = bundle / "configs" / "train.json"
    parser = ConfigParser()
    parser.read_config(str(config))
    handlers = parser.get("train#handlers")
    weights = str(bundle / "models" / "model.pt")
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": weights,
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    handlers.insert(0, loader)
    monai.bundle.run(
        run_id="run", init_id=None, final_id=None, meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(config), logging_file=False,
        **{
            "bundle_root": str(bundle), "train#trainer#max_epochs": max_epochs, "train#dataset#data": train,
            "device": "cpu", "train#handlers": handlers, "validate#dataset#data": validate, "epoch_length": 1, **overrides,
        },
    )  # fmt: skip


def state(bundle):
    return torch.load(bundle / "models" / "model.pt", weights_only=True)


def test_labelled_items_train_on_from_the_bundle_s_weights_which_they_replace(tmp_path, bundle):
    before, data = state(bundle), items(tmp_path, bundle)
    label_trains(bundle, data[:3], data[3:], lr=1e-6)
    after = state(bundle)
    assert any(not torch.equal(before[key], after[key]) for key in before)
    # a step of 1e-6 from the old weights; other random weights would be far away
    assert all(torch.allclose(before[key], after[key], atol=1e-4) for key in before)
    assert not (bundle / "models" / "model.ts").exists()
    assert TrainedRun(bundle).weights.exists()  # the checksum fits
    shutil.rmtree(bundle / "runs")  # its logs and cases are no part of what is shared
    assert not verify(bundle, run=False).failed
    label_trains(bundle, data, [], lr=1e-6)  # one more label: trains again, does not resume
    assert any(not torch.equal(after[key], state(bundle)[key]) for key in after)


def test_a_listing_of_large_files_has_the_checksum_of_the_new_weights(tmp_path, bundle, monkeypatch):
    for module in ("pack", "checks_of_files"):
        monkeypatch.setattr(f"bundle.{module}.MAX_FILE_BYTES", 20_000)
    (bundle / "models" / "model.ts").write_bytes(bytes(20_001))
    seal(bundle)
    trained = tmp_path / "trained"
    trained.mkdir()
    torch.save({key: value + 1 for key, value in state(bundle).items()}, trained / "model.pt")
    ReplaceWeights(str(bundle), str(trained)).replace(Engine(lambda *_: None))
    entries = ConfigParser.load_config_file(bundle / "large_files.yml")["large_files"]
    listed = {entry["path"]: entry["hash_val"] for entry in entries}
    assert listed["models/model.pt"] == file_digest(trained / "model.pt")
    assert "models/model.ts" not in listed  # of the former weights
    assert f"{len(listed)} file(s) over 25 MB" in check_sizes(bundle)


def test_an_item_that_cannot_be_read_is_left_out(tmp_path, bundle):
    data = items(tmp_path, bundle)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image at all")
    label_trains(bundle, [{"image": str(broken), "label": data[0]["label"]}, data[1]], [])
    with pytest.raises(SystemExit, match="labelled items from an application"):
        label_trains(bundle, [{"image": str(broken), "label": data[0]["label"]}], [])


def test_a_wrong_data_set_folder_still_ends_with_a_message(tmp_path, bundle):
    with pytest.raises(SystemExit, match=r"expected a data set in .*nowhere"):
        monai.bundle.run(
            config_file=str(bundle / "configs" / "train.json"), logging_file=False, bundle_root=str(bundle),
            dataset_dir=str(tmp_path / "nowhere"), output_dir=str(tmp_path / "out"), device="cpu",
        )  # fmt: skip


def test_a_training_on_a_folder_leaves_the_bundle_s_weights_alone(tmp_path, bundle):
    before = (bundle / "models" / "model.pt").read_bytes()
    data = make_dataset(Plan.load(bundle / "plan.json"), tmp_path / "datastore")
    monai.bundle.run(
        config_file=str(bundle / "configs" / "train.json"), logging_file=False, bundle_root=str(bundle),
        dataset_dir=str(data), output_dir=str(tmp_path / "out"), device="cpu", max_epochs=1, epoch_length=1, workers=1,
    )  # fmt: skip
    assert (tmp_path / "out" / "models" / "model.pt").exists()
    assert (bundle / "models" / "model.pt").read_bytes() == before
    plan = Plan.load(tmp_path / "out" / "plan.json")
    assert plan.measured_memory_gb is not None  # on this machine
    assert plan.replace(measured_memory_gb=None, why={}) == Plan.load(bundle / "plan.json").replace(why={})
