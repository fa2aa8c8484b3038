"""Labels that are gone once they are on the plan's grid, or with validation alone."""

import logging

import numpy as np
import pytest

from mcsc_bundle.plan import PlanError
from preprocessing.prepare import prepare
from tests.preprocessing.scans import affine, declare, voxels, write

FINE, COARSE = affine((0.4, 0.4, 0.4)), affine((2.5, 2.5, 2.5))
CLASSES = {"background": 0, "organ": 1, "lesion": 2}


def data_set(folder, lesions=(), rare=(), organ=True, **declared):
    """Two cases on a fine grid and five on a coarse one, with an organ each; in ``lesions``, of the fine ones, one of 2 x 2 x 2
    voxels, in ``rare``, of the coarse ones, one that stays.
    """
    for seed, name in enumerate("abcdefg"):
        shape, grid = ((40, 40, 40), FINE) if name in "ab" else ((16, 16, 16), COARSE)
        label = np.zeros(shape, np.uint8)
        if organ:
            label[2 : shape[0] // 2, 2 : shape[1] // 2, 2 : shape[2] // 2] = 1
        if name in lesions:
            label[30:32, 30:32, 30:32] = 2
        if name in rare:
            label[9:14, 9:14, 9:14] = 2
        write(folder / "imagesTr" / f"{name}_0000.nii.gz", voxels(seed, shape), grid)
        write(folder / "labelsTr" / f"{name}.nii.gz", label, grid)
    return declare(folder, **{"channel_names": {"0": "MRI"}, "labels": CLASSES, "file_ending": ".nii.gz"} | declared)


def run(folder, out, **options):
    return prepare(str(folder), str(out), workers=1, device="cpu", configuration="3d_fullres", **options)


def test_labels_that_the_grid_loses_are_refused_before_a_training(tmp_path, caplog):
    folder, out = data_set(tmp_path / "data", organ=False, lesions=("a", "b")), tmp_path / "run"
    with pytest.raises(
        PlanError, match=r"nothing is left .* class lesion .* none of it in 2 cases: a, b \(a has 8 voxels of 0\.4"
    ):
        run(folder, out)
    (out / "models").mkdir()
    (out / "models" / "checkpoint.pt").write_bytes(b"")  # it has begun, by an older version
    run(folder, out)
    assert "Expected class lesion on the plan's grid" in caplog.text


def test_a_class_that_some_cases_lose_is_told(tmp_path, caplog):
    run(data_set(tmp_path / "data", lesions=("a",), rare=("c",)), tmp_path / "run")
    assert "in each labelled case that has it (2), received none of it in 1 case: a (" in caplog.text
    assert "class organ" not in caplog.text


def test_a_region_is_there_where_one_of_its_values_is(tmp_path, caplog):
    regions = {"background": 0, "both": [1, 2], "lesion": 2}
    folder = data_set(tmp_path / "data", lesions=("a",), labels=regions, regions_class_order=[1, 2])
    run(folder, tmp_path / "run")
    assert "Expected class lesion on" in caplog.text and "class both" not in caplog.text


def test_a_class_that_only_a_case_of_validation_keeps_is_told(tmp_path, caplog):
    """The one of ``a`` is lost on the grid, so that nothing of it is learnt where ``c`` validates."""
    folder = data_set(tmp_path / "data", lesions=("a",), rare=("c",))
    watching = [
        fold for fold in range(5) if "c" in [item["case"] for item in run(folder, tmp_path / "run", fold=fold).val]
    ]
    told = [record.message for record in caplog.records if "in a case that trains" in record.message]
    assert len(watching) == len(told) == 1
    assert told[0] == (
        "Expected class lesion in a case that trains, received it in validation alone (c). Use --fold all, or another --fold, so "
        "that it is learnt."
    )


def test_a_fold_without_a_usable_case_is_told_before_the_training(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = data_set(tmp_path / "data")
    (only,) = (item["case"] for item in run(folder, tmp_path / "first", fold=4).val)
    (folder / "labelsTr" / f"{only}.nii.gz").write_bytes(b"")
    assert not run(folder, tmp_path / "second", fold=4).val
    assert f"Nothing will be validated: {only} of the fold cannot be used" in caplog.text
