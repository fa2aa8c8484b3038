"""Losses on pseudo-labels: their values, what they ignore, and that teachers never get a gradient."""

import math

import pytest
import torch

from mcsc_bundle.losses.consistency import (
    confident_loss,
    entropy,
    hard_ce,
    hard_dice,
    pseudo_labels,
    sigmoid_rampup,
    softmax_mse,
)
from mcsc_bundle.losses.segmentation import paper_loss

SHAPES = [(4, 5), (3, 4, 2)]


def draw(shape, classes=3):
    return torch.randn(2, classes, *shape, requires_grad=True), torch.randint(0, classes, (2, 1, *shape))


@pytest.mark.parametrize("shape", SHAPES)
class TestHardLabels:
    def test_dice_is_that_of_the_paper(self, shape):
        logits, labels = draw(shape)
        assert torch.allclose(hard_dice(logits, labels), paper_loss().dice(logits, labels))

    def test_both_together_are_twice_the_supervised_loss(self, shape):
        logits, labels = draw(shape)
        assert torch.allclose(confident_loss(logits, labels[:, 0]), 2 * paper_loss()(logits, labels))

    def test_pseudo_labels_are_the_most_probable_classes_and_carry_no_gradient(self, shape):
        logits, labels = draw(shape)
        logits = logits + 100 * torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1)
        assert torch.equal(pseudo_labels(logits), labels)

    @pytest.mark.parametrize("loss", [hard_ce, hard_dice])
    def test_voxels_that_are_ignored_get_no_gradient(self, shape, loss):
        logits, labels = draw(shape)
        labels[0] = -1
        loss(logits, labels).backward()
        assert not logits.grad[0].any() and logits.grad[1].any()

    @pytest.mark.parametrize("loss", [hard_ce, hard_dice])
    def test_nothing_sure_is_zero_and_backward_works(self, shape, loss):
        logits, labels = draw(shape)
        value = loss(logits, torch.full_like(labels, -1))
        value.backward()
        assert value == 0 and not logits.grad.any()

    def test_little_confidence_is_little_weight(self, shape):
        logits, labels = draw(shape)
        doubled = torch.cat((labels, torch.full_like(labels, -1)))
        assert torch.allclose(hard_ce(torch.cat((logits, logits)), doubled), hard_ce(logits, labels) / 2)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_sums_in_float32(self, shape, dtype):
        logits, labels = draw((60, *shape))
        assert confident_loss(logits.to(dtype), labels[:, 0]).dtype == torch.float32


def test_softmax_mse_by_hand_and_never_into_the_teacher():
    student = torch.zeros(1, 2, 1, 1, requires_grad=True)  # 1/2, 1/2
    teacher = torch.tensor([math.log(3.0), 0.0]).view(1, 2, 1, 1).requires_grad_()  # 3/4, 1/4
    value = softmax_mse(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(1 / 16) and teacher.grad is None and student.grad.any()


@pytest.mark.parametrize(
    ("logits", "expected"), [((0, 0, 0), 1.0), ((0, 0, -1000), math.log(2) / math.log(3)), ((99, 0, 0), 0)]
)
def test_entropy_by_hand(logits, expected):
    value = entropy(torch.tensor(logits, dtype=torch.float32).view(1, 3, 1, 1))
    assert value.shape == (1, 1, 1, 1) and float(value) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("progress", "expected"), [(-1, math.exp(-5)), (0, math.exp(-5)), (0.5, math.exp(-1.25)), (1, 1), (7, 1)]
)
def test_sigmoid_rampup_by_hand(progress, expected):
    assert sigmoid_rampup(progress) == pytest.approx(expected)
