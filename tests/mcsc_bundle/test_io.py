from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from mcsc_bundle.io import ImageError, case_name, load_image, load_label, same_grid, spacing_mm
from mcsc_bundle.writer import mask_file, write_like
from tests.mcsc_bundle.images import make_affine, save

AFFINE = make_affine("LPS", (1.0, 2.0, 3.0), degrees=20)


def volume(shape=(4, 5, 6)):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mhd", ".nii.gz"])
def test_every_format_gives_the_voxels_and_the_affine_of_nifti(tmp_path, suffix):
    nifti = save(volume(), tmp_path / "a.nii", AFFINE)
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(tmp_path / f"b{suffix}"))
    one, other = load_image(nifti), load_image(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-5)
    np.testing.assert_allclose(one.affine, AFFINE, atol=1e-5)


def test_shape_spacing_and_type(tmp_path):
    image = load_image(save(volume().astype(np.int16), tmp_path / "a.nii.gz", AFFINE))
    assert image.shape == (1, 4, 5, 6) and image.dtype.is_floating_point
    np.testing.assert_allclose(spacing_mm(image), (1, 2, 3), rtol=1e-6)


@pytest.mark.parametrize(("unit", "in_mm"), [(2, 1), (0, 1), (5, 1), (10, 1), (1, 1000), (9, 1000), (3, 0.001)])
def test_lengths_are_brought_to_mm_as_itk_does(tmp_path, unit, in_mm):
    image = nib.Nifti1Image(volume(), AFFINE)
    image.header["xyzt_units"] = unit  # 8 and more: of time
    nib.save(image, tmp_path / "a.nii")
    read, itk = load_image(tmp_path / "a.nii"), sitk.ReadImage(str(tmp_path / "a.nii"))
    np.testing.assert_allclose(spacing_mm(read), in_mm * np.array((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(itk.GetSpacing(), spacing_mm(read), rtol=1e-6)
    np.testing.assert_allclose(itk.GetOrigin(), read.affine[:3, 3] * np.array((-1, -1, 1)), rtol=1e-5)


def test_scaled_intensities_are_the_real_ones(tmp_path):
    stored = nib.Nifti1Image(np.full((2, 2, 2), 7, np.int16), np.eye(4))
    stored.header.set_slope_inter(2.0, 100.0)
    nib.save(stored, tmp_path / "a.nii")
    raw = int(np.asarray(nib.load(tmp_path / "a.nii").dataobj.get_unscaled()).flat[0])
    assert float(load_image(tmp_path / "a.nii")[0, 0, 0, 0]) == pytest.approx(2.0 * raw + 100.0)


def test_files_are_channels_in_order(tmp_path):
    paths = [save(volume() + channel, tmp_path / f"a_000{channel}.nii.gz") for channel in range(3)]
    assert load_image(paths)[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_last_axis_of_a_4d_file_is_channels(tmp_path):
    assert load_image(save(volume((4, 5, 6, 2)), tmp_path / "a.nii.gz")).shape == (2, 4, 5, 6)


def test_2d_images_have_two_spacings(tmp_path):
    nifti = nib.Nifti1Image(volume((4, 5)), np.diag([0.5, 0.7, 1, 1]))
    nib.save(nifti, tmp_path / "a.nii.gz")
    picture = sitk.GetImageFromArray(np.zeros((5, 4, 3), np.uint8), isVector=True)
    sitk.WriteImage(picture, str(tmp_path / "b.png"))
    assert spacing_mm(load_image(tmp_path / "a.nii.gz")) == pytest.approx((0.5, 0.7))
    assert load_image(tmp_path / "b.png").shape == (3, 4, 5)


def test_the_dots_per_inch_of_a_picture_are_no_spacing(tmp_path):
    Image.fromarray(np.zeros((5, 4), np.uint8)).save(tmp_path / "a.tif", dpi=(300, 300))
    assert spacing_mm(load_image(tmp_path / "a.tif")) == (1.0, 1.0)


@pytest.mark.parametrize("ending", ["bmp", "png"])
def test_grey_pictures_have_one_channel(tmp_path, ending):
    grey = np.arange(20, dtype=np.uint8).reshape(5, 4)
    Image.fromarray(grey).save(tmp_path / f"a.{ending}")
    for loaded in (load_image(tmp_path / f"a.{ending}"), load_label(tmp_path / f"a.{ending}")):
        np.testing.assert_array_equal(np.asarray(loaded)[0], grey.T)


@pytest.mark.parametrize("ending", ["bmp", "png"])
def test_a_palette_numbers_the_classes_of_a_label_and_colours_an_image(tmp_path, ending):
    classes = np.arange(20, dtype=np.uint8).reshape(5, 4) % 3
    picture = Image.fromarray(classes, mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    picture.save(tmp_path / f"a.{ending}")
    np.testing.assert_array_equal(np.asarray(load_label(tmp_path / f"a.{ending}"))[0], classes.T)
    assert load_image(tmp_path / f"a.{ending}")[:, 1, 0].tolist() == [255, 0, 0]


def test_grey_saved_as_colours_is_a_label_and_colours_are_not(tmp_path):
    grey = np.arange(20, dtype=np.uint8).reshape(5, 4)
    Image.fromarray(grey).convert("RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(load_label(tmp_path / "a.png"))[0], grey.T)
    Image.fromarray(np.stack([grey, grey, 2 * grey], axis=-1)).save(tmp_path / "b.png")
    with pytest.raises(ImageError, match="one integer per voxel, not colours"):
        load_label(tmp_path / "b.png")


def test_labels_are_integers(tmp_path):
    label = load_label(save(np.full((2, 2, 2), 4.0, np.float32), tmp_path / "a.nii.gz"))
    assert label.shape == (1, 2, 2, 2) and not label.dtype.is_floating_point and set(np.unique(label)) == {4}


def test_same_grid_allows_rounding_and_no_more(tmp_path):
    moved = make_affine()
    moved[0, 3] += 2e-4
    shifted = make_affine()
    shifted[0, 3] += 0.1
    images = [
        load_image(save(volume(), tmp_path / f"{i}.nii", a)) for i, a in enumerate((make_affine(), moved, shifted))
    ]
    assert same_grid(images[0], images[1]) and not same_grid(images[0], images[2])


def broken(path, **fields):
    """A NIfTI file with header fields set to what no library would write."""
    nib.save(nib.Nifti1Image(volume(), np.eye(4)), path)
    data = path.read_bytes()
    header = nib.Nifti1Header(data[:348])
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + data[348:])
    return path


def refused(tmp_path):
    nan = volume()
    nan[0, 0, 0] = np.nan
    flat = make_affine()
    flat[:3, 1] = flat[:3, 0] * 2
    path = tmp_path / "cut.nii.gz"
    path.write_bytes(save(volume((20, 20, 20)), tmp_path / "whole.nii.gz").read_bytes()[:300])
    zero = broken(tmp_path / "zero.nii", pixdim=[1, 0, 1, 1, 1, 1, 1, 1])
    singular = broken(tmp_path / "singular.nii", sform_code=1, srow_x=flat[0], srow_y=flat[1], srow_z=flat[2])
    other = save(volume(), tmp_path / "other.nii", make_affine(spacing=(1, 1, 2)))
    return {
        "nothing": (tmp_path / "nothing.nii", "found none"),
        "folder": (tmp_path, "received a folder"),
        "suffix": (
            save(volume(), tmp_path / "a.nii").rename(tmp_path / "a.jpg"),
            r"a file ending in .*, received \.jpg",
        ),
        "cut": (path, "cannot be read"),
        "nan": (save(nan, tmp_path / "nan.nii"), "NaN or infinity"),
        "5d": (save(volume((2, 2, 2, 1, 3)), tmp_path / "five.nii"), "2, 3 or 4 dimensions"),
        "zero": (zero, "positive spacings.*set_zooms"),
        "singular": (singular, "different directions"),
        "grids": ([save(volume(), tmp_path / "one.nii"), other], "expected the grid of one.nii"),
    }


@pytest.mark.parametrize("name", ["nothing", "folder", "suffix", "cut", "nan", "5d", "zero", "singular", "grids"])
def test_refused_with_file_and_reason(tmp_path, name):
    path, words = refused(tmp_path)[name]
    with pytest.raises(ImageError, match=words) as error:
        load_image(path)
    assert str(path[-1] if isinstance(path, list) else path) in str(error.value)


def test_a_negative_spacing_is_taken_without_its_sign_and_said(tmp_path, caplog):
    path = broken(tmp_path / "negative.nii", pixdim=[1, 1, -2, 3, 1, 1, 1, 1], sform_code=0, qform_code=0)
    assert spacing_mm(load_image(path)) == (1, 2, 3)
    assert (
        "negative.nii: spacings [1.0, -2.0, 3.0] mm are negative in the header; taken without the sign" in caplog.text
    )


@pytest.mark.parametrize("name", ["a.MHA", "a.Mhd", "a.NRRD", "a.Nii", "a.NII.GZ", "a.Nii.gz", "a.nii.GZ", "a.PNG"])
def test_letters_of_the_ending_may_be_large(tmp_path, name):
    """Reading, and writing a mask like the image, whose ending is small."""
    small = tmp_path / name.lower()
    if name.endswith("PNG"):
        sitk.WriteImage(sitk.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(3, 4)), str(small))
    elif ".nii" in name.lower():
        save(volume(), small)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(volume()), str(small))
    expected = load_image(small)
    (tmp_path / "other").mkdir()
    path = small.rename(tmp_path / "other" / name)
    for data in tmp_path.glob("a.*raw"):
        data.rename(path.with_name(data.name))
    np.testing.assert_array_equal(load_image(path), expected)
    mask = mask_file(tmp_path / "masks", case_name(path), path)
    write_like(np.ones((1, *expected.shape[1:]), np.uint8), path, mask)
    assert mask.name == name.lower().replace(".mhd", ".mha") and load_label(mask).unique().tolist() == [1]
    np.testing.assert_allclose(load_label(mask).affine, expected.affine)


def test_nifti_2_is_told_from_nifti_1_by_its_content(tmp_path):
    nib.save(nib.Nifti2Image(volume(), np.eye(4)), tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").rename(tmp_path / "b.Nii.Gz")
    np.testing.assert_array_equal(load_image(tmp_path / "b.Nii.Gz")[0], volume())


def test_fractions_are_no_labels(tmp_path):
    with pytest.raises(ImageError, match=r"fractions such as 0\.5"):
        load_label(save(np.full((2, 2, 2), 0.5, np.float32), tmp_path / "a.nii"))


@pytest.mark.parametrize("name", ["a.b_01.nii.gz", "a.b_01.mha", "a.b_01.NII.GZ", "a.b_01"])
def test_case_name(name):
    assert case_name(f"/some/where/{name}") == "a.b_01"


def test_label_values_that_rounding_moved_by_a_hair_are_mended(tmp_path):
    """nibabel stores floats as scaled uint8: 1 comes back as 1.00000002."""
    image = nib.Nifti1Image(np.array([[[0.0, 1.0, 3.0]]]), np.eye(4))
    image.set_data_dtype(np.uint8)
    nib.save(image, tmp_path / "label.nii.gz")
    assert set(np.unique(nib.load(tmp_path / "label.nii.gz").get_fdata())) != {0.0, 1.0, 3.0}
    assert load_label(tmp_path / "label.nii.gz").unique().tolist() == [0, 1, 3]
