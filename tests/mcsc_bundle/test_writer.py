from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from mcsc_bundle.io import load_image, load_label
from mcsc_bundle.writer import mask_file, write_like
from tests.mcsc_bundle.images import make_affine, save

MASK = np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti_header_is_kept(tmp_path, kind):
    image = kind(np.zeros((2, 3, 4), np.int16), None)
    image.set_qform(make_affine("LPS", (1, 2, 3), 15), code=2)
    image.set_sform(make_affine("PSR", (1, 2, 3), 10), code=1)
    image.header.set_slope_inter(3.0, 5.0)
    image.header.set_xyzt_units("mm", "sec")
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a name"))
    image.header["descrip"] = image.header["aux_file"] = b"a name"
    nib.save(image, tmp_path / "a.nii.gz")
    write_like(MASK, tmp_path / "a.nii.gz", tmp_path / "m.nii.gz")
    given, made = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "m.nii.gz")
    for name in (
        "qform_code",
        "sform_code",
        "quatern_b",
        "qoffset_x",
        "srow_x",
        "srow_y",
        "srow_z",
        "pixdim",
        "xyzt_units",
    ):
        np.testing.assert_array_equal(given.header[name], made.header[name])
    assert type(made) is kind and made.get_data_dtype() == np.uint8 and not made.header.extensions
    assert b"a name" not in made.header.binaryblock
    np.testing.assert_array_equal(np.asarray(made.dataobj), MASK[0])


def test_mask_of_a_4d_image_has_three_axes(tmp_path):
    save(np.zeros((2, 3, 4, 5), np.float32), tmp_path / "a.nii")
    write_like(MASK, tmp_path / "a.nii", tmp_path / "m.nii")
    assert nib.load(tmp_path / "m.nii").shape == (2, 3, 4)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1)])
def test_2d_mask_takes_the_shape_of_the_file(tmp_path, shape):
    nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), tmp_path / "a.nii")
    write_like(np.ones((1, 5, 4), np.uint8), tmp_path / "a.nii", tmp_path / "m.nii")
    assert nib.load(tmp_path / "m.nii").shape == shape


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_itk_geometry_is_kept(tmp_path, suffix):
    image = sitk.ReadImage(
        str(save(np.zeros((2, 3, 4), np.float32), tmp_path / "a.nii", make_affine("LPS", (1, 2, 3), 25)))
    )
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    write_like(MASK, tmp_path / f"a{suffix}", tmp_path / f"m{suffix}")
    made = sitk.ReadImage(str(tmp_path / f"m{suffix}"))
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(made, name)(), getattr(image, name)(), atol=1e-9)
    np.testing.assert_array_equal(load_label(tmp_path / f"m{suffix}"), MASK)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_probabilities_come_back_as_channels(tmp_path, suffix):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 3, 2), np.float32)), str(tmp_path / f"a{suffix}"))
    shares = np.random.default_rng(0).random((5, 2, 3, 4), np.float32)
    write_like(shares, tmp_path / f"a{suffix}", tmp_path / f"p{suffix}")
    np.testing.assert_array_equal(load_image(tmp_path / f"p{suffix}"), shares)


def test_a_picture_gets_a_picture(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 2), np.uint8)), str(tmp_path / "a.png"))
    mask = np.arange(6, dtype=np.int32).reshape(1, 2, 3)
    write_like(mask, tmp_path / "a.png", tmp_path / "m.png")
    np.testing.assert_array_equal(load_label(tmp_path / "m.png"), mask)


def test_a_mask_of_another_shape_is_refused_and_leaves_no_file(tmp_path):
    save(np.zeros((4, 3, 2), np.float32), tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"expected a mask of shape \(4, 3, 2\)"):
        write_like(MASK, tmp_path / "a.nii", tmp_path / "m.nii")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii"]


def test_names():
    assert mask_file("out", "p1", "in/p1_0000.nii.gz").as_posix() == "out/p1.nii.gz"
    assert mask_file("out", "p1", "in/p1.png", probabilities=True).as_posix() == "out/p1_probabilities.nrrd"


def test_the_mask_of_an_image_in_two_files_is_one_file(tmp_path):
    """A header that names a second file is not replaced whole: that would keep its temporary name."""
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 3, 2), np.int16)), str(tmp_path / "a.mhd"))
    target = mask_file(tmp_path / "masks", "a", tmp_path / "a.mhd")
    assert target.name == "a.mha"
    target.parent.mkdir()
    write_like(MASK, tmp_path / "a.mhd", target)
    assert [path.name for path in target.parent.iterdir()] == ["a.mha"]
    np.testing.assert_array_equal(load_label(target).numpy(), MASK)


def test_pictures_that_become_volumes_have_pixels_of_1_mm(tmp_path):
    Image.fromarray(np.zeros((3, 2), np.uint8)).save(tmp_path / "a.tif", dpi=(300, 300))
    write_like(np.zeros((1, 2, 3), np.uint8), tmp_path / "a.tif", tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").header.get_zooms()[:2] == (1.0, 1.0)
