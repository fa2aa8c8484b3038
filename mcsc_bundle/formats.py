"""One image file of any supported format as an array with its affine: nibabel for NIfTI, SimpleITK for the others.

Pictures (PNG, BMP, TIFF) have no size in mm: their pixels count as 1 mm.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from PIL import Image

from mcsc_bundle.words import warn_once

log = logging.getLogger(__name__)

NIFTI_SUFFIXES = (".nii.gz", ".nii")
# NIfTI's code of a unit of length (the lowest three bits of xyzt_units); ITK reads them so, nibabel leaves them to the caller.
MM = {1: 1000.0, 3: 0.001}
UNITS = {1: "metre", 3: "micrometre"}
FLAT_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
META_SUFFIXES = (".mha", ".mhd")
IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, *META_SUFFIXES, ".nrrd", *FLAT_SUFFIXES)


class ImageError(ValueError):
    """A file that cannot be used as an image or label map; the message names the file and what to do."""


@dataclass(frozen=True)
class ImageFile:
    """Content of one file: ``data`` ``(C, *spatial)`` as stored, square ``affine`` from its spatial axes to RAS mm."""

    data: np.ndarray
    affine: np.ndarray


def image_suffix(path: str | Path) -> str | None:
    """The suffix of an image file, ``.nii.gz`` in one piece, in lower case; ``None`` for other files."""
    name = Path(path).name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), None)


def spacing_of(affine: np.ndarray) -> tuple[float, ...]:
    """Distance in mm of neighbouring voxels along each axis."""
    return tuple(float(length) for length in np.linalg.norm(affine[:-1, :-1], axis=0))


def read_file(path: Path, dtype: type | None) -> ImageFile:
    """One file of any format.

    Args:
        path: the file.
        dtype: of the voxels; ``None`` keeps the file's own.

    Raises:
        ImageError: not there, unknown format, damaged, or an impossible geometry.
    """
    suffix = image_suffix(path)
    if path.is_dir():
        raise ImageError(f"{path}: expected an image file, received a folder. Convert a DICOM series first (dcm2niix).")
    if path.is_symlink() and not path.exists():
        raise ImageError(
            f"{path}: expected an image file, found a link to {path.readlink()}, which is not there. Mend the link."
        )
    if not path.is_file():
        raise ImageError(f"{path}: expected an image file, found none. Check the path.")
    if suffix is None:
        raise ImageError(
            f"{path}: expected a file ending in {', '.join(IMAGE_SUFFIXES)}, received {path.suffix or 'none'}. Convert it."
        )
    try:
        file = _read_nifti(path, dtype) if suffix in NIFTI_SUFFIXES else _read_itk(path, dtype)
    except ImageError:
        raise
    except Exception as error:  # each library has its own kinds, and a damaged file can raise any of them
        reason = " ".join(str(error).split())[-200:]
        raise ImageError(
            f"{path}: cannot be read ({type(error).__name__}: {reason}). Replace the file or leave the case out."
        ) from error
    _check_geometry(path, file)
    return file


def _check_geometry(path: Path, file: ImageFile) -> None:
    spacing = spacing_of(file.affine)
    if not (np.isfinite(file.affine).all() and min(spacing) > 0):
        raise ImageError(f"{path}: expected positive spacings, received {spacing} mm. Correct the header.")
    if abs(np.linalg.det(file.affine[:-1, :-1] / spacing)) < 1e-3:
        raise ImageError(
            f"{path}: expected axes that point in different directions, received affine {file.affine.tolist()}. "
            "Correct the header."
        )
    if 0 in file.data.shape:
        raise ImageError(
            f"{path}: expected voxels, received shape {file.data.shape}. Replace the file or leave the case out."
        )


def open_nifti(path: str | Path) -> Any:
    """The image, its voxels unread. ``nibabel.load`` would look for ``a.Nii.gz`` under the name ``a.nii.gz``."""
    suffix = Path(path).name[-len(image_suffix(path) or "") :]
    if suffix in (suffix.lower(), suffix.upper()):
        return nib.load(path)
    with nib.openers.ImageOpener(str(path)) as file:
        size = file.read(4)
    kind = nib.Nifti2Image if 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big")) else nib.Nifti1Image
    return kind.from_file_map({"image": nib.FileHolder(str(path))})


def itk_reader(path: str | Path) -> sitk.ImageFileReader:
    """SimpleITK's reader of a file. By itself it does not know ``a.MHA``."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    if image_suffix(path) in META_SUFFIXES:
        reader.SetImageIO("MetaImageIO")
    return reader


