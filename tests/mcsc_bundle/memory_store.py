"""A store in memory, for tests that want training patches without preprocessing files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mcsc_bundle.labels import STORED_IGNORED
from mcsc_bundle.plan import Plan


@dataclass(frozen=True)
class MemoryCase:
    """Stands for ``StoredCase``: arrays in memory, outside is 0."""

    image: np.ndarray
    label: np.ndarray | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image.shape[1:]

    @property
    def foreground(self) -> dict[int, np.ndarray]:
        assert self.label is not None, "the foreground of an unlabelled case was asked for"
        kept = set(np.unique(self.label)) - {0, STORED_IGNORED}
        return {int(c): np.argwhere(self.label == c) for c in kept}

    @property
    def annotated(self) -> np.ndarray | None:
        assert self.label is not None, "the annotated voxels of an unlabelled case were asked for"
        ignored = self.label == STORED_IGNORED
        return np.argwhere(~ignored) if ignored.any() else None

    def read_image(self, start: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
        return np.stack([_cut(channel, start, size) for channel in self.image])

    def read_label(self, start: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
        assert self.label is not None, "the label of an unlabelled case was asked for"
        return _cut(self.label, start, size)


class MemoryStore:
    """Stands for ``CaseStore``: two labelled and two unlabelled cases a network can learn from, of the plan's median shape."""

    def __init__(self, plan: Plan, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.items = [
            {"case": name, "labeled": name.startswith("labeled")} for name in ("labeled0", "labeled1", "free0", "free1")
        ]
        self.cases = {}
        for item in self.items:
            label = np.zeros(plan.median_shape, np.uint8)
            middle = tuple(slice(size // 4, size // 4 + max(2, size // 2)) for size in plan.median_shape)
            label[middle] = rng.integers(1, plan.num_classes)
            image = (label + 0.2 * rng.standard_normal((plan.in_channels, *plan.median_shape))).astype(np.float32)
            self.cases[item["case"]] = MemoryCase(image, label if item["labeled"] else None)

    def open(self, case: str) -> MemoryCase:
        return self.cases[case]


def _cut(array: np.ndarray, start: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    """Slow and obvious: voxel by voxel along each axis."""
    out = array
    for axis, (first, length) in enumerate(zip(start, size, strict=True)):
        planes = [
            np.take(out, [i], axis) if 0 <= i < out.shape[axis] else np.zeros_like(np.take(out, [0], axis))
            for i in range(first, first + length)
        ]
        out = np.concatenate(planes, axis)
    return out
