"""A plan edited after the training is refused where the weights depend on it, and cases that trained are no test."""

import dataclasses
import json
import logging

import pytest
import torch

from mcsc_bundle.plan import ChannelNormalization, PlanError
from mcsc_bundle.trained import (
    FILE,
    FIXED,
    HeldOutError,
    check_held_out,
    check_held_out_or_exit,
    check_start,
    check_trained,
    mirrored_in_training,
    plan_record,
    refuse_edits,
    save_trained,
    tell_edits,
)
from mcsc_bundle.trained_run import TrainedRun
from tests.plans import KINDS, make_plan

PLAN = make_plan("3d")
WIDER = dataclasses.replace(PLAN.cnn, features=(4, 6, 16))


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_that_trained_passes_and_no_record_passes(tmp_path, kind):
    plan = make_plan(kind, why={"patch_size": "fits"})
    check_trained(tmp_path, plan)
    save_trained(tmp_path, plan)
    check_trained(tmp_path, plan.replace(why={}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing_mm": (1.0, 2.5, 1.0)}, r"spacing_mm\[1\] = 2.5 \(trained with 1.0\)"),
        ({"orientation": "LPS"}, r'orientation = "LPS" \(trained with "RAS"\)'),
        ({"labels": {"background": 0, "left": 1, "right": 5}}, r"labels\.right = 5 \(trained with 2\)"),
        ({"labels": {"background": 0, "right": 2, "left": 1}}, r'labels = .*"right": 2, "left": 1.*trained with'),
        ({"cnn": WIDER}, r"cnn\.features\[2\] = 16 \(trained with 8\)"),
        ({"patch_size": (8, 16, 32)}, r"patch_size\[2\] = 32"),
        ({"normalization": (ChannelNormalization("MRI", "none"),)}, r'normalization\[0\]\.scheme = "none"'),
        ({"separate_z_ratio": 9.0}, r"separate_z_ratio = 9.0"),
    ],
)
def test_an_edit_the_weights_depend_on_is_refused_with_both_values(tmp_path, change, message):
    save_trained(tmp_path, PLAN)
    with pytest.raises(PlanError, match=message + r".*Put the trained values back .*or train anew"):
        check_trained(tmp_path, PLAN.replace(**change), "plan.json")


def test_every_entry_is_either_fixed_or_free(tmp_path):
    """An entry that is added to the plan must be put on one side."""
    free = {"dataset_name", "median_shape", "inference_overlap", "memory_gb", "estimated_memory_gb", "device", "format"}
    free |= {"measured_memory_gb", "configuration", "largest_component"}
    told = {"batch_labeled", "batch_unlabeled", "batch_dice", "contrast", "projection_dim", "mirror_axes"}
    assert set(plan_record(PLAN)) == set(FIXED) | free | told
    save_trained(tmp_path, PLAN)
    changed = {"inference_overlap": 0.1, "batch_labeled": 7, "memory_gb": 1.0, "device": "cuda", "mirror_axes": ()}
    check_trained(tmp_path, PLAN.replace(**changed))


def test_no_axis_is_mirrored_that_the_training_did_not_mirror(tmp_path, caplog):
    """The plan may be edited after the training; the networks never saw those images."""
    plan = PLAN.replace(mirror_axes=(0, 2))
    assert mirrored_in_training(tmp_path, plan) == plan  # a training of an older version left no record
    save_trained(tmp_path, plan)
    assert mirrored_in_training(tmp_path, plan.replace(mirror_axes=(2,))).mirror_axes == (2,)
    assert not caplog.messages
    assert mirrored_in_training(tmp_path, plan.replace(mirror_axes=(1, 2))).mirror_axes == (2,)
    assert "mirrors axes that the training did not" in caplog.text


def test_a_record_of_an_older_version_is_compared_as_far_as_it_goes():
    record = {name: value for name, value in plan_record(PLAN).items() if name != "cnn"}
    refuse_edits(record, PLAN.replace(cnn=WIDER), "models")


def test_a_number_written_another_way_is_no_edit(tmp_path):
    save_trained(tmp_path, PLAN)
    check_trained(tmp_path, PLAN.replace(spacing_mm=(1, 1, 1)))