def _read_nifti(path: Path, dtype: type | None) -> ImageFile:
    image = open_nifti(path)
    shape = image.shape
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    dims = min(3, len(shape))
    if not 2 <= len(shape) <= 4:
        raise ImageError(
            f"{path}: expected 2, 3 or 4 dimensions (the fourth for channels), received shape {image.shape}. "
            "Give one image per file."
        )
    _check_nifti_spacing(path, image, dims)
    if image.get_data_dtype().kind not in "iuf":
        raise ImageError(
            f"{path}: expected one number per voxel, received voxel type {image.get_data_dtype()}. "
            "Store each channel as a number."
        )
    data = np.asanyarray(image.dataobj) if dtype is None else image.get_fdata(dtype=dtype, caching="unchanged")
    data = data.reshape(shape)[None] if len(shape) < 4 else np.moveaxis(data.reshape(shape), -1, 0)
    affine = image.affine if dims == 3 else np.diag(np.array([*image.header.get_zooms()[:2], 1.0], dtype=np.float64))
    return ImageFile(data.astype(data.dtype.newbyteorder("="), copy=False), _in_mm(path, image, affine))


def _in_mm(path: Path, image: Any, affine: np.ndarray) -> np.ndarray:
    unit = int(image.header["xyzt_units"]) & 7
    if unit not in MM:
        return affine
    warn_once(log, f"{path}: by its header lengths are in the unit {UNITS[unit]}; taken so.")
    return np.diag([MM[unit]] * (len(affine) - 1) + [1.0]) @ affine


def _check_nifti_spacing(path: Path, image: Any, dims: int) -> None:
    """nibabel mends impossible spacings in silence, so they are read from the raw header.

    A negative one is taken without its sign, as nibabel and ITK do: a length has none. One of 0 could be anything.
    """
    with nib.openers.ImageOpener(str(path)) as file:
        raw = type(image.header).from_fileobj(file, check=False)
    spacing = raw["pixdim"][1 : dims + 1].astype(float)
    counts = np.array(image.shape[:dims]) > 1  # the third spacing of a single slice is often left at 0
    if not np.all(np.isfinite(spacing)) or np.any(spacing[counts] == 0):
        raise ImageError(
            f"{path}: expected positive spacings, received {spacing.tolist()} mm. Write the true ones, in mm, into pixdim "
            "of the header (nibabel: image.header.set_zooms), or leave the case out."
        )
    if np.any(spacing < 0):
        log.warning("%s: spacings %s mm are negative in the header; taken without the sign.", path, spacing.tolist())
        spacing = np.abs(spacing)
    if dims == 3 and not np.allclose(spacing[counts], np.array(spacing_of(image.affine))[counts], rtol=0.01):
        used = spacing_of(image.affine)
        log.warning("%s: pixdim %s mm differs from the affine's %s mm; the affine is used.", path, spacing, used)


def _read_itk(path: Path, dtype: type | None) -> ImageFile:
    image = itk_reader(path).Execute()
    if image_suffix(path) in FLAT_SUFFIXES:  # their dots per inch are of printers and screens
        image.SetSpacing((1.0,) * image.GetDimension())
    spatial, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    array = sitk.GetArrayViewFromImage(image)  # (z, y, x) or (z, y, x, component)
    if components > 1 and (numbers := _numbers_behind_colours(path, of_palette=dtype is None)) is not None:
        data = numbers
    elif components > 1:
        data = array.transpose(spatial, *reversed(range(spatial)))
    elif spatial == 4:
        data, spatial = array.transpose(0, 3, 2, 1), 3
    else:
        data = array.transpose()[None]
    if spatial not in (2, 3):
        raise ImageError(f"{path}: expected 2 or 3 spatial dimensions, received {spatial}. Give one image per file.")
    return ImageFile(np.array(data, dtype=dtype or data.dtype, order="K"), _itk_affine(image, spatial))


def _numbers_behind_colours(path: Path, of_palette: bool) -> np.ndarray | None:
    """``(1, x, y)`` of a picture that SimpleITK gives in colours though it holds one number per pixel; ``None`` of others.

    Args:
        path: the file.
        of_palette: take the numbers of a palette of colours, too: they are a label map's classes.
    """
    if image_suffix(path) not in (".png", ".bmp"):
        return None
    with Image.open(path) as picture:
        one_number = picture.mode in ("1", "L") or (of_palette and picture.mode == "P")
        return np.array(picture, dtype=np.uint8).T[None] if one_number else None


def _itk_affine(image: sitk.Image, dims: int) -> np.ndarray:
    spacing = np.array(image.GetSpacing()[:dims])
    if dims == 2:
        return np.diag([*spacing, 1.0])
    full = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(full, full)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, image.GetOrigin()[:3]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK's x and y point to the left and to the back
