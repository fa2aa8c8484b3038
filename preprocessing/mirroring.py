"""Which axes augmentation may flip: all, as in nnU-Net, but for what a mirror image would teach wrongly or too dearly."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from mcsc_bundle.intensity import flat_axis
from mcsc_bundle.plan import Plan

SIDES = dict.fromkeys(("left", "l", "lt", "lh"), "left") | dict.fromkeys(("right", "r", "rt", "rh"), "right")
"""Words of a label's name that tell its side."""

SIDE_IN_WORD = re.compile(r"(left|right)", re.IGNORECASE)
WORD_BORDER = re.compile(r"[\W_]+|(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Between words, also those of ``LKidney`` and ``KidneyL``, but not in the vertebra ``L1`` or the ventricle ``LV``."""

DIRECTIONS = {
    "L": "left-right",
    "R": "left-right",
    "A": "front-back",
    "P": "front-back",
    "S": "head-foot",
    "I": "head-foot",
}


def plan_mirroring(plan: Plan) -> tuple[int, ...]:
    """Network axes that augmentation flips.

    On a CPU only left-right where the axes are anatomical: a body is nearly its own mirror image left to right, and in no other
    direction; a network learns upside-down anatomy at a price in steps that a CPU run does not have. And none that could
    confuse labels that are told apart by their side, see ``sides_kept``.

    Args:
        plan: its axes, patch, labels and device.
    """
    left_right = _left_right(plan)
    if plan.device == "cpu" and left_right is not None:
        return sides_kept(plan, (left_right,), plan.labels)
    return sides_kept(plan, range(plan.spatial_dims), plan.labels)


def sides_kept(plan: Plan, axes: Iterable[int], labels: Iterable[str]) -> tuple[int, ...]:
    """Those of the axes that may be flipped without showing a left label as its right one; all if labels have no sides.

    Not left-right, and where it is unknown which axis that is, none. Nor another axis of a plane in which patches are turned by
    180 degrees: turned and flipped front to back, they are flipped left to right.

    Args:
        plan: its axes and patch.
        axes: network axes.
        labels: names of the classes.
    """
    if not sided_labels(labels):
        return tuple(axes)
    if plan.orientation is None:
        return ()
    left_right, turned = _left_right(plan), _turned(plan)
    confusing = turned if left_right in turned else (left_right,)
    return tuple(axis for axis in axes if axis not in confusing)


def keep_sides(plan: Plan, labels: Iterable[str]) -> Plan:
    """A plan that was made for other labels, without those of its mirror axes that could confuse the sides of these.

    A plan whose own labels have sides stands as it is: whoever made it, or edited it, knew.
    """
    labels = tuple(labels)
    if sided_labels(plan.labels):
        return plan
    kept = sides_kept(plan, plan.mirror_axes, labels)
    if kept == plan.mirror_axes:
        return plan
    changed = plan.replace(mirror_axes=kept)
    why = f"{why_mirrored(changed, labels)} The plan that was taken over mirrors {named_axes(plan)}."
    return changed.replace(why={**plan.why, "mirror_axes": why})


def sided_labels(labels: Iterable[str]) -> list[str]:
    """Names of the first two labels that differ in their side alone, such as ``left kidney`` and ``Kidney_R``; else none."""
    alike: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in labels:
        words = WORD_BORDER.sub(" ", SIDE_IN_WORD.sub(r" \1 ", name)).lower().split()
        sides = {SIDES[word] for word in words if word in SIDES}
        if len(sides) == 1:
            named = alike[tuple(sorted(word for word in words if word not in SIDES))]
            named.setdefault(sides.pop(), name)
    return next((list(named.values()) for named in alike.values() if len(named) > 1), [])


def why_mirrored(plan: Plan, labels: Iterable[str] | None = None) -> str:
    """The reason for the plan's axes, for its own labels or others."""
    sided = sided_labels(plan.labels if labels is None else labels)
    if sided:
        return (
            f"{sided[0]} and {sided[1]} differ in their side: mirrored left to right, one could be taught as the other. "
            + _sided_outcome(plan)
        )
    if len(plan.mirror_axes) == plan.spatial_dims:
        return "All network axes, as in nnU-Net. Remove one if the classes tell left from right."
    return (
        "Left-right only: a body is nearly its own mirror image in no other direction, and to learn upside-down anatomy "
        "too, as nnU-Net does, takes more steps than a CPU run has. Remove it if the classes tell left from right."
    )


def _sided_outcome(plan: Plan) -> str:
    left_right, turned = _left_right(plan), _turned(plan)
    others = [axis for axis in range(plan.spatial_dims) if axis != left_right]
    if plan.orientation is None:
        cause = "Which axis that is, is unknown. "
    elif left_right in turned:
        cause = "Where patches may be turned by 180 degrees, a flip of any axis of that plane can amount to it. "
    else:
        cause = ""
    if not plan.mirror_axes:
        alone = plan.device == "cpu" and plan.orientation is not None and left_right not in turned
        short = " Upside-down anatomy, which nnU-Net shows too, takes more steps than a CPU run has." if alone else ""
        return f"{cause}Nothing is mirrored.{short}"
    if sorted(plan.mirror_axes) == others:
        return f"{cause}The other axes are mirrored, as in nnU-Net."
    return f"{cause}Mirrored: {named_axes(plan)}."


def _left_right(plan: Plan) -> int | None:
    """The network axis that runs left to right; ``None`` if there is none or it is unknown."""
    codes = [plan.orientation[axis] for axis in plan.network_axes] if plan.orientation else []
    return next((axis for axis, code in enumerate(codes) if code in "LR"), None)


def _turned(plan: Plan) -> tuple[int, ...]:
    """Network axes of the plane in which augmentation may turn patches by 180 degrees; none if there is no such plane.

    A 2-D patch that is longer than wide is turned less; it counts nevertheless, as ``patch_size`` may be edited.
    """
    flat = flat_axis(plan)
    if plan.spatial_dims == 3 and flat is None:
        return ()
    return tuple(axis for axis in range(plan.spatial_dims) if axis != flat)


def named_axes(plan: Plan) -> str:
    """The mirror axes for a reader, with their directions where the plan knows them: ``network axis 0 (left-right)``."""
    codes = [plan.orientation[axis] for axis in plan.network_axes] if plan.orientation else []
    names = [f"{axis} ({DIRECTIONS[codes[axis]]})" if codes else str(axis) for axis in sorted(plan.mirror_axes)]
    return f"network {'axis' if len(names) == 1 else 'axes'} {', '.join(names)}"
