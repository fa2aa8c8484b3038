"""Which candidate wins, and what averaging two grids means."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from mcsc_bundle.case_metrics import CaseMetric, write_metrics
from mcsc_bundle.choice import Candidate, best_of, chosen_folders
from mcsc_bundle.choose import ChoiceError, _check_apart, find_configurations, table
from mcsc_bundle.ensemble import EnsembleError, check_same_plan
from mcsc_bundle.fold_scores import FoldScoresError, left_out, left_out_masks, result_keys, scores_of_fold
from mcsc_bundle.inferers import window_inferer
from mcsc_bundle.joined import Configuration, check_joinable, mask_of, mean_of
from mcsc_bundle.plan import PlanError, save_json
from mcsc_bundle.postprocessing import decision
from tests.plans import make_plan
from tests.preprocessing import scans


def candidate(name, *dice):
    return Candidate(tuple(name.split(" + ")), dict(zip("ab", dice, strict=False)))


def choose_from(*candidates):
    return best_of({each.name: each for each in candidates}, cases=5)


def test_the_highest_mean_over_the_classes_wins():
    choice = choose_from(candidate("2d", 0.9, 0.5), candidate("3d", 0.7, 0.8), candidate("2d + 3d", 0.8, 0.72))
    assert choice.configurations == ("2d", "3d")
    assert [each.name for each in choice.candidates] == ["2d + 3d", "3d", "2d"]
    assert "0.7600 over 5 cases; next is 3d with 0.7500" in choice.why
    assert table(choice).splitlines()[1].split() == ["2d", "+", "3d", "0.7600", "0.8000", "0.7200"]


def test_of_equals_one_network_is_enough():
    assert choose_from(candidate("2d + 3d", 0.8), candidate("3d", 0.8)).configurations == ("3d",)


def test_inference_finds_what_was_chosen(tmp_path):
    assert chosen_folders(tmp_path) == [tmp_path]
    save_json(tmp_path / "best.json", choose_from(candidate("2d + 3d", 0.8)))
    assert chosen_folders(tmp_path) == [tmp_path / "2d", tmp_path / "3d"]
    (tmp_path / "best.json").write_text('{"configurations": 3}')
    with pytest.raises(PlanError, match=r"best\.json"):
        chosen_folders(tmp_path)
    for names in ((), ("2d", "2d")):
        save_json(tmp_path / "best.json", replace(choose_from(candidate("2d", 0.8)), configurations=names))
        with pytest.raises(
            PlanError, match=r"best\.json: expected configurations to name one folder or more, each once"
        ):
            chosen_folders(tmp_path)


def test_what_was_decided_for_the_best_is_not_for_another_that_a_person_names(tmp_path, caplog):
    choice = choose_from(candidate("2d + 3d", 0.8), candidate("2d", 0.7), candidate("3d", 0.6))
    for folder in ("", "2d", "3d"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "postprocessing.json").write_text("{}")
    for names, found in {
        ("2d", "3d"): tmp_path / "postprocessing.json",
        ("3d", "2d"): tmp_path / "postprocessing.json",
        ("3d",): tmp_path / "3d" / "postprocessing.json",
        ("2d", "lowres"): None,
    }.items():
        save_json(tmp_path / "best.json", replace(choice, configurations=names))
        assert decision(tmp_path) == found
    assert "nothing was decided on the masks of 2d + lowres, so the plan says" in caplog.text


def test_a_fold_that_is_left_is_named(tmp_path):
    with pytest.raises(ChoiceError, match="found none"):
        find_configurations(tmp_path)
    for fold, done in enumerate((True, False)):
        save_json(tmp_path / "2d" / f"fold_{fold}" / "cross_validation.json", {"done": done})
    (tmp_path / "2d" / "splits.json").write_text(json.dumps({"folds": [{}, {}]}))
    with pytest.raises(ChoiceError, match=r"received some that are not \(1\)"):
        find_configurations(tmp_path)
    save_json(tmp_path / "2d" / "fold_1" / "cross_validation.json", {"done": True})
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "splits.json").write_text(
        json.dumps({"folds": [{}]})
    )  # a training beside them is none of theirs
    assert find_configurations(tmp_path) == ["2d"]
    (tmp_path / "2d" / "fold_0" / "splits.json").write_text("{}")  # a cross-validation is no folder of several
    with pytest.raises(ChoiceError, match=r"of several configurations in .*/2d, found none"):
        find_configurations(tmp_path / "2d")


def test_the_mean_decides_and_not_the_majority_of_masks():
    plan = make_plan("3d", labels={"background": 0, "left": 4, "right": 9})
    one, other = (MetaTensor(torch.tensor(p).view(3, 1, 1, 1)) for p in ([0.0, 0.55, 0.45], [0.1, 0.2, 0.7]))
    assert [mask_of(each, plan).item() for each in (one, other)] == [4, 9]
    assert mask_of(mean_of([one, other]), plan).item() == 9  # 0.575 against 0.375


def test_the_last_region_above_a_half_is_painted():
    plan = make_plan("3d", labels={"background": 0, "whole": 5, "core": 7}, regions={"whole": (5, 7), "core": (7,)})
    share = torch.tensor([[0.9, 0.9, 0.2], [0.6, 0.4, 0.1]]).view(2, 3, 1, 1)
    assert mask_of(MetaTensor(share), plan).flatten().tolist() == [7, 5, 0]


class Half(nn.Module):
    """Class 1 where the image is above its mean, by a margin."""

    def __init__(self, margin):
        super().__init__()
        self.margin = margin

    def forward(self, x):
        return torch.cat((torch.zeros_like(x), self.margin * x.sign(), torch.full_like(x, -50)), 1)


def test_two_plans_meet_on_the_grid_of_the_file(tmp_path):
    """A slice-wise and a 3-D plan: each gives the probabilities of its own network, on one grid."""
    image = np.ones((12, 10, 6), dtype=np.float32)
    image[6:] = 3
    path = scans.write(tmp_path / "a.nii.gz", image)
    found = []
    for kind, margin in (("slicewise", 2.0), ("3d", 4.0)):
        plan = make_plan(kind, spacing_mm=(1.0, 2.0, None if kind == "slicewise" else 3.0))
        found.append(Configuration(plan, Half(margin), window_inferer(plan)).probabilities([str(path)]))
    assert all(each.shape == (3, 12, 10, 6) for each in found)
    assert all(np.allclose(each.affine, scans.affine()) for each in found)
    sure = [1 / (1 + np.exp(-margin)) for margin in (2.0, 4.0)]
    assert found[0][1, -1].mean() == pytest.approx(sure[0], abs=1e-3)
    assert mean_of(found)[1, -1].mean() == pytest.approx(np.mean(sure), abs=1e-3)
    assert mean_of(found).sum(0).mean() == pytest.approx(1, abs=1e-5)


def test_configurations_of_other_classes_are_refused():
    plans = {"2d": make_plan("slicewise"), "3d": make_plan("3d", labels={"background": 0, "tumour": 1})}
    with pytest.raises(PlanError, match="2d and 3d, which differ in labels"):
        check_joinable(plans)


def test_classes_and_regions_in_another_order_are_other_channels():
    """Of equal names and values the networks' channels are those of the order; their mean would mix two regions."""
    one = make_plan("3d", labels={"background": 0, "a": 1, "b": 2}, regions={"a": (1,), "b": (2,)})
    other = make_plan("3d", labels={"background": 0, "b": 2, "a": 1}, regions={"b": (2,), "a": (1,)})
    with pytest.raises(PlanError, match="differ in labels, regions"):
        check_joinable({"one": one, "other": other})
    with pytest.raises(EnsembleError, match="differ in labels, regions"):
        check_same_plan(one, "one", other, "other")


