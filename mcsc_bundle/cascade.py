"""The cascade: networks at full resolution see, beside the image, the mask of networks that saw all of it at a coarser one.

nnU-Net's ``3d_cascade_fullres`` (Isensee et al., 2021). The mask comes from ``3d_lowres``: in training, of networks that never
saw the label of that case (``preprocessing.previous``); at inference, of all its folds. It enters as one channel for each
foreground label. So that the second stage does not copy the errors of the first, training spoils the mask: it grows, shrinks,
closes or opens labels, and removes small components, with nnU-Net's probabilities (``nnUNetTrainer.get_training_transforms``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Randomizable, Transform
from scipy import ndimage
from torch import Tensor

from mcsc_bundle.plan import Plan
from mcsc_bundle.transforms import preprocessing

PREVIOUS = "previous"
"""Key of the previous stage's mask in an item: its file, or its class indices ``(1, *spatial)``."""

MORPH_PROBABILITY, MORPH_RADII = 0.4, (1.0, 8.0)  # of a mask; voxels
REMOVE_PROBABILITY, REMOVE_BELOW = 0.2, 0.15  # of a mask; share of the patch
LABEL_PROBABILITY = 0.5  # then, of each label


class PreviousStage(Protocol):
    """What gives the mask of the stage before: label values ``(1, *spatial)`` on the grid of the files."""

    def mask(self, files: Any) -> MetaTensor: ...


class WhenNeeded:
    """A stage before whose networks are loaded for the first mask that is asked for: where masks are given, never.

    Args:
        load: gives the stage.
    """

    def __init__(self, load: Callable[[], PreviousStage]) -> None:
        self._load = load

    @cached_property
    def _stage(self) -> PreviousStage:
        return self._load()

    def mask(self, files: Any) -> MetaTensor:
        """As ``PreviousStage.mask``."""
        return self._stage.mask(files)


def one_hot(previous: Tensor, plan: Plan) -> Tensor:
    """Class indices ``(1, *spatial)``, positions in ``plan.label_values``, as a float32 channel for each but the background."""
    classes = torch.arange(1, len(plan.label_values), device=previous.device).view(-1, *[1] * (previous.ndim - 1))
    return (previous == classes).float()


def joined(item: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """An item whose ``image`` holds its ``previous``, which is taken out; other items as they are."""
    item = dict(item)
    if PREVIOUS in item:
        previous, image = item.pop(PREVIOUS), item["image"]
        channels = one_hot(torch.as_tensor(previous), plan).to(image.dtype)
        item["image"] = torch.cat((image, channels))
    return item


class SpoiledMask(Randomizable, Transform):
    """Errors put into a previous stage's class indices ``(1, *spatial)``, as the next case's mask may have others.

    Args:
        plan: the classes.
    """

    def __init__(self, plan: Plan) -> None:
        self.classes = range(1, len(plan.label_values))

    def __call__(self, previous: Tensor) -> Tensor:
        """A spoiled copy."""
        classes = previous[0].numpy().copy()
        for spoil, probability in ((self._morph, MORPH_PROBABILITY), (self._remove, REMOVE_PROBABILITY)):
            if self.R.rand() < probability:
                for label in self.R.permutation(self.classes):
                    if self.R.rand() < LABEL_PROBABILITY:
                        spoil(classes, int(label))
        return torch.from_numpy(classes)[None]

    def _morph(self, classes: np.ndarray, label: int) -> None:
        """Grow, shrink, close or open one label by a ball; what it grows over is no longer of the other labels."""
        operation = MORPHOLOGY[self.R.randint(len(MORPHOLOGY))]
        radius = self.R.uniform(*MORPH_RADII)
        before = classes == label
        if before.any():
            after = operation(before, radius)
            classes[before & ~after] = 0
            classes[after & ~before] = label

    def _remove(self, classes: np.ndarray, label: int) -> None:
        """Remove one component of a label, unless it is large; voxels that touch at a corner belong together."""
        components, count = ndimage.label(classes == label, np.ones((3,) * classes.ndim))
        sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
        small = np.flatnonzero(sizes < REMOVE_BELOW * classes.size) + 1
        if len(small):
            classes[components == small[self.R.randint(len(small))]] = 0


def grown(mask: np.ndarray, radius: float) -> np.ndarray:
    """Dilation by a ball, by distances: a ball of radius 8 has 2109 voxels to compare otherwise.

    scikit-image's ``isotropic_dilation`` and the like, but for masks that are empty or full, where those go wrong.
    """
    return ndimage.distance_transform_edt(~mask) <= radius if mask.any() else mask


def shrunk(mask: np.ndarray, radius: float) -> np.ndarray:
    """Erosion by a ball; beyond the border the mask is taken to go on."""
    return mask & (ndimage.distance_transform_edt(mask) > radius) if not mask.all() else mask


def closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """Growing, then shrinking."""
    return shrunk(grown(mask, radius), radius)


def opened(mask: np.ndarray, radius: float) -> np.ndarray:
    """Shrinking, then growing."""
    return grown(shrunk(mask, radius), radius)


MORPHOLOGY = (grown, shrunk, closed, opened)


def input_transform(plan: Plan, previous: PreviousStage | None = None) -> Compose:
    """From the files of a case to what the network sees.

    Args:
        plan: the plan.
        previous: gives the mask of the stage before; ``None`` where the plan has none.

    Returns:
        ``preprocessing(plan, "image")``; of a cascade, with the mask predicted, brought to the same grid and joined.
    """
    if not plan.previous_stage:
        return preprocessing(plan, "image")
    if previous is None:
        raise ValueError(f"expected the networks of {plan.previous_stage}, received none.")
    image, mask, *others = preprocessing(plan, ("image", PREVIOUS)).transforms
    return Compose([PredictPreviousd("image", previous, mask), image, *others, JoinPreviousd("image", plan)])


class PredictPreviousd(MapTransform):
    """Adds the mask of the stage before.

    Args:
        keys: of the image's files.
        previous: predicts the mask from them.
        load: loads the mask where the item names its file.
    """

    def __init__(self, keys: Sequence[str] | str, previous: PreviousStage, load: Callable[[Any], Any]) -> None:
        super().__init__(keys)
        self.previous, self.load = previous, load

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with ``previous``, on the grid of its image."""
        item = dict(data)
        if PREVIOUS in item:
            return self.load(item)
        for key in self.key_iterator(item):
            item[PREVIOUS] = self.previous.mask(item[key])
        return item


class JoinPreviousd(MapTransform):
    """``joined`` for an image that knows its way back.

    Args:
        keys: of the image.
        plan: the plan.
    """

    def __init__(self, keys: Sequence[str] | str, plan: Plan) -> None:
        super().__init__(keys)
        self.plan = plan

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, its image with the channels of the mask, and the image's own trace."""
        item = dict(data)
        for key in self.key_iterator(item):
            image, previous = item[key], item.pop(PREVIOUS)
            plain = {"image": image.as_tensor(), PREVIOUS: previous.as_tensor()}
            together = joined(plain, self.plan)["image"]
            item[key] = MetaTensor(together, meta=image.meta, applied_operations=image.applied_operations)
        return item
