"""Scores you can check in your head, and a slow reference for the surfaces."""

import math

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from mcsc_bundle.metrics import case_metrics, evaluate, summary_table

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


def test_table_counts_misses_and_leaves_them_out_of_the_distance():
    rows = [score(masks(), masks((1, 1, 1))), score(masks((1, 1, 1)), masks((1, 1, 1)))]
    line = summary_table(rows).splitlines()[1].split()
    assert line[0] == "organ" and line[1] == "0.500" and line[-1] == "1" and line[-2] == "2"


def test_touching_the_border():
    assert score(masks((0, 0, 0)), masks((0, 0, 2))).hd95_mm == 2


def test_other_shape_is_refused():
    with pytest.raises(ValueError, match="expected a mask of shape"):
        score(masks(), masks(shape=(5, 6, 6)))


def test_folder_names_the_case_it_cannot_score_and_goes_on(tmp_path, caplog):
    (tmp_path / "masks").mkdir()
    reference = {}
    for name in ("good", "lost"):
        reference[name] = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(masks((1, 1, 1)), np.eye(4)), reference[name])
    nib.save(nib.Nifti1Image(masks((1, 1, 1)), np.eye(4)), tmp_path / "masks" / "good.nii.gz")
    rows = evaluate(tmp_path / "masks", reference, LABELS, tmp_path / "metrics.csv")
    assert [row.case for row in rows] == ["good"] and "lost is not scored" in caplog.text
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1].startswith("good,organ,1.0")
