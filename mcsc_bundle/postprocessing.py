"""Keep the largest component: decided on cross-validated masks, stored with its figures, applied on the original grid.

The rule is nnU-Net's (Isensee et al., Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z): first the whole
foreground taken together, then one class after the other. A step is adopted if the mean Dice over the classes rises and
the Dice of no class falls. ``postprocessing.json`` holds every step that was tried, with Dice before and after; a person
may turn one on or off there (``adopted``). Without a cross-validation the plan decides, by what the labels show
(``Plan.largest_component``).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from mcsc_bundle.case_metrics import CaseMetric, without_ignored
from mcsc_bundle.choice import AND, read_choice
from mcsc_bundle.choice import FILE as CHOICE
from mcsc_bundle.ensemble import FOLD
from mcsc_bundle.io import load_label
from mcsc_bundle.keep_largest import keep_largest, values_of
from mcsc_bundle.labels import Values, inside
from mcsc_bundle.plan_files import PlanError, load_json, save_json
from mcsc_bundle.words import in_turn

log = logging.getLogger(__name__)

FILE = "postprocessing.json"


@dataclass(frozen=True)
class Step:
    """Keep the largest component of some classes taken together; the rest of them becomes background.

    Args:
        classes: names: every class but the background, or one.
        adopted: whether masks get it.
        mean_before, mean_after: mean Dice over the classes, with the steps adopted before this one, and with this one too.
        dice_before, dice_after: the same for each class; one that was never there and never found is left out.
        why: the reason, in words.
    """

    classes: tuple[str, ...]
    adopted: bool
    mean_before: float
    mean_after: float
    dice_before: dict[str, float]
    dice_after: dict[str, float]
    why: str


@dataclass(frozen=True)
class Postprocessing:
    """What was tried, in order.

    Args:
        cases: number of cross-validated cases it was decided on.
        steps: in the order in which the adopted ones are applied.
    """

    cases: int
    steps: tuple[Step, ...]

    @property
    def adopted(self) -> tuple[tuple[str, ...], ...]:
        """Classes of each step that masks get."""
        return tuple(step.classes for step in self.steps if step.adopted)

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON, whole or not at all."""
        save_json(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Postprocessing:
        """Read ``postprocessing.json``.

        Raises:
            PlanError: missing, or not such a file.
        """
        return load_json(path, cls)


def decide(
    masks: Mapping[str, str | os.PathLike],
    references: Mapping[str, str | os.PathLike],
    labels: Mapping[str, Values],
    ignore_value: int | None = None,
) -> Postprocessing:
    """Try the steps on cross-validated masks; one case is in memory at a time.

    Args:
        masks: file of each case, as the networks made them.
        references: label file of each case.
        labels: class name to label value, or region to its values, background first.
        ignore_value: value in the references of voxels that are not scored; components are those of the whole mask.

    Raises:
        ValueError: a case without a reference, or a file that cannot be read.
    """
    names = tuple(labels)[1:]
    candidates = [names] + [(name,) for name in names if len(names) > 1]
    adopted: list[tuple[str, ...]] = []
    before = _mean_dice(masks, references, labels, adopted, ignore_value)
    steps = []
    for classes in candidates:
        after = _mean_dice(masks, references, labels, [*adopted, classes], ignore_value)
        step = _judge(classes, before, after)
        steps.append(step)
        if step.adopted:
            adopted.append(classes)
            before = after
    return Postprocessing(len(masks), tuple(steps))


def decision(folder: str | os.PathLike) -> Path | None:
    """The ``postprocessing.json`` of a run, or of the cross-validation that it is a fold of; ``None`` where there is none.

    Beside a ``best.json`` that was edited to name another configuration it is that one's own; for two that were not the best pair
    nothing was decided.

    Raises:
        PlanError: ``best.json`` is damaged.
    """
    folder = Path(os.path.abspath(folder))  # a fold that is a link has the cross-validation it is linked into
    choice = read_choice(folder)
    if choice is not None and choice.edited:
        if len(choice.configurations) > 1:
            log.warning(
                "%s was edited: nothing was decided on the masks of %s, so the plan says which largest components are "
                "kept. What was decided for the best: --postprocess %s.",
                folder / CHOICE, AND.join(choice.configurations), folder / FILE,
            )  # fmt: skip
            return None
        folder = folder / choice.configurations[0]
    folders = [folder, *([folder.parent] if FOLD.fullmatch(folder.name) else [])]
    return next((each / FILE for each in folders if (each / FILE).exists()), None)


def groups_or_exit(
    folder: str | os.PathLike | None,
    choice: bool | str,
    labels: Mapping[str, Values],
    planned: Sequence[tuple[str, ...]] = (),
) -> list[tuple[str, ...]]:
    """Classes of each step to apply, for configs; a user's mistake ends the program with its message.

    Args:
        folder: of the run; ``None`` if several unrelated ones are averaged.
        choice: ``True`` applies the folder's ``decision`` if it has one, else the plan's groups; ``False`` nothing; or
            a path to such a file, or to a folder that has one.
        labels: class name to label value, or region to its values.
        planned: ``Plan.largest_component``.
    """
    if isinstance(choice, bool):
        try:
            path = decision(folder) if choice and folder is not None else None
        except PlanError as error:
            raise SystemExit(f"error: {error}") from None
        if path is None:
            return _told(planned if choice else (), "plan.json")
    else:
        path = Path(choice) / FILE if Path(choice).is_dir() else Path(choice)
        if not path.exists():
            raise SystemExit(
                f"error: expected postprocess to be True, False or a {FILE}, received {choice!r}, which does not exist."
            )
    try:
        groups = list(Postprocessing.load(path).adopted)
        values_of(groups, labels)
    except (PlanError, ValueError) as error:
        raise SystemExit(f"error: {path}: {error}") from None
    return _told(groups, path)


def _told(groups: Sequence[tuple[str, ...]], decided_in: str | os.PathLike) -> list[tuple[str, ...]]:
    if groups:
        kept = in_turn(groups)
        log.info("Keeping the largest component of %s (%s; --postprocess False keeps all).", kept, decided_in)
    return list(groups)


def dice_of(
    mask: np.ndarray, reference: np.ndarray, labels: Mapping[str, Values], ignore_value: int | None = None
) -> dict[str, float]:
    """Dice of every class but the background, without ignored voxels; NaN where it is empty in both."""
    mask, reference = without_ignored(mask, reference, ignore_value)
    scores = {}
    for name, own in list(labels.items())[1:]:
        mine, truth = inside(mask, own), inside(reference, own)
        total = int(mine.sum()) + int(truth.sum())
        scores[name] = 2 * int((mine & truth).sum()) / total if total else math.nan
    return scores


def mean_dice(cases: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean Dice of each class over the cases that have a score of it; a class without any is left out."""
    names = dict.fromkeys(name for case in cases for name in case)
    scored = {name: [case[name] for case in cases if not math.isnan(case.get(name, math.nan))] for name in names}
    return {name: float(np.mean(scores)) for name, scores in scored.items() if scores}


def class_dice(rows: Iterable[CaseMetric]) -> dict[str, float]:
    """``mean_dice`` of the rows of ``metrics.csv``."""
    return mean_dice([{row.class_name: row.dice} for row in rows])


def _mean_dice(
    masks: Mapping[str, str | os.PathLike],
    references: Mapping[str, str | os.PathLike],
    labels: Mapping[str, Values],
    groups: Sequence[Sequence[str]],
    ignore_value: int | None,
) -> dict[str, float]:
    values = values_of(groups, labels)
    return mean_dice(
        [
            dice_of(keep_largest(mask, values).numpy(), reference.numpy(), labels, ignore_value)
            for mask, reference in _pairs(masks, references)
        ]
    )


def _pairs(
    masks: Mapping[str, str | os.PathLike], references: Mapping[str, str | os.PathLike]
) -> Iterator[tuple[Tensor, Tensor]]:
    for case, path in masks.items():
        if case not in references:
            raise ValueError(f"case {case}: expected a reference for {path}, found none.")
        yield load_label(Path(path)).as_tensor(), load_label(Path(references[case])).as_tensor()


def _judge(classes: tuple[str, ...], before: dict[str, float], after: dict[str, float]) -> Step:
    mean_before, mean_after = (float(np.mean(list(dice.values()))) if dice else math.nan for dice in (before, after))
    fallen = [name for name, dice in after.items() if dice < before.get(name, -math.inf)]
    what, change = " + ".join(classes), f"{mean_before:.4f} to {mean_after:.4f}, {mean_after - mean_before:+.1e}"
    adopted = mean_after > mean_before and not fallen
    if adopted:
        why = f"keeping the largest component of {what} raises the mean Dice ({change}) and no class falls"
    elif mean_after > mean_before:
        why = f"keeping the largest component of {what} lowers the Dice of {', '.join(fallen)}"
    else:
        why = f"keeping the largest component of {what} does not raise the mean Dice ({change})"
    return Step(classes, adopted, mean_before, mean_after, before, after, why)
