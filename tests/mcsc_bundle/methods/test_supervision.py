"""Deep supervision by hand: nnU-Net's weights, labels by the nearest centre, heads that stay with the method."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mcsc_bundle.losses.segmentation import nnunet_loss
from mcsc_bundle.methods import CPS, MCSC, UAMT, CrossTeaching, MeanTeacher, Supervised
from mcsc_bundle.methods.supervision import Supervision, nearest
from mcsc_bundle.networks import NetworkPair, unet_from_plan
from mcsc_bundle.networks.unet import UNet
from mcsc_bundle.plan import CNNPlan
from tests.mcsc_bundle.methods.cases import batch_of, build, confident, moved_by
from tests.plans import make_plan

FOUR_STAGES = {
    kind: CNNPlan("plan", (4, 6, 8, 8), ((3,) * dims,) * 4, ((1,) * dims, *((2,) * dims,) * 3), convs_per_stage=1)
    for kind, dims in (("slicewise", 2), ("3d", 3))
}
"""The tests' CNNs have three stages, of whose maps nnU-Net supervises the finest alone."""
DEEP = (Supervised, MeanTeacher, UAMT, CrossTeaching, CPS, MCSC)


def network(stages: int, dims: int = 2) -> UNet:
    torch.manual_seed(0)
    strides = [(1,) * dims, *[(2,) * dims] * (stages - 1)]
    return UNet(dims, 1, 3, [2 + stage for stage in range(stages)], [(3,) * dims] * stages, strides)


@pytest.mark.parametrize(
    ("stages", "weights"), [(2, [1]), (3, [1]), (4, [2 / 3, 1 / 3]), (6, [8 / 15, 4 / 15, 2 / 15, 1 / 15])]
)
def test_each_scale_weighs_half_of_the_finer_one_and_the_coarsest_has_none(stages, weights) -> None:
    supervision = Supervision(network(stages), nn.Identity(), deep=True)
    assert supervision.weights == pytest.approx(weights) and len(supervision.heads) == len(weights) - 1
    assert Supervision(network(stages), nn.Identity()).weights == (1.0,)


@pytest.mark.parametrize("dims", [2, 3])
def test_it_is_the_sum_that_it_is_written_as(dims) -> None:
    cnn, loss = network(4, dims), nnunet_loss()
    supervision = Supervision(cnn, loss, deep=True)
    image, label = torch.randn(3, 1, *(16,) * dims), torch.randint(0, 3, (2, 1, *(16,) * dims)).to(torch.uint8)
    maps = cnn.features(image)
    logits = cnn.head(maps[-1])
    every_second = label[(..., *[slice(1, None, 2)] * dims)]  # of two centres that are as near, the later
    expected = (2 * loss(logits[:2], label) + loss(supervision.heads[0](maps[-2][:2]), every_second)) / 3
    assert torch.allclose(supervision(logits, maps, label), expected)
    assert torch.allclose(Supervision(cnn, loss)(logits, maps, label), loss(logits[:2], label))


def test_ignored_voxels_stay_ignored_and_odd_factors_take_the_centre() -> None:
    label = torch.arange(-1, 8, dtype=torch.int16).view(1, 1, 9)
    assert nearest(label, (3,)).tolist() == [[[0, 3, 6]]]
    assert nearest(torch.full((1, 1, 4, 4), -1, dtype=torch.int16), (2, 2)).unique().tolist() == [-1]


@pytest.mark.parametrize("kind", ["slicewise", "3d"])
@pytest.mark.parametrize("method", DEEP)
def test_every_method_teaches_its_heads_and_ships_none(kind, method) -> None:
    plan, plain = build(kind, method, cnn=FOUR_STAGES[kind])
    _, deep = build(kind, method, deep=True, cnn=FOUR_STAGES[kind])
    batch = batch_of(plan)
    torch.manual_seed(0)
    before = confident(plain)(batch, 0.5)
    torch.manual_seed(0)
    after = confident(deep)(batch, 0.5)
    name = next(name for name in after if name.startswith("supervised"))
    assert before.keys() == after.keys()
    assert {name for name in after if not torch.equal(before[name], after[name])} <= {
        name for name in after if name.startswith("supervised")
    }
    assert moved_by(deep, after[name]) == {"cnn", "supervision"}
    assert deep.shipped.state_dict().keys() == plain.shipped.state_dict().keys()


def test_both_networks_of_cps_have_heads_of_their_own() -> None:
    plan = make_plan("3d", batch_labeled=2, batch_unlabeled=2, cnn=FOUR_STAGES["3d"])
    torch.manual_seed(0)
    method = CPS(NetworkPair.from_plan(plan), unet_from_plan(plan), nnunet_loss(), deep_supervision=True)
    terms = method(batch_of(plan), 0.5)
    assert moved_by(method, terms["supervised_second"]) == {"second", "second_supervision"}


def test_the_teacher_is_drawn_as_without_deep_supervision() -> None:
    """The CNN's mean over scales is another measure than the Transformer's at full size."""
    plan, plain = build("slicewise", MCSC, cnn=FOUR_STAGES["slicewise"])
    _, deep = build("slicewise", MCSC, deep=True, cnn=FOUR_STAGES["slicewise"])
    for method in (plain, deep):
        torch.manual_seed(0)
        confident(method)(batch_of(plan), 0.5)
        method.after_step(0.5)
    assert deep.mistakes_so_far == pytest.approx(plain.mistakes_so_far)  # type: ignore[attr-defined]
