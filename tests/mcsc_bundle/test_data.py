"""Batches are a function of (seed, iteration)."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mcsc_bundle.augmentation import PatchAugmentation
from mcsc_bundle.data import LABELED, UNLABELED, PatchKey, TwoStreamDataset, TwoStreamLoader
from mcsc_bundle.labels import IGNORED, STORED_IGNORED
from tests.mcsc_bundle.memory_store import MemoryStore
from tests.plans import KINDS, make_plan


def dataset(plan, seed=0, items=None):
    store = MemoryStore(plan)
    return TwoStreamDataset(items or store.items, plan, store, PatchAugmentation(plan), seed)


def volumetric_kinds():
    return [kind for kind in KINDS if kind != "2d"]


@pytest.mark.parametrize("kind", KINDS)
def test_batch_has_labelled_patches_first_and_labels_for_them_alone(kind):
    plan = make_plan(kind, batch_labeled=2, batch_unlabeled=3)
    batch = next(iter(TwoStreamLoader(dataset(plan))))
    assert batch["image"].shape == (5, 1, *plan.patch_size)
    assert batch["label"].shape == (2, 1, *plan.patch_size)


def test_a_patch_is_a_function_of_seed_and_key():
    plan = make_plan("3d")
    key = PatchKey(7, LABELED, 0)
    assert torch.equal(dataset(plan)[key]["image"], dataset(plan)[key]["image"])
    assert not torch.equal(dataset(plan)[key]["image"], dataset(plan, seed=1)[key]["image"])
    assert not torch.equal(dataset(plan)[key]["image"], dataset(plan)[PatchKey(8, LABELED, 0)]["image"])


def test_loader_that_starts_late_gives_the_batches_of_one_that_did_not_stop():
    plan = make_plan("slicewise")
    whole = list(islice(TwoStreamLoader(dataset(plan)), 4))
    late = TwoStreamLoader(dataset(plan))
    late.start_at(2)
    for expected, received in zip(whole[2:], islice(late, 2), strict=True):
        assert torch.equal(expected["image"], received["image"])


@pytest.mark.parametrize("stream", [LABELED, UNLABELED])
def test_patches_move_though_the_image_is_no_larger(stream, monkeypatch):
    """By a fifth of the patch, evenly to both sides; where the image is larger they stay inside it."""
    monkeypatch.setattr("mcsc_bundle.leeway.SURROUNDINGS", 0.0)
    plan = make_plan("3d", patch_size=(20, 20, 20))
    data = dataset(plan)
    case = SimpleNamespace(shape=(20, 12, 40), foreground={1: np.array([[0, 0, 0], [19, 11, 39]])}, annotated=None)
    rng = np.random.default_rng(0)
    starts = np.array([data._centre(case, rng, stream, forced) - 10 for forced in (False, True) for _ in range(400)])
    assert starts.min(0).tolist() == [-4, -8, 0] and starts.max(0).tolist() == [4, 0, 20]
    assert set(starts[:400, 0]) == set(range(-4, 5))


@pytest.mark.parametrize("stream", [LABELED, UNLABELED])
def test_patches_hardly_move_where_structures_fill_them(stream):
    """The boxes of the store are half as long as its images: they leave 1, 2 and 2 voxels of a fifth's 2, 4 and 4."""
    data = dataset(make_plan("3d", patch_size=(12, 20, 20), median_shape=(12, 20, 20)))
    case, rng = data.store.open(data.streams[stream][0]), np.random.default_rng(0)
    starts = np.array([data._centre(case, rng, stream, False) - (6, 10, 10) for _ in range(200)])
    assert starts.min(0).tolist() == [-1, -2, -2] and starts.max(0).tolist() == [1, 2, 2]


def test_loader_workers_change_nothing():
    plan = make_plan("slicewise")
    alone, helped = (next(iter(TwoStreamLoader(dataset(plan), num_workers=n))) for n in (0, 1))
    assert torch.equal(alone["image"], helped["image"])


def test_two_ranks_read_what_one_process_with_the_joined_batch_reads():
    plan = make_plan("3d")
    ranks = [next(iter(TwoStreamLoader(dataset(plan), rank=rank, world_size=2))) for rank in (0, 1)]
    joined = next(iter(TwoStreamLoader(dataset(plan.replace(batch_labeled=2, batch_unlabeled=2)))))
    assert torch.equal(joined["label"], torch.cat([batch["label"] for batch in ranks]))
    assert torch.equal(joined["image"][:2], torch.cat([batch["image"][:1] for batch in ranks]))
    assert torch.equal(joined["image"][2:], torch.cat([batch["image"][1:] for batch in ranks]))


def test_without_unlabelled_cases_the_batch_is_labelled_alone():
    plan = make_plan("3d")
    items = [item for item in MemoryStore(plan).items if item["labeled"]]
    assert len(next(iter(TwoStreamLoader(dataset(plan, items=items))))["image"]) == plan.batch_labeled


def test_without_labelled_cases_it_is_refused():
    plan = make_plan("3d")
    items = [item for item in MemoryStore(plan).items if not item["labeled"]]
    with pytest.raises(ValueError, match="at least one labelled case"):
        dataset(plan, items=items)


def test_labelled_patches_hold_foreground_often():
    plan = make_plan("3d", patch_size=(8, 4, 4), contrast=())
    data = dataset(plan)
    share = sum(bool((data[PatchKey(i, LABELED, 0)]["label"] > 0).any()) for i in range(60)) / 60
    assert share > 0.5


def test_unlabelled_patches_never_ask_for_a_label():
    plan = make_plan("3d")
    data = dataset(plan)  # MemoryCase.read_label and .foreground assert
    assert all("label" not in data[PatchKey(i, UNLABELED, 0)] for i in range(5))


@pytest.mark.parametrize("kind", KINDS)
def test_labelled_patches_of_sparsely_annotated_cases_hold_annotated_voxels(kind):
    """One plane is annotated; a patch that falls anywhere would miss it more often than not."""
    small = {"patch_size": (8, 8) if kind in ("2d", "slicewise") else (8, 4, 4), "contrast": ()}
    plan = make_plan(kind, ignore_value=3, **small)
    data = dataset(plan)
    for name in ("labeled0", "labeled1"):
        label = data.store.cases[name].label
        kept = label[..., 1].copy()
        label[...] = STORED_IGNORED
        label[..., 1] = kept
    labels = [data[PatchKey(i, LABELED, 0)]["label"] for i in range(30)]
    assert all(label.dtype == torch.int16 and label.min() >= IGNORED and label.max() < 3 for label in labels)
    assert all((label != IGNORED).any() for label in labels)
    assert kind == "slicewise" or any((label == IGNORED).any() for label in labels)


def test_annotated_voxels_of_hidden_labels_are_never_asked_for():
    """A case may be stored with a label and serve without."""
    plan = make_plan("3d", ignore_value=3)
    data = dataset(plan)
    assert all("label" not in data[PatchKey(i, UNLABELED, 0)] for i in range(5))  # MemoryCase.annotated asserts
