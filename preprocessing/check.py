"""Reads every case of a data set, or every stored case of a run, and tells what is wrong with it. Nothing is planned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mcsc_bundle.labels import STORED_IGNORED
from mcsc_bundle.plan import CaseFingerprint, Plan
from mcsc_bundle.plan_files import read_json
from mcsc_bundle.store import CaseStore, store_folders
from mcsc_bundle.trained import read_trained
from mcsc_bundle.words import counted, per_axis
from preprocessing.dataset import read_dataset
from preprocessing.fingerprint import examine
from preprocessing.split import make_split

OBLIQUE_DEGREES = 20.0
"""A scan turned further from the body's axes than this is worth a remark; a tilted head is not."""


@dataclass(frozen=True)
class Finding:
    """What was found of one case.

    Args:
        case: its name.
        what: ``labelled`` or ``unlabelled``, shape, spacing: for the reader; empty where it could not be read.
        problem: why the case cannot be used; ``None`` if it can.
        remarks: what may be meant so.
    """

    case: str
    what: str
    problem: str | None = None
    remarks: tuple[str, ...] = ()


def check(
    folder: Path, workers: int | None = None, cache_dir: Path | None = None
) -> tuple[list[Finding], tuple[str, ...]]:
    """Check a data set, or a run if the folder holds a plan.

    Args:
        folder: data set or run.
        workers: processes; ``None`` takes what cores, memory and the amount of data suggest.
        cache_dir: of a run whose preprocessed cases lie elsewhere.

    Returns:
        One finding per case, sorted by name, and warnings about the whole.

    Raises:
        DatasetError, PlanError: neither a data set nor a run, or its plan cannot be read.
    """
    is_run = (folder / "plan.json").exists() or (folder / "splits.json").exists()
    return check_run(folder, cache_dir) if is_run else check_dataset(folder, workers)


def check_dataset(folder: Path, workers: int | None = None) -> tuple[list[Finding], tuple[str, ...]]:
    """Read all images and all labels of a data set; see ``check``."""
    dataset = read_dataset(folder)
    fingerprint, rejected = examine(dataset, make_split(dataset), workers)
    findings = [Finding(name, "", problem) for name, problem in rejected.items()]
    findings += [Finding(case.case, _describe(case), remarks=_remarks(case)) for case in fingerprint.cases]
    return sorted(findings, key=lambda finding: finding.case), fingerprint.warnings


def check_run(run: Path, cache_dir: Path | None = None) -> tuple[list[Finding], tuple[str, ...]]:
    """Read every stored case of a run's plan, voxel by voxel; see ``check``."""
    plan = Plan.load(run / "plan.json")
    rejected = read_json(run / "rejected.json", {})
    split = read_json(run / "splits.json", needs=("labeled", "unlabeled", "test"))
    folders = [cache_dir] if cache_dir else store_folders(run)
    stores = [CaseStore(folder, plan.data_key) for folder in folders]
    names = sorted({*split["labeled"], *split["test"], *split["unlabeled"], *rejected})
    store = next((store for store in stores if any(name in store for name in names)), stores[0])
    unwanted = {*split["test"], *_beside_validation(run, split)}  # of no use to this training, so not stored
    findings, absent = [], []
    for name in names:
        if name in rejected:
            findings.append(Finding(name, "", rejected[name]))
        elif name in store:
            findings.append(_stored(store, name, plan))
        elif name not in unwanted:
            absent.append(name)
    notes = () if not absent else (
        f"{counted(len(absent), 'case')} not stored for this plan, e.g. {absent[0]}; training, or python -m preprocessing "
        f"DATASET --output_dir {run}, stores them.",
    )  # fmt: skip
    return findings, notes


def _beside_validation(run: Path, split: dict) -> set[str]:
    """Unlabelled scans of patients that the fold of this run validates on."""
    trained = set(read_trained(run / "models").get("labeled", ()))
    groups = split.get("groups", {})
    watched = {groups.get(name, name) for name in split["labeled"] if trained and name not in trained}
    return {name for name in split["unlabeled"] if groups.get(name, name) in watched}


def table(findings: Sequence[Finding], notes: Sequence[str]) -> str:
    """The findings as text, problems last, where a person looks first."""
    width = max((len(finding.case) for finding in findings), default=0)
    good = [finding for finding in findings if finding.problem is None]
    bad = [finding for finding in findings if finding.problem is not None]
    lines = [f"{f.case:<{width}}  {f.what}  {'; '.join(f.remarks) or 'ok'}" for f in good]
    lines += [f"{f.case:<{width}}  REJECTED: {f.problem}" for f in bad]
    lines += [f"Warning: {note}" for note in notes]
    return "\n".join([*lines, f"{counted(len(findings), 'case')}: {len(good)} can be used, {len(bad)} rejected."])


def _describe(case: CaseFingerprint) -> str:
    part = "labelled" if case.labeled else "unlabelled"
    return f"{part:<10}  {per_axis(case.shape)} voxels of {per_axis(case.spacing_mm)} mm"


def _remarks(case: CaseFingerprint) -> tuple[str, ...]:
    remarks = []
    if case.ignored_voxels:
        remarks.append(f"{1 - case.ignored_voxels / math.prod(case.shape):.0%} annotated")
    if case.labeled and not any(count for name, count in list(case.class_voxels.items())[1:]):
        remarks.append("only background")
    if case.oblique_degrees > OBLIQUE_DEGREES:
        remarks.append(f"turned by {case.oblique_degrees:.0f} degrees")
    return tuple(remarks)


def _stored(store: CaseStore, name: str, plan: Plan) -> Finding:
    """Read a stored case as training does, all of it."""
    try:
        case = store.open(name)
        what = f"{'labelled' if case.labeled else 'unlabelled':<10}  {per_axis(case.shape)} voxels"
        start = (0,) * len(case.shape)
        image = case.read_image(start, case.shape)
        if image.shape != (plan.in_channels, *case.shape):
            return Finding(
                name, what, f"expected {plan.in_channels} channels, received shape {image.shape}; {_again(store)}"
            )
        if not np.isfinite(image).all():
            return Finding(name, what, f"expected finite intensities, received NaN or infinity; {_again(store)}")
        if case.labeled and not _known_classes(case.read_label(start, case.shape), plan):
            return Finding(name, what, f"expected {len(plan.label_values)} classes, received more; {_again(store)}")
        empty = case.labeled and not case.foreground
        return Finding(name, what, remarks=("only background",) if empty else ())
    except Exception as error:  # of blosc2, numpy, json: whatever a damaged file raises
        return Finding(name, "", f"cannot be read ({type(error).__name__}: {error}); {_again(store)}")


def _known_classes(label: np.ndarray, plan: Plan) -> bool:
    known = label < len(plan.label_values)
    return bool((known if plan.ignore_value is None else known | (label == STORED_IGNORED)).all())


def _again(store: CaseStore) -> str:
    return f"delete its files in {store.folder} and preprocess again."
