"""The plan: every choice between a folder of scans and a trained network, with the reason for each.

A plan is made by ``preprocessing.planner``, saved as ``plan.json`` that a person may edit, and read by everything that
follows: transforms, networks, trainer, inference. It holds no path and no case name, so it ships with the weights.

Axis convention: every per-axis tuple is in *array-axis order of the image after it was brought to ``orientation``*
(RAS for volumes), i.e. the order of ``tensor.shape[1:]`` that MONAI's ``Orientationd`` gives. A 2-D plan for 3-D volumes
names the axis it slices along in ``slice_axis``; its network tuples (patch, kernels, strides, windows) then have two
entries, for the remaining axes in order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

PLAN_FORMAT = 1
NORMALIZATION_SCHEMES = ("zscore", "ct", "rescale_to_0_1", "rgb_to_0_1", "none")


class PlanError(ValueError):
    """A plan that cannot be carried out; the message says which entry, why, and what would be possible."""


@dataclass(frozen=True)
class ChannelNormalization:
    """How the intensities of one channel are normalised, before resampling (nnU-Net's schemes).

    Args:
        channel: name of the channel, for the reader.
        scheme: one of ``NORMALIZATION_SCHEMES``. ``zscore``: per image, minus mean, over standard deviation. ``ct``: clip
            to ``[lower, upper]``, minus ``mean``, over ``std``, all four from the data set's foreground.
            ``rescale_to_0_1``: per image min-max. ``rgb_to_0_1``: divide by 255. ``none``: as it is.
        inside_mask: for ``zscore``, measure and apply inside the non-zero voxels only; outside stays 0.
        lower, upper, mean, std: only for ``ct``, in the units of the image.
    """

    channel: str
    scheme: str
    inside_mask: bool = False
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    std: float | None = None


@dataclass(frozen=True)
class CNNPlan:
    """Shape of the U-Net. Entry ``i`` of each tuple is resolution stage ``i``, from full size to the bottleneck.

    Args:
        preset: ``plan`` (shaped by the fields below) or ``paper`` (METHOD: SSL4MIS 2-D U-Net; the fields describe it).
        features: channels of each stage.
        kernel_sizes: convolution kernel of each stage, per network axis.
        strides: downsampling on entering each stage, per network axis; the first is all ones.
        convs_per_stage: convolutions in each encoder stage (decoder stages take as many).
    """

    preset: str
    features: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    convs_per_stage: int = 2

    @property
    def cumulative_strides(self) -> tuple[tuple[int, ...], ...]:
        """Downsampling of each stage against the patch, per network axis."""
        return _cumulative(self.strides)

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each patch axis must be a multiple of."""
        return self.cumulative_strides[-1]


@dataclass(frozen=True)
class TransformerPlan:
    """Shape of the Swin-UNet. Entry ``i`` of the tuples is resolution stage ``i``, from the token grid down.

    Args:
        preset: ``plan`` or ``paper`` (Swin-Unet tiny, 224 x 224).
        patch: voxels per token, per network axis (patch embedding).
        merges: patch merging on entering each stage, per network axis; the first is all ones.
        embed_dim: channels of the first stage; doubled at each stage.
        depths: Swin blocks of each encoder stage; the decoder takes as many, mirrored.
        heads: attention heads of each stage; each must divide the channels of its stage.
        window: tokens per attention window, per network axis. Padding to a multiple happens inside the network.
    """

    preset: str
    patch: tuple[int, ...]
    merges: tuple[tuple[int, ...], ...]
    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: tuple[int, ...]

    @property
    def cumulative_strides(self) -> tuple[tuple[int, ...], ...]:
        """Downsampling of each stage against the patch, per network axis."""
        return tuple(tuple(p * m for p, m in zip(self.patch, merge, strict=True)) for merge in _cumulative(self.merges))


@dataclass(frozen=True)
class ContrastScale:
    """One scale of the contrastive loss.

    Args:
        stride: size of a feature voxel in patch voxels, per network axis (1 = full size).
        block: edge of a local block in feature voxels, per network axis.
        pixels: how many feature voxels of one image are sampled for the loss; ``None`` takes all of them.
    """

    stride: tuple[int, ...]
    block: tuple[int, ...]
    pixels: int | None = None


@dataclass(frozen=True)
class Plan:
    """Everything that was decided for one data set. See the module's docstring for axis order.

    Args:
        dataset_name: name from ``dataset.json`` or the folder.
        channel_names: one name per input channel, in order.
        labels: class name to value in the label files, background (0) first. The network's class index is the position.
        image_dims: 2 or 3, dimensions of the stored images.
        spatial_dims: 2 or 3, dimensions of the networks. 2 with ``image_dims`` 3 works slice by slice.
        slice_axis: image axis that a slice-wise plan walks along, else ``None``.
        orientation: axis codes every volume is brought to, e.g. ``RAS``; ``None`` keeps the axes of the file (2-D images,
            and obliquely cut stacks).
        spacing_mm: target spacing per image axis; ``None`` on an axis keeps each case's own (slice-wise plans).
        median_shape: median image shape at the target spacing, after cropping, per image axis.
        separate_z_ratio: resampling treats the coarse axis apart when max/min spacing exceeds this (nnU-Net: 3).
        normalization: one entry per channel.
        patch_size: network input in training and sliding window, per network axis, in voxels of the target grid.
        batch_labeled, batch_unlabeled: patches of each kind in one training batch (of one process).
        batch_dice: sum Dice over the batch (True) or per sample.
        cnn, transformer: shapes of the two networks.
        contrast: scales of the contrastive loss, fine to coarse.
        projection_dim: channels the projectors give to the contrastive loss.
        mirror_axes: network axes that augmentation and test-time augmentation may flip.
        inference_overlap: overlap of neighbouring windows, as a fraction of the patch.
        memory_gb: memory budget the plan was made for; ``estimated_memory_gb`` what it is expected to take.
        device: ``cpu`` or ``cuda``: what the plan was made for.
        why: the reason for each choice, by field name, in words.
        format: version of this file's layout.
    """

    dataset_name: str
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    image_dims: int
    spatial_dims: int
    slice_axis: int | None
    orientation: str | None
    spacing_mm: tuple[float | None, ...]
    median_shape: tuple[int, ...]
    normalization: tuple[ChannelNormalization, ...]
    patch_size: tuple[int, ...]
    batch_labeled: int
    batch_unlabeled: int
    batch_dice: bool
    cnn: CNNPlan
    transformer: TransformerPlan
    contrast: tuple[ContrastScale, ...]
    projection_dim: int = 128
    mirror_axes: tuple[int, ...] = ()
    inference_overlap: float = 0.5
    separate_z_ratio: float = 3.0
    memory_gb: float = 8.0
    estimated_memory_gb: float = 0.0
    device: str = "cpu"
    why: dict[str, str] = field(default_factory=dict)
    format: int = PLAN_FORMAT

    def __post_init__(self) -> None:
        check_plan(self)

    @property
    def in_channels(self) -> int:
        """Input channels of the networks."""
        return len(self.channel_names)

    @property
    def num_classes(self) -> int:
        """Output channels of the networks, background included."""
        return len(self.labels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the output channels."""
        return tuple(self.labels)

    @property
    def label_values(self) -> tuple[int, ...]:
        """Value in the label files of each output channel."""
        return tuple(self.labels.values())

    @property
    def network_axes(self) -> tuple[int, ...]:
        """Image axes the network sees, in order; all but ``slice_axis``."""
        return tuple(axis for axis in range(self.image_dims) if axis != self.slice_axis)

    @property
    def image_patch_size(self) -> tuple[int, ...]:
        """The patch on the image's axes: ``patch_size`` with 1 on ``slice_axis``."""
        sizes = iter(self.patch_size)
        return tuple(1 if axis == self.slice_axis else next(sizes) for axis in range(self.image_dims))

    @property
    def data_key(self) -> str:
        """Short hash of what decides the preprocessed arrays: a case stored under another key is never used."""
        fields = (
            "channel_names",
            "labels",
            "image_dims",
            "orientation",
            "spacing_mm",
            "separate_z_ratio",
            "normalization",
        )
        content = {name: to_plain(getattr(self, name)) for name in fields}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def replace(self, **changes: Any) -> Plan:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON, whole or not at all."""
        save_json(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Plan:
        """Read and check ``plan.json``.

        Raises:
            PlanError: the file is missing, is no plan of this format, or holds an impossible choice.
        """
        return load_json(path, cls)


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
        class_components: connected components per class name (labelled cases).
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
    content_hash: str = ""


@dataclass(frozen=True)
class Fingerprint:
    """What was measured on the training cases of a data set (labelled and unlabelled), per case and together.

    Args:
        dataset_name, channel_names, labels: as in ``Plan``.
        image_dims: 2 or 3.
        cases: one entry per accepted case.
        foreground: per channel, over the foreground voxels of the labelled cases (empty without labels).
        warnings: where unlabelled scans differ from labelled ones beyond a stated bound, and other things to know.
    """

    dataset_name: str
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    image_dims: int
    cases: tuple[CaseFingerprint, ...]
    foreground: tuple[IntensityStats, ...] = ()
    warnings: tuple[str, ...] = ()

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


def check_plan(plan: Plan) -> None:
    """Refuse a plan that cannot be carried out.

    Raises:
        PlanError: with the entry, the value received, and what would be possible.
    """
    _check_format(plan)
    _check_labels(plan)
    _check_axes(plan)
    _check_cnn(plan)
    _check_transformer(plan)
    _check_batch_and_contrast(plan)


def _expect(condition: bool, entry: str, expected: str, received: Any, remedy: str = "") -> None:
    if not condition:
        raise PlanError(
            f"plan entry '{entry}': expected {expected}, received {received!r}." + (f" {remedy}" if remedy else "")
        )


def _check_format(plan: Plan) -> None:
    _expect(plan.format == PLAN_FORMAT, "format", str(PLAN_FORMAT), plan.format, "Plan the data set again.")


def _check_labels(plan: Plan) -> None:
    values = tuple(plan.labels.values())
    _expect(len(values) >= 2, "labels", "background and at least one class", plan.labels)
    _expect(values[0] == 0, "labels", "background = 0 as the first entry", plan.labels)
    _expect(len(set(values)) == len(values), "labels", "distinct values", plan.labels)
    _expect(len(plan.channel_names) >= 1, "channel_names", "at least one channel", plan.channel_names)
    _expect(
        len(plan.normalization) == len(plan.channel_names),
        "normalization",
        f"{len(plan.channel_names)} entries, one per channel",
        len(plan.normalization),
    )
    for entry in plan.normalization:
        _expect(
            entry.scheme in NORMALIZATION_SCHEMES, "normalization", f"a scheme of {NORMALIZATION_SCHEMES}", entry.scheme
        )
        if entry.scheme == "ct":
            known = None not in (entry.lower, entry.upper, entry.mean, entry.std) and (entry.std or 0) > 0
            _expect(known, "normalization", "lower, upper, mean and std > 0 for scheme 'ct'", entry)


def _check_axes(plan: Plan) -> None:
    _expect(plan.image_dims in (2, 3), "image_dims", "2 or 3", plan.image_dims)
    slicewise = plan.image_dims == 3 and plan.spatial_dims == 2
    if slicewise:
        _expect(plan.slice_axis in (0, 1, 2), "slice_axis", "0, 1 or 2 in a slice-wise plan", plan.slice_axis)
    else:
        _expect(plan.slice_axis is None, "slice_axis", "null unless a 2-D plan slices 3-D volumes", plan.slice_axis)
        _expect(
            plan.spatial_dims == plan.image_dims,
            "spatial_dims",
            f"{plan.image_dims} (or 2 with a slice_axis)",
            plan.spatial_dims,
        )
    _expect(len(plan.spacing_mm) == plan.image_dims, "spacing_mm", f"{plan.image_dims} entries", plan.spacing_mm)
    for axis, spacing in enumerate(plan.spacing_mm):
        keeps = spacing is None and axis == plan.slice_axis
        _expect(
            keeps or (spacing is not None and spacing > 0),
            "spacing_mm",
            f"a positive number of mm on axis {axis}",
            plan.spacing_mm,
            "null is possible on slice_axis only.",
        )
    _expect(len(plan.patch_size) == plan.spatial_dims, "patch_size", f"{plan.spatial_dims} entries", plan.patch_size)
    _expect(
        all(axis < plan.spatial_dims for axis in plan.mirror_axes),
        "mirror_axes",
        f"axes below {plan.spatial_dims}",
        plan.mirror_axes,
    )
    _expect(0 <= plan.inference_overlap < 1, "inference_overlap", "a fraction in [0, 1)", plan.inference_overlap)


def _check_cnn(plan: Plan) -> None:
    cnn, dims = plan.cnn, plan.spatial_dims
    _expect(cnn.preset in ("plan", "paper"), "cnn.preset", "'plan' or 'paper'", cnn.preset)
    stages = len(cnn.features)
    for name in ("kernel_sizes", "strides"):
        value = getattr(cnn, name)
        _expect(len(value) == stages, f"cnn.{name}", f"{stages} stages, as in cnn.features", value)
        _expect(all(len(axes) == dims for axes in value), f"cnn.{name}", f"{dims} axes in each stage", value)
    _expect(all(stride == 1 for stride in cnn.strides[0]), "cnn.strides", "ones in the first stage", cnn.strides[0])
    for axis, (size, divisor) in enumerate(zip(plan.patch_size, cnn.divisor, strict=True)):
        low, high = size // divisor * divisor, math.ceil(size / divisor) * divisor
        options = " or ".join(str(option) for option in sorted({low, high}) if option > 0)
        _expect(
            size > 0 and size % divisor == 0,
            "patch_size",
            f"a multiple of {divisor} on network axis {axis} (the CNN halves it)",
            size,
            f"Possible: {options}.",
        )


def _check_transformer(plan: Plan) -> None:
    swin, dims = plan.transformer, plan.spatial_dims
    _expect(swin.preset in ("plan", "paper"), "transformer.preset", "'plan' or 'paper'", swin.preset)
    for name in ("patch", "window"):
        value = getattr(swin, name)
        _expect(len(value) == dims and min(value) > 0, f"transformer.{name}", f"{dims} positive entries", value)
    stages = len(swin.depths)
    for name in ("heads", "merges"):
        _expect(
            len(getattr(swin, name)) == stages,
            f"transformer.{name}",
            f"{stages} stages, as in depths",
            getattr(swin, name),
        )
    _expect(
        all(len(merge) == dims for merge in swin.merges),
        "transformer.merges",
        f"{dims} axes in each stage",
        swin.merges,
    )
    _expect(
        all(merge == 1 for merge in swin.merges[0]), "transformer.merges", "ones in the first stage", swin.merges[0]
    )
    for stage, heads in enumerate(swin.heads):
        width = swin.embed_dim * 2**stage
        possible = [n for n in range(1, width + 1) if width % n == 0][:8]
        _expect(
            width % heads == 0,
            "transformer.heads",
            f"a divisor of {width} in stage {stage}",
            heads,
            f"Possible: {possible}.",
        )


def _check_batch_and_contrast(plan: Plan) -> None:
    _expect(plan.batch_labeled >= 1, "batch_labeled", "at least 1", plan.batch_labeled)
    _expect(plan.batch_unlabeled >= 0, "batch_unlabeled", "0 or more", plan.batch_unlabeled)
    for index, scale in enumerate(plan.contrast):
        for name in ("stride", "block"):
            value = getattr(scale, name)
            _expect(
                len(value) == plan.spatial_dims and min(value) >= 1,
                f"contrast[{index}].{name}",
                f"{plan.spatial_dims} positive entries",
                value,
            )
        cells = tuple(math.ceil(size / stride) for size, stride in zip(plan.patch_size, scale.stride, strict=True))
        fits = all(block <= cell for block, cell in zip(scale.block, cells, strict=True))
        _expect(fits, f"contrast[{index}].block", f"at most the feature map {cells}", scale.block)


def _cumulative(factors: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    total = [1] * len(factors[0])
    stages = []
    for factor in factors:
        total = [a * b for a, b in zip(total, factor, strict=True)]
        stages.append(tuple(total))
    return tuple(stages)


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and numpy scalars as what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def from_plain(kind: Any, value: Any) -> Any:
    """The inverse of ``to_plain`` for the annotated types of the dataclasses in this module."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        missing = [
            f.name
            for f in dataclasses.fields(kind)
            if f.name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        if unknown or missing:
            raise PlanError(
                f"{kind.__name__}: expected entries {sorted(hints)}, received unknown {unknown}, missing {missing}."
            )
        return kind(**{name: from_plain(hints[name], item) for name, item in value.items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and value is not None:
        return tuple(from_plain(arguments[0], item) for item in value)
    if origin is not None and type(None) in arguments:  # X | None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else from_plain(inner, value)
    return value


def save_json(path: str | os.PathLike, value: Any) -> None:
    """Write a dataclass or plain value as JSON beside ``path``, then rename: a killed run leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(to_plain(value), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def load_json(path: str | os.PathLike, kind: Any) -> Any:
    """Read a file that ``save_json`` wrote.

    Raises:
        PlanError: missing or unreadable file, or entries that do not fit ``kind``.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlanError(
            f"expected the file {path}, which does not exist. Plan the data set first: python -m preprocessing DATASET."
        ) from None
    except json.JSONDecodeError as error:
        raise PlanError(f"{path} is not valid JSON: {error}.") from None
    try:
        return from_plain(kind, content)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None
    except (TypeError, AttributeError) as error:
        raise PlanError(f"{path}: an entry has the wrong type ({error}).") from None
