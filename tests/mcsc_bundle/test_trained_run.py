"""The folder of a run is read, and its ordinary mistakes end with a message."""

from __future__ import annotations

import json
import shutil

import pytest

from mcsc_bundle.trained_run import TrainedRun
from tests.inference import trained_run
from tests.plans import make_plan


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("a run"))


def test_an_edited_plan_of_another_configuration_makes_other_masks(run_dir, tmp_path):
    runs = tmp_path / "runs"
    for name in ("2d", "3d_fullres"):
        shutil.copytree(run_dir, runs / name / "fold_0")
    (runs / "best.json").write_text(
        json.dumps({"configurations": ["2d", "3d_fullres"], "cases": 1, "candidates": [], "why": ""})
    )
    before = TrainedRun(runs).other_plans
    plan = json.loads((runs / "3d_fullres" / "fold_0" / "plan.json").read_text())
    (runs / "3d_fullres" / "fold_0" / "plan.json").write_text(json.dumps(plan | {"inference_overlap": 0.25}))
    after = TrainedRun(runs).other_plans
    assert [each[0]["inference_overlap"] for each in (before, after)] == [0.0, 0.25]


def test_ordinary_mistakes_end_with_a_message(tmp_path, run_dir):
    with pytest.raises(SystemExit, match="expected branch to be one of cnn, transformer, both"):
        TrainedRun(run_dir, "best")
    with pytest.raises(
        SystemExit, match=r"--run_dir: expected the folder of a run.*--output_dir of the training as --run_dir"
    ):
        TrainedRun(tmp_path)
    with pytest.raises(
        SystemExit, match=r"--output_dir: expected the folder of a run, .*Give the --output_dir of the training\."
    ):
        TrainedRun(tmp_path, option="output_dir")
    make_plan("3d").save(tmp_path / "plan.json")
    with pytest.raises(SystemExit, match=r"expected weights in .*pair\.pt"):
        _ = TrainedRun(tmp_path, "both").weights


@pytest.mark.parametrize(("branch", "name"), [("cnn", "model.pt"), ("both", "pair.pt")])
def test_weights_that_were_cut_off_end_with_a_message(tmp_path, run_dir, branch, name):
    (tmp_path / "models").mkdir()
    make_plan("3d").save(tmp_path / "plan.json")
    whole = (run_dir / "models" / name).read_bytes()
    (tmp_path / "models" / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit, match=rf"{name}: expected a file of tensors, received one that cannot be read"):
        _ = TrainedRun(tmp_path, branch).weights
