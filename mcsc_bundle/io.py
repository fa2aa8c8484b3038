"""Images and label maps from files: NIfTI through nibabel, MetaImage, NRRD and 2-D pictures through SimpleITK.

What is read keeps its own grid: ``(C, *spatial)`` with spatial axes in the order of the file (x first) and MONAI's
affine, voxel index to mm in RAS. A 2-D image has two spatial axes and a 3 x 3 affine that holds its spacing alone: it
has no place in a scanner. Single files are opened by ``mcsc_bundle.formats``, written by ``mcsc_bundle.writer``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from monai.data import ImageReader, MetaTensor
from monai.utils import MetaKeys, SpaceKeys

from mcsc_bundle.formats import (
    FLAT_SUFFIXES,
    IMAGE_SUFFIXES,
    ImageError,
    ImageFile,
    image_suffix,
    read_file,
    spacing_of,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageError",
    "LabelReader",
    "ScanReader",
    "case_name",
    "image_suffix",
    "load_image",
    "load_label",
    "same_grid",
    "spacing_mm",
]

LABEL_ROUNDING = 1e-3  # label values that were scaled when they were written come back as 1.00000002
GRID_TOLERANCE = 0.05  # of a voxel; headers of one scan differ by rounding (seen: 2e-4 mm)


class ScanReader(ImageReader):
    """MONAI reader of images in every format of ``IMAGE_SUFFIXES``; several files are the channels of one, in order.

    Files are opened in ``get_data``, since ``LoadImage`` hides why a ``read`` failed and tries other readers.
    """

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Whether every file name ends in one of ``IMAGE_SUFFIXES``."""
        return all(image_suffix(path) is not None for path in _paths(filename))

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> list[Path]:
        """The paths; ``get_data`` opens them."""
        return _paths(data)

    def get_data(self, img: list[Path]) -> tuple[np.ndarray, dict[str, Any]]:
        """Array ``(C, *spatial)`` and MONAI's metadata.

        Raises:
            ImageError: see ``load_image`` and ``load_label``.
        """
        array, affine = self._read(img)
        meta = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(array.shape[1:]),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            "filename_or_obj": str(img[0]),
        }
        return array, meta

    def _read(self, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
        return _read_image(paths)


class LabelReader(ScanReader):
    """MONAI reader of label maps: one file, integer values."""

    def _read(self, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
        return _read_label(paths)


def load_image(paths: str | Path | Sequence[str | Path]) -> MetaTensor:
    """An image as float32 ``(C, *spatial)`` with its affine.

    Args:
        paths: one file, or one per channel. The last axis of a 4-D file and the components of a picture are channels.

    Raises:
        ImageError: a file that cannot be read, holds NaN or infinity, has five dimensions or more, a spacing that is
            not positive or axes that are not independent; channels on different grids.
    """
    array, meta = ScanReader().get_data(_paths(paths))
    return MetaTensor(array, meta=meta)


def load_label(path: str | Path) -> MetaTensor:
    """A label map as integers (int16 or int32) ``(1, *spatial)`` with its affine; values as in the file.

    Raises:
        ImageError: as ``load_image``, and for values that are not integers or more than one channel.
    """
    array, meta = LabelReader().get_data(_paths(path))
    return MetaTensor(array, meta=meta)


def case_name(path: str | Path) -> str:
    """File name without its image suffix, letters with accents in one piece (macOS takes them apart)."""
    name = Path(path).name
    return normalize("NFC", name[: len(name) - len(image_suffix(path) or "")])


def spacing_mm(image: MetaTensor) -> tuple[float, ...]:
    """Distance of neighbouring voxels along each spatial axis."""
    return spacing_of(np.asarray(image.affine))


def same_grid(one: MetaTensor, other: MetaTensor) -> bool:
    """Whether two images have the same shape and all voxels in the same place, up to ``GRID_TOLERANCE`` of a voxel."""
    first, second = np.asarray(one.affine), np.asarray(other.affine)
    return _same_grid(tuple(one.shape[1:]), first, tuple(other.shape[1:]), second)


def _same_grid(shape: tuple[int, ...], affine: np.ndarray, other_shape: tuple[int, ...], other: np.ndarray) -> bool:
    if shape != other_shape:
        return False
    ends = np.stack(np.meshgrid(*((0, size - 1) for size in shape), [1], indexing="ij")).reshape(len(shape) + 1, -1)
    return bool(np.abs((affine - other) @ ends).max() <= GRID_TOLERANCE * min(spacing_of(affine)))


def _paths(paths: Any) -> list[Path]:
    return [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]


def _read_image(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    files = [read_file(path, np.float32) for path in paths]
    first = files[0]
    for path, file in zip(paths, files, strict=True):
        if not np.isfinite(file.data.sum(dtype=np.float64)):  # a sum needs no second volume, unlike isfinite
            raise ImageError(
                f"{path}: expected finite intensities, received NaN or infinity (which numbers above 3e38 become). Replace "
                "them, or leave the case out."
            )
        if not _same_grid(first.data.shape[1:], first.affine, file.data.shape[1:], file.affine):
            raise ImageError(
                f"{path}: expected the grid of {paths[0].name} ({_grid(first)}), received {_grid(file)}. "
                "Resample the channels of a case to one grid."
            )
    data = first.data if len(files) == 1 else np.concatenate([file.data for file in files])
    return data, first.affine


def _read_label(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    path, *rest = paths
    file = read_file(path, None)
    data = file.data
    if len(data) in (3, 4) and image_suffix(path) in FLAT_SUFFIXES and (data[:1] == data[1:3]).all():
        data = data[:1]  # grey that was saved as colours, the fourth is how opaque it is
    if rest or len(data) != 1:
        raise ImageError(
            f"{path}: expected a label map with one channel, received {len(data)}. Store one integer per voxel, "
            "not colours."
        )
    if data.dtype.kind == "f":
        rounded = np.rint(data)
        off = ~(np.abs(data - rounded) <= LABEL_ROUNDING)  # NaN is off, too
        if off.any():
            raise ImageError(
                f"{path}: expected integer label values, received fractions such as {float(data[off][0])!r}. "
                "Give a label map."
            )
        data = rounded
    low, high = int(data.min()), int(data.max())
    limits = np.iinfo(np.int32)
    if low < limits.min or high > limits.max:
        raise ImageError(
            f"{path}: expected label values of at most {limits.max}, received {low} to {high}. Use smaller values."
        )
    small = np.iinfo(np.int16).min <= low and high <= np.iinfo(np.int16).max
    return data.astype(np.int16 if small else np.int32, copy=False), file.affine


def _grid(file: ImageFile) -> str:
    return f"shape {file.data.shape[1:]}, affine {np.round(file.affine, 4).tolist()}"
