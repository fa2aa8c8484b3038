"""Written whole or not at all, also where the disk is full."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import torch

from mcsc_bundle.files import DiskError, replacing, save_text
from mcsc_bundle.handlers import save_atomically
from mcsc_bundle.store import CaseStore
from preprocessing.preprocess import preprocess
from tests.mcsc_bundle.images import save_pair
from tests.plans import make_plan

LIMIT = 100_000  # bytes that a file may have below


@pytest.fixture
def little_room():
    """A limit on the size of a file stops writers of any library in the middle, as a full disk does."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_file_is_there_at_the_end_and_the_folder_is_made(tmp_path):
    path = tmp_path / "new" / "plan.json"
    with replacing(path) as place:
        place.write_text("half")
        assert not path.exists() and place.parent == path.parent and place.suffix == ".json"
    assert [file.name for file in path.parent.iterdir()] == ["plan.json"]


def test_what_fails_keeps_the_old_file_and_leaves_nothing(tmp_path):
    save_text(tmp_path / "a.txt", "old")
    message = r"a\.txt: cannot be written \(No space left on device; \d+ MB are free there\)"
    with pytest.raises(DiskError, match=message), replacing(tmp_path / "a.txt") as place:
        place.write_text("ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ValueError, match="mine"), replacing(tmp_path / "a.txt") as place:
        raise ValueError("mine")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_checkpoint_that_does_not_fit_is_no_half_file(tmp_path, little_room):
    with pytest.raises(DiskError, match=r"checkpoint\.pt: cannot be written"):
        save_atomically({"weights": torch.zeros(LIMIT)}, tmp_path / "checkpoint.pt")
    assert not list(tmp_path.iterdir())


def test_a_case_that_does_not_fit_is_not_stored_and_ends_the_preprocessing(tmp_path, little_room):
    """It is no bad case: the training that would follow on those that did fit would be another one."""
    rng = np.random.default_rng(0)
    small = save_pair(tmp_path, "small")
    store = CaseStore(tmp_path / "store", "key")
    preprocess([small], make_plan("3d"), store)
    before = sorted(store.folder.iterdir())
    with pytest.raises(DiskError, match=r"large\.image\.b2nd: cannot be written"):
        store.write("large", rng.normal(size=(1, 64, 64, 64)).astype(np.float32), None, "hash")
    assert "small" in store and "large" not in store and sorted(store.folder.iterdir()) == before


def test_preprocessing_ends_where_the_disk_is_full(tmp_path, monkeypatch):
    def full(self, case, *args, **kwargs):
        raise DiskError(f"{case}: cannot be written")

    monkeypatch.setattr(CaseStore, "write", full)
    with pytest.raises(DiskError, match="a: cannot be written"):
        preprocess([save_pair(tmp_path, name) for name in "ab"], make_plan("3d"), CaseStore(tmp_path / "s", "k"))


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot be written"), replacing(tmp_path / "file" / "inside.txt") as place:
        place.write_text("never")
