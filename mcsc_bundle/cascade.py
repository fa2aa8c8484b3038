"""The cascade: networks at full resolution see, beside the image, the mask of networks that saw all of it at a coarser one.

nnU-Net's ``3d_cascade_fullres`` (Isensee et al., 2021). The mask comes from ``3d_lowres``: in training, of networks that never
saw the label of that case (``preprocessing.previous``); at inference, of all its folds. It enters as one channel for each
foreground label. So that the second stage does not copy the errors of the first, training spoils the mask: it grows, shrinks,
closes or opens labels, and removes small components, with nnU-Net's probabilities (``nnUNetTrainer.get_training_transforms``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Randomizable, Transform
from scipy import ndimage
from torch import Tensor

from mcsc_bundle.ensemble import run_folders
from mcsc_bundle.plan import Plan, PlanError
from mcsc_bundle.trained import account
from mcsc_bundle.transforms import preprocessing

PREVIOUS = "previous"
"""Key of the previous stage's mask in an item: its file, or its class indices ``(1, *spatial)``."""
FILE = "previous.json"
"""In a run of the second stage: where the first one lies, relative to the run, and ``weights``, the ``weights_key`` of it."""
KEY_LENGTH = 8  # of a stage in the names of its masks

MORPH_PROBABILITY, MORPH_RADII = 0.4, (1.0, 8.0)  # of a mask; voxels
REMOVE_PROBABILITY, REMOVE_BELOW = 0.2, 0.15  # of a mask; share of the patch
LABEL_PROBABILITY = 0.5  # then, of each label


def previous_dir(run: Path) -> Path | None:
    """The folder of the stage before; ``None`` if the run remembers none."""
    path = run / FILE
    return Path(os.path.normpath(run / json.loads(path.read_text())["run_dir"])) if path.exists() else None


def stage_key(folder: Path | None) -> str:
    """Short name of the networks of a stage before, wherever they lie: cascades of several may keep their cases in one folder."""
    return "" if folder is None else weights_key(folder)[:KEY_LENGTH]


def remembered_key(run: Path) -> str:
    """The ``stage_key`` of the stage before as it was when the run was prepared; empty if the run remembers none."""
    known = _known_weights(run)
    return known[:KEY_LENGTH] if known is not None else stage_key(previous_dir(run))


def weights_key(folder: Path) -> str:
    """Changes with the weights of any run in ``folder``, not with where it lies."""
    return _joint_key(_digests(folder))


def is_same_stage(run: Path, folder: Path) -> bool:
    """Whether all networks that the run remembers are in ``folder``; folds that were trained later may be there, too."""
    known, there = _known_weights(run), _digests(folder)
    some = (part for count in range(len(there), 0, -1) for part in combinations(there, count))
    return known is None or any(_joint_key(part) == known for part in some)


def check_stage(run: Path, folder: Path) -> None:
    """Refuse to refine the masks of other networks than those whose masks trained ``run``.

    Raises:
        PlanError: with the remedy.
    """
    if not is_same_stage(run, folder):
        raise PlanError(
            f"{run / FILE}: expected the networks whose masks trained {run}, received others in {folder}: they are of other "
            "runs, were trained on since, or are gone. Put them back, or train this stage anew in another output_dir."
        )


def refined_by(runs: Path, fold: Path) -> list[Path]:
    """Runs beside ``runs`` that have learnt to refine the masks of its networks as they are, or of the fold alone."""
    first = {runs.resolve(), fold.resolve()}
    found = sorted(path.parent for pattern in (f"*/{FILE}", f"*/fold_*/{FILE}") for path in runs.parent.glob(pattern))
    stages = {run: previous_dir(run) for run in found if _has_learnt(run)}
    return [run for run, stage in stages.items() if stage and stage.resolve() in first and is_same_stage(run, stage)]


def _has_learnt(run: Path) -> bool:
    return (run / "models" / "checkpoint.pt").exists() or bool(account(run).get("done"))


def _known_weights(run: Path) -> str | None:
    """What the run remembers of the stage before; ``None`` for none, and for a run of an older version."""
    path = run / FILE
    return json.loads(path.read_text(encoding="utf-8")).get("weights") if path.exists() else None


def _joint_key(digests: Sequence[bytes]) -> str:
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()


def _digests(folder: Path) -> list[bytes]:
    """Of the weights of each run in ``folder`` that has any."""
    files = [run.resolve() / "models" / "model.pt" for run in run_folders(folder)]
    states = [(file, file.stat()) for file in files if file.exists()]
    return [_digest(file, state.st_mtime_ns, state.st_size) for file, state in states]


@lru_cache
def _digest(path: Path, changed: int, size: int) -> bytes:
    """``changed`` and ``size`` make a file that was written anew be read anew."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


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
