"""Which networks a cascade refines: known by their weights, wherever they lie."""

from __future__ import annotations

import pytest

from mcsc_bundle.first_stage import check_stage, previous_dir, refined_by, remembered_key, stage_key, weights_key
from mcsc_bundle.plan import PlanError, save_json


@pytest.fixture
def stages(tmp_path):
    """A first stage of two folds, and a run that has learnt to refine their masks."""
    runs, run = tmp_path / "RUNS" / "3d_lowres", tmp_path / "RUNS" / "3d_cascade_fullres" / "fold_0"
    for fold in range(2):
        train_fold(runs, fold, str(fold))
    (run / "models").mkdir(parents=True)
    (run / "models" / "checkpoint.pt").touch()
    save_json(run / "previous.json", {"run_dir": "../../3d_lowres", "weights": weights_key(runs)})
    return runs, run


def train_fold(runs, fold, weights):
    (runs / f"fold_{fold}" / "models").mkdir(parents=True, exist_ok=True)
    (runs / f"fold_{fold}" / "models" / "model.pt").write_text(weights)


def test_a_first_stage_is_known_wherever_it_lies(stages, tmp_path):
    runs, run = stages
    key = stage_key(runs)
    assert remembered_key(run) == key and len(key) == 8 and stage_key(None) == ""
    (tmp_path / "RUNS").rename(tmp_path / "moved")
    assert stage_key(tmp_path / "moved" / "3d_lowres") == key
    assert remembered_key(tmp_path / "moved" / "3d_cascade_fullres" / "fold_0") == key
    assert remembered_key(tmp_path) == ""


def test_a_first_stage_may_have_an_umlaut(tmp_path, ascii_locale):
    save_json(tmp_path / "run" / "previous.json", {"run_dir": "../Gefäße"})
    assert previous_dir(tmp_path / "run") == tmp_path / "Gefäße"


def test_networks_that_trained_a_cascade_stay_and_others_may_join(stages):
    runs, run = stages
    for fold, weights in ((2, "2"), (3, "3")):
        train_fold(runs, fold, weights)
    check_stage(run, runs)
    assert refined_by(runs, runs / "fold_0") == [run]
    train_fold(runs, 1, "trained on")
    with pytest.raises(PlanError, match=r"were trained on since, or are gone\. Put them back"):
        check_stage(run, runs)
    assert refined_by(runs, runs / "fold_0") == []
    (runs / "fold_1" / "models" / "model.pt").unlink()
    with pytest.raises(PlanError, match="are gone"):
        check_stage(run, runs)


def test_a_cascade_that_is_not_trained_yet_holds_nothing_back(stages):
    runs, run = stages
    assert refined_by(runs.parent / "2d", runs.parent / "2d" / "fold_0") == []
    (run / "models" / "checkpoint.pt").unlink()
    assert refined_by(runs, runs / "fold_0") == []
    save_json(run / "cross_validation.json", {"done": True})
    assert refined_by(runs, runs / "fold_0") == [run]
