from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch

from mcsc_bundle.inference import TrainedRun
from mcsc_bundle.shipped import PACKAGE, BundleError, check_code, check_weights, code_digest
from tests.plans import make_plan


def test_the_same_files_in_another_place_are_the_same_code_and_one_letter_more_is_not(tmp_path):
    copy = shutil.copytree(PACKAGE, tmp_path / "mcsc_bundle")
    assert code_digest(copy) == code_digest()
    check_code(code_digest())
    edited = shutil.copytree(PACKAGE, tmp_path / "edited")
    (edited / "io.py").write_text((edited / "io.py").read_text() + "#")
    with pytest.raises(BundleError, match="another bundle or version was imported first"):
        check_code(code_digest(edited))


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


@pytest.mark.parametrize(("side", "name"), [("inputs", "image"), ("outputs", "pred")])
def test_metadata_that_lie_about_channels_are_told(tmp_path, side, name):
    plan = make_plan("3d")
    (tmp_path / "configs").mkdir()
    formats = {
        "inputs": {"image": {"num_channels": plan.in_channels}},
        "outputs": {"pred": {"num_channels": plan.out_channels}},
    }
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": formats}))
    assert TrainedRun(tmp_path, plan=plan).plan == plan
    formats[side][name]["num_channels"] = 7
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": formats}))
    with pytest.raises(SystemExit, match=rf"channels of {side} '{name}' as in the plan, received 7"):
        TrainedRun(tmp_path, plan=plan)


class Marker:
    """A pickle that would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_in_place_of_weights_is_not_run_and_no_advice_to_run_it_is_given(tmp_path):
    make_plan("3d").save(tmp_path / "plan.json")
    (tmp_path / "models").mkdir()
    torch.save(Marker(tmp_path / "marker"), tmp_path / "models" / "model.pt")
    with pytest.raises(SystemExit, match=r"a pickle that would call .*open\. Do not load it in another way"):
        _ = TrainedRun(tmp_path).weights
    assert not (tmp_path / "marker").exists()
