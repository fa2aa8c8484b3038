"""Which candidate wins, and what averaging two grids means."""

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from mcsc_bundle.choice import Candidate, best_of, chosen_folders
from mcsc_bundle.choose import ChoiceError, find_configurations, table
from mcsc_bundle.inferers import window_inferer
from mcsc_bundle.joined import Configuration, check_joinable, mask_of, mean_of
from mcsc_bundle.plan import PlanError, save_json
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
