from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from mcsc_bundle.files import DiskError
from mcsc_bundle.labels import STORED_IGNORED
from mcsc_bundle.store import BLOCK_BYTES, CHUNK_BYTES, FOREGROUND_VOXELS, CaseStore, chunks_and_blocks
from tests.mcsc_bundle.images import blobs
from tests.mcsc_bundle.memory_store import MemoryCase

SHAPES = [(20, 33, 17), (40, 25)]


def random_case(shape, channels=2):
    return np.random.default_rng(0).standard_normal((channels, *shape)).astype(np.float32), blobs(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_patches_equal_slices_of_the_array_inside_and_outside(tmp_path, shape):
    image, label = random_case(shape)
    store, rng, plain = CaseStore(tmp_path, "key"), np.random.default_rng(1), MemoryCase(image, label)
    store.write("a", image, label, "hash", patch_size=(8,) * len(shape))
    case = store.open("a")
    for _ in range(40):
        start = tuple(int(rng.integers(-12, size + 4)) for size in shape)
        size = tuple(int(rng.integers(1, 15)) for _ in shape)
        np.testing.assert_array_equal(case.read_image(start, size), plain.read_image(start, size))
        np.testing.assert_array_equal(case.read_label(start, size), plain.read_label(start, size))


def test_a_patch_read_can_become_a_tensor_and_be_changed(tmp_path):
    store = CaseStore(tmp_path, "key")
    store.write("a", *random_case((9, 9, 9)), "hash")
    for start in ((0, 0, 0), (-1, 0, 0)):
        assert store.open("a").read_image(start, (4, 4, 4)).flags.writeable


def test_what_a_case_knows(tmp_path):
    store = CaseStore(tmp_path, "key")
    image, label = random_case((20, 33, 17))
    store.write("a", image, label, "hash")
    case = store.open("a")
    assert (case.case, case.shape, case.labeled) == ("a", (20, 33, 17), True)
    assert sorted(case.foreground) == [1, 2]
    for index, voxels in case.foreground.items():
        assert voxels.dtype == np.int32 and len(voxels) == min(FOREGROUND_VOXELS, (label == index).sum())
        assert (label[tuple(voxels.T)] == index).all() and len(np.unique(voxels, axis=0)) == len(voxels)


def test_foreground_is_a_sample_of_large_classes(tmp_path):
    store = CaseStore(tmp_path, "key")
    store.write("a", np.zeros((1, 30, 30, 30), np.float32), np.ones((30, 30, 30), np.uint8), "hash")
    assert len(store.open("a").foreground[1]) == FOREGROUND_VOXELS


def test_an_unlabelled_case_has_no_label_to_read(tmp_path):
    store = CaseStore(tmp_path, "key")
    store.write("a", random_case((9, 9, 9))[0], None, "hash")
    assert not store.open("a").labeled and store.open("a").foreground == {}
    with pytest.raises(ValueError, match="case a: expected a labelled case"):
        store.open("a").read_label((0, 0, 0), (1, 1, 1))


def test_current_is_what_was_made_from_the_same_files(tmp_path):
    store, (image, label) = CaseStore(tmp_path, "key"), random_case((9, 9, 9))
    assert not store.is_current("a", "image", labeled=False)
    store.write("a", image, label, "image+label")
    assert store.is_current("a", "image+label", labeled=True)
    assert store.is_current("a", "image", labeled=False)  # a label more does no harm
    assert not store.is_current("a", "image+other", labeled=True)
    assert not store.is_current("a", "other", labeled=False)
    assert not CaseStore(tmp_path, "other key").is_current("a", "image+label", labeled=True)
    store.write("b", image, None, "image")
    assert not store.is_current("b", "image+label", labeled=True)


def test_no_label_is_read_that_another_one_was_about_to_replace(tmp_path, monkeypatch):
    store, (image, label) = CaseStore(tmp_path, "key"), random_case((9, 9, 9))
    store.write("a", image, label, "image+first")
    with monkeypatch.context() as killed:
        killed.setattr("mcsc_bundle.store.save_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.write("a", image, 2 - label, "image+second")
    assert not store.is_current("a", "image+first", labeled=True)


def test_a_label_stays_where_a_training_that_hides_it_was_about_to_store_the_case(tmp_path):
    """Two trainings with other labelled cases began at once, and share the folder."""
    store, (image, label) = CaseStore(tmp_path, "key"), random_case((6, 7, 8))
    store.write("a", image, label, "image+label")
    store.write("a", image, None, "image")
    np.testing.assert_array_equal(store.open("a").read_label((0, 0, 0), label.shape), label)
    store.write("a", image + 1, None, "another image")
    assert not store.open("a").labeled


def test_a_label_of_another_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a: expected a label of shape"):
        CaseStore(tmp_path, "key").write("a", np.zeros((1, 4, 5, 6), np.float32), np.zeros((5, 4, 6), np.uint8), "hash")


def test_a_case_without_its_last_file_does_not_exist(tmp_path):
    store = CaseStore(tmp_path, "key")
    store.write("a", *random_case((9, 9, 9)), "hash")
    (store.folder / "a.json").unlink()
    assert "a" not in store and not store.is_current("a", "hash", labeled=True)
    with pytest.raises(DiskError, match=r"a\.json: expected a preprocessed case"):
        store.open("a")


@pytest.mark.parametrize("ending", ["image.b2nd", "label.b2nd", "foreground.npz"])
def test_a_part_that_was_deleted_is_named_and_made_again(tmp_path, ending):
    store = CaseStore(tmp_path, "key")
    store.write("a", *random_case((9, 9, 9)), "hash")
    case = store.open("a")
    (store.folder / f"a.{ending}").unlink()
    with pytest.raises(DiskError, match=rf"a\.{ending}: .* the same command prepares it again"):
        case.read_image((0, 0, 0), (2, 2, 2)), case.read_label((0, 0, 0), (2, 2, 2)), case.foreground
    assert not store.is_current("a", "hash", labeled=True)


def test_a_part_that_was_cut_off_is_named(tmp_path):
    store = CaseStore(tmp_path, "key")
    store.write("a", *random_case((9, 9, 9)), "hash")
    for ending in ("image.b2nd", "foreground.npz"):
        path = store.folder / f"a.{ending}"
        path.write_bytes(path.read_bytes()[:20])
    case = store.open("a")
    with pytest.raises(DiskError, match="gone or damaged"):
        case.read_image((0, 0, 0), (2, 2, 2))
    with pytest.raises(DiskError, match="gone or damaged"):
        case.foreground  # noqa: B018


def test_a_rewritten_case_is_read_anew(tmp_path):
    store, (image, label) = CaseStore(tmp_path, "key"), random_case((9, 9, 9))
    store.write("a", image, label, "one")
    store.open("a").read_image((0, 0, 0), (9, 9, 9))
    store.write("a", image + 1, label, "two")
    os.utime(store.folder / "a.json", (0, 0))  # another time for certain
    np.testing.assert_array_equal(store.open("a").read_image((0, 0, 0), (9, 9, 9)), image + 1)


def test_a_store_travels_to_another_process(tmp_path):
    store, (image, label) = CaseStore(tmp_path, "key"), random_case((9, 9, 9))
    store.write("a", image, label, "hash")
    store.open("a")
    travelled = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(travelled.open("a").read_label((0, 0, 0), (9, 9, 9)), label)


@pytest.mark.parametrize(
    "shape, patch",
    [
        ((1, 400, 512, 512), (96, 160, 160)),
        ((4, 155, 240, 240), (128, 128, 128)),
        ((1, 256, 216, 10), (256, 224, 1)),
        ((3, 40, 30), (64, 64)),
    ],
)
def test_blocks_fit_the_patch_and_the_limits(shape, patch):
    chunks, blocks = chunks_and_blocks(shape, patch, 4)
    assert np.prod(blocks) * 4 <= BLOCK_BYTES and np.prod(chunks) * 4 <= max(CHUNK_BYTES, shape[0] * BLOCK_BYTES)
    assert all(b <= c for b, c in zip(blocks, chunks, strict=True))
    assert all(c <= max(1, 1.5 * p) and c <= s for c, p, s in zip(chunks[1:], patch, shape[1:], strict=True))


def test_ignored_voxels_are_no_class_and_the_others_are_known(tmp_path):
    store = CaseStore(tmp_path, "key")
    image, label = random_case((10, 12, 8))
    store.write("whole", image, label, "hash")
    assert store.open("whole").annotated is None
    label = label.copy()
    label[5:] = STORED_IGNORED
    store.write("partly", image, label, "hash")
    case = store.open("partly")
    assert sorted(case.foreground) == [1, 2] and all(voxels[:, 0].max() < 5 for voxels in case.foreground.values())
    assert len(case.annotated) == 5 * 12 * 8 and case.annotated[:, 0].max() == 4
    assert (case.read_label((5, 0, 0), (5, 12, 8)) == STORED_IGNORED).all()


def test_masks_of_two_first_stages_lie_beside_one_case(tmp_path):
    """Two cascades that share a folder of cases read their own masks; one that is made anew is read anew."""
    one, other = (CaseStore(tmp_path, "key", stage) for stage in ("one", "other"))
    one.write("a", np.zeros((1, 4, 4, 4), np.float32), None, "image")
    for value, store in enumerate((one, other), start=1):
        assert not store.has_previous("a", "mask")
        store.write_previous("a", np.full((4, 4, 4), value), "mask", (4, 4, 4))

    def read(store):
        return int(store.open("a").read_previous((0, 0, 0), (1, 1, 1)).item())

    assert [read(store) for store in (one, other)] == [1, 2] and not CaseStore(tmp_path, "key", "new").has_previous("a")
    assert one.has_previous("a") and one.has_previous("a", "mask") and not one.has_previous("a", "another")
    one.write_previous("a", np.full((4, 4, 4), 3), "mask made anew", (4, 4, 4))
    assert [read(store) for store in (one, other)] == [3, 2] and not one.has_previous("a", "mask")
