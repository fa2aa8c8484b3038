from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from mcsc_bundle.shipped import (
    PACKAGE,
    PACKAGES,
    BundleError,
    check_bundle_or_exit,
    check_code,
    check_metadata,
    check_weights,
    code_digest,
)
from mcsc_bundle.trained_run import TrainedRun
from tests.plans import make_plan


def test_the_same_files_in_another_place_are_the_same_code_and_one_letter_more_is_not(tmp_path):
    for package in PACKAGES:
        shutil.copytree(PACKAGE.parent / package, tmp_path / package)
    assert code_digest(tmp_path) == code_digest()
    check_code(code_digest())
    for package in PACKAGES:
        file = tmp_path / package / "__init__.py"
        text = file.read_text()
        file.write_text(text + "#")
        code_digest.cache_clear()
        with pytest.raises(BundleError, match="another bundle or version was imported first"):
            check_code(code_digest(tmp_path))
        file.write_text(text)


def test_weights_are_checked_against_metadata_where_there_are_any(tmp_path):
    weights = tmp_path / "models" / "model.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    check_weights(tmp_path, weights)  # a run folder has no metadata
    (tmp_path / "configs").mkdir()
    metadata = tmp_path / "configs" / "metadata.json"
    metadata.write_text(json.dumps({"sha256": {"models/model.pt": hashlib.sha256(b"weights").hexdigest()}}))
    check_weights(tmp_path, weights)
    weights.write_bytes(b"weightz")
    with pytest.raises(BundleError, match="damaged or was exchanged"):
        check_weights(tmp_path, weights)
    with pytest.raises(SystemExit, match="damaged or was exchanged"):
        _ = TrainedRun(tmp_path, plan=make_plan()).weights


def test_a_config_may_bring_its_plan_and_its_code(tmp_path):
    plan = make_plan()
    assert TrainedRun(tmp_path, plan=plan, code=code_digest()).plan is plan
    with pytest.raises(SystemExit, match="process of its own"):
        TrainedRun(tmp_path, plan=plan, code="0" * 64)


def described(folder, **image):
    """A bundle of which only the metadata and the plan are there."""
    plan = make_plan()
    tensor = {"num_channels": plan.in_channels, "channel_def": dict(enumerate(plan.channel_names)), **image}
    (folder / "configs").mkdir(exist_ok=True)
    plan.save(folder / "plan.json")
    content = {"network_data_format": {"inputs": {"image": tensor}}}
    (folder / "configs" / "metadata.json").write_text(json.dumps(content))
    return plan


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        ({"num_channels": 3}, "expected input channels 1, as in plan.json, received 3"),
        ({"num_channels": "one"}, "received 'one'"),
        ({"channel_def": {"0": "PET"}}, r"names of input channels .*received \['PET'\]"),
        ({"channel_def": ["PET"]}, "names of input channels"),
        ({"spatial_shape": [16, 16]}, "expected spatial dimensions 3, as in plan.json, received 2"),
    ],
)
def test_metadata_of_another_network_are_refused_in_inference_and_training(tmp_path, lie, told):
    plan = described(tmp_path)
    check_metadata(tmp_path, plan)  # what it leaves out is no lie
    check_bundle_or_exit(tmp_path)  # nor are weights that were not downloaded yet
    described(tmp_path, **lie)
    with pytest.raises(SystemExit, match=told):
        TrainedRun(tmp_path, plan=plan)
    with pytest.raises(SystemExit, match=told):
        check_bundle_or_exit(tmp_path)


def test_metadata_of_a_folder_that_is_no_bundle_say_nothing_of_one(tmp_path):
    """``monai.bundle.load`` leaves bundle_root at the folder it is started in, maybe a repository with metadata of its own."""
    plan = make_plan("3d")
    (tmp_path / "configs").mkdir()
    form = {"outputs": {"pred": {"num_channels": 9}}}
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": form}))
    assert TrainedRun(tmp_path, plan=plan).plan == plan
    plan.save(tmp_path / "plan.json")
    with pytest.raises(SystemExit, match="expected output channels 3"):
        TrainedRun(tmp_path, plan=plan)
    (tmp_path / "configs" / "metadata.json").unlink()
    with pytest.raises(SystemExit, match="Give the folder of the bundle as --bundle_root"):
        _ = TrainedRun(tmp_path, plan=plan).weights
