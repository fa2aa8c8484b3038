"""Zip files that come out the same byte for byte, and that cannot write outside the folder they are unpacked to."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from bundle.facts import PackError
from mcsc_bundle.files import replacing

PARTS = ("configs", "docs", "mcsc_bundle", "models", "preprocessing")
FILES = ("LICENSE", "large_files.yml", "plan.json", "postprocessing.json")
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold
MAX_UNPACKED_BYTES = 8 * 2**30  # a small file can claim to hold far more than a disk


def files_of(folder: Path) -> list[Path]:
    """The files of a bundle, sorted; what Python or an editor leaves behind is no part of it."""
    kept = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted((path for path in kept if not path.name.startswith(".")), key=lambda path: path.as_posix())


def belongs(path: Path) -> bool:
    """Whether a file, relative to the bundle, is one that bundles have: results of its use are none."""
    return path.parts[0] in PARTS if len(path.parts) > 1 else path.name in FILES


def pack_zip(folder: Path, archive: Path) -> None:
    """Zip what belongs to a bundle under its name, sorted, without times or owners; see ``mcsc_bundle.files``."""
    with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w") as zipped:
        for path in (path for path in files_of(folder) if belongs(path.relative_to(folder))):
            info = zipfile.ZipInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}", DATE)
            info.compress_type, info.external_attr, info.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            with path.open("rb") as source, zipped.open(info, "w") as target:
                shutil.copyfileobj(source, target)


def unpack_zip(archive: Path, folder: Path) -> Path:
    """Unpack a bundle.

    Args:
        archive: the zip.
        folder: where its one folder is made.

    Returns:
        The bundle's folder.

    Raises:
        PackError: no zip, a member that would leave ``folder``, is hidden or compiled, or is a link, a file twice, too much
            data, more than one folder.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [member for member in zipped.infolist() if not member.is_dir()]
            for member in members:
                _check_member(archive, member)
            names = [member.filename.lower() for member in members]
            if len(set(names)) < len(names):
                raise PackError(f"{archive}: expected each file once, received one of the same name again.")
            if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
                raise PackError(f"{archive}: expected at most {MAX_UNPACKED_BYTES >> 30} GB unpacked, received more.")
            roots = {PurePosixPath(member.filename).parts[0] for member in members}
            if len(roots) != 1:
                raise PackError(f"{archive}: expected one folder with the bundle in it, received {sorted(roots)}.")
            for member in members:
                zipped.extract(member, folder)
    except zipfile.BadZipFile as error:
        raise PackError(f"{archive}: expected a zip file, received none: {error}.") from None
    return folder / roots.pop()


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    name = member.orig_filename.replace("\\", "/")
    path = PurePosixPath(name)
    leaves = path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or "\0" in name or len(path.parts) < 2
    if leaves:
        raise PackError(
            f"{archive}: expected files below one folder, received {name!r}, which leaves it. Do not use it."
        )
    if any(part.startswith(".") or part == "__pycache__" for part in path.parts):
        raise PackError(f"{archive}: expected no hidden or compiled files, received {name!r}. Do not use it.")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise PackError(f"{archive}: expected plain files, received the link {name!r}. Do not use it.")
