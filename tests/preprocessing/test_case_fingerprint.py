"""What is measured on one case, on scans whose numbers can be checked in the head."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform
from scipy.spatial.transform import Rotation

from mcsc_bundle.io import ImageError
from preprocessing.case_fingerprint import describe, measure_case
from preprocessing.dataset import Case
from tests.preprocessing.scans import SHAPE, affine, mask, voxels, write

LABELS = {"background": 0, "left": 1, "right": 2}


def measured(
    folder,
    image,
    label=None,
    grid=None,
    label_grid=None,
    limit=1000,
    labels=LABELS,
    channels=("MRI",),
    ignore=None,
    regions=None,
):
    images = (write(folder / "image.nii", image, grid),)
    path = None if label is None else write(folder / "label.nii", label, grid if label_grid is None else label_grid)
    return measure_case(Case("case", images, path), True, channels, labels, limit, ignore, regions)


def test_box_of_nonzero_voxels_is_the_shape_after_crop(tmp_path):
    image = np.zeros((6, 5, 4), dtype=np.float32)
    image[1:4, 2, 0:3] = voxels(0, (3, 3))
    case = measured(tmp_path, image).fingerprint
    assert (case.shape, case.shape_after_crop) == ((6, 5, 4), (3, 1, 3))
    assert case.kept_ratio == 9 / 120


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "IAL"])
def test_axes_are_those_after_reorientation(tmp_path, codes):
    image = voxels(0, (6, 5, 4))
    image[4:] = 0
    scan = nib.Nifti1Image(image, affine((1.0, 2.0, 3.0)))
    turned = scan.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes)))
    case = measured(tmp_path, np.asarray(turned.dataobj), grid=turned.affine).fingerprint
    assert (case.shape, case.shape_after_crop, case.orientation) == ((6, 5, 4), (4, 5, 4), codes)
    assert case.spacing_mm == pytest.approx((1, 2, 3))


def test_oblique_angle_is_that_of_the_rotation(tmp_path):
    grid = affine()
    grid[:3, :3] = Rotation.from_euler("x", 20, degrees=True).as_matrix() @ grid[:3, :3]
    assert measured(tmp_path, voxels(0), grid=grid).fingerprint.oblique_degrees == pytest.approx(20, abs=1e-3)


def test_two_dimensional_image_has_no_orientation(tmp_path):
    case = measured(tmp_path, voxels(0, (6, 5)), mask((6, 5))).fingerprint
    assert (case.shape, case.orientation, case.oblique_degrees) == ((6, 5), "", 0)
    assert len(case.spacing_mm) == 2


def test_statistics_agree_with_numpy(tmp_path):
    image = voxels(3)
    image[0] = 0
    case = measured(tmp_path, image).fingerprint
    for stats, values in ((case.whole[0], image), (case.nonzero[0], image[image != 0])):
        expected = [f(values.astype(np.float64)) for f in (np.mean, np.median, np.std, np.min, np.max)]
        assert [stats.mean, stats.median, stats.std, stats.min, stats.max] == pytest.approx(expected, rel=1e-6)
        assert stats.percentile_99_5 == pytest.approx(np.percentile(values, 99.5), rel=1e-6)
        assert stats.voxels == values.size


def test_statistics_of_nothing_are_zero():
    assert describe(np.empty(0, dtype=np.float32)).voxels == 0


def test_class_voxels_and_components(tmp_path):
    label = np.zeros((6, 5, 4), dtype=np.int16)
    label[0, 0, 0] = label[1, 1, 1] = label[5, 4, 3] = 7  # the first two touch at a corner
    label[3, 0, 0:2] = 300
    labels = {"background": 0, "a": 7, "b": 300, "absent": 9}
    case = measured(tmp_path, voxels(0), label, labels=labels).fingerprint
    assert case.class_voxels == {"background": 115, "a": 3, "b": 2, "absent": 0}
    assert case.class_components == {"a": 2, "b": 1, "absent": 0}
    assert case.class_largest == {"a": pytest.approx(2 / 3), "b": 1.0, "absent": 0.0}
    assert case.foreground_largest == 0  # a and b do not touch: the largest component holds nothing of one of them


@pytest.mark.parametrize(("spacing", "kept"), [((1, 1, 5), 0), ((5, 1, 1), 1), ((1, 1, 3), None)])
def test_what_a_coarser_grid_would_keep_is_measured_across_thick_slices(tmp_path, spacing, kept):
    """A row of voxels along z: in planes of x and y lone pixels, in those of y and z two of four."""
    label = np.zeros((6, 5, 4), dtype=np.int16)
    label[2, 2, :] = 1
    labels = {"background": 0, "a": 1}
    case = measured(tmp_path, voxels(0), label, np.diag([*spacing, 1.0]), labels=labels).fingerprint
    assert case.class_coarse_dice.get("a", (None,))[0] == kept


def test_a_single_slice_is_a_plane_whatever_its_spacing(tmp_path):
    label = np.zeros((6, 5, 1), dtype=np.int16)
    label[2:4, 2:4, 0] = 1
    case = measured(tmp_path, voxels(0, label.shape), label, labels={"background": 0, "a": 1}).fingerprint
    assert case.class_coarse_dice == {
        "a": (1, 0)
    }  # four pixels are all of a block of four, and a quarter of one of sixteen


@pytest.mark.parametrize(
    ("row", "least"), [("1111222", 1), ("1111022", 0), ("1111220020", 2 / 3), ("1101100000", 1 / 2)]
)
def test_a_small_organ_counts_as_much_as_a_large_one_beside_it(tmp_path, row, least):
    """A liver of thousands of voxels and a gallbladder of three: of one that lies apart, all together is no single piece."""
    label = np.zeros((len(row), 30, 30), dtype=np.int16)
    for position, value in enumerate(map(int, row)):
        label[position, : 30 if value == 1 else 1, : 30 if value == 1 else 1] = value
    case = measured(tmp_path, voxels(0, label.shape), label, labels={"background": 0, "liver": 1, "gallbladder": 2})
    assert case.fingerprint.foreground_largest == pytest.approx(least)


def test_foreground_is_all_labelled_voxels_or_a_fixed_sample(tmp_path):
    image, label = voxels(1), mask()
    everything = measured(tmp_path, image, label).foreground[0]
    assert sorted(everything) == sorted(image[label > 0])
    some, again = (measured(tmp_path, image, label, limit=7).foreground[0] for _ in range(2))
    assert some.size == 7 and set(some) < set(everything) and np.array_equal(some, again)


def test_channels_are_sampled_at_the_same_voxels(tmp_path):
    image = np.stack([voxels(1), 10 * voxels(1)], axis=-1)
    first, second = measured(tmp_path, image, mask(), limit=7, channels=("a", "b")).foreground
    assert np.allclose(10 * first, second)


def test_content_hash_sees_voxels_and_not_the_file(tmp_path):
    one = measured(tmp_path, voxels(0)).fingerprint.content_hash
    assert measured(tmp_path, voxels(0).astype(np.float64), grid=affine((2, 2, 2))).fingerprint.content_hash == one
    assert measured(tmp_path, voxels(1)).fingerprint.content_hash != one
    assert measured(tmp_path, voxels(0).reshape(5, 6, 4)).fingerprint.content_hash != one


def with_value(value, at=(2, 2, 2)):
    image = voxels(0)
    image[at] = value
    return image


SHIFTED, FLIPPED = affine(origin=(0.5, 0, 0)), affine() @ np.diag([-1.0, 1, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": with_value(np.nan)}, r"image\.nii: expected finite"),
        ({"image": with_value(np.inf)}, r"image\.nii: expected finite"),
        ({"image": np.zeros((6, 5, 4), np.float32)}, r"image\.nii: .*value 0 all over channel MRI"),
        (
            {"image": np.stack((voxels(0), np.full((6, 5, 4), 7, np.float32)), axis=-1), "channels": ("T1", "T2")},
            r"value 7 all over channel T2",  # at inference it is told, and the mask made
        ),
        ({"image": voxels(0, (6, 5, 4, 3))}, r"image\.nii: expected 1 channel \(MRI\), received 3"),
        ({"image": voxels(0), "label": mask((6, 5, 3))}, r"label\.nii: expected the image's shape \(6, 5, 4\)"),
        ({"image": voxels(0), "label": mask(), "label_grid": SHIFTED}, r"label\.nii: expected the image's affine"),
        ({"image": voxels(0), "label": mask(), "label_grid": FLIPPED}, r"label\.nii: expected the image's affine"),
        ({"image": voxels(0), "label": mask() + 2}, r"label\.nii: expected the declared.*received \[3, 4\]"),
        ({"image": voxels(0), "label": mask() * 0.5}, r"label\.nii: expected integer"),
    ],
)
def test_a_defect_is_named_with_its_file(tmp_path, arguments, message):
    with pytest.raises(ImageError, match=message):
        measured(tmp_path, **arguments)


def test_rounding_of_the_header_is_no_defect(tmp_path):
    assert measured(tmp_path, voxels(0), mask(), label_grid=affine(origin=(1e-3, 0, 0))).fingerprint.labeled


def test_ignored_voxels_are_of_no_class_and_no_foreground(tmp_path):
    label = mask()
    label[3:] = 9  # the slab of class 2 is not annotated
    image = voxels(0)
    measurement = measured(tmp_path, image, label, ignore=9)
    assert measurement.fingerprint.class_voxels == {"background": 3 * 20 - 4, "left": 4, "right": 0}
    assert measurement.fingerprint.class_components == {"left": 1, "right": 0}
    assert measurement.fingerprint.ignored_voxels == 3 * 20
    assert sorted(measurement.foreground[0]) == sorted(image[0, 0])


def test_a_label_without_an_annotated_voxel_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"ignored ones alone\. Leave its label file away"):
        measured(tmp_path, voxels(0), np.full(SHAPE, 9, np.uint8), ignore=9)


def test_a_value_that_is_neither_class_nor_ignored_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"or 9 \(ignore\), received \[8\]"):
        measured(tmp_path, voxels(0), np.full(SHAPE, 8, np.uint8), ignore=9)


def test_regions_count_all_of_their_values(tmp_path):
    regions = {"both": (1, 2), "right": (2,)}
    labels = {"background": 0, "both": 1, "right": 2}
    label = mask()
    label[1] = 1  # joins the corner to a plane; the slab of 2 stays apart
    case = measured(tmp_path, voxels(0), label, labels=labels, regions=regions).fingerprint
    assert case.class_voxels == {"background": 120 - 44, "both": 44, "right": 20}
    assert case.class_components == {"both": 2, "right": 1}
