"""``best.json``: which configuration, or which two together, cross-validation found best. ``configs/inference.json`` follows it.

The rule is nnU-Net's ``find_best_configuration`` (v2): every configuration by itself and every pair, a pair by the mean of its
probabilities; the highest mean Dice over the classes wins, each case scored by networks that never saw it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mcsc_bundle.plan_files import PlanError, load_json

FILE = "best.json"
AND = " + "  # between the names of a pair


@dataclass(frozen=True)
class Candidate:
    """One configuration, or two, with their cross-validated scores.

    Args:
        configurations: names of their folders.
        dice: mean Dice of each class over the cases.
    """

    configurations: tuple[str, ...]
    dice: dict[str, float]

    @property
    def name(self) -> str:
        """``2d``, or ``2d + 3d_fullres``."""
        return AND.join(self.configurations)

    @property
    def mean(self) -> float:
        """Mean over the classes; 0 without any."""
        return sum(self.dice.values()) / len(self.dice) if self.dice else 0.0


@dataclass(frozen=True)
class Choice:
    """What was compared, and what won.

    Args:
        configurations: folders beside ``best.json`` whose probabilities are averaged; a person may name others.
        cases: number of cases that every candidate was scored on.
        candidates: all that were compared, best first.
        why: the reason, in words.
    """

    configurations: tuple[str, ...]
    cases: int
    candidates: tuple[Candidate, ...]
    why: str

    @property
    def edited(self) -> bool:
        """Whether a person chose other configurations than the best: what was decided on its masks is not for them."""
        return bool(self.candidates) and sorted(self.configurations) != sorted(self.candidates[0].configurations)


def best_of(candidates: Mapping[str, Candidate], cases: int) -> Choice:
    """The candidate with the highest mean Dice; of equals the one with fewer networks to run, then the one named first."""
    ranked = sorted(candidates.values(), key=lambda each: (-each.mean, len(each.configurations)))
    first = ranked[0]
    why = f"{first.name} has the highest cross-validated mean Dice, {first.mean:.4f} over {cases} cases"
    if len(ranked) > 1:
        why += f"; next is {ranked[1].name} with {ranked[1].mean:.4f}"
    return Choice(first.configurations, cases, tuple(ranked), why + ".")


def read_choice(run_dir: Path) -> Choice | None:
    """``best.json`` in ``run_dir``; ``None`` without that file.

    Raises:
        PlanError: the file is damaged, or names no configuration, or one twice.
    """
    path = run_dir / FILE
    if not path.exists():
        return None
    choice = load_json(path, Choice)
    names = choice.configurations
    if not names or len(set(names)) < len(names):
        raise PlanError(
            f"{path}: expected configurations to name one folder or more, each once, received {list(names)}."
        )
    return choice


def chosen_folders(run_dir: Path) -> list[Path]:
    """The folders that ``best.json`` in ``run_dir`` names; ``run_dir`` itself without that file.

    Raises:
        PlanError: see ``read_choice``.
    """
    choice = read_choice(run_dir)
    return [run_dir] if choice is None else [run_dir / name for name in choice.configurations]
