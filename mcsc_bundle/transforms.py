"""The chains made from a plan: from files to the network's grid, and back; the same for preprocessing and inference.

The order is nnU-Net's (default_preprocessor.py): crop to the non-zero box, normalise, resample. MONAI's transforms do
what they can; what only the plan knows is in ``mcsc_bundle.plan_transforms``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, LoadImaged, MapTransform, Orientationd
from monai.transforms.utils import allow_missing_keys_mode
from torch import Tensor

from mcsc_bundle.devices import with_room
from mcsc_bundle.files import DiskError
from mcsc_bundle.io import ImageError, LabelReader, ScanReader
from mcsc_bundle.outputs import outputs_of
from mcsc_bundle.plan import Plan
from mcsc_bundle.plan_transforms import PlanCheckd, PlanNormalized, PlanResampled, grid_before
from mcsc_bundle.resampling import largest_resized, last_above_zero, resize_logits


def preprocessing(plan: Plan, keys: Sequence[str] | str = ("image", "label")) -> Compose:
    """From files to the plan's grid.

    Takes ``{"image": path or list of paths, "label": path}`` and gives float32 ``(C, *spatial)`` and uint8 class
    indices ``(1, *spatial)``. Loading is a step of its own; without it the chain takes images that are in memory.

    Args:
        plan: the plan.
        keys: of the image and, if there is one, of the label, which an item may come without.
    """
    image, *labels = (keys,) if isinstance(keys, str) else tuple(keys)
    present = (image, *labels)
    steps: list[MapTransform] = [LoadImaged(image, reader=ScanReader)]
    if labels:
        steps.append(LoadImaged(labels, reader=LabelReader, dtype=None, allow_missing_keys=True))
    steps.append(PlanCheckd(present, plan))
    steps.append(
        CropForegroundd(
            present,
            source_key=image,
            select_fn=_is_not_zero,
            start_coord_key=None,
            end_coord_key=None,
            allow_missing_keys=True,
        )
    )
    if plan.orientation is not None:
        steps.append(Orientationd(present, axcodes=plan.orientation, labels=None, allow_missing_keys=True))
    return Compose([*steps, PlanNormalized(image, plan), PlanResampled(present, plan)])


def restore_mask(logits: Tensor, image: MetaTensor, transform: Compose, plan: Plan) -> MetaTensor:
    """The mask that a network saw in a preprocessed image, on the grid of the image's file.

    Logits are resampled linearly a slab at a time, so that no class needs a volume on the original grid. Regions are painted
    where their probability is above a half, each over those before it (nnU-Net's ``regions_class_order``).

    Args:
        logits: ``(C, *spatial)`` on the plan's grid.
        image: what ``transform`` made, with its trace.
        transform: the chain of ``preprocessing(plan)``.
        plan: the plan.

    Returns:
        Label values as in the label files, ``(1, *spatial)``, uint8 where they fit, else int32.
    """
    shape, coarse, affine = grid_before(image.applied_operations[-1], plan)
    paint = last_above_zero if plan.regions else largest_resized
    classes = with_room(lambda logits: paint(logits, shape, coarse), _plain(logits))
    restored = _undo_geometry(classes[None].cpu(), affine, image, transform)
    return in_label_values(restored.as_tensor(), plan, restored.meta)


def in_label_values(classes: Tensor, plan: Plan, meta: dict[str, Any]) -> MetaTensor:
    """Class indices as label values of the label files, uint8 where they fit, else int32, with the metadata of an image."""
    values = np.array(list(plan.labels.values()))
    values = values.astype(np.uint8 if values.min() >= 0 and values.max() <= 255 else np.int32)
    return MetaTensor(torch.from_numpy(values[classes.numpy()]), meta=meta, applied_operations=[])


def restore_probabilities(logits: Tensor, image: MetaTensor, transform: Compose, plan: Plan) -> MetaTensor:
    """Softmax of the resampled logits (of regions, sigmoid), ``(C, *spatial)`` float32 on the grid of the image's file.

    Outside the crop all is background: regions are 0. Arguments as in ``restore_mask``. Holds all classes at once.
    """
    shape, coarse, affine = grid_before(image.applied_operations[-1], plan)
    resized = torch.stack(
        [with_room(lambda one: resize_logits(one, shape, coarse), channel).cpu() for channel in _plain(logits)]
    )
    restored = _undo_geometry(outputs_of(plan).probability(resized[None])[0], affine, image, transform)
    if not plan.regions:
        restored[0] = 1 - restored[1:].sum(0)
    return restored


class RestoreMaskd(MapTransform):
    """``restore_mask`` for a dictionary; MONAI's ``Invertd`` would hold every class on the original grid.

    Args:
        keys: of the logits; the mask takes their place.
        plan: the plan.
        transform: the preprocessing that made the image.
        orig_keys: of the preprocessed image.
        probabilities_key: where probabilities go, ``None`` for none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        plan: Plan,
        transform: Compose,
        orig_keys: str = "image",
        probabilities_key: str | None = None,
    ) -> None:
        super().__init__(keys)
        self.plan, self.transform, self.orig_key, self.probabilities_key = plan, transform, orig_keys, probabilities_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, its logits replaced by the mask on the original grid."""
        item = dict(data)
        for key in self.key_iterator(item):
            arguments = item[key], item[self.orig_key], self.transform, self.plan
            if self.probabilities_key is not None:
                item[self.probabilities_key] = restore_probabilities(*arguments)
            item[key] = restore_mask(*arguments)
        return item


def reason(error: BaseException) -> str:
    """The words of the first ``ImageError`` or ``DiskError`` of a chain, which names file and remedy; else of its root."""
    while error.__cause__ is not None and not isinstance(error, (ImageError, DiskError)):
        error = error.__cause__
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # torch's is a RuntimeError
        return "the memory of this machine does not suffice; give it more, or use fewer processes."
    return str(error) if isinstance(error, (ValueError, DiskError)) else f"{type(error).__name__}: {error}"


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def _is_not_zero(image: Tensor) -> Tensor:
    return image != 0


def _undo_geometry(array: Tensor, affine: Tensor, image: MetaTensor, transform: Compose) -> MetaTensor:
    """Undo orientation and crop, which is what is left once the resampling is undone."""
    before = MetaTensor(array, meta=deepcopy(image.meta), applied_operations=deepcopy(image.applied_operations[:-1]))
    before.affine = affine
    steps = [step for step in transform.flatten().transforms if isinstance(step, (CropForegroundd, Orientationd))]
    geometry, key = Compose(steps), steps[0].keys[0]
    with allow_missing_keys_mode(geometry):
        return geometry.inverse({key: before})[key]
