"""Losses on pseudo-labels: their values, what they ignore, and that teachers never get a gradient."""

import math

import numpy as np
import pytest
import torch

from mcsc_bundle.losses.consistency import (
    certain_mse,
    confident_loss,
    hard_ce,
    hard_dice,
    part_loss,
    probability_mse,
    pyramid_consistency,
    sigmoid_rampup,
)
from mcsc_bundle.losses.segmentation import paper_loss
from mcsc_bundle.outputs import Classes

SHAPES = [(4, 5), (3, 4, 2)]


def draw(shape, classes=3):
    return torch.randn(2, classes, *shape, requires_grad=True), torch.randint(0, classes, (2, 1, *shape))


@pytest.mark.parametrize("shape", SHAPES)
class TestHardLabels:
    def test_dice_is_that_of_the_paper(self, shape):
        logits, labels = draw(shape)
        assert torch.allclose(hard_dice(logits, labels), paper_loss().complete.dice(logits, labels))

    def test_both_together_are_twice_the_supervised_loss(self, shape):
        logits, labels = draw(shape)
        assert torch.allclose(confident_loss(logits, labels), 2 * paper_loss()(logits, labels))

    def test_pseudo_labels_are_the_most_probable_classes_and_carry_no_gradient(self, shape):
        logits, labels = draw(shape)
        logits = logits + 100 * torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1)
        hard = Classes().hard(logits)
        assert torch.equal(hard, labels) and not hard.requires_grad

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
        assert confident_loss(logits.to(dtype), labels).dtype == torch.float32


def test_probability_mse_by_hand_and_never_into_the_teacher():
    student = torch.zeros(1, 2, 1, 1, requires_grad=True)  # 1/2, 1/2
    teacher = torch.tensor([math.log(3.0), 0.0]).view(1, 2, 1, 1).requires_grad_()  # 3/4, 1/4
    value = probability_mse(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(1 / 16) and teacher.grad is None and student.grad.any()


@pytest.mark.parametrize("shape", SHAPES)
class TestCertainMSE:
    def test_against_loops(self, shape):
        student, teacher = torch.randn(2, 2, 3, *shape)
        certain = torch.rand(2, 1, *shape) < 0.5
        p, q = (each.double().softmax(1).flatten(2).numpy() for each in (student, teacher))
        mask, total, count = certain.flatten(1).numpy(), 0.0, 0
        for b, v in zip(*np.nonzero(mask), strict=True):
            count += 1
            for c in range(3):
                total += (p[b, c, v] - q[b, c, v]) ** 2
        assert certain_mse(student, teacher, certain).item() == pytest.approx(total / (2 * count))

    def test_certain_of_two_classes_everywhere_is_the_mean_square(self, shape):
        student, teacher = torch.randn(2, 2, 2, *shape)
        everywhere = torch.ones(2, 1, *shape, dtype=torch.bool)
        assert torch.allclose(certain_mse(student, teacher, everywhere), probability_mse(student, teacher))

    def test_nothing_certain_is_zero_and_the_teacher_gets_no_gradient(self, shape):
        student, teacher = (torch.randn(2, 3, *shape, requires_grad=True) for _ in range(2))
        value = certain_mse(student, teacher, torch.zeros(2, 1, *shape, dtype=torch.bool))
        value.backward()
        assert value == 0 and not student.grad.any() and teacher.grad is None


@pytest.mark.parametrize("shape", SHAPES)
class TestPyramidConsistency:
    def test_against_loops(self, shape):
        logits = torch.randn(4, 2, 3, *shape)
        p = logits.double().softmax(2).flatten(3).numpy()  # (scale, B, C, voxels)
        scales, batch, classes, voxels = p.shape
        total = 0.0
        for s in range(scales):
            weighted, trust, divergence = 0.0, 0.0, 0.0
            for b in range(batch):
                for v in range(voxels):
                    mean = [sum(p[t, b, c, v] for t in range(scales)) / scales for c in range(classes)]
                    d = sum(mean[c] * math.log(mean[c] / p[s, b, c, v]) for c in range(classes))
                    trust += math.exp(-d) / (batch * voxels)
                    divergence += d / (batch * voxels)
                    for c in range(classes):
                        weighted += (mean[c] - p[s, b, c, v]) ** 2 * math.exp(-d) / (batch * voxels * classes)
            total += weighted / (trust + 1e-8) + divergence
        assert pyramid_consistency(list(logits)).item() == pytest.approx(total / scales, rel=1e-5)

    def test_agreement_is_zero(self, shape):
        logits = torch.randn(2, 3, *shape)
        assert pyramid_consistency([logits, logits + 7]).item() == pytest.approx(0, abs=1e-6)

    def test_moves_every_scale_and_stays_finite_where_all_have_given_a_class_up(self, shape):
        logits = [torch.randn(2, 3, *shape) for _ in range(3)]
        for each in logits:
            each[:, 2] -= 1000
            each.requires_grad_()
        pyramid_consistency(logits).backward()
        assert all(each.grad.isfinite().all() and each.grad.any() for each in logits)


@pytest.mark.parametrize("shape", SHAPES)
class TestPartLoss:
    """Its value against loops: tests/mcsc_bundle/methods/test_rivals.py."""

    def test_everywhere_it_is_the_supervised_loss_of_the_paper(self, shape):
        logits, labels = draw(shape)
        everywhere = torch.ones(1, 1, *shape, dtype=torch.bool)
        assert torch.allclose(part_loss(logits, labels, everywhere), paper_loss()(logits, labels))

    def test_what_lies_outside_does_not_count(self, shape):
        logits, labels = draw(shape)
        region = torch.rand(1, 1, *shape) < 0.5
        other = torch.where(region, labels, (labels + 1) % 3)
        assert torch.equal(part_loss(logits, labels, region), part_loss(logits, other, region))

    def test_nowhere_is_zero_and_backward_works(self, shape):
        logits, labels = draw(shape)
        value = part_loss(logits, labels, torch.zeros(1, 1, *shape, dtype=torch.bool))
        value.backward()
        assert value == 0 and not logits.grad.any()


@pytest.mark.parametrize(
    ("progress", "expected"), [(-1, math.exp(-5)), (0, math.exp(-5)), (0.5, math.exp(-1.25)), (1, 1), (7, 1)]
)
def test_sigmoid_rampup_by_hand(progress, expected):
    assert sigmoid_rampup(progress) == pytest.approx(expected)
