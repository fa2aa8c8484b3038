"""Every method on regions: each term is a finite number that teaches networks and no teacher."""

import pytest
import torch

from mcsc_bundle.labels import IGNORED
from mcsc_bundle.methods import BCP, MCSC, UAMT, Supervised
from mcsc_bundle.methods.bcp import largest_components
from tests.mcsc_bundle.methods.cases import (
    METHODS,
    SUPERVISED_TERMS,
    batch_of,
    build,
    confident,
    moved_by,
    names_of_trained,
)


@pytest.mark.parametrize("kind", ("slicewise", "3d"))
@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_each_term_alone_moves_a_trained_network_and_never_a_teacher(self, kind, method):
        plan, module = build(kind, method, regions=True)
        by_unlabeled = set()
        for name, term in confident(module)(batch_of(plan), 1.0).items():
            assert term.shape == () and torch.isfinite(term), name
            moved = moved_by(module, term)
            assert moved & names_of_trained(module) and not any("teacher" in part for part in moved), name
            by_unlabeled |= set() if name.startswith(SUPERVISED_TERMS) else moved
        assert by_unlabeled >= names_of_trained(module) or method is Supervised

    def test_the_networks_have_a_channel_for_each_region(self, kind, method):
        plan, module = build(kind, method, regions=True)
        image = batch_of(plan)["image"][:1]
        assert all(network(image).shape == (1, 2, *plan.patch_size) for network in module.branches().values())

    def test_what_is_stored_is_what_is_stored_of_classes(self, kind, method):
        """What the channels mean is in the plan: no table of it is part of a checkpoint."""
        _, module = build(kind, method, regions=True)
        assert module.state_dict().keys() == build(kind, method)[1].state_dict().keys()

    def test_it_learns_both_regions(self, kind, method):
        """A few steps on one batch lower the supervised loss."""
        plan, module = build(kind, method, regions=True)
        batch, losses = batch_of(plan), []
        batch["image"][:2] = batch["label"].float()
        optimizer = torch.optim.Adam(module.parameter_groups(0.01))
        for _ in range(8):
            torch.manual_seed(0)
            terms = module(batch, 0.0)
            losses.append(float(sum(v for k, v in terms.items() if k.startswith(SUPERVISED_TERMS)).detach()))
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()
            module.after_step(0.0)
        assert losses[-1] < losses[0]


def test_mcsc_ignores_each_region_that_its_teacher_is_unsure_of():
    """Sure of the whole, unsure of the core: nine of ten, and six of ten."""
    plan, module = build("3d", MCSC, regions=True)
    module.copy_paste, module.confidence = 0.0, 0.8
    for teacher in (module.cnn_teacher, module.transformer_teacher):
        odds = torch.tensor([9.0, 1.5]).log().view(1, 2, 1, 1, 1)
        teacher.forward = lambda image, odds=odds: odds.expand(len(image), 2, *image.shape[2:])
    batch = batch_of(plan)
    _, target = module.strong_view(batch["image"][:2], module.outputs.target(batch["label"]), batch["image"][2:])
    assert target[:, 0].unique().tolist() == [1] and target[:, 1].unique().tolist() == [IGNORED]


def test_bcp_cleans_each_region_by_itself():
    """The speck of the second region lies in the first, which is one component."""
    regions = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 0, 0]]).view(1, 2, 1, 6)
    assert largest_components(regions)[0, :, 0].tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]
    plan, module = build("3d", BCP, regions=True)
    teacher = module.outputs.hard(module.teacher(batch_of(plan)["image"]))
    assert largest_components(teacher).shape == (4, 2, *plan.patch_size)


def test_uncertainty_is_the_mean_over_the_regions():
    """One region at a half, one sure: half a bit."""
    _, module = build("slicewise", UAMT, regions=True)
    module.teacher.sample = lambda image: torch.tensor([0.0, 90.0]).view(1, 2, 1, 1)
    assert float(module.uncertainty(torch.zeros(1, 1, 1, 1))) == pytest.approx(torch.tensor(2.0).log().item() / 2)
