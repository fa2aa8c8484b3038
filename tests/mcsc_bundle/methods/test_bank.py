"""The memory bank of the contrast: what it keeps, what it adds to a group, and that it can be left and resumed."""

import pytest
import torch

from mcsc_bundle.losses.contrastive import balanced_contrastive_loss
from mcsc_bundle.losses.segmentation import nnunet_loss
from mcsc_bundle.methods import MCSC, MultiScaleContrast
from mcsc_bundle.methods.bank import MemoryBank
from mcsc_bundle.networks import NetworkPair
from tests.mcsc_bundle.methods.cases import batch_of, confident
from tests.plans import make_plan


def groups(*vectors_and_labels):
    vectors, labels = zip(*vectors_and_labels, strict=True)
    return torch.tensor([[[float(v), 1.0] for v in vectors]]), torch.tensor([labels])


def test_it_keeps_the_newest_vectors_of_each_class():
    bank = MemoryBank(num_classes=2, size=2, channels=2, per_step=1)
    for step in (1, 2, 3):
        bank.add(*groups((step, 1)))
    assert bank.known.tolist() == [[False, False], [True, True]]
    assert sorted(bank.vectors[1, :, 0].tolist()) == [2.0, 3.0]


def test_a_class_that_few_steps_have_fills_its_places_too():
    bank = MemoryBank(num_classes=2, size=3, channels=2, per_step=2)
    for step in range(1, 6):
        bank.add(*groups((step, 1), (10 * step, 0), (10 * step + 1, 0)))
    assert sorted(bank.vectors[1, :, 0].tolist()) == [3.0, 4.0, 5.0]
    assert {50.0, 51.0} < set(bank.vectors[0, :, 0].tolist()) and bank.known.all()


def test_ignored_vectors_are_not_kept():
    bank = MemoryBank(num_classes=2, size=4, channels=2)
    bank.add(*groups((5, -1), (6, -1)))
    assert not bank.known.any()


def test_vectors_of_a_step_that_is_not_finite_are_not_kept():
    """The trainer skips such a step; in the bank they would spoil those after it."""
    bank = MemoryBank(num_classes=2, size=4, channels=2)
    bank.add(*groups((float("inf"), 1), (float("nan"), 1), (7, 1)))
    assert bank.vectors[1][bank.known[1]].tolist() == [[7.0, 1.0]]


def test_the_loss_is_that_of_the_joined_group_and_old_vectors_get_no_gradient():
    torch.manual_seed(0)
    bank = MemoryBank(num_classes=3, size=3, channels=4, per_step=3)
    old, old_labels = torch.randn(1, 6, 4, requires_grad=True), torch.tensor([[0, 0, 0, 1, 1, 1]])
    bank.add(old, old_labels)
    new, labels = torch.randn(2, 5, 4, requires_grad=True), torch.tensor([[0, 1, 1, 2, 0], [1, 1, 0, 0, 2]])
    loss = balanced_contrastive_loss(*bank.extend(new, labels), num_classes=3)
    loss.backward()
    assert old.grad is None and new.grad.abs().sum() > 0
    joined = torch.cat((new, old.expand(2, -1, -1)), 1), torch.cat((labels, old_labels.expand(2, -1)), 1)
    torch.testing.assert_close(loss, balanced_contrastive_loss(*joined, num_classes=3))


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_first_step_as_without_a_bank_and_resumed_as_uninterrupted(kind):
    plan = make_plan(kind, batch_labeled=2, batch_unlabeled=2)

    def method(bank):
        torch.manual_seed(0)
        networks = NetworkPair.from_plan(plan)
        return confident(MCSC(networks, nnunet_loss(True), MultiScaleContrast(plan, networks, bank=bank)))

    def contrast(engine, seed):
        torch.manual_seed(seed)
        terms = engine(batch_of(plan, seed), progress=0.5)
        return torch.stack([value for name, value in terms.items() if name.startswith("contrast")])

    with_bank = method(bank=4)
    # the first scale: what its bank draws at random shifts the draws of the second
    torch.testing.assert_close(contrast(with_bank, 0)[0], contrast(method(bank=0), 0)[0], rtol=1e-6, atol=0)
    resumed = method(bank=4)
    resumed.load_state_dict(with_bank.state_dict())
    second = contrast(with_bank, 1)
    assert torch.equal(second, contrast(resumed, 1))
    assert not torch.equal(second, contrast(method(bank=0), 1))


def test_a_bank_for_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 vector"):
        MemoryBank(2, 0, 4)
