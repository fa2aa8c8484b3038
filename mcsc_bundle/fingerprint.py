"""The fingerprint: what was measured on the scans of a data set. ``preprocessing.fingerprint`` makes it, the planner reads it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from mcsc_bundle.plan_files import load_json, save_json


@dataclass(frozen=True)
class IntensityStats:
    """Intensity statistics of one channel over a set of voxels, in the image's units."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float
    voxels: int


@dataclass(frozen=True)
class CaseFingerprint:
    """What was measured on one accepted training case.

    Args:
        case: case name.
        labeled: whether its label map was read.
        spacing_mm, shape, shape_after_crop: per image axis after reorientation; crop = box of the non-zero voxels.
        orientation: axis codes of the file, e.g. ``LAS``; empty for 2-D images.
        oblique_degrees: largest angle between an image axis and the nearest scanner axis.
        kept_ratio: voxels after crop over voxels before.
        whole, nonzero: intensity statistics per channel over all / the non-zero voxels.
        class_voxels: voxels per class name (labelled cases).
        ignored_voxels: voxels that nobody annotated (labelled cases of a data set with an ignore label).
        class_components: connected components per class name (labelled cases).
        class_largest: share of each class's voxels that its largest component holds (labelled cases; 0 of an absent class).
        foreground_largest: share of a class's voxels in the largest component of all classes together, the least over the classes
            that are there; 0 in a data set of one class.
        class_coarse_dice: Dice of each class that is there with itself at a half and at a quarter of the resolution, in the plane
            of thick or single slices or of a 2-D image (labelled cases); empty of other volumes.
        patient: whose scan it is; several cases may be of one. Empty in a fingerprint of an older version.
        content_hash: hash of the image's voxels, to find duplicates.
    """

    case: str
    labeled: bool
    spacing_mm: tuple[float, ...]
    shape: tuple[int, ...]
    shape_after_crop: tuple[int, ...]
    orientation: str
    oblique_degrees: float
    kept_ratio: float
    whole: tuple[IntensityStats, ...] = ()
    nonzero: tuple[IntensityStats, ...] = ()
    class_voxels: dict[str, int] = field(default_factory=dict)
    class_components: dict[str, int] = field(default_factory=dict)
    class_largest: dict[str, float] = field(default_factory=dict)
    foreground_largest: float = 0.0
    patient: str = ""
    content_hash: str = ""
    ignored_voxels: int = 0
    class_coarse_dice: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Fingerprint:
    """What was measured on the training cases of a data set (labelled and unlabelled), per case and together.

    Args:
        dataset_name, channel_names, labels: as in ``Plan``.
        image_dims: 2 or 3.
        cases: one entry per accepted case.
        foreground: per channel, over the foreground voxels of the labelled cases (empty without labels); ignored voxels
            are none.
        ignore_value, regions: as in ``Plan``.
        warnings: where unlabelled scans differ from labelled ones beyond a stated bound, and other things to know.
    """

    dataset_name: str
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    image_dims: int
    cases: tuple[CaseFingerprint, ...]
    foreground: tuple[IntensityStats, ...] = ()
    warnings: tuple[str, ...] = ()
    ignore_value: int | None = None
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def labeled(self) -> tuple[CaseFingerprint, ...]:
        """The labelled cases."""
        return tuple(case for case in self.cases if case.labeled)

    @property
    def unlabeled(self) -> tuple[CaseFingerprint, ...]:
        """The unlabelled cases."""
        return tuple(case for case in self.cases if not case.labeled)

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON, whole or not at all."""
        save_json(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Fingerprint:
        """Read ``fingerprint.json``."""
        return load_json(path, cls)
