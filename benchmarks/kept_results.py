"""Results of runs as small files: read back under the same settings only, with the data set and the code they come from."""

from __future__ import annotations

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


def source(dataset_dir: str) -> dict[str, str]:
    """Which data set and which code a result comes from."""
    return {"dataset": Path(dataset_dir).resolve().name, "code": code_digest()[:12]}


def check_source(path: Path, result: dict[str, Any], dataset_dir: str) -> None:
    """Say so where a kept result comes from another version of ``mcsc_bundle``.

    Raises:
        SystemExit: it comes from another data set.
    """
    now = source(dataset_dir)
    result = {"dataset": now["dataset"], "code": "an older version"} | result  # files before 2026-11-28 name neither
    if result["dataset"] != now["dataset"]:
        raise SystemExit(
            f"expected {path} to be of data set {now['dataset']}, received one of {result['dataset']}; give another --results."
        )
    if result["code"] != now["code"]:
        print(f"{path.name} was made by mcsc_bundle {result['code']}; this one is {now['code']}.", file=sys.stderr)
