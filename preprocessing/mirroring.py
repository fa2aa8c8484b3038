"""Which axes augmentation may flip: all, as in nnU-Net, but for what a mirror image would teach wrongly or too dearly."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

SIDE = re.compile(r"left|right|(?<![a-z])(?:l|r|lt|rt)(?![a-z])")


def plan_mirroring(
    orientation: str | None, image_dims: int, slice_axis: int | None, device: str, labels: Iterable[str] = ()
) -> tuple[int, ...]:
    """Network axes that augmentation flips.

    On a CPU only left-right where the axes are anatomical: a body is nearly its own mirror image left to right, and in no other
    direction; a network learns upside-down anatomy at a price in steps that a CPU run does not have. Not left-right, and where
    it is unknown which axis that is none, if labels are told apart by their side.

    Args:
        orientation: axis codes; ``None`` where axes are not anatomical.
        image_dims, slice_axis: as in the plan.
        device: ``cpu`` or ``cuda``.
        labels: names of the classes.
    """
    axes = [axis for axis in range(image_dims) if axis != slice_axis]
    left_right = {network_axis for network_axis, axis in enumerate(axes) if orientation and orientation[axis] in "LR"}
    sided = bool(sided_labels(labels))
    if sided and orientation is None:
        return ()
    if device == "cpu" and left_right:
        return () if sided else tuple(sorted(left_right))
    return tuple(axis for axis in range(len(axes)) if not (sided and axis in left_right))


def sided_labels(labels: Iterable[str]) -> list[str]:
    """Names of the first labels that differ in their side alone, such as ``left kidney`` and ``right kidney``; else none."""
    alike = defaultdict(list)
    for name in labels:
        alike[SIDE.sub("*", name.lower())].append(name)
    return next((names for pattern, names in alike.items() if "*" in pattern and len(names) > 1), [])


def why_mirrored(mirror_axes: tuple[int, ...], spatial_dims: int, labels: Iterable[str]) -> str:
    """The reason for the axes."""
    sided = sided_labels(labels)
    if sided:
        return (
            f"{sided[0]} and {sided[1]} differ in their side: mirrored left to right, one would be taught as the other. "
            + ("Nothing is mirrored." if not mirror_axes else "The other axes are mirrored, as in nnU-Net.")
        )
    if len(mirror_axes) == spatial_dims:
        return "All network axes, as in nnU-Net. Remove one if the classes tell left from right."
    return (
        "Left-right only: a body is nearly its own mirror image in no other direction, and to learn upside-down anatomy "
        "too, as nnU-Net does, takes more steps than a CPU run has. Remove it if the classes tell left from right."
    )
