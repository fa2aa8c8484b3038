from __future__ import annotations

import logging
import os
import signal

import numpy as np

from mcsc_bundle.store import CaseStore
from mcsc_bundle.transforms import preprocessing
from preprocessing.preprocess import preprocess, store_case
from tests.mcsc_bundle.images import make_affine, save, save_pair
from tests.plans import make_plan

PLAN = make_plan("3d")


def stored(tmp_path, plan=PLAN):
    return CaseStore(tmp_path / "store", plan.data_key)


def times(store, *cases):
    return [(store.folder / f"{case}.json").stat().st_mtime_ns for case in cases]


def test_what_is_stored_is_what_the_transforms_give(tmp_path):
    item = save_pair(tmp_path, "a", affine=make_affine("LPS", (0.8, 1.2, 1.0)))
    assert preprocess([item], PLAN, stored(tmp_path)) == {}
    case, ready = stored(tmp_path).open("a"), preprocessing(PLAN)(item)
    np.testing.assert_array_equal(case.read_image((0, 0, 0), case.shape), ready["image"])
    np.testing.assert_array_equal(case.read_label((0, 0, 0), case.shape), ready["label"][0])


def test_a_bad_case_is_named_and_the_others_go_on(tmp_path):
    items = [save_pair(tmp_path, name) for name in "abc"]
    save(np.full((5, 5, 5), np.inf, np.float32), tmp_path / "b.nii.gz")
    rejected = preprocess(items, PLAN, stored(tmp_path))
    assert list(rejected) == ["b"] and "b.nii.gz: expected finite intensities" in rejected["b"]
    assert "a" in stored(tmp_path) and "c" in stored(tmp_path) and "b" not in stored(tmp_path)


def test_only_what_is_missing_or_changed_is_done_again(tmp_path):
    items, store = [save_pair(tmp_path, name) for name in "abc"], stored(tmp_path)
    preprocess(items, PLAN, store)
    before = times(store, "a", "b", "c")
    (store.folder / "b.json").unlink()  # as after a kill
    save(np.arange(1, 217, dtype=np.float32).reshape(6, 6, 6), tmp_path / "c.nii.gz")
    save(np.ones((6, 6, 6), np.uint8), tmp_path / "c_label.nii.gz")
    preprocess(items, PLAN, store)
    after = times(store, "a", "b", "c")
    assert after[0] == before[0] and after[1] > before[1] and after[2] > before[2]


def test_another_plan_uses_other_cases(tmp_path):
    item, finer = save_pair(tmp_path, "a"), make_plan("3d", spacing_mm=(0.5, 1.0, 1.0))
    preprocess([item], PLAN, stored(tmp_path))
    preprocess([item], finer, stored(tmp_path, finer))
    assert stored(tmp_path).open("a").shape == (20, 22, 12)
    assert stored(tmp_path, finer).open("a").shape == (40, 22, 12)


def test_a_hidden_label_is_not_opened(tmp_path):
    item = save_pair(tmp_path, "a")
    (tmp_path / "a_label.nii.gz").write_bytes(b"noise")
    del item["label"]
    assert preprocess([item], PLAN, stored(tmp_path)) == {}
    assert not stored(tmp_path).open("a").labeled


def test_a_killed_process_costs_its_case_and_changes_no_other(tmp_path, monkeypatch, caplog):
    items = [save_pair(tmp_path, name) for name in "abc"]
    monkeypatch.setattr("preprocessing.preprocess.store_case", killed_by_b)
    with caplog.at_level(logging.WARNING):
        rejected = preprocess(items, PLAN, stored(tmp_path), workers=2)
    assert list(rejected) == ["b"] and "killed" in rejected["b"] and "b.nii.gz" in rejected["b"]
    alone = CaseStore(tmp_path / "alone", "k")
    store_case(items[0], PLAN, alone)
    for name in "ac":
        voxels = [
            store.open(name).read_image((0, 0, 0), (20, 22, 12))
            for store, name in ((stored(tmp_path), name), (alone, "a"))
        ]
        np.testing.assert_array_equal(*voxels)


def killed_by_b(item, plan, store):
    """Stands for ``store_case`` on a machine where case b does not fit."""
    if item["case"] == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return store_case(item, plan, store)
