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
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mcsc_bundle.fingerprint import CaseFingerprint, Fingerprint, IntensityStats
from mcsc_bundle.labels import Values, file_values, scored_values
from mcsc_bundle.plan_checks import NORMALIZATION_SCHEMES, PLAN_FORMAT, check_plan
from mcsc_bundle.plan_files import PlanError, from_plain, load_json, save_json, to_plain
from mcsc_bundle.plan_parts import PROJECTION, ChannelNormalization, CNNPlan, ContrastScale, TransformerPlan

__all__ = [
    "NORMALIZATION_SCHEMES",
    "PLAN_FORMAT",
    "CNNPlan",
    "CaseFingerprint",
    "ChannelNormalization",
    "ContrastScale",
    "Fingerprint",
    "IntensityStats",
    "Plan",
    "PlanError",
    "TransformerPlan",
    "load_json",
    "save_json",
    "to_plain",
]


@dataclass(frozen=True)
class Plan:
    """Everything that was decided for one data set. See the module's docstring for axis order.

    Args:
        dataset_name: name from ``dataset.json`` or the folder.
        channel_names: one name per input channel, in order.
        labels: class name to value in the label files, background (0) first. The network's class index is the position.
            Of regions: name to the value that it is painted with, in the order of painting.
        ignore_value: value in the label files of voxels that nobody annotated (``mcsc_bundle.labels``); ``None`` if there
            are none. It is no class: networks do not predict it.
        regions: name to the values in the label files that belong to it, for each label but the background; empty where
            labels are exclusive classes. With regions the networks have one channel for each, with a sigmoid, and none for
            the background (``mcsc_bundle.outputs``).
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
        largest_component: classes whose largest component masks keep, taken together, step by step
            (``preprocessing.largest_component``); what a cross-validation decided goes before it.
        memory_gb: memory budget the plan was made for; ``estimated_memory_gb`` what it is expected to take.
        measured_memory_gb: what a step took when it was tried on the device, ``None`` if it was not.
        device: ``cpu`` or ``cuda``: what the plan was made for.
        configuration: nnU-Net's name for this kind of plan: ``2d``, ``3d_fullres``, ``3d_lowres``, ``3d_cascade_fullres``; empty
            if it is none.
        previous_stage: configuration whose mask the networks see beside the image, one channel for each foreground label
            (``mcsc_bundle.cascade``); empty where they see the image alone.
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
    projection_dim: int = PROJECTION
    mirror_axes: tuple[int, ...] = ()
    inference_overlap: float = 0.5
    largest_component: tuple[tuple[str, ...], ...] = ()
    separate_z_ratio: float = 3.0
    memory_gb: float = 8.0
    estimated_memory_gb: float = 0.0
    measured_memory_gb: float | None = None
    device: str = "cpu"
    configuration: str = ""
    previous_stage: str = ""
    ignore_value: int | None = None
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    format: int = PLAN_FORMAT

    def __post_init__(self) -> None:
        check_plan(self)

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return len(self.channel_names)

    @property
    def network_channels(self) -> int:
        """Input channels of the networks: the image's, and in a cascade one for each foreground value of the label files."""
        return self.in_channels + (len(self.label_values) - 1 if self.previous_stage else 0)

    @property
    def body_channels(self) -> tuple[int, ...]:
        """Positions of the channels that are normalised inside the body, and 0 outside of it."""
        return tuple(index for index, entry in enumerate(self.normalization) if entry.inside_mask)

    @property
    def unscaled_channels(self) -> tuple[int, ...]:
        """Positions of the channels whose normalisation does not give them a deviation of about 1."""
        return tuple(index for index, entry in enumerate(self.normalization) if entry.scheme not in ("zscore", "ct"))

    @property
    def num_classes(self) -> int:
        """Classes or regions, background included."""
        return len(self.labels)

    @property
    def out_channels(self) -> int:
        """Output channels of the networks: one per class, background included, or one per region."""
        return len(self.regions) or len(self.labels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of classes or regions, background first."""
        return tuple(self.labels)

    @property
    def channel_classes(self) -> tuple[str, ...]:
        """Name of each output channel."""
        return tuple(self.regions) or tuple(self.labels)

    @property
    def label_values(self) -> tuple[int, ...]:
        """Values in the label files, background first, without the ignore label; stored class indices are positions."""
        return file_values(self.labels, self.regions)

    @property
    def scored_values(self) -> dict[str, Values]:
        """Name to the value, or of a region the values, that are scored as one; background first."""
        return scored_values(self.labels, self.regions)

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
        if list(self.label_values) != sorted(self.label_values):  # class indices are positions in this order
            content["labels"] = list(self.labels.items())
        if self.ignore_value is not None:  # keys of plans without one stay what they were
            content["ignore_value"] = self.ignore_value
        if self.regions:
            content["regions"] = to_plain(self.regions)
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

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Plan:
        """The plan that a config holds, for consumers that read one file (MONAI Label, Deploy).

        Raises:
            PlanError: entries that do not fit, or an impossible choice.
        """
        return from_plain(cls, content)
