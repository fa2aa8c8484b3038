"""Find the best configuration, or pair of them, by cross-validation.

    python -m mcsc_bundle cross_validate DATA RUNS --configurations 2d,3d_fullres
    python -m mcsc_bundle choose RUNS                                             # RUNS/best.json, RUNS/postprocessing.json
    python -m monai.bundle run --config_file configs/inference.json --run_dir RUNS --dataset_dir NEW --output_dir MASKS

A pair is scored like its halves: each labelled case by the folds that left it out, probabilities averaged on the grid of
the file. Memory holds one case and the networks of one fold of each configuration. Masks of pairs stay in ``RUNS/pairs``; a case
that is done is not predicted again.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mcsc_bundle.case_metrics import CaseMetric
from mcsc_bundle.choice import AND, FILE, Candidate, Choice, best_of
from mcsc_bundle.devices import out_of_memory
from mcsc_bundle.files import DiskError
from mcsc_bundle.first_stage import check_stage, previous_dir
from mcsc_bundle.fold_scores import FoldScoresError, left_out, left_out_masks, scores_of_fold
from mcsc_bundle.inference import configuration_of
from mcsc_bundle.interrupt import stops_with
from mcsc_bundle.io import ImageError
from mcsc_bundle.joined import check_joinable, mask_of, mean_of
from mcsc_bundle.metrics import masks_in, score_cases
from mcsc_bundle.plan import Plan, PlanError, save_json, to_plain
from mcsc_bundle.plan_files import folds_of, load_json
from mcsc_bundle.postprocessing import FILE as POSTPROCESSING
from mcsc_bundle.postprocessing import Postprocessing, class_dice, decide
from mcsc_bundle.predictions import Predictions
from mcsc_bundle.trained import ACCOUNT, account, read_trained
from mcsc_bundle.trained_run import TrainedRun
from mcsc_bundle.words import aligned, first_line
from mcsc_bundle.writer import mask_file, write_like

log = logging.getLogger(__name__)

PAIRS = "pairs"


class ChoiceError(ValueError):
    """Cross-validations that cannot be compared; the message says why and what to do."""


def choose(runs_dir: str, device: str | None = None) -> None:
    """Compare the cross-validations in ``runs_dir`` and all pairs of them; write what inference will follow.

    Args:
        runs_dir: folder of ``cross_validate --configurations``.
        device: to predict pairs on; ``None`` takes a GPU if there is one.

    Raises:
        SystemExit: with a message for a user's mistake.
    """
    from preprocessing.folders import DatasetError

    runs = Path(str(runs_dir))
    try:
        with stops_with("Stopped; the same command goes on."):
            choice = _choose(runs, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (ChoiceError, DatasetError, DiskError, FoldScoresError, ImageError, PlanError) as error:
        raise SystemExit(f"error: {error}") from None
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise SystemExit(
            f"error: a case does not fit into memory with two configurations ({first_line(error)}). What is done is kept: "
            "--device cpu goes on in main memory."
        ) from None
    print(table(choice))
    print(f"{choice.why}\nMasks for new scans: python -m monai.bundle run --config_file configs/inference.json "
          f"--run_dir {runs} --dataset_dir NEW --output_dir MASKS")  # fmt: skip


def _choose(runs: Path, device: str) -> Choice:
    """``choose`` without its words."""
    names = find_configurations(runs)
    plans = {name: Plan.load(runs / name / "plan.json") for name in names}
    check_joinable(plans)
    split = _common_split(runs, names)
    items = _labelled_items(runs / names[0])
    _check_apart(runs, names, split)
    _check_stages(runs, plans, split)
    pairs = list(itertools.combinations(names, 2))
    predict_pairs(runs, pairs, plans, split, items, device)
    references = {case: items[case]["label"] for cases in split for case in cases}
    candidates = {name: Candidate((name,), _single_dice(runs / name, split)) for name in names}
    for pair in pairs:
        candidates[AND.join(pair)] = Candidate(pair, _pair_dice(runs, pair, plans[pair[0]], split, references))
    choice = best_of(candidates, len(references))
    _decide_postprocessing(runs, choice, plans[choice.configurations[0]], split, references)
    save_json(runs / FILE, choice)
    return choice


def find_configurations(runs: Path) -> list[str]:
    """Names of the folders that hold a cross-validation that is done.

    Raises:
        ChoiceError: there is none, or one is not done.
    """
    names = sorted({path.parents[1].name for path in runs.glob(f"*/fold_*/{ACCOUNT}")})  # other runs are none of ours
    if not names or (runs / "splits.json").exists():  # the latter is one cross-validation, its folds side by side
        raise ChoiceError(
            f"expected cross-validations of several configurations in {runs}, found none. Make them: python -m mcsc_bundle "
            f"cross_validate DATA {runs} --configurations 2d,3d_fullres"
        )
    for name in names:
        folds = range(len(folds_of(runs / name)))
        left = [str(fold) for fold in folds if not account(runs / name / f"fold_{fold}").get("done")]
        if left:
            raise ChoiceError(
                f"expected all folds of {runs / name} to be done, received some that are not ({', '.join(left)}). Repeat the "
                "command that trained it, or move that folder away."
            )
    return names


def predict_pairs(
    runs: Path,
    pairs: Sequence[tuple[str, str]],
    plans: Mapping[str, Plan],
    split: Sequence[Sequence[str]],
    items: Mapping[str, Mapping[str, Any]],
    device: str,
) -> None:
    """Masks of every left-out case by every pair, where they are not there yet.

    Args:
        runs: folder of the cross-validations.
        pairs: names of two configurations each.
        plans: of each configuration.
        split: names of the cases that each fold left out.
        items: files of each labelled case.
        device: to compute on.
    """
    with tqdm(total=len(items), desc="pairs", unit="case", delay=5, disable=None if pairs else True) as progress:
        for fold, names in enumerate(split):
            trained = {name: TrainedRun(runs / name / f"fold_{fold}") for name in plans}
            cases = [items[case] for case in names]
            accounts = {
                pair: Predictions(
                    _pair_folder(runs, pair, fold),
                    plans[pair[0]],
                    cases,
                    {"weights": [trained[name].weights for name in pair], "other_plan": to_plain(plans[pair[1]])},
                )
                for pair in pairs
            }
            pending: dict[str, list[tuple[str, str]]] = {}
            for pair, done in accounts.items():
                for item in done.pending:
                    pending.setdefault(item["case"], []).append(pair)
                if done.pending:
                    done.begin()  # or masks without an account would be refused, should this be killed in between
            needed = {name for waiting in pending.values() for pair in waiting for name in pair}
            networks = {name: configuration_of(trained[name], device) for name in sorted(needed)}
            before = {name: _masks_before(trained[name], names) for name in networks}
            for case, waiting in pending.items():
                image = items[case]["image"]
                found = {
                    name: networks[name].probabilities(image, before[name].get(case))
                    for name in sorted({name for pair in waiting for name in pair})
                }
                for pair in waiting:
                    mask = mask_of(mean_of(found[name] for name in pair), plans[pair[0]])
                    write_like(mask.as_tensor().numpy(), image[0], mask_file(accounts[pair].folder, case, image[0]))
                    accounts[pair].add(case, mask, 0.0)
                progress.update()


def _masks_before(run: TrainedRun, cases: Sequence[str]) -> dict[str, Path]:
    """Of a cascade, the masks that its first stage made of these cases by folds that left them out, too; else none.

    Raises:
        ChoiceError: one is missing; another mask would be by networks that know the case.
    """
    folder = previous_dir(run.folder) if run.plan.previous_stage else None
    masks = {} if folder is None else left_out_masks(folder)
    missing = [case for case in cases if folder is not None and case not in masks]
    if missing:
        raise ChoiceError(
            f"expected masks of {', '.join(missing[:3])} by folds of {folder} that left them out, found none."
        )
    return masks


def table(choice: Choice) -> str:
    """Mean Dice of every candidate, best first, and of each class."""
    classes = list(choice.candidates[0].dice)
    lines = [["configuration", "mean Dice", *classes]]
    for each in choice.candidates:
        lines.append([each.name, f"{each.mean:.4f}", *(f"{each.dice.get(name, 0.0):.4f}" for name in classes)])
    return "\n".join(aligned(lines))


def _common_split(runs: Path, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The cases that each fold left out, in every cross-validation; without those that any of them set aside.

    Raises:
        ChoiceError: the folds differ, so the scores are of other cases or of networks that saw other cases.
    """
    splits = {name: folds_of(runs / name) for name in names}
    first = splits[names[0]]
    for name, folds in splits.items():
        if folds != first:
            raise ChoiceError(
                f"expected the same folds in {runs / names[0]} and {runs / name}, they differ. Train both with the same data "
                "set, --num_labeled and --split_seed."
            )
    usable = zip(*(left_out(runs / name) for name in names), strict=True)
    return [tuple(case for case in own if all(case in other for other in others)) for own, *others in usable]


