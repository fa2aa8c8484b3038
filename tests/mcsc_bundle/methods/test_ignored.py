"""No method learns anything where nobody annotated."""

import pytest
import torch

from mcsc_bundle.labels import IGNORED
from mcsc_bundle.methods import BCP, MCSC
from mcsc_bundle.methods.views import one_box
from tests.mcsc_bundle.methods.cases import METHODS, SUPERVISED_TERMS, batch_of, build, confident

DIMENSIONS = ("slicewise", "3d")


def partly_annotated(plan):
    """A batch whose labelled patches are annotated in the first half of their first axis."""
    batch = batch_of(plan)
    batch["label"] = batch["label"].to(torch.int16)
    batch["label"][:, :, plan.patch_size[0] // 2 :] = IGNORED
    return batch


@pytest.fixture
def heads(monkeypatch):
    """Logits that any convolutional head gives, with their gradients."""
    seen = []

    def keep(module, inputs, output):
        if output.requires_grad:
            output.retain_grad()
            seen.append(output)

    return seen, keep


@pytest.mark.parametrize("kind", DIMENSIONS)
@pytest.mark.parametrize("regions", (False, True))
@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_terms_are_finite_and_every_parameter_is_reached(self, kind, regions, method):
        plan, module = build(kind, method, regions=regions)
        terms = confident(module)(partly_annotated(plan), 1.0)
        assert all(torch.isfinite(term) for term in terms.values())
        sum(terms.values()).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters() if p.requires_grad)

    def test_what_is_predicted_there_changes_no_supervised_term(self, kind, regions, method):
        """All labels ignored: the terms of true labels are 0, whatever the networks say."""
        plan, module = build(kind, method, regions=regions)
        batch = batch_of(plan)
        batch["label"] = torch.full_like(batch["label"], IGNORED)
        terms = confident(module)(batch, 1.0)
        supervised = [value for name, value in terms.items() if name.startswith(SUPERVISED_TERMS)]
        assert supervised and all(float(value.detach()) == 0 for value in supervised)
        sum(terms.values()).backward()
        assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", DIMENSIONS)
@pytest.mark.parametrize("regions", (False, True))
@pytest.mark.parametrize("method", [method for method in METHODS if method is not BCP])
def test_the_gradient_is_zero_at_the_logits_of_ignored_voxels(kind, regions, method, heads):
    """And not zero beside them. BCP's logits are of mixtures: see below."""
    plan, module = build(kind, method, regions=regions)
    seen, keep = heads
    for network in module.trained_networks():
        network.head.register_forward_hook(keep)
    sum(confident(module)(partly_annotated(plan), 1.0).values()).backward()
    half = plan.patch_size[0] // 2
    assert seen
    for logits in seen:
        labelled = logits.grad[:2]
        assert labelled[:, :, :half].any() and not labelled[:, :, half:].any()


@pytest.mark.parametrize("kind", DIMENSIONS)
@pytest.mark.parametrize("progress", (0.0, 1.0))
def test_bcp_leaves_ignored_voxels_out_wherever_it_pastes_them(kind, progress, heads):
    """Teacher labels weigh nothing here, so what has a gradient is annotated; the box is known from its seed."""
    plan, module = build(kind, BCP)
    module.unlabeled_weight, module.box_share = 0.0, 0.5
    batch, (seen, keep) = partly_annotated(plan), heads
    module.cnn.head.register_forward_hook(keep)
    torch.manual_seed(3)
    sum(module(batch, progress).values()).backward()
    torch.manual_seed(3)
    box, known = one_box(plan.patch_size, 0.5, torch.device("cpu")), batch["label"] != IGNORED
    both_ways = torch.cat((known & box, known & ~box))  # labelled inside the box of the unlabelled, then outside of it
    annotated = both_ways if progress else torch.where(box, known.roll(1, 0), known)
    moved = seen[0].grad.any(1, keepdim=True)
    assert moved.any() and not (moved & ~annotated).any()


def test_boxes_of_labelled_patches_bring_their_ignored_voxels():
    plan, module = build("3d", MCSC)
    module.confidence, module.copy_paste, module.box_share = 0.0, 1.0, (1.0, 1.0)  # every voxel has a teacher label
    batch = partly_annotated(plan)
    torch.manual_seed(0)
    _, target = module.strong_view(batch["image"][:2], batch["label"].long(), batch["image"][2:])
    ignored = target == IGNORED
    assert ignored.any() and not ignored[:, :, : plan.patch_size[0] // 2].any()
