"""When the largest components of masks are adopted, by masks drawn by hand."""

import pytest
import torch

from mcsc_bundle.keep_largest import KeepLargestd
from mcsc_bundle.postprocessing import (
    Postprocessing,
    decide,
    groups_or_exit,
    mean_dice,
)
from tests.mcsc_bundle.images import drawn, save

LABELS = {"background": 0, "a": 1, "b": 2}


def files(folder, **masks):
    return {name: save(mask[0].numpy(), folder / f"{name}.nii.gz") for name, mask in masks.items()}


def decided(tmp_path, predicted, truth, labels=LABELS, ignore_value=None):
    """Decision on cases of (mask, reference)."""
    masks = files(tmp_path / "masks", **{f"case{i}": drawn(mask) for i, mask in enumerate(predicted)})
    references = files(tmp_path / "truth", **{f"case{i}": drawn(mask) for i, mask in enumerate(truth)})
    return decide(masks, references, labels, ignore_value)


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
