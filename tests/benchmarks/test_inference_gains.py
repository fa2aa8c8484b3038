"""What largest components do to the scores of a folder of masks, by an island that can be counted."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from benchmarks.inference_gains import score
from benchmarks.label_table import mean_dice_per_case, mean_per_class
from tests.plans import make_plan


def save(volume, path):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(volume, np.diag((2.0, 1.0, 1.0, 1.0))), path)
    return path


def test_an_island_costs_dice_and_distance_unless_largest_components_are_kept(tmp_path):
    make_plan(labels={"background": 0, "left": 1}).save(tmp_path / "plan.json")
    truth = np.zeros((20, 8, 8), np.uint8)
    truth[:2, :2, :2] = 1
    found = truth.copy()
    found[18, :2, :2] = 1  # 4 voxels, 17 x 2 mm from the nearest true one
    case = SimpleNamespace(name="one", label=save(truth, tmp_path / "labels" / "one.nii.gz"))
    save(found, tmp_path / "masks" / "one.nii.gz")

    tables = [
        score(SimpleNamespace(cases=[case]), tmp_path, tmp_path / "masks", groups, name)
        for groups, name in (((), "one_pass"), ((("left",),), "largest"))
    ]
    assert [mean_dice_per_case(table)["one"] for table in tables] == pytest.approx([2 * 8 / (8 + 12), 1.0])
    assert [mean_per_class(table, "hd95_mm")["left"] for table in tables] == pytest.approx([34.0, 0.0])
