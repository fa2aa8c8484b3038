"""Labels that are gone once they are on the plan's grid, or with validation alone."""

import logging

import numpy as np
import pytest

from mcsc_bundle.plan import PlanError
from preprocessing.prepare import prepare
from tests.preprocessing.scans import affine, declare, voxels, write

FINE, COARSE = affine((0.4, 0.4, 0.4)), affine((2.5, 2.5, 2.5))
CLASSES = {"background": 0, "organ": 1, "lesion": 2}


def data_set(folder, fine, coarse, lesions=(), rare=()):
    """Labelled cases with an organ each, on a fine or a coarse grid; a lesion of 2 x 2 x 2 voxels in some of the fine ones."""
    for seed, name in enumerate((*fine, *coarse)):
        shape, grid = ((40, 40, 40), FINE) if name in fine else ((16, 16, 16), COARSE)
        label = np.zeros(shape, np.uint8)
        label[2 : shape[0] // 2, 2 : shape[1] // 2, 2 : shape[2] // 2] = 1
        if name in lesions:
            label[30:32, 30:32, 30:32] = 2
        if name in rare:
            label[9:14, 9:14, 9:14] = 2
        write(folder / "imagesTr" / f"{name}_0000.nii.gz", voxels(seed, shape), grid)
        write(folder / "labelsTr" / f"{name}.nii.gz", label, grid)
    return declare(folder, channel_names={"0": "MRI"}, labels=CLASSES, file_ending=".nii.gz")


def run(folder, out, **options):
    return prepare(str(folder), str(out), workers=1, device="cpu", configuration="3d_fullres", **options)


def test_a_class_that_the_grid_loses_in_all_cases_is_refused(tmp_path):
    folder = data_set(tmp_path / "data", fine=("a", "b"), coarse=("c", "d", "e"), lesions=("a", "b"))
    with pytest.raises(
        PlanError, match=r"expected lesion to be left .* 2 of 2 labelled cases that have it: a, b \(a has 8 "
    ):
        run(folder, tmp_path / "run")


def test_a_class_that_some_cases_lose_is_told(tmp_path, caplog):
    folder = data_set(tmp_path / "data", fine=("a",), coarse=("c", "d", "e"), lesions=("a",), rare=("c",))
    run(folder, tmp_path / "run")
    assert "Expected lesion to be left" in caplog.text and "in 1 of 2 labelled cases that have it: a " in caplog.text
    assert "organ" not in caplog.text


def test_a_class_that_validates_alone_is_told(tmp_path, caplog):
    names = tuple("abcdefg")
    folder = data_set(tmp_path / "data", fine=(), coarse=names, rare=("c",))
    watched = [run(folder, tmp_path / "run", fold=fold).val for fold in range(5)]
    told = [record.message for record in caplog.records if "in no case that trains" in record.message]
    assert len(told) == 1 == sum("c" in [item["case"] for item in part] for part in watched)
    assert told[0].startswith("Class lesion is in no case that trains: c validates. Use --fold all")


def test_a_fold_without_a_usable_case_is_told_before_the_training(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = data_set(tmp_path / "data", fine=(), coarse=tuple("abcdefg"))
    (only,) = (item["case"] for item in run(folder, tmp_path / "first", fold=4).val)
    (folder / "labelsTr" / f"{only}.nii.gz").write_bytes(b"")
    assert not run(folder, tmp_path / "second", fold=4).val
    assert f"Nothing will be validated: {only} of the fold cannot be used" in caplog.text