def _labelled_items(run: Path) -> dict[str, dict[str, Any]]:
    """Image and label files of each labelled case of the data set that fold 0 was trained on."""
    from preprocessing.labelled import items_with_label

    dataset_dir = account(run / "fold_0")["options"]["dataset_dir"]
    return {item["case"]: item for item in items_with_label(dataset_dir)}


def _check_apart(runs: Path, names: Sequence[str], split: Sequence[Sequence[str]]) -> None:
    """Refuse folds whose networks were trained on cases that they are to be scored on.

    Raises:
        ChoiceError: names the fold and a case.
    """
    for name in names:
        for fold, cases in enumerate(split):
            folder = runs / name / f"fold_{fold}"
            seen = sorted(set(read_trained(folder / "models").get("labeled", ())) & set(cases))
            if seen:
                raise ChoiceError(
                    f"{folder}: expected networks that never saw the cases they are scored on, received {', '.join(seen[:3])} "
                    "among those that trained them: the folds were parted in another way since. Delete that folder and repeat "
                    "the cross-validation."
                )


def _check_stages(runs: Path, plans: Mapping[str, Plan], split: Sequence[Sequence[str]]) -> None:
    """Refuse a cascade whose first stage has changed since: its scores are of masks that new scans will not have.

    Raises:
        PlanError: names the fold and the first stage.
    """
    for name in (name for name, plan in plans.items() if plan.previous_stage):
        for run in (runs / name / f"fold_{fold}" for fold in range(len(split))):
            folder = previous_dir(run)
            if folder is not None:  # else told where it is needed
                check_stage(run, folder)


