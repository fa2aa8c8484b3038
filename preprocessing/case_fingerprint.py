"""Check and measure one case. The result depends on the case's files and the arguments alone, so it may be cached."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from nibabel.orientations import aff2axcodes, io_orientation

from mcsc_bundle.case_checks import check_annotated, check_grid, class_indices
from mcsc_bundle.components import boxes_of
from mcsc_bundle.io import ImageError, load_image, load_label, spacing_mm
from mcsc_bundle.labels import STORED_IGNORED, as_tuple, file_values, scored_values
from mcsc_bundle.plan import CaseFingerprint, IntensityStats
from mcsc_bundle.words import counted
from preprocessing.class_sizes import class_components, class_voxels, least_in_largest
from preprocessing.coarser import coarse_dice
from preprocessing.dataset import Case
from preprocessing.geometry import ANISOTROPY_RATIO

SAMPLE_SEED = 1234
CHUNK = 2**20  # voxels turned into float64 at a time


@dataclass(frozen=True)
class CaseMeasurement:
    """A case's fingerprint and a sample of its foreground.

    Args:
        fingerprint: what was measured.
        foreground: intensities at foreground voxels, ``(C, voxels)`` float32; no voxels without a label.
    """

    fingerprint: CaseFingerprint
    foreground: np.ndarray


def measure_case(
    case: Case,
    labeled: bool,
    channel_names: Sequence[str],
    labels: Mapping[str, int],
    max_foreground: int,
    ignore_value: int | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> CaseMeasurement:
    """Read a case, check it, and measure it.

    Args:
        case: its files. The label is opened only if ``labeled``.
        labeled: whether to read the label.
        channel_names: declared channels, in order.
        labels: declared class name to value.
        max_foreground: at most so many foreground voxels are sampled, without replacement and always the same ones.
        ignore_value: declared; ignored voxels are of no class.
        regions: declared, name to values; ``None`` if labels are classes.

    Raises:
        ImageError: the case cannot be used: a file does not open, has non-finite values, other channels or labels than
            declared, a constant channel, a label without an annotated voxel, or image and label lie on different grids.
    """
    image = load_image(case.images)
    check_channels(image, case, channel_names)
    classes = None
    if labeled and case.label is not None:
        label = load_label(case.label)
        check_grid(image, label)
        classes = class_indices(as_stored(label)[0], labels, case.label, ignore_value, regions)
        check_annotated(classes, case.label)
    members = class_members(labels, regions)
    voxels = as_stored(image)
    shape, cropped = voxels.shape[:0:-1], tuple(part.stop - part.start for part in reversed(bounding_box(voxels)))
    order, orientation = _axes(image)
    spacing = spacing_mm(image)
    digest, foreground = content_hash(voxels), _foreground(voxels, classes, max_foreground)
    pieces = {} if classes is None else class_components(classes, members)
    whole, nonzero = zip(*(_channel_stats(channel) for channel in voxels), strict=True)  # reorders the voxels
    _check_not_constant(whole, case, channel_names)
    fingerprint = CaseFingerprint(
        case=case.name,
        labeled=classes is not None,
        spacing_mm=tuple(spacing[axis] for axis in order),
        shape=tuple(shape[axis] for axis in order),
        shape_after_crop=tuple(cropped[axis] for axis in order),
        orientation=orientation,
        oblique_degrees=_oblique_degrees(image),
        kept_ratio=math.prod(cropped) / math.prod(shape),
        whole=whole,
        nonzero=nonzero,
        class_voxels={} if classes is None else class_voxels(classes, members),
        class_components={name: own.count for name, own in pieces.items()},
        class_largest={name: own.largest for name, own in pieces.items()},
        foreground_largest=_together(classes, members),
        class_coarse_dice={} if classes is None else _coarse_dice(classes, members, spacing),
        patient=case.group,
        content_hash=digest,
        ignored_voxels=0 if classes is None else int(np.count_nonzero(classes == STORED_IGNORED)),
    )
    return CaseMeasurement(fingerprint, foreground)


def label_values(path: Path) -> dict[int, int]:
    """Values in a label file, and how many voxels have each.

    Raises:
        ImageError: the file does not open or is no label map.
    """
    values, counts = np.unique(np.asarray(load_label(path)), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def bounding_box(voxels: np.ndarray) -> tuple[slice, ...]:
    """Smallest box around the voxels of ``(C, *spatial)`` where any channel is not 0; the image if there are none."""
    inside = (voxels != 0).any(axis=0)
    return next(iter(boxes_of(inside.view(np.uint8))), None) or tuple(slice(0, size) for size in inside.shape)


def describe(values: np.ndarray) -> IntensityStats:
    """Statistics of a set of intensities, ``(voxels,)`` float32. Reorders ``values``. All zero without voxels."""
    if values.size == 0:
        return IntensityStats(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
    mean = _mean(values)
    spread = _mean(values, around=mean)
    low, median, high = np.percentile(values, (0.5, 50, 99.5), overwrite_input=True)
    return IntensityStats(
        mean=mean,
        median=float(median),
        std=math.sqrt(spread),
        min=float(values.min()),
        max=float(values.max()),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
        voxels=int(values.size),
    )


def content_hash(voxels: np.ndarray) -> str:
    """Hash of shape and voxel values: equal for one image saved twice, whatever the file format or header."""
    digest = hashlib.blake2b(repr(voxels.shape).encode(), digest_size=16)
    digest.update(voxels.data)
    return digest.hexdigest()


def check_channels(image: MetaTensor, case: Case, channel_names: Sequence[str]) -> None:
    """Raises ``ImageError`` if there are other channels than declared."""
    if image.shape[0] == len(channel_names):
        return
    files = ", ".join(str(path) for path in case.images)
    raise ImageError(
        f"{files}: expected {counted(len(channel_names), 'channel')} ({', '.join(channel_names)}), received {image.shape[0]} of "
        f"shape {tuple(image.shape[1:])}. Declare every channel under channel_names in dataset.json, or keep only the "
        f"declared ones (one volume of a 4-D series)."
    )


def _check_not_constant(stats: Sequence[IntensityStats], case: Case, channel_names: Sequence[str]) -> None:
    # One is enough: it teaches nothing and would enter the plan. At inference ``PlanCheckd`` tells of it and gives a mask.
    for name, channel in zip(channel_names, stats, strict=True):
        if channel.min == channel.max:
            files = ", ".join(str(path) for path in case.images)
            raise ImageError(
                f"{files}: expected an image, received the value {channel.min:g} all over channel {name}. "
                "Replace the file."
            )


def as_stored(image: MetaTensor) -> np.ndarray:
    """``(C, *spatial)``, spatial axes reversed, C-contiguous: files run along x first, so this rarely copies."""
    array = np.asarray(image)
    return np.ascontiguousarray(array.transpose(0, *range(array.ndim - 1, 0, -1)))


def _axes(image: MetaTensor) -> tuple[tuple[int, ...], str]:
    """File axis of each axis after reorientation to RAS, and the file's axis codes; 2-D images stay as they are."""
    if image.ndim == 3:
        return (0, 1), ""
    affine = np.asarray(image.affine)
    target = io_orientation(affine)[:, 0].astype(int)
    return tuple(int(axis) for axis in np.argsort(target)), "".join(aff2axcodes(affine))


