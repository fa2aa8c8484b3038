"""Largest components of masks drawn by hand and of random ones."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import label as components

from mcsc_bundle.keep_largest import REMOVED, KeepLargestd, keep_largest
from mcsc_bundle.predictions import Predictions
from tests.mcsc_bundle.images import drawn
from tests.plans import make_plan

LABELS = {"background": 0, "a": 1, "b": 2}


@pytest.mark.parametrize(
    ("groups", "before", "after"),
    [
        ([[1, 2]], "11002 12000 00001", "11000 12000 00000"),
        ([[1]], "11002 12000 00001", "11002 12000 00000"),
        ([[2]], "22002 12000", "22000 12000"),
        ([[1, 2], [1]], "1122201 1100000", "1122200 1100000"),
        ([[1, 2]], "10 01", "10 01"),  # a corner joins
        ([[1], [2]], "000 000", "000 000"),
        ([], "101", "101"),
        ([[1, 2]], "1111100222202", "1111100222202"),  # a class that lies apart would be gone: it stays, as it is
        ([[1, 2], [2]], "1111122002222", "1111122000000"),  # two of four touch the rest: that is where it belongs
        ([[1, 2], [2]], "11111200222222", "11111000222222"),  # one of six may be a mistake
    ],
)
def test_drawn_masks(groups, before, after):
    mask = drawn(before)
    assert torch.equal(keep_largest(mask, groups), drawn(after))
    assert torch.equal(mask, drawn(before))  # left as it was


def test_a_bridge_that_goes_takes_what_it_held():
    """The foreground hangs together by a small part of class 2, whose largest part is elsewhere."""
    assert torch.equal(keep_largest(drawn("2221121"), [[1, 2], [2]]), drawn("2221100"))


def test_random_masks_keep_one_component_and_a_second_pass_changes_nothing():
    rng = np.random.default_rng(0)
    for groups in ([[1]], [[1], [2]], [[1, 2], [1], [2]]):
        for _ in range(10):
            mask = torch.from_numpy((rng.random((1, 7, 8, 5)) > 0.8) * rng.integers(1, 3, (1, 7, 8, 5), np.uint8))
            kept = keep_largest(mask, groups)
            assert torch.equal(keep_largest(kept, groups), kept)
            for group in (group for group in groups if len(group) == 1):
                inside = np.isin(kept[0].numpy(), group)
                assert components(inside, np.ones((3, 3, 3)))[1] <= 1
            assert ((kept == mask) | (kept == 0)).all()  # voxels go, none comes


@pytest.mark.parametrize(
    ("before", "removed", "told"),
    [
        ("11000 11000", 0, False),
        ("11111 11101", 0, False),
        ("11111 11100 00000 00001", 1, False),
        ("11001 11000", 1, True),
    ],
)
def test_what_was_removed_is_counted_and_told_where_it_was_much(tmp_path, caplog, before, removed, told):
    mask = MetaTensor(drawn(before), affine=torch.eye(4))
    kept = KeepLargestd("pred", [("a",)], LABELS)({"pred": mask})["pred"]
    assert kept.meta[REMOVED] == removed and REMOVED not in mask.meta
    predictions = Predictions(tmp_path, make_plan("3d"), [{"case": "one", "image": ["one.nii"]}], {})
    with caplog.at_level("WARNING"):
        predictions.add("one", kept, 1.0)
        predictions.add("raw", mask, 1.0)
    assert (predictions.rows["one"][REMOVED], REMOVED in predictions.rows["raw"]) == (removed, False)
    assert [text.split(" of what")[0] for text in caplog.messages] == (["one: 20 %"] if told else [])


def test_the_transform_keeps_metadata_and_values():
    mask = MetaTensor(drawn("1102") * 100, affine=torch.eye(4) * 2, meta={"case": "x"})
    (kept,) = KeepLargestd("pred", [("lesion",)], {"background": 0, "lesion": 100, "other": 200})(
        {"pred": mask}
    ).values()
    assert kept.meta["case"] == "x" and kept.dtype == mask.dtype and torch.equal(kept.affine, mask.affine)
    assert kept.flatten().tolist() == [100, 100, 0, 200]


def test_a_value_that_the_masks_type_cannot_hold_is_in_none_of_them():
    mask = torch.tensor([0, 7, 0, 7, 7], dtype=torch.int16).view(1, 5, 1, 1)
    assert keep_largest(mask, [(7, 40000)]).flatten().tolist() == [0, 0, 0, 7, 7]
