from __future__ import annotations

import hashlib
import json
import shutil

import pytest

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
