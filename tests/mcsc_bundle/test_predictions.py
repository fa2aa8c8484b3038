"""The account of a folder of masks: what is done, what failed, and what another call or rank did."""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from mcsc_bundle.folder import find_cases
from mcsc_bundle.predictions import Predictions
from tests.inference import summary
from tests.mcsc_bundle.images import save
from tests.plans import make_plan


def test_images_of_equal_names_in_another_folder_are_not_done(tmp_path):
    """Even if size and time are the same, as after unpacking an archive."""
    image = save(np.ones((4, 4, 4), np.float32), tmp_path / "one" / "a.nii.gz")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    for folder in (image.parent, tmp_path / "other"):
        os.utime(folder / "a.nii.gz", (1, 1))
    plan = make_plan("anisotropic")
    predictions = [Predictions(tmp_path / "masks", plan, find_cases(tmp_path / name), {}) for name in ("one", "other")]
    assert predictions[0].inputs["a"] != predictions[1].inputs["a"]


def masked(folder, *names):
    """Masks and their account, as of an earlier call; gives the cases."""
    plan = make_plan("anisotropic")
    cases = [{"case": name, "image": [f"{name}.nii.gz"]} for name in names]
    earlier = Predictions(folder, plan, cases, {"weights": 1})
    for name in names:
        earlier.add(name, MetaTensor(torch.zeros(1, 2, 2, 2, dtype=torch.uint8), affine=torch.eye(4)), 1.0)
        (folder / f"{name}.nii.gz").touch()
    return cases


def test_a_second_folder_keeps_the_account_of_the_first(tmp_path):
    masked(tmp_path, "a", "b", "gone")
    (tmp_path / "gone.nii.gz").unlink()
    masked(tmp_path, "c")
    assert sorted(summary(tmp_path)) == ["a", "b", "c"]


def test_masks_that_are_made_anew_are_told(tmp_path, caplog):
    cases = masked(tmp_path, "a", "b")
    Predictions(tmp_path, make_plan("anisotropic"), cases, {"weights": 2})
    assert "2 masks of other weights, options or image files" in caplog.text


def test_a_case_that_is_set_aside_has_no_mask_of_older_weights(tmp_path):
    cases = masked(tmp_path, "a", "b")
    later = Predictions(tmp_path, make_plan("anisotropic"), cases, {"weights": 2})
    later.fail("a", "cut off")
    assert not (tmp_path / "a.nii.gz").exists() and (tmp_path / "b.nii.gz").exists()


def test_a_case_that_is_set_aside_leaves_the_masks_of_others(tmp_path):
    cases = masked(tmp_path, "a", "a_probabilities")
    Predictions(tmp_path, make_plan("anisotropic"), cases, {"weights": 1}).fail("a", "cut off")
    assert (tmp_path / "a_probabilities.nii.gz").exists()


def test_ranks_take_no_older_row_for_one_of_this_call(tmp_path, monkeypatch):
    """All images were copied again; rank 1 could not read b this time."""
    cases = masked(tmp_path, "a", "b")
    rows = tmp_path / "summary.csv"
    earlier = rows.read_text()
    monkeypatch.setattr("mcsc_bundle.predictions._files_key", lambda paths: "copied again")
    later = [Predictions(tmp_path, make_plan("anisotropic"), cases, {"weights": 1}) for _ in range(2)]
    for rank, predictions in enumerate(later):
        predictions.rank, predictions.world = rank, 2
    later[1].fail("b", "cut off")
    rows.write_text(earlier)
    monkeypatch.setattr("mcsc_bundle.predictions._wait_for_all", lambda: None)
    later[0].gather()
    assert later[0].failed == {"b": "cut off"}


def test_probabilities_and_a_mask_of_one_name_are_refused(tmp_path):
    cases = [{"case": name, "image": [f"{name}.nii.gz"]} for name in ("a", "a_probabilities")]
    Predictions(tmp_path, make_plan("anisotropic"), cases, {"save_probabilities": False})
    with pytest.raises(SystemExit, match="cases a and a_probabilities, which would both write"):
        Predictions(tmp_path, make_plan("anisotropic"), cases, {"save_probabilities": True})


def test_thousands_of_cases_are_looked_through_in_seconds(tmp_path):
    plan, folder = make_plan("anisotropic"), tmp_path / "many"
    image = save(np.ones((4, 4, 4), np.float32), folder / "0000.nii.gz")
    for index in range(1, 3000):
        os.link(image, folder / f"{index:04d}.nii.gz")
    cases, began = find_cases(folder), time.process_time()
    first = Predictions(tmp_path / "masks", plan, cases, {})
    first.rows = {
        item["case"]: {
            "case": item["case"],
            "error": "",
            "settings": first.settings,
            "inputs": first.inputs[item["case"]],
        }
        for item in cases
    }
    first.fail("0007", "out of memory")
    for item in cases:
        (tmp_path / "masks" / f"{item['case']}.nii.gz").touch()
    (tmp_path / "masks" / "0008.nii.gz").unlink()
    again = Predictions(tmp_path / "masks", plan, cases, {})
    assert [item["case"] for item in again.pending] == ["0007", "0008"]
    assert time.process_time() - began < 5
