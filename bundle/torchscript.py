"""``models/model.ts``: the network scripted by MONAI's own exporter, without what only this machine would know."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from bundle.facts import PackError
from mcsc_bundle.files import replacing

ALIGNMENT = 64  # bytes; where torch lays each tensor in the file
DROPPED = (".debug_pkl", ".data/serialization_id")  # source positions with paths of this machine, and their checksum


def export_torchscript(bundle: Path) -> None:
    """Script ``network_def`` with the shipped weights, metadata and inference config inside.

    In a process of its own: TorchScript numbers its classes by what was scripted before, and the bundle's package, not the
    repository's, is the one to be exported.

    Args:
        bundle: folder with configs and ``models/model.pt``.

    Raises:
        PackError: MONAI's ``ckpt_export`` fails.
    """
    target = bundle / "models" / "model.ts"
    arguments: dict[str, Any] = {
        "filepath": "models/model.ts",
        "ckpt_file": "models/model.pt",
        "meta_file": "configs/metadata.json",
        "config_file": "configs/inference.json",
    }
    ended = run_monai(bundle, "ckpt_export", "network_def", **arguments)
    if ended.returncode or not target.exists():
        raise PackError(f"{bundle}: TorchScript export failed: {last_line(ended.stderr)}")
    strip(target)


def run_monai(
    bundle: Path, verb: str, *words: str, cwd: Path | None = None, path: bool = True, **options: object
) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle VERB ...`` with the bundle's own package.

    Args:
        bundle: the bundle.
        verb, words, options: the command line.
        cwd: where to run, the bundle by default.
        path: whether the bundle is on Python's path from the start; ``run`` does without.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path:
        environment["PYTHONPATH"] = str(bundle)
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}  # TorchScript writes sets in hash order
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", verb, *words, *flags]
    return subprocess.run(command, cwd=cwd or bundle, env=environment, capture_output=True, text=True, check=False)


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def strip(path: Path) -> None:
    """Leave out what differs from machine to machine and nobody needs; see ``mcsc_bundle.files``."""
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(temporary, "w") as target,
    ):
        for member in source.infolist():
            if member.filename.endswith(DROPPED):
                continue
            info = zipfile.ZipInfo(member.filename, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            header = target.fp.tell() + 30 + len(member.filename.encode()) + 4  # type: ignore[union-attr]
            padding = -header % ALIGNMENT
            info.extra = (
                b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
            )  # as torch pads, for mapping into memory
            target.writestr(info, source.read(member))
