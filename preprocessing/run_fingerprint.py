"""The fingerprint of a run folder: read back, or measured.

``fingerprint.json`` is the fingerprint, ``fingerprint.key`` tells of which files and split; ``rejected.json`` has the cases that
cannot be used, those that preprocessing set aside among them, ``fingerprint.rejected.json`` those of the measuring alone.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcsc_bundle.files import save_text
from mcsc_bundle.plan import CaseFingerprint, Fingerprint, save_json, to_plain
from mcsc_bundle.plan_files import read_json
from preprocessing.dataset import Dataset, DatasetError
from preprocessing.fingerprint import NoLabeledCaseError, measure
from preprocessing.run_plan import text_hash
from preprocessing.split import Split

log = logging.getLogger(__name__)


def fingerprint_of_run(
    run: Path, dataset: Dataset, split: Split, workers: int | None
) -> tuple[Fingerprint, dict[str, str], bool]:
    """Read back or measure; True in the third place if it was measured anew.

    Raises:
        DatasetError: the folder holds a training of other data or another split.
    """
    key_file, key = run / "fingerprint.key", _inputs_key(dataset, split)
    known = key_file.exists() and key_file.read_text(encoding="utf-8") == key and (run / "fingerprint.json").exists()
    if known and ((run / "models" / "checkpoint.pt").exists() or _measures_all(run / "fingerprint.json")):
        found = run / "fingerprint.rejected.json"  # without what preprocessing may have set aside since: it tries again
        rejected = read_json(found if found.exists() else run / "rejected.json")
        return Fingerprint.load(run / "fingerprint.json"), rejected, False
    try:
        fingerprint, rejected = measure(dataset, split, workers)
    except NoLabeledCaseError as error:
        save_json(run / "rejected.json", error.rejected)
        raise
    if (run / "models" / "checkpoint.pt").exists():
        if not _is_copy(run, fingerprint, rejected, split):
            raise DatasetError(
                f"{run} holds a training on other data or another split than {dataset.root} gives now. If it was trained with "
                "--num_labeled, --num_test, --split_seed or --split_file, give them again. If labels were added since, train "
                f"into another --output_dir, with --init_from {run} --fold all to start from these weights. Else choose another "
                "--output_dir, or delete that folder to train again."
            )
        save_json(run / "fingerprint.rejected.json", rejected)
        save_text(key_file, key)
        return Fingerprint.load(run / "fingerprint.json"), rejected, False
    save_json(run / "splits.json", split)
    for warning in fingerprint.warnings:
        log.warning("%s", warning)
    fingerprint.save(run / "fingerprint.json")
    save_json(run / "fingerprint.rejected.json", rejected)
    save_json(run / "rejected.json", rejected)
    save_text(key_file, key)
    return fingerprint, rejected, True


def set_aside(run: Path) -> dict[str, str]:
    """Cases that the last call could not use, and why; none before the first."""
    return read_json(run / "rejected.json", {})


def _measures_all(file: Path) -> bool:
    """Whether a fingerprint holds what this version measures; an older one would lead to another plan than a new folder's."""
    names = {field.name for field in dataclasses.fields(CaseFingerprint)}
    return all(names <= case.keys() for case in read_json(file).get("cases", ()))


def _is_copy(run: Path, fingerprint: Fingerprint, rejected: Mapping[str, str], split: Split) -> bool:
    """Whether files of other times or in another folder hold what the run was trained on: copied, or unpacked again.

    What cannot be used of the test part may have been mended, or have gone, since: no training saw it.
    """
    files = [run / name for name in ("fingerprint.json", "fingerprint.rejected.json", "splits.json")]
    if not all(file.exists() for file in files):
        return False
    measured, set_aside, parts = map(read_json, files)
    now = {
        **to_plain(fingerprint),
        "dataset_name": measured["dataset_name"],  # without a dataset.json, that of its folder
    }
    known = set().union(*measured["cases"])  # an older version measured less
    now["cases"] = [{name: value for name, value in case.items() if name in known} for case in now["cases"]]
    unusable, unusable_then = (set(cases) - set(split.test) for cases in (rejected, set_aside))
    return (now, unusable, to_plain(split)) == (measured, unusable_then, parts)


def _inputs_key(dataset: Dataset, split: Split) -> str:
    """Changes when a file of the data set, or the split, does."""
    stats = [
        (os.path.relpath(path, dataset.root), path.stat().st_size, path.stat().st_mtime_ns)
        for case in dataset.cases
        for path in (*case.images, *([case.label] if case.name in {*split.labeled, *split.test} and case.label else []))
        if path.exists()
    ]
    declared: list[Any] = [dataset.name, list(dataset.channel_names), dataset.labels]
    declared += [] if dataset.ignore_value is None else [dataset.ignore_value]
    declared += [dataset.regions] if dataset.regions else []  # keys of other data stay what they were
    parts = [split.labeled, split.unlabeled, split.test, [fold.val for fold in split.folds]]
    return text_hash(json.dumps([declared, stats, *parts], sort_keys=True))
