"""The steps between file and network that only the plan knows: what it accepts, how it normalises and resamples."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.utils import scale_affine
from monai.utils import MetaKeys
from torch import Tensor

from mcsc_bundle.case_checks import check_annotated, check_grid, class_indices, file_of
from mcsc_bundle.formats import ImageError, spacing_of
from mcsc_bundle.io import spacing_mm
from mcsc_bundle.normalization import normalize
from mcsc_bundle.plan import Plan
from mcsc_bundle.resampling import coarse_axis, resampled_shape, resize_classes, resize_image, resize_logits
from mcsc_bundle.words import counted, listed, per_axis

log = logging.getLogger(__name__)

SPACING_RATIO = 50  # beyond, the header is wrong: thick localisers beside thin CT differ by less than 20


def _says_no_channel(image: MetaTensor) -> bool:
    """Whether an application that hands over images, such as MONAI Deploy, says so in MONAI's words."""
    stated = image.meta.get(MetaKeys.ORIGINAL_CHANNEL_DIM)
    return stated == "no_channel" or (isinstance(stated, float) and math.isnan(stated))


class PlanCheckd(MapTransform):
    """Refuses what the plan was not made for, and turns label values into class indices.

    Args:
        keys: of the image and, if there is one, of the label.
        plan: the plan.
    """

    def __init__(self, keys: KeysCollection, plan: Plan) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.plan = plan

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, checked.

        Raises:
            ImageError: other dimensions or channels than planned, one value all over each channel, a spacing that cannot be in
                mm, a label on another grid or with values that the plan does not know.
        """
        item = dict(data)
        image, *labels = (key for key in self.keys if key in item)
        for key in (image, *labels):
            item[key] = self._with_plan_dims(item[key])
        self._check_image(item[image])
        for key in labels:
            check_grid(item[image], item[key])
            item[key] = self._classes(item[key])
            item[key].affine = item[image].affine  # near 45 degrees rounding alone decides how an affine is reoriented
        return item

    def _with_plan_dims(self, image: MetaTensor) -> MetaTensor:
        """An image in memory without an axis of channels gets one; a volume of one slice, for a 2-D plan, loses that axis."""
        if image.ndim == self.plan.image_dims and _says_no_channel(image):
            meta = {**image.meta, MetaKeys.ORIGINAL_CHANNEL_DIM: 0}
            image = MetaTensor(image.as_tensor()[None].float(), meta=meta)
        single = [axis for axis, size in enumerate(image.shape[1:]) if size == 1]
        if self.plan.image_dims == 2 and image.ndim == 4 and single:
            axis = single[-1]
            spacing = [size for index, size in enumerate(spacing_mm(image)) if index != axis]
            flat = MetaTensor(image.as_tensor().squeeze(1 + axis), meta=image.meta)
            flat.affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
            return flat
        if image.ndim - 1 != self.plan.image_dims:
            raise ImageError(
                f"{file_of(image)}: expected {self.plan.image_dims} spatial dimensions, as the plan was made for, "
                f"received shape {tuple(image.shape[1:])}. Give images like those of the training."
            )
        return image

    def _check_image(self, image: MetaTensor) -> None:
        names = self.plan.channel_names
        if len(image) != len(names):
            raise ImageError(
                f"{file_of(image)}: expected {counted(len(names), 'channel')} ({', '.join(names)}), received {len(image)}. Give "
                "a file for each (CASE_0000, CASE_0001, ...), or one file with all of them as its last axis."
            )
        constant = [name for name, values in zip(names, image.as_tensor(), strict=True) if values.min() == values.max()]
        if len(constant) == len(names):
            values = image.as_tensor().flatten(1)[:, 0].tolist()
            raise ImageError(
                f"{file_of(image)}: expected an image, received the value {listed([f'{value:g}' for value in values])} all over. "
                "Replace the file, or leave the case out."
            )
        if constant:  # training leaves such a case out; here a mask is better than none
            log.warning("%s: channel %s has one value all over.", file_of(image), listed(constant))
        self._check_spacing(image)
        for norm, channel in zip(self.plan.normalization, image.as_tensor(), strict=True):
            if norm.scheme == "ct" and norm.lower is not None:
                _tell_of_offset(file_of(image), channel, norm.lower)

    def _check_spacing(self, image: MetaTensor) -> None:
        planned = [size for size in self.plan.spacing_mm if size is not None]
        spacing = sorted(size for size, count in zip(spacing_mm(image), image.shape[1:], strict=True) if count > 1)
        spacing = spacing[: len(planned)]  # the distance of slices that are taken one by one may be any
        if spacing and (spacing[-1] > SPACING_RATIO * max(planned) or spacing[0] < min(planned) / SPACING_RATIO):
            raise ImageError(
                f"{file_of(image)}: expected a spacing within {SPACING_RATIO} times the plan's {per_axis(self.plan.spacing_mm)} "
                f"mm, received {per_axis(spacing_mm(image))} mm. If that is no length in mm, correct the header; else leave the "
                "case out."
            )

    def _classes(self, label: MetaTensor) -> MetaTensor:
        file, plan = file_of(label), self.plan
        classes = class_indices(label.as_tensor().numpy()[0], plan.labels, file, plan.ignore_value, plan.regions)
        check_annotated(classes, file)
        return MetaTensor(torch.from_numpy(classes)[None], meta=label.meta, applied_operations=label.applied_operations)


def _tell_of_offset(file: str, channel: Tensor, lower: float) -> None:
    """Fat and air are below 0 HU: a CT without any such voxel was stored without its offset of -1024."""
    least = float(channel.min())
    if lower < 0 <= least:
        log.warning(
            "%s: expected Hounsfield units, in which the structures of the training begin at %.4g, received no value below %.4g. "
            "If the file lacks an offset (-1024), correct it: its mask is worth nothing.", file, lower, least,
        )  # fmt: skip


class PlanNormalized(MapTransform):
    """Intensities normalised as the plan says, channel by channel.

    Args:
        keys: of the image.
        plan: the plan.
    """

    def __init__(self, keys: KeysCollection, plan: Plan) -> None:
        super().__init__(keys)
        self.plan = plan

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, its image float32."""
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            normalized = normalize(image.as_tensor(), self.plan.normalization)
            item[key] = MetaTensor(normalized, meta=image.meta, applied_operations=image.applied_operations)
        return item


