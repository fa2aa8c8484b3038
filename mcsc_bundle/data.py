"""Training batches as a pure function of (seed, iteration): two streams, labelled patches first.

Nothing here has state: patch number ``slot`` of iteration ``t`` is drawn from a generator seeded with
``(seed, t, stream, slot)``. So a resumed run reads the batches an uninterrupted one would have read, for any number of
loader workers, and two processes together read what one process with their joined batch reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mcsc_bundle.augmentation import PatchAugmentation
from mcsc_bundle.cascade import PREVIOUS, joined
from mcsc_bundle.labels import with_ignored
from mcsc_bundle.leeway import LEEWAY, leeway_voxels
from mcsc_bundle.plan import Plan
from mcsc_bundle.store import CaseStore, StoredCase

LABELED, UNLABELED = 0, 1
FOREGROUND_SHARE = (
    0.5  # labelled patches centred on a random present class; nnU-Net's usual batch of 2 forces one of two
)


@dataclass(frozen=True)
class PatchKey:
    """Which patch: ``slot`` of ``stream`` in the batch of ``iteration`` (counted from 0)."""

    iteration: int
    stream: int
    slot: int


class TwoStreamDataset(Dataset):
    """Patches of labelled and unlabelled cases, addressed by ``PatchKey``.

    Args:
        data: one item per case: ``case`` (its name in the store) and ``labeled``. Labels of unlabelled cases are never read.
        plan: patch size, batch and slice axis.
        store: the preprocessed cases.
        transform: augmentation with ``draw`` and ``set_random_state``, see ``PatchAugmentation``.
        seed: with the key, decides case, position and augmentation.
        leeway: how far a patch moves to each side of its image's middle, as a share of its size: past the border, where it
            finds 0. Less where structures fill it (``mcsc_bundle.leeway``), more inside a larger image. nnU-Net lets its
            patches pass the border where they are forced to hold foreground, to one side.

    Raises:
        ValueError: no labelled case.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        plan: Plan,
        store: CaseStore,
        transform: PatchAugmentation,
        seed: int = 0,
        leeway: float = LEEWAY,
    ) -> None:
        self.data, self.plan, self.store, self.transform, self.seed = data, plan, store, transform, seed
        self.leeway = leeway
        self.streams = (
            [item["case"] for item in data if item["labeled"]],
            [item["case"] for item in data if not item["labeled"]],
        )
        if not self.streams[LABELED]:
            raise ValueError(
                f"training data: expected at least one labelled case, received {len(data)} unlabelled ones."
            )

    def __len__(self) -> int:
        """Number of cases; patches have no natural count."""
        return len(self.data)

    def __getitem__(self, key: PatchKey) -> dict[str, Tensor]:
        """``image`` ``(C, *patch)`` and, in the labelled stream, ``label`` ``(1, *patch)``.

        Labels are uint8, and of a data set with an ignore label int16 with ``IGNORED``.
        """
        rng = np.random.default_rng((self.seed, key.iteration, key.stream, key.slot))
        cases = self.streams[key.stream]
        case = self.store.open(cases[rng.integers(len(cases))])
        self.transform.set_random_state(seed=int(rng.integers(2**31)))
        region = self._on_image_axes(self.transform.draw())
        forced = key.stream == LABELED and rng.random() < FOREGROUND_SHARE
        start = tuple(
            int(c) - size // 2 for c, size in zip(self._centre(case, rng, key.stream, forced), region, strict=True)
        )
        item = {"image": torch.from_numpy(self._squeezed(case.read_image(start, region)))}
        if key.stream == LABELED:
            label = case.read_label(start, region)[None]
            label = label if self.plan.ignore_value is None else with_ignored(label)
            item["label"] = torch.from_numpy(self._squeezed(label))
        if self.plan.previous_stage:
            item[PREVIOUS] = torch.from_numpy(self._squeezed(case.read_previous(start, region)))
        return self.transform(item)

    def _centre(self, case: StoredCase, rng: np.random.Generator, stream: int, forced: bool) -> np.ndarray:
        """Centre voxel of the patch: on a random present class, or anywhere; inside the image but for ``leeway``.

        In a case with ignored voxels, anywhere is on an annotated voxel, as in nnU-Net: else most patches of a scan with a
        few annotated slices would teach nothing.
        """
        patch = np.asarray(self.plan.image_patch_size)
        middle, leeway = np.asarray(case.shape) // 2, self.leeway_voxels
        low = np.minimum(patch // 2, middle - leeway)
        high = np.maximum(np.asarray(case.shape) - (patch - patch // 2), middle + leeway)
        anywhere = rng.integers(low, high + 1)
        classes = [index for index in sorted(case.foreground) if index > 0] if forced else []
        if classes:
            voxels = case.foreground[classes[rng.integers(len(classes))]]
        elif stream == LABELED and case.annotated is not None and len(case.annotated):
            voxels = case.annotated
        else:
            return anywhere
        return np.clip(voxels[rng.integers(len(voxels))], low, high)

    @cached_property
    def leeway_voxels(self) -> np.ndarray:
        """Of ``leeway``, per image axis, see ``mcsc_bundle.leeway``."""
        return leeway_voxels(self.store, self.streams[LABELED], self.plan.image_patch_size, self.leeway)

    def _on_image_axes(self, size: tuple[int, ...]) -> tuple[int, ...]:
        sizes = iter(size)
        return tuple(1 if axis == self.plan.slice_axis else next(sizes) for axis in range(self.plan.image_dims))

    def _squeezed(self, array: np.ndarray) -> np.ndarray:
        return array if self.plan.slice_axis is None else array.squeeze(1 + self.plan.slice_axis)


class BatchKeys(Sampler[list[PatchKey]]):
    """Endless batches of keys, one per iteration, labelled first; each process takes its own slots.

    Args:
        plan: batch sizes of one process.
        unlabeled: whether there are unlabelled cases; without, batches hold labelled patches alone.
        rank, world_size: this process among all.
    """

    def __init__(self, plan: Plan, unlabeled: bool = True, rank: int = 0, world_size: int = 1) -> None:
        self.sizes = (plan.batch_labeled, plan.batch_unlabeled if unlabeled else 0)
        self.rank, self.world_size = rank, world_size
        self.start = 0  # iteration of the first batch; the trainer sets it when it resumes

    def __iter__(self) -> Iterator[list[PatchKey]]:
        iteration = self.start
        while True:
            yield [
                PatchKey(iteration, stream, self.rank * size + slot)
                for stream, size in enumerate(self.sizes)
                for slot in range(size)
            ]
            iteration += 1


def collate_streams(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack items: ``image`` of all, ``label`` of the labelled ones, which come first."""
    batch = {"image": torch.stack([torch.as_tensor(item["image"]) for item in items])}
    batch["label"] = torch.stack([torch.as_tensor(item["label"]) for item in items if "label" in item])
    return batch


class TwoStreamLoader(DataLoader):
    """DataLoader over a ``TwoStreamDataset`` that can start at any iteration.

    Args:
        dataset: the patches.
        num_workers: loader processes; 0 reads in the training process.
        rank, world_size: this process among all; ``None`` asks ``torch.distributed``.
        pin_memory: whether batches come in pinned memory, from which a GPU copies faster.
    """

    def __init__(
        self,
        dataset: TwoStreamDataset,
        num_workers: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if rank is None:
            rank = torch.distributed.get_rank() if distributed else 0
        if world_size is None:
            world_size = torch.distributed.get_world_size() if distributed else 1
        self.keys = BatchKeys(dataset.plan, bool(dataset.streams[UNLABELED]), rank, world_size)
        super().__init__(
            dataset,
            batch_sampler=self.keys,
            num_workers=num_workers,
            collate_fn=collate_streams,
            pin_memory=pin_memory,
            persistent_workers=False,
            worker_init_fn=_one_thread if num_workers else None,
        )

    def __iter__(self) -> Any:
        _ = self.dataset.leeway_voxels  # type: ignore[attr-defined]  # once, before there are workers
        return super().__iter__()

    def start_at(self, iteration: int) -> None:
        """The next iterator begins with the batch of this iteration (counted from 0)."""
        self.keys.start = iteration


class StoredVolumes(Dataset):
    """Whole preprocessed cases with their labels, for validation on the plan's grid.

    Args:
        data: items with ``case``.
        store: the preprocessed cases.
        plan: the plan.
        transform: applied to ``{"image": (C, *spatial), "label": (1, *spatial), "case": name}``.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        store: CaseStore,
        plan: Plan,
        transform: Callable[[dict], dict] | None = None,
    ) -> None:
        self.data, self.store, self.plan, self.transform = data, store, plan, transform

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One whole case."""
        name = self.data[index]["case"]
        case, origin = self.store.open(name), (0,) * len(self.store.open(name).shape)
        item = {
            "image": network_input(case, self.plan, origin, case.shape),
            "label": torch.from_numpy(case.read_label(origin, case.shape)[None]),
            "case": name,
        }
        return item if self.transform is None else self.transform(item)


def network_input(case: StoredCase, plan: Plan, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """What the networks see of a region, ``(network_channels, *size)``: the image, and in a cascade the previous mask."""
    item = {"image": torch.from_numpy(case.read_image(start, size))}
    if plan.previous_stage:
        item[PREVIOUS] = torch.from_numpy(case.read_previous(start, size))
    return joined(item, plan)["image"]


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
