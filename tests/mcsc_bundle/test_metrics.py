"""Scores you can check in your head, and a slow reference for the surfaces."""

import math

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from mcsc_bundle.case_metrics import CaseMetric, case_metrics, read_metrics, write_metrics
from mcsc_bundle.metrics import evaluate, masks_in, score_folder
from mcsc_bundle.score_table import summary_table
from tests.plans import make_plan

LABELS = {"background": 0, "organ": 7}


def masks(*points, shape=(6, 6, 6)):
    mask = np.zeros(shape, np.uint8)
    for point in points:
        mask[point] = 7
    return mask


def score(a, b, spacing=(1, 1, 1), **kwargs):
    (row,) = case_metrics(a, b, LABELS, spacing, "case", **kwargs)
    return row


def test_equal_masks():
    row = score(masks((1, 1, 1)), masks((1, 1, 1)))
    assert (row.dice, row.surface_dice, row.hd95_mm, row.asd_mm) == (1, 1, 0, 0)


@pytest.mark.parametrize("axis", (0, 1, 2))
def test_two_voxels_apart_in_mm(axis):
    spacing = (1.0, 2.0, 5.0)
    moved = [1, 1, 1]
    moved[axis] += 1
    row = score(masks((1, 1, 1)), masks(tuple(moved)), spacing)
    assert row.dice == 0 and row.hd95_mm == row.asd_mm == spacing[axis]


def test_half_overlap():
    assert score(masks((1, 1, 1), (1, 1, 2)), masks((1, 1, 2), (1, 1, 3))).dice == 0.5


def test_surface_dice_counts_within_tolerance():
    a, b = masks((1, 1, 1)), masks((1, 1, 3))
    assert score(a, b, tolerance_mm=2.0).surface_dice == 1
    assert score(a, b, tolerance_mm=1.9).surface_dice == 0


@pytest.mark.parametrize("tolerance_mm, expected", [(4.9, 0), (5.0, 1)])
def test_surface_dice_tolerance_is_in_mm(tolerance_mm, expected):
    a, b = masks((1, 1, 1)), masks((1, 1, 2))
    assert score(a, b, (1, 1, 5), tolerance_mm=tolerance_mm).surface_dice == expected


def test_distances_equal_a_slow_reference_on_thick_slices():
    rng = np.random.default_rng(0)
    grid = np.indices((12, 12, 5)).astype(float)
    spacing = np.array((1.5, 1.5, 8.0))
    blobs = []
    for shift in (0.0, 1.5):
        distance = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, (6 + shift, 5.5, 2), spacing, strict=True)) ** 0.5
        blobs.append(((distance < 7 + rng.random()) * 7).astype(np.uint8))
    row = score(*blobs, spacing)
    edges = [np.argwhere((b > 0) & ~binary_erosion(b > 0)) * spacing for b in blobs]
    table = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=-1)
    to_b, to_a = table.min(1), table.min(0)
    assert row.hd95_mm == pytest.approx(max(np.percentile(to_b, 95), np.percentile(to_a, 95)), rel=1e-5)
    assert row.asd_mm == pytest.approx(np.concatenate([to_b, to_a]).mean(), rel=1e-5)


def test_both_empty_is_not_counted():
    row = score(masks(), masks())
    assert math.isnan(row.dice) and math.isnan(row.hd95_mm)


@pytest.mark.parametrize("pair", [(masks(), masks((1, 1, 1))), (masks((1, 1, 1)), masks())])
def test_one_empty_is_a_miss(pair):
    row = score(*pair)
    assert row.dice == row.surface_dice == 0 and math.isinf(row.hd95_mm)


def test_table_counts_misses_and_the_mean_distance_does_not_flatter():
    rows = [score(masks(), masks((1, 1, 1))), score(masks((1, 1, 1)), masks((1, 1, 1)))]
    line = summary_table(rows).splitlines()[1]
    assert line.split()[:2] == ["organ", "0.500"] and line.split()[-2:] == ["2", "1"]
    assert "inf (1 found: 0.00)" in line


def test_metrics_csv_is_read_as_it_was_written(tmp_path):
    rows = [score(masks((1, 1, 1)), masks((1, 1, 2)), tolerance_mm=0.5), score(masks(), masks((1, 1, 1)))]
    write_metrics(rows, tmp_path / "metrics.csv")
    assert read_metrics(tmp_path / "metrics.csv") == rows


def test_overall_spread_is_over_cases_not_over_classes():
    """Case 1 scores 1 and 0, case 2 scores 0 and 1: both cases are equally good."""
    rows = [
        CaseMetric(case, name, dice, dice, 1.0, 1.0, 1, 1)
        for case, dices in (("one", (1.0, 0.0)), ("two", (0.0, 1.0)))
        for name, dice in zip("ab", dices, strict=True)
    ]
    lines = summary_table(rows).splitlines()
    assert "0.500 +- 0.500" in lines[1] and "0.500 +- 0.000" in lines[3] and lines[3].startswith("mean of cases")


def test_a_class_that_a_case_does_not_have_leaves_its_mean_alone():
    present, absent = score(masks((1, 1, 1)), masks((1, 1, 1))), score(masks(), masks())
    assert summary_table([present, absent]).splitlines()[2].split()[:4] == ["mean", "of", "cases", "1.000"]


