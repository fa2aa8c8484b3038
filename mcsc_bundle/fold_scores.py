"""Scores of a cross-validation: every labelled case by the networks that never saw it, and what follows from them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mcsc_bundle.case_metrics import CaseMetric, read_metrics
from mcsc_bundle.csv_log import as_csv, write_rows
from mcsc_bundle.ensemble import run_folders
from mcsc_bundle.metrics import masks_in
from mcsc_bundle.plan import Plan
from mcsc_bundle.plan_files import folds_of, read_json
from mcsc_bundle.postprocessing import FILE, Postprocessing, class_dice, decide
from mcsc_bundle.trained import ACCOUNT, account, read_trained
from mcsc_bundle.words import aligned


class FoldScoresError(ValueError):
    """Scores of a fold that are not those of the cases it left out; the message says what to do."""


def left_out(runs: Path) -> list[tuple[str, ...]]:
    """Cases that each fold of a cross-validation leaves out and scores, without those that were set aside."""
    gone = read_json(runs / "rejected.json", {})
    return [tuple(case for case in parts["val"] if case not in gone) for parts in folds_of(runs)]


def scores_of_fold(runs: Path, fold: int, cases: Sequence[str]) -> list[CaseMetric]:
    """Scores of the cases that a fold left out.

    Raises:
        FoldScoresError: ``metrics.csv`` holds those of others or has changed; the fold may have been evaluated since.
    """
    path = runs / f"fold_{fold}" / "metrics.csv"
    rows = read_metrics(path)
    if {row.case for row in rows} != set(cases):
        raise FoldScoresError(
            f"{path}: expected scores of the cases that fold {fold} left out ({', '.join(cases[:3])}, ...), received those of "
            f"others ({', '.join(sorted({row.case for row in rows} - set(cases))[:3]) or 'some are missing'}): was it evaluated "
            f"since? Delete {ACCOUNT} in that folder and repeat the cross-validation, which scores the fold again."
        )
    _check_scores(path.parent)
    return rows


def result_keys(folder: Path) -> dict[str, str]:
    """Entries of a fold's account that change with its scores, and with the masks that have them."""
    return {"scores": _scores_key(folder), "masks": _masks_key(folder)}


def _scores_key(folder: Path) -> str:
    return hashlib.blake2b((folder / "metrics.csv").read_bytes(), digest_size=16).hexdigest()


def _masks_key(folder: Path) -> str:
    masks = masks_in(folder / "masks") if (folder / "masks").is_dir() else {}
    digest = hashlib.blake2b(digest_size=16)
    for case in sorted({row.case for row in read_metrics(folder / "metrics.csv")}):
        digest.update(case.encode() + (hashlib.blake2b(masks[case].read_bytes()).digest() if case in masks else b""))
    return digest.hexdigest()


def _check_scores(folder: Path) -> None:
    """Refuse scores that were replaced since the fold was done, with other test-time options say.

    Raises:
        FoldScoresError: with the remedy.
    """
    known = account(folder).get("scores")
    if known is not None and known != _scores_key(folder):
        raise FoldScoresError(
            f"{folder / 'metrics.csv'}: expected the scores that the cross-validation wrote, received others: was the fold "
            f"evaluated since, with another --branch or --mirror say? Delete {ACCOUNT} in that folder and repeat the "
            "cross-validation, which scores it again."
        )


def _check_masks(folder: Path) -> None:
    """Refuse masks that were replaced since the fold was done; of an account of an older version, their scores alone.

    Raises:
        FoldScoresError: with the remedy.
    """
    _check_scores(folder)
    known = account(folder).get("masks")
    if known is not None and known != _masks_key(folder):
        raise FoldScoresError(
            f"{folder / 'masks'}: expected the masks that the cross-validation wrote, received others, or some are gone. Delete "
            f"that folder and {ACCOUNT} beside it and repeat the cross-validation, which predicts and scores them again."
        )


def _check_or_exit(folders: Iterable[Path]) -> None:
    try:
        for folder in folders:
            _check_masks(folder)
    except FoldScoresError as error:
        raise SystemExit(f"error: {error}") from None


