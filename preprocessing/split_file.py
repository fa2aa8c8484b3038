"""A file that names the cases of a split: a list of labelled cases as in SSL4MIS (``train.list``), or JSON."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path

from mcsc_bundle.io import case_name
from preprocessing.folders import DatasetError


def read_split_file(path: Path, has_label: Mapping[str, bool]) -> dict[str, tuple[str, ...]]:
    """Case names under ``labeled``, ``unlabeled`` and ``test``, as far as the file lists them.

    Args:
        path: a text file with one labelled case per line (``#`` begins a comment), or JSON.
        has_label: of each case of the data set.

    Raises:
        DatasetError: no such file, no list of names, a name that is unknown, twice, or has no label where it needs one.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"expected split_file to be a readable text or JSON file, received {path}: {error}. Check the path."
        ) from None
    listed = _json_parts(path, text) if text.lstrip().startswith(("{", "[")) else {"labeled": _lines(text)}
    parts = {  # a file's name stands for its case
        part: tuple(entry if entry in has_label else case_name(Path(entry)) for entry in entries)
        for part, entries in listed.items()
    }
    seen: set[str] = set()
    for part, entries in parts.items():
        for name in entries:
            if name not in has_label:
                near = difflib.get_close_matches(name, has_label, n=3)
                hint = f"did you mean {' or '.join(near)}?" if near else f"cases are named like {min(has_label)}."
                raise DatasetError(f"{path}: {part} case {name!r} is not in the data set; {hint}")
            if name in seen:
                raise DatasetError(
                    f"{path}: expected each case once, received {name!r} again under {part}. Remove one."
                )
            if part != "unlabeled" and not has_label[name]:
                raise DatasetError(f"{path}: {part} case {name!r} has no label in the data set; list it as unlabeled.")
            seen.add(name)
    return parts


def _lines(text: str) -> tuple[str, ...]:
    entries = (line.split("#")[0].strip() for line in text.splitlines())
    return tuple(entry for entry in entries if entry)


def _json_parts(path: Path, text: str) -> dict[str, tuple[str, ...]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path} is not valid JSON: {error}. Mend it.") from None
    content = {"labeled": content} if isinstance(content, list) else content
    spelled = {"labelled": "labeled", "unlabelled": "unlabeled"}
    parts = {spelled.get(key.lower(), key.lower()): value for key, value in content.items()}
    parts = {key: value for key, value in parts.items() if key in ("labeled", "unlabeled", "test")}
    names = [name for value in parts.values() for name in (value if isinstance(value, list) else [None])]
    if not names or not all(isinstance(name, str) for name in names):
        raise DatasetError(
            f'{path}: expected lists of case names under "labeled", "unlabeled", "test", received '
            f"{text[:80].strip()}... Write such lists."
        )
    return {key: tuple(value) for key, value in parts.items()}