def test_touching_the_border():
    assert score(masks((0, 0, 0)), masks((0, 0, 2))).hd95_mm == 2


def test_other_shape_is_refused():
    with pytest.raises(ValueError, match="expected a mask of shape"):
        score(masks(), masks(shape=(5, 6, 6)))


def test_undeclared_value_is_named():
    other = masks((1, 1, 1))
    other[2, 2, 2] = 9
    with pytest.raises(ValueError, match=r"received \[9\] in the mask"):
        score(other, masks((1, 1, 1)))


def test_a_mask_as_large_as_the_image_has_its_border_as_surface():
    full, core = np.full((5, 5), 7), np.zeros((5, 5), int)
    core[1:4, 1:4] = 7
    assert score(full, core, (3.0, 3.0)).hd95_mm == pytest.approx(3 * 2**0.5)  # corner to corner


def test_spacing_scales_distances():
    a, b = masks((1, 1, 1), (1, 2, 1)), masks((3, 1, 4), (4, 1, 1))
    near, far = score(a, b, (1, 2, 4)), score(a, b, (10, 20, 40))
    assert far.hd95_mm == pytest.approx(10 * near.hd95_mm) and far.asd_mm == pytest.approx(10 * near.asd_mm)


@pytest.fixture
def folder(tmp_path):
    """Masks and labels of case ``good``; the mask of ``lost`` is missing, that of ``moved`` lies elsewhere."""
    for part in ("masks", "labels"):
        (tmp_path / part).mkdir()
    for name in ("good", "lost", "moved"):
        nib.save(nib.Nifti1Image(masks((1, 1, 1)), np.eye(4)), tmp_path / "labels" / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(masks((1, 1, 1)), np.eye(4)), tmp_path / "masks" / "good.nii.gz")
    nib.save(nib.Nifti1Image(masks((1, 1, 1)), np.diag((2, 1, 1, 1))), tmp_path / "masks" / "moved.nii.gz")
    return tmp_path


def test_folder_names_the_cases_it_cannot_score_and_goes_on(folder, caplog):
    rows = evaluate(folder / "masks", masks_in(folder / "labels"), LABELS, folder / "metrics.csv")
    assert [row.case for row in rows] == ["good"]
    assert "not scored: lost: expected a mask of this name" in caplog.text and "not scored: moved: " in caplog.text
    assert (folder / "metrics.csv").read_text().splitlines()[1].startswith("good,organ,1.0")


def test_folders_without_a_common_name_are_told_apart(folder):
    make_plan(labels=LABELS).save(folder / "plan.json")
    for mask in (folder / "masks").iterdir():
        mask.rename(mask.with_name(f"other_{mask.name}"))
    with pytest.raises(SystemExit, match=r"named as the label files in .* found other_good, other_moved\. Check both"):
        score_folder(folder / "masks", folder / "labels", folder / "plan.json", folder / "metrics.csv")
    assert not (folder / "metrics.csv").exists()


def test_command_ends_with_code_1_if_a_case_is_not_scored(folder, capsys):
    make_plan(labels=LABELS).save(folder / "plan.json")
    arguments = (folder / "labels", folder / "plan.json", folder / "metrics.csv")
    with pytest.raises(SystemExit, match="1"):
        score_folder(folder / "masks", *arguments)
    assert "not scored: lost" in capsys.readouterr().out and (folder / "metrics.csv").exists()
    with pytest.raises(SystemExit, match="error: expected a folder of masks"):
        score_folder(folder / "nowhere", *arguments)
    (folder / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"error: expected label files in .*empty, found none"):
        score_folder(folder / "masks", str(folder / "empty"), *arguments[1:])


class TestIgnored:
    def test_what_is_predicted_there_is_neither_right_nor_wrong(self):
        reference, prediction = masks((1, 1, 1), (2, 1, 1)), masks((1, 1, 1), (4, 4, 4))
        reference[4:], reference[2, 1, 1] = 9, 9
        assert score(prediction, reference, ignore_value=9).dice == 1
        without = score(np.where(reference == 9, 0, prediction), np.where(reference == 9, 0, reference))
        assert score(prediction, reference, ignore_value=9) == without

    def test_it_is_a_value_of_references_alone(self):
        ignored = np.full((2, 2), 9)
        with pytest.raises(ValueError, match=r"received \[9\] in the mask"):
            score(ignored, np.zeros((2, 2), int), (1, 1), ignore_value=9)
        with pytest.raises(ValueError, match=r"received \[9\] in the reference"):
            score(np.zeros((2, 2), int), ignored, (1, 1))

    def test_a_case_without_an_annotated_voxel_is_not_counted(self):
        row = score(masks((1, 1, 1)), np.full((6, 6, 6), 9), ignore_value=9)
        assert math.isnan(row.dice)


def test_a_region_is_scored_by_all_of_its_values():
    labels = {"background": 0, "whole": (1, 2), "core": (2,)}
    reference, prediction = np.array([[0, 1, 1, 2]]), np.array([[0, 2, 1, 1]])
    whole, core = case_metrics(prediction, reference, labels, (1, 1))
    assert (whole.dice, whole.reference_voxels) == (1, 3) and (core.dice, core.reference_voxels) == (0, 1)
    with pytest.raises(ValueError, match=r"received \[3\] in the mask"):
        case_metrics(np.array([[3]]), np.array([[0]]), labels, (1, 1))