class PlanResampled(MapTransform, InvertibleTransform):
    """Resampling to the plan's spacing: cubic for images, linear per class for labels; traced for the way back.

    The inverse is linear for maps of numbers such as logits, and per class for indices.

    Args:
        keys: of float32 images or uint8 labels.
        plan: the plan.
    """

    def __init__(self, keys: KeysCollection, plan: Plan) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.plan = plan

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item on the plan's grid."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self._resample(item[key])
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item on the grid it had."""
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            shape, coarse, affine = grid_before(self.pop_transform(image), self.plan)
            resize = resize_logits if image.is_floating_point() else resize_classes
            resized = _stack([resize(channel, shape, coarse) for channel in image.as_tensor()])
            item[key] = MetaTensor(resized, meta=image.meta, applied_operations=image.applied_operations)
            item[key].affine = affine
        return item

    def _resample(self, image: MetaTensor) -> MetaTensor:
        spacing = spacing_mm(image)
        target = [new or old for new, old in zip(self.plan.spacing_mm, spacing, strict=True)]
        shape = resampled_shape(image.shape[1:], spacing, self.plan.spacing_mm)
        coarse = coarse_axis(spacing, target, self.plan.separate_z_ratio)
        resize = resize_image if image.is_floating_point() else resize_classes
        old_shape = tuple(image.shape[1:])
        resized = _stack([resize(channel, shape, coarse) for channel in image.as_tensor()])
        info = {"affine": image.affine.clone(), "target_mm": torch.tensor(target, dtype=torch.float64)}
        traced = self.track_transform_meta(
            image,
            affine=scale_affine(old_shape, shape),
            extra_info=info,
            orig_size=old_shape,
            transform_info=self.get_transform_info(),
        )
        return MetaTensor(resized).copy_meta_from(traced)


def grid_before(trace: Mapping[str, Any], plan: Plan) -> tuple[tuple[int, ...], int | None, Tensor]:
    """Where a ``PlanResampled`` came from.

    Args:
        trace: its entry in ``applied_operations``.
        plan: the plan.

    Returns:
        Shape and affine of that grid, and between them the axis that the way back treats apart (``coarse_axis``).
    """
    shape, info = tuple(int(size) for size in trace["orig_size"]), trace["extra_info"]
    target = [float(size) for size in info["target_mm"]]
    return shape, coarse_axis(target, spacing_of(np.asarray(info["affine"])), plan.separate_z_ratio), info["affine"]


def _stack(channels: list[Tensor]) -> Tensor:
    """``torch.stack`` that copies nothing where there is one channel."""
    return channels[0][None] if len(channels) == 1 else torch.stack(channels)