@pytest.fixture
def two_folds(tmp_path):
    """A cross-validation of two folds that left out a and b, with scores and masks of them."""
    save_json(tmp_path / "splits.json", {"folds": [{"val": ["a", "gone"]}, {"val": ["b"]}]})
    save_json(tmp_path / "rejected.json", {"gone": "NaN"})
    for fold, case in enumerate("ab"):
        folder = tmp_path / f"fold_{fold}"
        save_json(folder / "models" / "trained.json", {"plan": {}, "labeled": ["b" if case == "a" else "a"]})
        for name in "ab":  # one of them trained this fold
            (folder / "masks").mkdir(exist_ok=True)
            (folder / "masks" / f"{name}.nii.gz").write_bytes(b"")
        write_metrics([CaseMetric(case, "organ", 0.5, 0.5, 0.0, 0.0, 1, 1)], folder / "metrics.csv")
    return tmp_path


def test_a_fold_counts_with_the_cases_it_left_out_alone(two_folds):
    assert left_out(two_folds) == [("a",), ("b",)]
    assert [row.case for row in scores_of_fold(two_folds, 0, ("a",))] == ["a"]
    write_metrics([CaseMetric("test", "organ", 0.9, 0.9, 0.0, 0.0, 1, 1)], two_folds / "fold_0" / "metrics.csv")
    with pytest.raises(FoldScoresError, match=r"that fold 0 left out \(a, .*received those of others \(test\)"):
        scores_of_fold(two_folds, 0, ("a",))
    masks = left_out_masks(two_folds)
    assert {case: path.parts[-3] for case, path in masks.items()} == {"a": "fold_0", "b": "fold_1"}


def test_scores_that_were_replaced_since_are_refused(two_folds):
    """A fold evaluated with both branches, say, is no longer comparable with the others; nor are its masks a next stage's."""
    folder = two_folds / "fold_0"
    save_json(folder / "cross_validation.json", {"done": True, **result_keys(folder)})
    assert scores_of_fold(two_folds, 0, ("a",)) and left_out_masks(two_folds)
    write_metrics([CaseMetric("a", "organ", 0.9, 0.9, 0.0, 0.0, 1, 1)], folder / "metrics.csv")
    with pytest.raises(FoldScoresError, match="was the fold evaluated since"):
        scores_of_fold(two_folds, 0, ("a",))
    with pytest.raises(FoldScoresError, match="was the fold evaluated since"):
        left_out_masks(two_folds)


def test_masks_that_were_replaced_since_are_refused(two_folds):
    """Scores do not tell; an account of an older version holds nothing else."""
    folder = two_folds / "fold_0"
    keys, mask = result_keys(folder), folder / "masks" / "a.nii.gz"
    save_json(folder / "cross_validation.json", {"done": True, **keys})
    (folder / "masks" / "b.nii.gz").write_bytes(b"of a case that trained this fold")
    assert left_out_masks(two_folds)
    mask.write_bytes(b"another")
    for _ in range(2):  # replaced, gone
        with pytest.raises(FoldScoresError, match="expected the masks that the cross-validation wrote"):
            left_out_masks(two_folds)
        mask.unlink(missing_ok=True)
    mask.write_bytes(b"another")
    save_json(folder / "cross_validation.json", {"done": True, "scores": keys["scores"]})
    assert left_out_masks(two_folds)["a"] == mask


def test_networks_that_know_a_case_are_not_scored_on_it(two_folds):
    _check_apart(two_folds.parent, [two_folds.name], [("a",), ("b",)])
    with pytest.raises(ChoiceError, match="received b among those that trained them"):
        _check_apart(two_folds.parent, [two_folds.name], [("b",), ("a",)])