def left_out_masks(runs: Path) -> dict[str, Path]:
    """Masks of labelled cases, each by the networks of a fold that did not train on it.

    Raises:
        FoldScoresError: masks of a fold were replaced since.
    """
    folders = run_folders(runs)
    for folder in folders:
        _check_masks(folder)
    trained = {folder: set(read_trained(folder / "models").get("labeled", ())) for folder in folders}
    labeled = set().union(*trained.values())
    return {
        case: path
        for folder in folders
        if (folder / "masks").is_dir()
        for case, path in masks_in(folder / "masks").items()
        if case in labeled - trained[folder]
    }


def summarise(runs: Path, folds: Sequence[int], references: Mapping[str, str]) -> str:
    """Write ``cross_validation.csv`` of the folds that are done; with all of them, also ``postprocessing.json``.

    A decision that was made on the same scores is kept, edited or not.

    Args:
        runs: folder of the runs.
        folds: all of the split.
        references: label file of each labelled case.

    Returns:
        Tables and reasons, for the console.
    """
    done = [fold for fold in folds if account(runs / f"fold_{fold}").get("done")]
    cases = left_out(runs)
    try:
        rows = {fold: scores_of_fold(runs, fold, cases[fold]) for fold in done}
    except FoldScoresError as error:
        raise SystemExit(f"error: {error}") from None
    if not any(rows.values()):
        return "No fold has scores yet."
    unchanged = _write_csv(runs / "cross_validation.csv", rows)
    text = [table(rows), f"Scores of every case: {runs / 'cross_validation.csv'}"]
    left = [fold for fold in folds if fold not in done]
    if left:
        return "\n".join([*text, f"Left: fold {', '.join(map(str, left))}. Post-processing is decided on all folds."])
    if not (unchanged and (runs / FILE).exists()):
        _check_or_exit(runs / f"fold_{fold}" for fold in done)
        masks = {fold: masks_in(runs / f"fold_{fold}" / "masks") for fold in done if cases[fold]}
        chosen = {case: masks[fold][case] for fold in masks for case in cases[fold]}
        plan = Plan.load(runs / "plan.json")
        decide(dict(sorted(chosen.items())), references, plan.scored_values, plan.ignore_value).save(runs / FILE)
    steps = Postprocessing.load(runs / FILE).steps
    text += [f"{'adopted' if step.adopted else 'not adopted'}: {step.why}" for step in steps]
    return "\n".join([*text, f"Post-processing: {runs / FILE}"])


def table(rows: Mapping[int, Sequence[CaseMetric]]) -> str:
    """Mean Dice of each class, and of the classes together, over all cases, over the folds, and in each fold.

    Args:
        rows: scores of each fold.
    """
    overall = _with_mean(row for of_fold in rows.values() for row in of_fold)
    by_fold = [_with_mean(of_fold) for of_fold in rows.values()]
    lines = [["class", "Dice", "mean +- sd of folds", *(f"fold {fold}" for fold in rows)]]
    for name, dice in overall.items():
        values = [scores[name] for scores in by_fold if name in scores]
        spread = f"{np.mean(values):.3f}" + (f" +- {np.std(values):.3f}" if len(values) > 1 else "")
        cells = [f"{scores[name]:.3f}" if name in scores else "-" for scores in by_fold]
        lines.append([name, f"{dice:.3f}", spread, *cells])
    return "\n".join(aligned(lines))


def _with_mean(rows: Iterable[CaseMetric]) -> dict[str, float]:
    """Mean Dice of each class over its cases, and the mean of these."""
    classes = class_dice(rows)
    return {**classes, "mean of classes": float(np.mean(list(classes.values())))} if classes else {}


def _write_csv(path: Path, rows: Mapping[int, Sequence[CaseMetric]]) -> bool:
    """One row per case and class, with its fold. True if the file held the same before."""
    cells = [{"fold": fold, **dataclasses.asdict(row)} for fold, of_fold in rows.items() for row in of_fold]
    unchanged = path.exists() and path.read_bytes() == as_csv(cells)
    if not unchanged:
        write_rows(path, cells)
    return unchanged
