"""Largest components on masks drawn by hand, and when they are adopted."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import label as components

from mcsc_bundle.postprocessing import (
    REMOVED,
    KeepLargestd,
    Postprocessing,
    decide,
    groups_or_exit,
    keep_largest,
    mean_dice,
)
from mcsc_bundle.predictions import Predictions
from tests.mcsc_bundle.images import save
from tests.plans import make_plan

LABELS = {"background": 0, "a": 1, "b": 2}


def drawn(text):
    """A mask ``(1, rows, columns, 1)`` from rows of digits."""
    return torch.tensor([[int(digit) for digit in row] for row in text.split()], dtype=torch.uint8)[None, :, :, None]


def files(folder, **masks):
    return {name: save(mask[0].numpy(), folder / f"{name}.nii.gz") for name, mask in masks.items()}


def decided(tmp_path, predicted, truth, labels=LABELS, ignore_value=None):
    """Decision on cases of (mask, reference)."""
    masks = files(tmp_path / "masks", **{f"case{i}": drawn(mask) for i, mask in enumerate(predicted)})
    references = files(tmp_path / "truth", **{f"case{i}": drawn(mask) for i, mask in enumerate(truth)})
    return decide(masks, references, labels, ignore_value)


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


def test_nothing_is_adopted_where_nothing_helps(tmp_path):
    made = decided(tmp_path, ["1100 0022"], ["1100 0022"])
    assert made.adopted == () and [step.classes for step in made.steps] == [("a", "b"), ("a",), ("b",)]
    assert all(step.mean_before == step.mean_after == 1 and "does not raise" in step.why for step in made.steps)


def test_a_speck_outside_is_removed_with_the_whole_foreground(tmp_path):
    made = decided(tmp_path, ["1122000 1122001"], ["1122000 1122000"])
    assert made.adopted == (("a", "b"),)
    step = made.steps[0]
    assert step.dice_before["a"] == pytest.approx(2 * 4 / 9) and step.dice_after == {"a": 1, "b": 1}
    assert step.mean_before == pytest.approx((8 / 9 + 1) / 2) and step.mean_after == 1


def test_a_speck_inside_another_class_is_removed_by_its_class_alone(tmp_path):
    """The speck of a hangs on b: the foreground is one component."""
    made = decided(tmp_path, ["110222 110201", "110222"], ["110222 110200", "110222"], LABELS)
    assert made.adopted == (("a",),)
    assert not made.steps[0].adopted


def test_a_class_with_two_parts_in_the_reference_is_left_alone(tmp_path):
    """Lungs: a has two parts in truth, b one and a speck too many."""
    made = decided(tmp_path, ["11000110 22000200"], ["11000110 22000000"])
    assert made.adopted == (("b",),)
    assert not any("a" in step.classes for step in made.steps if step.adopted)


def test_a_gain_in_the_mean_is_refused_if_a_class_falls(tmp_path):
    """a loses three false voxels (Dice 4/7 to 1), b one of nine true ones (1 to 16/17)."""
    made = decided(tmp_path, ["11222222220200111"], ["11222222220200000"])
    whole, of_a, of_b = made.steps
    assert whole.dice_before == pytest.approx({"a": 4 / 7, "b": 1}) and whole.dice_after == pytest.approx(
        {"a": 1, "b": 16 / 17}
    )
    assert not whole.adopted and "lowers the Dice of b" in whole.why
    assert not of_b.adopted and not of_a.adopted  # a's largest component is the false one


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


def test_one_class_has_one_step(tmp_path):
    made = decided(tmp_path, ["11001"], ["11000"], {"background": 0, "a": 1})
    assert made.adopted == (("a",),) and len(made.steps) == 1


def test_empty_cases_do_not_count():
    assert mean_dice([{"a": 1.0, "b": float("nan")}, {"a": 0.0, "b": float("nan")}]) == {"a": 0.5}


def test_the_file_is_read_back_and_applied_unless_switched_off(tmp_path):
    made = decided(tmp_path, ["1122000 1122001"], ["1122000 1122000"])
    made.save(tmp_path / "postprocessing.json")
    assert Postprocessing.load(tmp_path / "postprocessing.json") == made
    assert groups_or_exit(tmp_path, True, LABELS) == [("a", "b")]
    assert groups_or_exit(tmp_path, False, LABELS) == groups_or_exit(tmp_path / "masks", True, LABELS) == []
    assert groups_or_exit(None, str(tmp_path), LABELS) == [("a", "b")]
    with pytest.raises(SystemExit, match="which does not exist"):
        groups_or_exit(None, str(tmp_path / "nowhere.json"), LABELS)
    with pytest.raises(SystemExit, match="expected classes out of lung, received a, b"):
        groups_or_exit(tmp_path, True, {"background": 0, "lung": 1})


def test_the_transform_keeps_metadata_and_values():
    mask = MetaTensor(drawn("1102") * 100, affine=torch.eye(4) * 2, meta={"case": "x"})
    (kept,) = KeepLargestd("pred", [("lesion",)], {"background": 0, "lesion": 100, "other": 200})(
        {"pred": mask}
    ).values()
    assert kept.meta["case"] == "x" and kept.dtype == mask.dtype and torch.equal(kept.affine, mask.affine)
    assert kept.flatten().tolist() == [100, 100, 0, 200]


def test_a_speck_that_nobody_annotated_decides_nothing(tmp_path):
    """It is scored neither before nor after, so keeping the largest component changes no score."""
    made = decided(tmp_path, ["11001"], ["11009"], {"background": 0, "a": 1}, 9)
    assert made.adopted == () and made.steps[0].mean_before == made.steps[0].mean_after == 1


def test_the_largest_component_of_a_region_is_that_of_its_union(tmp_path):
    """The whole is 1 and 2: its part 12 is larger than 1, although 1 and 2 alone are specks."""
    labels = {"background": 0, "whole": (1, 2), "core": (2,)}
    made = decided(tmp_path, ["120001"], ["120000"], labels)
    assert made.adopted == (("whole", "core"),)
    (kept,) = KeepLargestd("pred", made.adopted, labels)({"pred": drawn("120001")}).values()
    assert torch.equal(kept, drawn("120000"))


def test_a_value_that_the_masks_type_cannot_hold_is_in_none_of_them():
    mask = torch.tensor([0, 7, 0, 7, 7], dtype=torch.int16).view(1, 5, 1, 1)
    assert keep_largest(mask, [(7, 40000)]).flatten().tolist() == [0, 0, 0, 7, 7]
