"""Fingerprints for planner tests, in a line each."""

from __future__ import annotations

from collections.abc import Sequence

from mcsc_bundle.plan import CaseFingerprint, Fingerprint, IntensityStats

FOREGROUND = IntensityStats(
    mean=40, median=38, std=20, min=-500, max=900, percentile_00_5=-100, percentile_99_5=200, voxels=9
)


def make_fingerprint(
    spacing: Sequence[float],
    shape: Sequence[int],
    cases: int = 40,
    unlabeled: int = 0,
    channels: Sequence[str] = ("CT",),
    classes: int = 2,
    orientation: str = "",
    kept_ratio: float = 1.0,
    spacings: Sequence[Sequence[float]] | None = None,
) -> Fingerprint:
    """A data set of equal cases, or of cases with given spacings. Without axis codes, axes run z, y, x."""
    each = spacings or [spacing] * cases
    return Fingerprint(
        dataset_name="Tiny",
        channel_names=tuple(channels),
        labels={"background": 0, **{f"class_{index}": index for index in range(1, classes)}},
        image_dims=len(shape),
        cases=tuple(
            CaseFingerprint(
                case=f"case_{index}",
                labeled=index >= unlabeled,
                spacing_mm=tuple(map(float, case_spacing)),
                shape=tuple(shape),
                shape_after_crop=tuple(shape),
                orientation=orientation,
                oblique_degrees=0.0,
                kept_ratio=kept_ratio,
            )
            for index, case_spacing in enumerate(each)
        ),
        foreground=(FOREGROUND,) * len(channels),
    )