def test_a_changed_batch_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        tell_edits(plan_record(PLAN), PLAN.replace(batch_labeled=3))
    assert "going on with batch_labeled = 3 (trained with 1)" in caplog.text


def test_the_record_can_be_loaded_as_weights_only(tmp_path):
    torch.save({"plan": plan_record(PLAN)}, tmp_path / "c.pt")
    refuse_edits(torch.load(tmp_path / "c.pt", weights_only=True)["plan"], PLAN, "c.pt")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"plan": 3}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(PlanError, match=rf"{FILE}: expected the plan that trained"):
        check_trained(tmp_path, PLAN)


def test_a_run_whose_plan_was_edited_is_no_trained_run(tmp_path):
    save_trained(tmp_path / "models", PLAN)
    PLAN.replace(spacing_mm=(2.0, 1.0, 1.0)).save(tmp_path / "plan.json")
    with pytest.raises(SystemExit, match=r"error: .*plan\.json: .*spacing_mm\[0\] = 2.0"):
        TrainedRun(tmp_path)
    with pytest.raises(SystemExit, match=r"the plan in the configs of .*spacing_mm\[0\] = 2.0"):
        TrainedRun(tmp_path, plan=PLAN.replace(spacing_mm=(2.0, 1.0, 1.0)))
    assert TrainedRun(tmp_path, plan=PLAN).plan == PLAN


def test_cases_that_trained_are_no_test(tmp_path):
    save_trained(tmp_path, PLAN, ["a", "b"])
    check_held_out(tmp_path, [{"case": "c"}])
    with pytest.raises(HeldOutError, match=r"1 of 2 that it was trained on: b\. Evaluate with the options"):
        check_held_out(tmp_path, [{"case": "b"}, {"case": "c"}])
    with pytest.raises(SystemExit, match=r"error: expected labelled cases that were kept out.*--num_test N"):
        check_held_out_or_exit(tmp_path, [])


def test_an_older_run_is_compared_by_the_key_of_its_training(tmp_path):
    torch.save({"training_key": "one"}, tmp_path / "checkpoint.pt")
    check_held_out(tmp_path, [{"case": "c"}], "one")
    with pytest.raises(HeldOutError, match=r"checkpoint\.pt was trained with, received options of others"):
        check_held_out(tmp_path, [{"case": "c"}], "two")


def test_a_bundle_names_no_case(tmp_path):
    save_trained(tmp_path, PLAN)
    assert list(json.loads((tmp_path / FILE).read_text())) == ["plan"]


def test_a_record_from_before_an_entry_existed_has_its_default(tmp_path):
    save_trained(tmp_path, PLAN)
    record = json.loads((tmp_path / FILE).read_text())
    del record["plan"]["cnn"]["blocks_per_stage"]
    (tmp_path / FILE).write_text(json.dumps(record))
    check_trained(tmp_path, PLAN)
    blocks = dataclasses.replace(PLAN.cnn, preset="resenc", blocks_per_stage=(1, 1, 1))
    with pytest.raises(PlanError, match=r"cnn\.preset = \"resenc\" \(trained with \"plan\"\)"):
        check_trained(tmp_path, PLAN.replace(cnn=blocks))


def test_weights_that_know_a_case_to_be_scored_are_no_start(tmp_path, caplog):
    save_trained(tmp_path / "models", PLAN, ["case_1", "case_2"])
    check_start(tmp_path, PLAN.dataset_name, ["case_3"])
    check_start(tmp_path, "Another", ["case_2"])  # of another data set, by the same name
    check_start(tmp_path / "packed", PLAN.dataset_name, ["case_2"])  # no record
    assert not caplog.records
    save_trained(tmp_path / "packed" / "models", PLAN)
    check_start(tmp_path / "packed", PLAN.dataset_name, ["case_2"])
    assert "does not say which cases it learnt" in caplog.text
    with pytest.raises(PlanError, match=r"init_from: .* learnt case_2\. .*--fold"):
        check_start(tmp_path, PLAN.dataset_name, ["case_2", "case_3"])
