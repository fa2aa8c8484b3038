"""Slices at a coarser resolution on a CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from preprocessing.coarser import coarse_dice
from preprocessing.planner import make_plan
from preprocessing.run_plan import Request
from tests.preprocessing.fingerprints import make_fingerprint


def drawn(*rows: str) -> np.ndarray:
    return np.array([list(map(int, row)) for row in rows], dtype=np.uint8)


@pytest.mark.parametrize(
    ("label", "kept"),
    [
        (drawn("0000", "0110", "0110"), (1, 0)),  # all of a block of four, a quarter of one of sixteen
        (drawn("1000", "1111"), (2 * 5 / (5 + 8), 0)),  # three and two of four pixels: both blocks become it
        (drawn("101", "010", "101"), (2 * 2 / (5 + 4), 0)),  # two of four pixels, and at the border one of four
        (drawn("1111", "1111", "1100"), (1, 2 * 10 / (10 + 12))),  # ten of sixteen
    ],
)
def test_a_label_by_hand(label, kept) -> None:
    assert coarse_dice(label, {"background": [0], "a": [1]}, None)["a"] == pytest.approx(kept)


def test_classes_regions_and_what_nobody_annotated() -> None:
    label = drawn("1102", "1100")
    label[1, 2] = 255
    members = {"background": [0], "a": [1], "b": [2], "absent": [3], "either": [1, 2]}
    kept = {name: dice[0] for name, dice in coarse_dice(label, members, None).items()}
    assert kept == pytest.approx({"a": 1, "b": 0, "either": 2 * 4 / (5 + 4)})


def test_the_axis_of_thick_slices_keeps_its_resolution() -> None:
    volume = np.zeros((4, 4, 3), dtype=np.uint8)
    volume[1, 1, :2] = 1
    members = {"background": [0], "a": [1]}
    assert coarse_dice(volume, members, 2)["a"][0] == 0  # one pixel of four in each of two slices
    assert coarse_dice(volume, members, 0)["a"][0] == 1  # two of four in one


def fingerprint(kept=(0.95, 0.85), spacing=(8.0, 1.5, 1.25), shape=(10, 216, 256), lesion=None):
    """Ten labelled cases of which three hold a lesion, if any."""
    made = make_fingerprint(spacing, shape, unlabeled=30, channels=("MR",))
    labeled = [{"organ": kept, **({"lesion": lesion} if lesion and index < 3 else {})} for index in range(10)]
    cases = tuple(replace(case, class_coarse_dice=labeled.pop() if case.labeled else {}) for case in made.cases)
    return replace(made, cases=cases)


def test_slices_of_a_cpu_are_coarser_where_labels_keep_what_they_are() -> None:
    whole = make_plan(fingerprint(kept=(0.85, 0.85)), device="cpu", memory_gb=8)
    half = make_plan(fingerprint(), device="cpu", memory_gb=8)
    assert (whole.spacing_mm, whole.patch_size, whole.batch_labeled) == ((None, 1.5, 1.25), (224, 256), 2)
    assert (half.spacing_mm, half.patch_size, half.batch_labeled) == ((None, 3.0, 2.5), (112, 128), 4)
    assert half.median_shape == (10, 108, 128) and half.cnn.features[0] >= whole.cnn.features[0]
    assert (
        "'organ', which loses most, has a Dice of 0.950" in half.why["spacing_mm"]
        and "On a CPU" not in whole.why["spacing_mm"]
    )
    assert all(name in half.why["spacing_mm"] for name in ("Median", "each case keeps its own"))


@pytest.mark.parametrize(
    ("kept", "step_seconds", "spacing"),
    [((0.95, 0.91), 2, 2.0), ((0.95, 0.91), 0.5, 4.0), ((0.95, 0.89), 0.5, 2.0), ((0.89, 0.91), 0.5, 1.0)],
)
def test_a_quarter_is_for_what_a_half_does_not_bring(kept, step_seconds, spacing) -> None:
    made = fingerprint(kept=kept, spacing=(8.0, 1.0, 1.0))
    plan = make_plan(made, device="cpu", memory_gb=8, step_seconds=step_seconds)
    assert plan.spacing_mm == (None, spacing, spacing)
    words = {1.0: "Median", 2.0: "2 times that in the plane", 4.0: "takes a sixteenth"}
    assert words[spacing] in plan.why["spacing_mm"]


def test_a_small_class_counts_though_few_cases_hold_it() -> None:
    plan = make_plan(fingerprint(lesion=(0.6, 0.2)), device="cpu", memory_gb=8)
    assert plan.spacing_mm == (None, 1.5, 1.25)


def test_pictures_are_coarser_too() -> None:
    plan = make_plan(fingerprint(spacing=(1.0, 1.0), shape=(512, 384)), device="cpu", memory_gb=8)
    assert plan.spacing_mm == (2.0, 2.0) and "percentile" not in plan.why["spacing_mm"]


@pytest.mark.parametrize("memory_gb", [1, 2, 3])
def test_how_much_memory_is_free_does_not_decide_on_the_grid(memory_gb) -> None:
    assert make_plan(fingerprint(), device="cpu", memory_gb=memory_gb).spacing_mm == (None, 3.0, 2.5)


def test_the_paper_keeps_its_slices() -> None:
    request = Request("paper", None, {"device": "cpu", "memory_gb": 8.0, "networks": "pair", "step_seconds": None})
    assert request.make(fingerprint()).spacing_mm == (None, 1.5, 1.25)


@pytest.mark.parametrize(
    "options",
    [{"device": "cuda"}, {"networks": "cnn"}, {"step_seconds": 60}, {"configuration": "3d_fullres"}],
)
def test_what_stays_at_full_resolution(options) -> None:
    plan = make_plan(fingerprint(), **{"device": "cpu", "memory_gb": 8, **options})
    assert plan.spacing_mm[1:] == (1.5, 1.25)


def test_the_step_that_the_reason_names_is_planned_at_full_resolution() -> None:
    seconds = (
        make_plan(fingerprint(), device="cpu", memory_gb=8).why["spacing_mm"].split("--step_seconds ")[1].split(",")[0]
    )
    plan = make_plan(fingerprint(), device="cpu", memory_gb=8, step_seconds=int(seconds))
    assert plan.spacing_mm == (None, 1.5, 1.25)
