"""Files of a data set folder: images by suffix, names in any letter case, channels of one case (``CASE_0000``...)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from unicodedata import normalize

from mcsc_bundle.io import IMAGE_SUFFIXES, case_name, image_suffix

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


class DatasetError(ValueError):
    """A data set that cannot be used as it is; the message names the path and what to do."""


def find_child(folder: Path, *names: str) -> Path | None:
    """The entry of ``folder`` called like the first of ``names`` that exists, in any letter case."""
    return Listing().child(folder, *names)


class Listing:
    """The entries of folders, each folder read once: a ``dataset.json`` may name thousands of files in it."""

    def __init__(self) -> None:
        self._entries: dict[Path, dict[str, Path]] = {}
        self._channels: dict[Path, dict[str, tuple[Path, ...]]] = {}

    def child(self, folder: Path, *names: str) -> Path | None:
        """As ``find_child``."""
        if folder not in self._entries:
            there = sorted(folder.iterdir()) if folder.is_dir() else []
            self._entries[folder] = {_key(entry.name): entry for entry in there}
        entries = self._entries[folder]
        return next((entries[_key(name)] for name in names if _key(name) in entries), None)

    def locate(self, root: Path, relative: str) -> Path:
        """The file that ``dataset.json`` names, found in any letter case and with Windows' backslashes, too; the path as written
        if there is none.
        """
        exact = root / relative
        if "\\" in relative and not exact.exists():
            relative = relative.replace("\\", "/")
        if exact.exists() or Path(relative).is_absolute():
            return exact
        path: Path | None = root
        for part in Path(relative).parts:
            path = path and (path.parent if part == ".." else self.child(path, part))
        return path or exact

    def channels(self, image: Path) -> tuple[Path, ...]:
        """The files ``_0000``, ``_0001``... that lie where ``image`` is said to be (nnU-Net v1)."""
        if image.parent not in self._channels:
            found: dict[str, tuple[Path, ...]] = {}
            for path in image_files(image.parent):
                if match := CHANNEL.fullmatch(case_name(path)):
                    found[match["case"]] = (*found.get(match["case"], ()), path)
            self._channels[image.parent] = found
        return self._channels[image.parent].get(case_name(image), ())


def _key(name: str) -> str:
    """Of names that count as one: in any letter case, and with accents in one piece or apart (as macOS stores them)."""
    return normalize("NFC", name).lower()


def image_files(folder: Path | None, ending: str = "") -> list[Path]:
    """Images in a folder by suffix, sorted; hidden files (``._case.nii.gz`` of macOS archives) are none.

    Args:
        folder: ``None`` has no images.
        ending: only names that end so (nnU-Net's ``file_ending``).
    """
    if folder is None or not folder.is_dir():
        return []
    suffixes = tuple(IMAGE_SUFFIXES)
    # A link to a file that is gone counts as one, so that its case is set aside with the reason.
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    files = (path for path in visible if path.is_file() or (path.is_symlink() and not path.exists()))
    return sorted(
        path for path in files if path.name.lower().endswith(suffixes) and path.name.lower().endswith(ending.lower())
    )


def by_name(files: Iterable[Path]) -> dict[str, Path]:
    """Files by case name.

    Raises:
        DatasetError: two files have one name (``a.nii`` beside ``a.mha``).
    """
    found: dict[str, Path] = {}
    for path in files:
        name = case_name(path)
        if name in found:
            raise DatasetError(
                f"expected one file per case, received {found[name]} and {path} for case {name!r}; remove or "
                "rename one."
            )
        found[name] = path
    return found


def has_channel_suffix(image_names: Collection[str], label_names: Collection[str]) -> bool:
    """Whether image names end in a channel number; if a label has an image's full name, the number is the case's."""
    return any(name.endswith("_0000") for name in image_names) and not set(image_names) & set(label_names)


def channels_by_case(
    files: Mapping[str, Path], suffixed: bool, num_channels: int | None = None
) -> dict[str, tuple[Path, ...]]:
    """The image files of each case, in channel order.

    Args:
        files: image files by name.
        suffixed: names end in a channel number.
        num_channels: channels a case should have; ``None`` takes the most that any case has. A channel that is not
            there is listed where it should be, so that opening the case names it.
    """
    if not suffixed:
        return {name: (path,) for name, path in files.items()}
    found: dict[str, dict[int, Path]] = {}
    for name, path in files.items():
        match = CHANNEL.fullmatch(name)
        case, channel = (match["case"], int(match["channel"])) if match else (name, 0)
        found.setdefault(case, {})[channel] = path
    expected = num_channels or 1 + max((max(channels) for channels in found.values()), default=0)
    return {
        case: tuple(
            channels.get(index) or _beside(case, channels, index) for index in range(max(expected, 1 + max(channels)))
        )
        for case, channels in found.items()
    }


def _beside(case: str, channels: Mapping[int, Path], index: int) -> Path:
    present = next(iter(channels.values()))
    return present.with_name(f"{case}_{index:04d}{present.name[-len(image_suffix(present) or '') :]}")
