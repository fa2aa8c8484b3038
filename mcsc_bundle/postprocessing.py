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
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from mcsc_bundle.case_metrics import without_ignored
from mcsc_bundle.components import boxes_of, joint_box, numbered
from mcsc_bundle.ensemble import FOLD
from mcsc_bundle.io import load_label
from mcsc_bundle.labels import Values, as_tuple, inside
from mcsc_bundle.plan_files import PlanError, load_json, save_json

log = logging.getLogger(__name__)

FILE = "postprocessing.json"
REMOVED = "removed_voxels"
"""In the metadata of a mask: how many voxels of smaller components it had."""
LEAST_LEFT = 0.25  # of a class's largest component, when classes are taken together


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


def keep_largest(mask: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Keep the largest component of each group of label values, until nothing changes any more.

    Voxels that touch in a corner belong together. Repeating matters where a class that is cleaned later held two parts
    of the foreground together; so the result is the same when it is processed again. Where we differ from nnU-Net: of classes
    that are taken together, one that would keep less than ``LEAST_LEFT`` of its own largest component is left as it is, since
    a gap of a voxel between it and the rest would cost all of it.

    Args:
        mask: label values ``(1, *spatial)``; it is left as it is.
        groups: label values of each step, in order.
    """
    values = mask[0].cpu().numpy()
    labels = values.copy() if values.dtype.kind in "iu" else values.astype(np.int32)
    boxes = boxes_of(labels)
    steps = [(list(group), labels[box]) for group in groups if (box := joint_box(boxes, group)) is not None]
    while any([_removed_beside(part, group) for group, part in steps]):  # a list: every step has its turn
        pass
    return torch.where(torch.from_numpy(labels != 0)[None].to(mask.device), mask, torch.zeros_like(mask))


def _removed_beside(part: np.ndarray, group: Sequence[int]) -> bool:
    """Set what is beside the largest component to 0, in place; whether there was any."""
    members = inside(part, group[0] if len(group) == 1 else group)
    components, sizes = numbered(members)
    if len(sizes) < 2:
        return False
    gone = members & (components != sizes.argmax() + 1)
    for value in group if len(group) > 1 else ():
        own = part == value
        left = np.count_nonzero(own & ~gone)
        if left < LEAST_LEFT * numbered(own)[1].max(initial=0):
            gone &= ~own
    part[gone] = 0
    return bool(gone.any())


class KeepLargestd(MapTransform):
    """The adopted steps for masks on the original grid; their metadata stay, with the number of voxels that went (``REMOVED``).

    Args:
        keys: of the masks ``(1, *spatial)``.
        groups: classes of each step (``Postprocessing.adopted``).
        labels: class name to label value, or region to its values.

    Raises:
        ValueError: a class that ``labels`` does not have.
    """

    def __init__(self, keys: KeysCollection, groups: Sequence[Sequence[str]], labels: Mapping[str, Values]) -> None:
        super().__init__(keys)
        self.groups = _values(groups, labels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with cleaned masks."""
        item = dict(data)
        for key in self.key_iterator(item):
            mask = item[key]
            plain = mask.as_tensor() if isinstance(mask, MetaTensor) else mask
            kept = keep_largest(plain, self.groups)
            if isinstance(mask, MetaTensor):
                removed = int(torch.count_nonzero(plain) - torch.count_nonzero(kept))
                kept = MetaTensor(kept, meta={**mask.meta, REMOVED: removed})
            item[key] = kept
        return item


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
    """The ``postprocessing.json`` of a run, or of the cross-validation that it is a fold of; ``None`` where there is none."""
    folder = Path(os.path.abspath(folder))  # a fold that is a link has the cross-validation it is linked into
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
        path = decision(folder) if choice and folder is not None else None
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
        _values(groups, labels)
    except (PlanError, ValueError) as error:
        raise SystemExit(f"error: {path}: {error}") from None
    return _told(groups, path)


def _told(groups: Sequence[tuple[str, ...]], decided_in: str | os.PathLike) -> list[tuple[str, ...]]:
    if groups:
        what = ", then of ".join(" + ".join(classes) for classes in groups)
        log.info("Keeping the largest component of %s (%s; --postprocess False keeps all).", what, decided_in)
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


def _mean_dice(
    masks: Mapping[str, str | os.PathLike],
    references: Mapping[str, str | os.PathLike],
    labels: Mapping[str, Values],
    groups: Sequence[Sequence[str]],
    ignore_value: int | None,
) -> dict[str, float]:
    values = _values(groups, labels)
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


def _values(groups: Sequence[Sequence[str]], labels: Mapping[str, Values]) -> list[list[int]]:
    unknown = sorted({name for classes in groups for name in classes} - set(list(labels)[1:]))
    if unknown:
        raise ValueError(f"expected classes out of {', '.join(list(labels)[1:])}, received {', '.join(unknown)}.")
    return [[value for name in classes for value in as_tuple(labels[name])] for classes in groups]
