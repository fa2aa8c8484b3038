"""Regions by hand, and the judge of their losses: one region is two classes, inside and outside."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mcsc_bundle.ensemble import Ensemble, network_from_plan
from mcsc_bundle.labels import IGNORED
from mcsc_bundle.losses.consistency import certain_mse, hard_ce, hard_dice, probability_mse, pyramid_consistency
from mcsc_bundle.losses.segmentation import nnunet_loss, paper_loss
from mcsc_bundle.networks import NetworkPair
from mcsc_bundle.networks.pair import BranchPredictor
from mcsc_bundle.outputs import Classes, Regions, outputs_of
from tests.mcsc_bundle.methods.cases import REGIONS
from tests.plans import make_plan

SHAPES = [(4, 5), (3, 4, 2)]
ONE = Regions([[False], [True]])
NESTED = outputs_of(make_plan("3d", **REGIONS))  # values 0, 1, 2: nothing; whole and core; whole


def both_ways(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of one region, and of two classes with the same probabilities."""
    inside = torch.randn(2, 1, *shape)
    return inside, torch.cat((torch.zeros_like(inside), inside), 1) + torch.randn(2, 1, *shape)


def test_a_plan_says_which_kind_it_is() -> None:
    assert type(outputs_of(make_plan("3d"))) is Classes
    assert NESTED.members.tolist() == [[0, 0], [1, 1], [1, 0]]  # whole, core


@pytest.mark.parametrize("outputs", [Classes(), NESTED])
def test_a_teacher_that_overflowed_has_no_opinion(outputs) -> None:
    logits = torch.tensor([torch.nan, 9.0]).view(1, 1, 2).expand(1, 3, 2) * torch.tensor([1.0, -1.0, -1.0]).view(
        1, 3, 1
    )
    sure = outputs.confident(logits, 0.9)[:, 0]
    assert sure.tolist() == [[IGNORED, int(outputs is NESTED)]]


def test_a_label_becomes_a_mask_for_each_region() -> None:
    target = NESTED.target(torch.tensor([[[0, 1, 2, IGNORED]]], dtype=torch.int16))
    assert target[0].tolist() == [[0, 1, 1, IGNORED], [0, 1, 0, IGNORED]]
    assert NESTED.foreground(target, 2)[0].tolist() == [[False, True, True, False], [False, True, False, False]]


def test_the_class_of_a_voxel_is_the_region_painted_last() -> None:
    assert NESTED.exclusive(NESTED.target(torch.tensor([[[0, 1, 2, IGNORED]]]))).tolist() == [[0, 2, 1, IGNORED]]
    assert NESTED.exclusive(torch.tensor([1, IGNORED]).view(1, 2, 1)).tolist() == [[IGNORED]]


@pytest.mark.parametrize("shape", SHAPES)
class TestOneRegionIsTwoClasses:
    def test_what_it_says(self, shape) -> None:
        region, classes = both_ways(shape)
        assert torch.equal(ONE.hard(region), Classes().hard(classes))
        assert torch.equal(ONE.confident(region, 0.7), Classes().confident(classes, 0.7))
        assert torch.allclose(ONE.probability(region), Classes().probability(classes)[:, 1:], atol=1e-6)
        entropies = ONE.entropy(ONE.probability(region)), Classes().entropy(Classes().probability(classes))
        assert torch.allclose(*entropies, atol=1e-5)

    def test_what_it_costs(self, shape) -> None:
        region, classes = both_ways(shape)
        other, others = both_ways(shape)
        label = torch.randint(-1, 2, (2, 1, *shape))
        assert torch.allclose(hard_ce(region, label, ONE), hard_ce(classes, label))
        assert torch.allclose(probability_mse(region, other, ONE), probability_mse(classes, others))
        certain = torch.rand(2, 1, *shape) > 0.5
        assert torch.allclose(certain_mse(region, other, certain, ONE), certain_mse(classes, others, certain))
        pyramids = pyramid_consistency([region, other], ONE), pyramid_consistency([classes, others])
        assert torch.allclose(*pyramids, rtol=1e-4)

    def test_the_mean_of_several_networks(self, shape) -> None:
        (region, classes), (other, others) = both_ways(shape), both_ways(shape)
        image = torch.zeros(2, 1, *shape)
        mine = Ensemble([lambda_of(region), lambda_of(other)], ONE)(image)
        theirs = Ensemble([lambda_of(classes), lambda_of(others)])(image)
        assert torch.allclose(mine.sigmoid(), theirs.softmax(1)[:, 1:], atol=1e-6)


@pytest.mark.parametrize("regions", [False, True])
def test_several_networks_can_be_scripted(regions) -> None:
    plan = make_plan("3d", **(REGIONS if regions else {}))
    network = network_from_plan(plan, members=2).eval()
    image = torch.rand(1, plan.network_channels, *plan.patch_size)
    assert torch.allclose(torch.jit.script(network)(image), network(image), atol=1e-5)


def lambda_of(logits: torch.Tensor) -> torch.nn.Module:
    module = torch.nn.Identity()
    module.forward = lambda image: logits  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize("shape", SHAPES)
class TestSupervised:
    def test_it_is_dice_and_binary_cross_entropy(self, shape) -> None:
        """nnU-Net's DC_and_BCE_loss, over the batch, in plain words."""
        logits, label = torch.randn(2, 2, *shape), torch.randint(0, 3, (2, 1, *shape), dtype=torch.uint8)
        truth, p = NESTED.target(label).float(), logits.sigmoid()
        dice = [
            1 - (2 * (p[:, r] * truth[:, r]).sum() + 1e-5) / (p[:, r].sum() + truth[:, r].sum() + 1e-5) for r in (0, 1)
        ]
        expected = F.binary_cross_entropy(p, truth) + sum(dice) / 2
        assert torch.allclose(nnunet_loss(True, NESTED)(logits, label), expected)

    @pytest.mark.parametrize("make", [nnunet_loss, paper_loss])
    def test_ignored_voxels_are_as_if_cut_away(self, shape, make) -> None:
        loss = make(outputs=NESTED)
        logits, label = torch.randn(2, 2, *shape, requires_grad=True), torch.randint(0, 3, (2, 1, *shape))
        label[:, :, 1:] = IGNORED
        value = loss(logits, label)
        assert torch.allclose(value, loss(logits[:, :, :1], label[:, :, :1]), atol=1e-6)
        value.backward()
        assert logits.grad[:, :, :1].all() and not logits.grad[:, :, 1:].any()

    def test_a_perfect_prediction_costs_nothing(self, shape) -> None:
        label = torch.randint(0, 3, (2, 1, *shape))
        logits = 200.0 * NESTED.target(label) - 100
        assert float(nnunet_loss(outputs=NESTED)(logits, label)) == pytest.approx(0, abs=1e-5)
        assert float(hard_dice(logits, NESTED.target(label), NESTED)) == pytest.approx(0, abs=1e-5)


def test_both_branches_average_the_sigmoids() -> None:
    plan = make_plan("3d", **REGIONS)
    pair = NetworkPair.from_plan(plan).eval()
    image = torch.randn(1, 1, *plan.patch_size)
    expected = sum(logits.sigmoid() for logits in pair(image)) / 2
    assert torch.allclose(BranchPredictor(pair, "both")(image).sigmoid(), expected, atol=1e-6)
