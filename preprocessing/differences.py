"""Where unlabelled scans differ from labelled ones so much that labels may not carry over, in words.

The bounds are ours, set so that the spread inside one study stays below them: half as much again in spacing or field
of view is another protocol; 200 HU is another definition of the values (CT stored without its offset differs by 1024);
a fifth of the range between the 0.5th and 99.5th percentile is another contrast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from mcsc_bundle.plan import CaseFingerprint, Fingerprint, IntensityStats

MAX_RATIO = 1.5
MAX_CT_DIFFERENCE = 200.0
MAX_SHAPE_DIFFERENCE = 0.2


def differences(fingerprint: Fingerprint) -> tuple[str, ...]:
    """Warnings that compare the medians of labelled and unlabelled cases; none if either part is empty."""
    labeled, unlabeled = fingerprint.labeled, fingerprint.unlabeled
    if not labeled or not unlabeled:
        return ()
    found = [
        *_ratio_warnings(
            "spacing", labeled, unlabeled, lambda case, axis: case.spacing_mm[axis], fingerprint.image_dims
        ),
        *_ratio_warnings(
            "field of view",
            labeled,
            unlabeled,
            lambda case, axis: case.spacing_mm[axis] * case.shape[axis],
            fingerprint.image_dims,
        ),
    ]
    for index, name in enumerate(fingerprint.channel_names):
        found += _intensity_warnings(name, index, labeled, unlabeled)
    return tuple(found)


def _ratio_warnings(
    what: str,
    labeled: Sequence[CaseFingerprint],
    unlabeled: Sequence[CaseFingerprint],
    measured: Callable[[CaseFingerprint, int], float],
    dims: int,
) -> list[str]:
    found = []
    for axis in range(dims):
        ours, theirs = (median(measured(case, axis) for case in cases) for cases in (labeled, unlabeled))
        if max(ours, theirs) > MAX_RATIO * min(ours, theirs):
            found.append(
                f"The {what} on axis {axis} differs more than {MAX_RATIO} times: median {ours:.4g} mm over "
                f"{len(labeled)} "
                f"labelled and {theirs:.4g} mm over {len(unlabeled)} unlabelled cases. What the labels teach may not "
                f"carry over to the unlabelled scans."
            )
    return found


def _intensity_warnings(
    name: str, channel: int, labeled: Sequence[CaseFingerprint], unlabeled: Sequence[CaseFingerprint]
) -> list[str]:
    absolute = name.lower() == "ct"
    measured, bound = (_mean_value, MAX_CT_DIFFERENCE) if absolute else (_brightness, MAX_SHAPE_DIFFERENCE)
    ours, theirs = (median(measured(case, channel) for case in cases) for cases in (labeled, unlabeled))
    if abs(ours - theirs) <= bound:
        return []
    what = "mean value" if absolute else "place of the median between the 0.5th (0) and 99.5th (1) percentile"
    return [
        f"The intensities of channel {name} differ by more than {bound:g}: {what} {ours:.3g} over "
        f"{len(labeled)} labelled "
        f"and {theirs:.3g} over {len(unlabeled)} unlabelled cases. Is it another sequence or scanner, or other units?"
    ]


def _mean_value(case: CaseFingerprint, channel: int) -> float:
    return case.whole[channel].mean


def _brightness(case: CaseFingerprint, channel: int) -> float:
    """Where the median of the non-zero voxels lies in their range: the same for any offset and scale of the values."""
    stats: IntensityStats = case.nonzero[channel]
    extent = stats.percentile_99_5 - stats.percentile_00_5
    return (stats.median - stats.percentile_00_5) / extent if extent > 0 else 0.5
