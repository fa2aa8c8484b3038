"""Results of runs as small files: read back under the same settings only, with the data set and the code they come from."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from mcsc_bundle.shipped import code_digest


def kept_result(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What a run with these settings left in a file; ``None`` where there is none.

    Raises:
        SystemExit: it was made under other settings.
    """
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    if result["settings"] != settings:
        differ = sorted(k for k in settings | result["settings"] if settings.get(k) != result["settings"].get(k))
        raise SystemExit(
            f"expected {path} to be made with the settings of this command, but {', '.join(differ)} differ; "
            "give another --output_dir, or remove that run."
        )
    return result


def source(dataset_dir: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Which data set, which code and which files of cases and plan a result comes from; files and code by digest."""
    named = [Path(settings[key]) for key in ("split_file", "plan_from") if settings.get(key)]
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in named if file.is_file()}
    return {"dataset": Path(dataset_dir).resolve().name, "code": code_digest()[:12], "files": digests}


def check_source(path: Path, result: dict[str, Any], dataset_dir: str) -> None:
    """Say so where a kept result comes from another version of ``mcsc_bundle``.

    Raises:
        SystemExit: it comes from another data set, or a file of its settings has changed since.
    """
    now = source(dataset_dir, result["settings"])
    result = {**now, "code": "an older version"} | result  # files before 2026-11-28 name none of them
    if result["dataset"] != now["dataset"]:
        raise SystemExit(
            f"expected {path} to be of data set {now['dataset']}, received one of {result['dataset']}; give another --results."
        )
    changed = [name for name, digest in now["files"].items() if result["files"].get(name, digest) != digest]
    if changed:
        raise SystemExit(
            f"expected {', '.join(changed)} as {path} was made with, received a changed one; remove that run."
        )
    if result["code"] != now["code"]:
        print(f"{path.name} was made by mcsc_bundle {result['code']}; this one is {now['code']}.", file=sys.stderr)
