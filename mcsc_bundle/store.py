"""Preprocessed cases on disk, cut small: a training patch reads a patch and not a volume.

Each case is a compressed, memory-mapped blosc2 array of the image, one of the class indices if it is labelled, voxel
positions of each class, and a JSON file. The JSON file is written last: a case without it does not exist.
"""

from __future__ import annotations

import json
import math
import os
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from mcsc_bundle.files import DiskError, replacing, save_text
from mcsc_bundle.labels import STORED_IGNORED
from mcsc_bundle.plan import save_json
from mcsc_bundle.words import first_line

FORMAT = 1
BLOCK_BYTES = 128 * 1024  # what is decompressed at once; fits a core's cache (nnU-Net: nnunet_dataset.py, blosc2)
CHUNK_BYTES = 6 * 1024 * 1024  # what lies together on disk
FOREGROUND_VOXELS = 10_000  # positions kept per class, as nnU-Net
ANNOTATED = "annotated"  # name of the positions of all annotated voxels, in cases that have others
LEVELS_ABOVE = 2  # of a fold, up to the folder of its cross-validation, which keeps the cases
OPEN_CASES = 128  # per process; each holds two files open

COMPRESSION = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}


class StoredCase:
    """One preprocessed case.

    Attributes:
        case: its name.
        shape: spatial shape.
        labeled: whether it has class indices.
    """

    def __init__(self, folder: Path, case: str, stage: str = "") -> None:
        self.case = case
        self._folder, self._stage = folder, stage
        with _telling(folder / f"{case}.json"):
            meta = json.loads((folder / f"{case}.json").read_text(encoding="utf-8"))
        self.shape: tuple[int, ...] = tuple(meta["shape"])
        self.labeled: bool = meta["labeled"]

    @cached_property
    def foreground(self) -> dict[int, np.ndarray]:
        """Voxel positions ``(n, image_dims)`` int32 of each class that is present; at most ``FOREGROUND_VOXELS``."""
        return {int(index): voxels for index, voxels in self._positions.items() if index != ANNOTATED}

    @cached_property
    def annotated(self) -> np.ndarray | None:
        """Voxel positions ``(n, image_dims)`` int32 of any class, background too; ``None`` if none is ignored."""
        return self._positions.get(ANNOTATED)

    def read_image(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """Patch ``(C, *size)`` float32 whose first voxel is ``start``; what lies outside the image is 0."""
        return _read(self._image, start, size)

    def read_label(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """Class indices ``(*size)`` uint8 whose first voxel is ``start``; what lies outside the image is 0.

        Ignored voxels are ``STORED_IGNORED`` (``mcsc_bundle.labels``).

        Raises:
            ValueError: the case is not labelled.
        """
        if not self.labeled:
            raise ValueError(
                f"case {self.case}: expected a labelled case, received one that was stored without a label."
            )
        return _read(self._label, start, size)[0]

    def read_previous(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """Class indices ``(1, *size)`` uint8 of the previous stage's mask; what lies outside the image is 0.

        Raises:
            DiskError: none is stored.
        """
        return _read(self._previous, start, size)

    @cached_property
    def _positions(self) -> dict[str, np.ndarray]:
        if not self.labeled:
            return {}
        path = self._folder / f"{self.case}.foreground.npz"
        with _telling(path), np.load(path, allow_pickle=False) as positions:
            return dict(positions)

    @cached_property
    def _image(self) -> blosc2.NDArray:
        return _open_array(self._folder / f"{self.case}.image.b2nd")

    @cached_property
    def _label(self) -> blosc2.NDArray:
        return _open_array(self._folder / f"{self.case}.label.b2nd")

    @cached_property
    def _previous(self) -> blosc2.NDArray:
        return _open_array(self._folder / f"{self.case}.previous.{self._stage}.b2nd")


class CaseStore:
    """The preprocessed cases of one plan.

    Args:
        folder: of all plans' cases; those of this plan lie in ``folder/key``.
        key: ``plan.data_key``; cases stored under another key are never read.
        stage: of a cascade, ``first_stage.stage_key`` of the stage before; masks stored under another key are never read.
    """

    def __init__(self, folder: str | os.PathLike, key: str, stage: str = "") -> None:
        self.folder, self.stage = Path(folder) / key, stage

    def __contains__(self, case: str) -> bool:
        """Whether the case is stored, from whatever files."""
        return (self.folder / f"{case}.json").exists()

    def open(self, case: str) -> StoredCase:
        """A case for reading; handles are kept, one set for each process and thread.

        Raises:
            DiskError: the case is not stored (any more), or damaged.
        """
        path, previous = self.folder / f"{case}.json", self._previous(case, "txt")
        with _telling(path):
            changed = path.stat().st_mtime_ns, previous.stat().st_mtime_ns if previous.exists() else 0
        return _open_case(self.folder, case, self.stage, changed, os.getpid(), threading.get_ident())

    def is_current(self, case: str, source: str, labeled: bool) -> bool:
        """Whether the case is stored as made from these files.

        Args:
            case: its name.
            source: hash of the image files and, where ``labeled``, after a ``+`` that of the label file.
            labeled: whether the label is needed; a case stored with one also serves without.
        """
        meta = self._meta(case)
        files = [f"{case}.image.b2nd", *([f"{case}.label.b2nd", f"{case}.foreground.npz"] if labeled else [])]
        if meta.get("format") != FORMAT or not all((self.folder / file).exists() for file in files):
            return False
        return meta["source"] == source if labeled else _image_hash(meta["source"]) == _image_hash(source)

    def write(
        self,
        case: str,
        image: np.ndarray,
        label: np.ndarray | None,
        source: str,
        patch_size: Sequence[int] | None = None,
    ) -> None:
        """Store a case, whole or not at all.

        Args:
            case: its name.
            image: ``(C, *spatial)`` float32.
            label: ``(*spatial)`` uint8 class indices, ``None`` for an unlabelled case, which leaves a label that is stored
                with this image.
            source: as in ``is_current``.
            patch_size: per image axis, what training will mostly read; shapes the blocks. ``None`` for a cube.

        Raises:
            DiskError: it cannot be written.
            ValueError: the label has another shape than the image.
        """
        if label is not None and label.shape != image.shape[1:]:
            raise ValueError(f"{case}: expected a label of shape {image.shape[1:]}, received {label.shape}.")
        there = self._meta(case)
        other_label = label is not None and there.get("labeled", False) and there["source"] != source
        if there and (other_label or _image_hash(there["source"]) != _image_hash(source)):
            (self.folder / f"{case}.json").unlink(missing_ok=True)  # from here until the end the case does not exist
        patch = tuple(patch_size or (64,) * (image.ndim - 1))
        self._write_array(f"{case}.image.b2nd", image.astype(np.float32, copy=False), patch)
        if label is not None:
            self._write_array(f"{case}.label.b2nd", label.astype(np.uint8, copy=False)[None], patch)
            self._write_foreground(case, label)
        elif self._meta(case).get("labeled", False) and self.is_current(case, source, labeled=False):
            return  # another training that shares the folder stored it with its label meanwhile, which serves both
        meta = {"format": FORMAT, "shape": image.shape[1:], "labeled": label is not None, "source": source}
        save_json(self.folder / f"{case}.json", meta)

    def has_previous(self, case: str, source: str | None = None) -> bool:
        """Whether the previous stage's mask of a case is stored as made from a file with this hash; ``None`` for any file."""
        path = self._previous(case, "txt")
        there = path.exists() and self._previous(case, "b2nd").exists()
        return there and source in (None, path.read_text(encoding="utf-8"))

    def write_previous(self, case: str, previous: np.ndarray, source: str, patch_size: Sequence[int]) -> None:
        """Store the previous stage's mask beside a case, for a cascade.

        Args:
            case: its name.
            previous: ``(*spatial)`` uint8 class indices, of the image's shape.
            source: hash of the mask's file.
            patch_size: as in ``write``.

        Raises:
            DiskError: it cannot be written.
        """
        self._previous(case, "txt").unlink(missing_ok=True)
        self._write_array(
            self._previous(case, "b2nd").name, previous.astype(np.uint8, copy=False)[None], tuple(patch_size)
        )
        save_text(self._previous(case, "txt"), source)

    def _previous(self, case: str, suffix: str) -> Path:
        return self.folder / f"{case}.previous.{self.stage}.{suffix}"

    def _meta(self, case: str) -> dict[str, Any]:
        try:
            return json.loads((self.folder / f"{case}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}

    def _write_array(self, name: str, array: np.ndarray, patch: tuple[int, ...]) -> None:
        chunks, blocks = chunks_and_blocks(array.shape, patch, array.itemsize)
        contiguous = np.ascontiguousarray(array)
        with replacing(self.folder / name) as place:
            blosc2.asarray(contiguous, urlpath=str(place), mode="w", chunks=chunks, blocks=blocks, cparams=COMPRESSION)

    def _write_foreground(self, case: str, label: np.ndarray) -> None:
        rng = np.random.default_rng(0)
        flat = np.flatnonzero(label)
        classes = label.ravel()[flat]
        wanted = {str(index): flat[classes == index] for index in np.unique(classes) if index != STORED_IGNORED}
        if (classes == STORED_IGNORED).any():
            wanted[ANNOTATED] = np.flatnonzero(label != STORED_IGNORED)
        positions = {}
        for name, voxels in wanted.items():
            if len(voxels) > FOREGROUND_VOXELS:
                voxels = np.sort(rng.choice(voxels, FOREGROUND_VOXELS, replace=False))
            positions[name] = np.stack(np.unravel_index(voxels, label.shape), axis=1).astype(np.int32)
        with replacing(self.folder / f"{case}.foreground.npz") as place:
            np.savez(place, **positions)  # type: ignore[arg-type]  # numbers alone; NumPy before 2.1 would store allow_pickle


def store_folders(run: Path) -> list[Path]:
    """Where the cases of a run may lie: in it, or, of a fold, in the folders above (``RUNS/fold_0``, ``RUNS/2d/fold_0``)."""
    return [folder / "preprocessed" for folder in (run, *run.resolve().parents[:LEVELS_ABOVE])]


def chunks_and_blocks(
    shape: tuple[int, ...], patch: tuple[int, ...], itemsize: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of chunks (on disk) and blocks (decompressed at once) of an array ``(C, *spatial)``.

    Blocks are the patch halved along its longest axis until they have at most ``BLOCK_BYTES``; chunks are blocks
    doubled where they lag most behind the patch, up to ``CHUNK_BYTES`` and one and a half patches.
    """
    channels, *spatial = shape
    block = [min(size, length) for size, length in zip(spatial, patch, strict=True)]
    while math.prod(block) * itemsize > BLOCK_BYTES:
        longest = block.index(max(block))
        block[longest] = math.ceil(block[longest] / 2)
    limit = [min(size, max(1, length * 3 // 2)) for size, length in zip(spatial, patch, strict=True)]
    chunk = list(block)
    while True:
        room = [axis for axis in range(len(chunk)) if 2 * chunk[axis] <= limit[axis]]
        if not room or 2 * math.prod(chunk) * channels * itemsize > CHUNK_BYTES:
            return (channels, *chunk), (1, *block)
        chunk[min(room, key=lambda axis: chunk[axis] / patch[axis])] *= 2


@lru_cache(maxsize=OPEN_CASES)
def _open_case(folder: Path, case: str, stage: str, changed: tuple[int, int], process: int, thread: int) -> StoredCase:
    """``changed``, ``process`` and ``thread`` make a new handle where an old one would not do."""
    return StoredCase(folder, case, stage)


def _open_array(path: Path) -> blosc2.NDArray:
    with _telling(path):
        return blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """What a file that was deleted, moved or cut off under a training means to a user."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise DiskError(
            f"{path}: expected a preprocessed case, which is gone or damaged ({first_line(error)}). Delete what is left of "
            f"it; the same command prepares it again and goes on."
        ) from error


def _read(array: blosc2.NDArray, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
    inside = [(max(a, 0), min(a + n, end)) for a, n, end in zip(start, size, array.shape[1:], strict=True)]
    if all((a, b) == (s, s + n) for (a, b), s, n in zip(inside, start, size, strict=True)):
        return array[(slice(None), *(slice(int(a), int(b)) for a, b in inside))]
    patch = np.zeros((array.shape[0], *size), array.dtype)
    if all(a < b for a, b in inside):
        target = (slice(a - s, b - s) for (a, b), s in zip(inside, start, strict=True))
        patch[(slice(None), *target)] = array[(slice(None), *(slice(int(a), int(b)) for a, b in inside))]
    return patch


def _image_hash(source: str) -> str:
    return source.split("+")[0]
