"""Results of runs as small files: read back under the same settings only, with the data set and the code they come from."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mcsc_bundle.shipped import file_digest
from preprocessing.dataset import read_dataset

ROOT = Path(__file__).resolve().parents[1]
CODE = ("mcsc_bundle", "preprocessing", "configs")  # what decides a run besides its settings


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
    """Which data set, which code and which files of cases and plan a result comes from; files and code by digest.

    Ask before the run, so that the code is the one that is about to run.
    """
    named = [Path(settings[key]) for key in ("split_file", "plan_from") if settings.get(key)]
    digests = {file.name: file_digest(file)[:12] for file in named if file.is_file()}
    return {"dataset": Path(dataset_dir).resolve().name, "code": code_digest(), "files": digests}


def code_digest() -> str:
    """Over the files of ``CODE``, by name and content."""
    files = sorted(
        path for part in CODE for path in (ROOT / part).rglob("*") if path.suffix in (".py", ".yaml", ".json")
    )
    listed = "".join(f"{path.relative_to(ROOT)} {file_digest(path)}\n" for path in files)
    return hashlib.sha256(listed.encode()).hexdigest()[:12]


def patients_of(dataset_dir: str, cases: Iterable[str]) -> dict[str, str]:
    """The patient of each scored case."""
    groups = {case.name: case.group for case in read_dataset(dataset_dir).cases}
    return {case: groups[case] for case in cases}


def check_source(path: Path, result: dict[str, Any], dataset_dir: str) -> None:
    """Say so where a kept result comes from other code.

    Raises:
        SystemExit: it comes from another data set, or a file of its settings has changed since.
    """
    now = source(dataset_dir, result["settings"])
    result = {**now, "code": "an older version"} | result  # older files lack some of them
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
        print(f"{path.name} was made by code {result['code']}; this one is {now['code']}.", file=sys.stderr)