def _oblique_degrees(image: MetaTensor) -> float:
    axes = np.asarray(image.affine)[:-1, :-1]
    cosines = np.abs(axes / np.linalg.norm(axes, axis=0)).max(axis=0)
    return float(np.degrees(np.arccos(cosines.clip(max=1))).max())


def _channel_stats(channel: np.ndarray) -> tuple[IntensityStats, IntensityStats]:
    """Over all voxels, and over the non-zero ones. Reorders ``channel``, to spare a copy of the image."""
    values = channel.reshape(-1)
    nonzero = describe(values[values != 0])
    return describe(values), nonzero


def _mean(values: np.ndarray, around: float | None = None) -> float:
    """Mean, or mean square distance from ``around``, in float64 without a float64 copy of the image."""
    total = 0.0
    for start in range(0, values.size, CHUNK):
        chunk = values[start : start + CHUNK].astype(np.float64)
        total += float((chunk if around is None else np.square(chunk - around)).sum())
    return total / values.size


def class_members(
    labels: Mapping[str, int], regions: Mapping[str, Sequence[int]] | None = None
) -> dict[str, list[int]]:
    """Name to the class indices that belong to it, background first. Arguments as ``measure_case``."""
    values = file_values(labels, regions or {})
    return {
        name: [values.index(v) for v in as_tuple(own)] for name, own in scored_values(labels, regions or {}).items()
    }


def _together(classes: np.ndarray | None, members: Mapping[str, Sequence[int]]) -> float:
    """``least_in_largest`` where there is a label of several classes; of one it would be the class's own share."""
    return 0.0 if classes is None or len(members) <= 2 else least_in_largest(classes, members)


def _coarse_dice(
    classes: np.ndarray, members: Mapping[str, Sequence[int]], spacing: Sequence[float]
) -> dict[str, tuple[float, ...]]:
    """``coarse_dice`` of a 2-D image, of a single slice or across thick ones; ``spacing`` runs as the file, classes reversed."""
    if len(spacing) == 2:
        return coarse_dice(classes, members, None)
    if 1 in classes.shape:
        return coarse_dice(classes, members, classes.shape.index(1))
    *_, thinner, coarsest = sorted(spacing)
    if coarsest <= ANISOTROPY_RATIO * thinner:
        return {}
    return coarse_dice(classes, members, len(spacing) - 1 - list(spacing).index(coarsest))


def _foreground(voxels: np.ndarray, classes: np.ndarray | None, limit: int) -> np.ndarray:
    if classes is None:
        return np.empty((voxels.shape[0], 0), dtype=np.float32)
    inside = np.flatnonzero((classes != 0) & (classes != STORED_IGNORED))
    if inside.size > limit:
        inside = np.sort(np.random.default_rng(SAMPLE_SEED).choice(inside, limit, replace=False))
    return voxels.reshape(voxels.shape[0], -1)[:, inside]
