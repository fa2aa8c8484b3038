"""Masks and probabilities on the exact grid of an image file, in its format.

NIfTI keeps the image's header: affine, qform and sform with their codes, units, version. Header extensions and texts stay
behind: they may hold the patient's name. The other formats get the image's origin, spacing and direction from SimpleITK.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from monai.config import KeysCollection
from monai.transforms import SaveImaged

from mcsc_bundle.files import replacing
from mcsc_bundle.formats import FLAT_SUFFIXES, NIFTI_SUFFIXES, image_suffix, itk_reader, open_nifti
from mcsc_bundle.io import case_name

PROBABILITIES = "probabilities"  # key of an item's probabilities ``(C, *spatial)``, which are written where it has them
TEXTS = ("descrip", "db_name", "aux_file")  # of a NIfTI header; ``db_name`` is not in version 2


def write_like(array: np.ndarray, image: str | Path, path: str | Path) -> None:
    """Write beside ``path`` and rename.

    Args:
        array: ``(C, *spatial)`` on the grid of ``image``. One channel is written without a channel axis, several as the
            last axis (NIfTI) or as vectors (other formats).
        image: the file whose grid is taken over.
        path: of the new file, with the suffix of its format; pictures have no place for probabilities (give ``.nrrd``).

    Raises:
        ValueError: the array has another number of voxels than the image.
    """
    path = Path(path)
    with replacing(path) as temporary:
        if image_suffix(image) in NIFTI_SUFFIXES and image_suffix(path) in NIFTI_SUFFIXES:
            _write_nifti(array, open_nifti(image), temporary)
        else:
            _write_itk(array, Path(image), temporary)


def _write_nifti(array: np.ndarray, image: Any, path: Path) -> None:
    shape = (*image.shape, 1, 1)[:3]
    flat = len(image.shape) == 2 and len(array) == 1
    voxels = _on_grid(array, shape, image.get_filename())
    header = image.header.copy()
    header.extensions.clear()
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    for text in set(TEXTS) & set(header.keys()):
        header[text] = b""
    voxels = np.moveaxis(voxels, 0, -1) if len(array) > 1 else voxels[0]
    if flat:
        voxels = voxels[..., 0]
    nib.save(type(image)(voxels, None, header), path)  # without an affine, nibabel leaves qform and sform as they are


def _write_itk(array: np.ndarray, image: Path, path: Path) -> None:
    reader = itk_reader(image)
    reader.ReadImageInformation()
    dims = min(3, reader.GetDimension())
    voxels = _on_grid(array, reader.GetSize()[:dims], image)
    voxels = voxels.transpose(*reversed(range(1, dims + 1)), 0)  # (z, y, x, channel)
    several = len(array) > 1
    written = sitk.GetImageFromArray(_supported(voxels if several else voxels[..., 0], path), isVector=several)
    full = reader.GetDimension()
    flat = image_suffix(image) in FLAT_SUFFIXES  # read as pixels of 1 mm, see formats
    written.SetSpacing([1.0] * dims if flat else reader.GetSpacing()[:dims])
    written.SetOrigin(reader.GetOrigin()[:dims])
    written.SetDirection(np.array(reader.GetDirection()).reshape(full, full)[:dims, :dims].ravel().tolist())
    sitk.WriteImage(written, str(path), useCompression=True)


def _on_grid(array: np.ndarray, shape: tuple[int, ...], image: Any) -> np.ndarray:
    """The array with the spatial axes of the file; a 2-D image may lie in a file with a third axis of length 1."""
    if array[0].size != np.prod(shape) or [n for n in array.shape[1:] if n > 1] != [n for n in shape if n > 1]:
        raise ValueError(f"{image}: expected a mask of shape {tuple(shape)}, received {array.shape[1:]}.")
    return array.reshape(len(array), *shape)


def _supported(voxels: np.ndarray, path: Path) -> np.ndarray:
    """Pictures hold 8 or 16 bits without a sign."""
    small = voxels.dtype == np.uint8 or image_suffix(path) not in FLAT_SUFFIXES
    return voxels if small else voxels.astype(np.uint16)


def mask_file(output_dir: str | Path, case: str, image: str | Path, probabilities: bool = False) -> Path:
    """Where the mask (or the probabilities) of a case go: the case's name with the suffix of its image."""
    suffix = image_suffix(image) or NIFTI_SUFFIXES[0]
    suffix = ".mha" if suffix == ".mhd" else suffix  # one file that is whole or not there, in place of two
    if not probabilities:
        return Path(output_dir) / f"{case}{suffix}"
    return Path(output_dir) / f"{case}_probabilities{'.nrrd' if suffix in FLAT_SUFFIXES else suffix}"


class SaveImageMaskd(SaveImaged):
    """Writes a restored mask like its image; MONAI's own writer would make a header with other codes and units.

    MONAI Label and Deploy save results themselves. Label takes out of a chain what is a ``SaveImaged``, Deploy what has
    ``SaveImage`` in its class name; hence both.

    Args:
        keys: of the mask ``(1, *spatial)``; its metadata name the image file (``filename_or_obj``) and the ``case``.
        output_dir: the folder.
    """

    def __init__(self, keys: KeysCollection, output_dir: str | Path) -> None:
        super().__init__(keys, output_dir=output_dir)
        self.output_dir = output_dir

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item as it is, its files written; the mask last, as it tells that the case is done."""
        item = dict(data)
        for key in (PROBABILITIES, *self.key_iterator(item)):
            if key in item:
                image = item[key].meta["filename_or_obj"]
                case = item[key].meta.get("case", case_name(image))
                path = mask_file(self.output_dir, case, image, probabilities=key == PROBABILITIES)
                write_like(item[key].as_tensor().numpy(), image, path)
        return item