def _single_dice(run: Path, split: Sequence[Sequence[str]]) -> dict[str, float]:
    own = left_out(run)
    rows = [
        row for fold in range(len(split)) for row in scores_of_fold(run, fold, own[fold]) if row.case in split[fold]
    ]
    return class_dice(rows)


def _pair_folder(runs: Path, pair: Sequence[str], fold: int) -> Path:
    return runs / PAIRS / AND.join(pair) / f"fold_{fold}"


def _pair_dice(
    runs: Path, pair: Sequence[str], plan: Plan, split: Sequence[Sequence[str]], references: Mapping[str, str]
) -> dict[str, float]:
    rows: list[CaseMetric] = []
    for fold, cases in enumerate(split):
        folder = _pair_folder(runs, pair, fold)
        if not cases:
            continue
        own = {case: references[case] for case in cases}
        scored, failed = score_cases(folder, own, plan.scored_values, ignore_value=plan.ignore_value)
        if failed:
            raise ChoiceError(f"masks of {AND.join(pair)} could not be scored: {failed}. Delete {folder} and repeat.")
        rows += scored
    return class_dice(rows)


def _decide_postprocessing(
    runs: Path, choice: Choice, plan: Plan, split: Sequence[Sequence[str]], references: Mapping[str, str]
) -> None:
    """``postprocessing.json`` beside ``best.json``: of one configuration its own; of a pair decided on its masks.

    One that was made for the same choice is kept, edited or not.
    """
    kept = (runs / POSTPROCESSING).exists() and (runs / FILE).exists() and load_json(runs / FILE, Choice) == choice
    if not kept and len(choice.configurations) == 1:
        shutil.copyfile(runs / choice.configurations[0] / POSTPROCESSING, runs / POSTPROCESSING)
    elif not kept:
        masks: dict[str, Path] = {}
        for fold, cases in enumerate(split):
            made = masks_in(_pair_folder(runs, choice.configurations, fold)) if cases else {}
            masks |= {case: made[case] for case in cases}  # others there are of an earlier split
        chosen = {case: masks[case] for case in sorted(references)}
        decide(chosen, references, plan.scored_values, plan.ignore_value).save(runs / POSTPROCESSING)
    for step in Postprocessing.load(runs / POSTPROCESSING).steps:
        print(f"{'adopted' if step.adopted else 'not adopted'}: {step.why}")
