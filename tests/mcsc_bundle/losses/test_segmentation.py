"""Supervised losses on a few voxels, worked out by hand."""

import math

import pytest
import torch

from mcsc_bundle.labels import IGNORED
from mcsc_bundle.losses.segmentation import nnunet_loss, paper_loss

HALF = torch.zeros(2, 2, 1, 2)  # two patches of two voxels, both classes at probability 1/2
LABEL = torch.tensor([0, 1, 0, 0]).view(2, 1, 1, 2)


def test_paper_loss_by_hand():
    background = 1 - 2 * 1.5 / (4 * 0.25 + 3)
    foreground = 1 - 2 * 0.5 / (4 * 0.25 + 1)
    expected = 0.5 * (math.log(2) + (background + foreground) / 2)
    assert float(paper_loss()(HALF, LABEL)) == pytest.approx(expected, abs=1e-5)


def test_nnunet_loss_over_the_batch_by_hand():
    assert float(nnunet_loss(True)(HALF, LABEL)) == pytest.approx(math.log(2) + 1 - 2 * 0.5 / (2 + 1), abs=1e-5)


def test_nnunet_loss_per_patch_by_hand():
    first, second = 1 - 2 * 0.5 / (1 + 1), 1.0
    assert float(nnunet_loss(False)(HALF, LABEL)) == pytest.approx(math.log(2) + (first + second) / 2, abs=1e-4)


@pytest.mark.parametrize("loss", [paper_loss(), nnunet_loss(True), nnunet_loss(False)])
@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 2)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
class TestEveryForm:
    def test_a_perfect_prediction_costs_nothing(self, loss, shape, dtype):
        label = (torch.arange(2 * math.prod(shape)) % 3).view(2, 1, *shape).to(dtype)
        logits = 100.0 * torch.nn.functional.one_hot(label[:, 0].long(), 3).movedim(-1, 1)
        assert float(loss(logits, label)) == pytest.approx(0.0, abs=1e-5)

    def test_absent_classes_leave_gradients_finite(self, loss, shape, dtype):
        logits = torch.randn(2, 3, *shape, requires_grad=True)
        loss(logits, torch.zeros(2, 1, *shape, dtype=dtype)).backward()
        assert torch.isfinite(logits.grad).all() and logits.grad.any()


@pytest.mark.parametrize("loss", [nnunet_loss(), paper_loss()])
def test_autocast_on_a_cpu_costs_no_precision(loss):
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 40, 40).bfloat16(), torch.randint(0, 3, (2, 1, 40, 40), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(logits, label)
    assert torch.equal(mixed, loss(logits.float(), label))


def test_ignored_voxels_by_hand():
    """Three of four voxels count: 0, 1, 0."""
    label = torch.tensor([0, 1, 0, IGNORED]).view(2, 1, 1, 2)
    assert float(nnunet_loss(True)(HALF, label)) == pytest.approx(math.log(2) + 1 - 2 * 0.5 / (1.5 + 1), abs=1e-5)


@pytest.mark.parametrize("loss", [paper_loss(), nnunet_loss(True), nnunet_loss(False)])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 2)])
class TestIgnored:
    def test_the_loss_is_that_of_the_annotated_part_alone(self, loss, shape):
        """The judge cuts the ignored half away and asks MONAI."""
        torch.manual_seed(0)
        logits, label = torch.randn(2, 3, *shape), torch.randint(0, 3, (2, 1, *shape))
        label[:, :, 2:] = IGNORED
        expected = loss.complete(logits[:, :, :2], label[:, :, :2])
        assert float(loss(logits, label)) == pytest.approx(float(expected), abs=1e-6)
        signed = label[:, :, :2]
        assert float(loss(logits[:, :, :2], signed)) == pytest.approx(float(expected), abs=1e-6)

    def test_the_gradient_is_zero_there_and_not_elsewhere(self, loss, shape):
        logits = torch.randn(2, 3, *shape, requires_grad=True)
        label = torch.randint(0, 3, (2, 1, *shape))
        label[:, :, 2:] = IGNORED
        loss(logits, label).backward()
        assert logits.grad[:, :, :2].all() and not logits.grad[:, :, 2:].any()

    def test_without_an_annotated_voxel_it_is_zero(self, loss, shape):
        logits = torch.randn(2, 3, *shape, requires_grad=True)
        value = loss(logits, torch.full((2, 1, *shape), IGNORED))
        value.backward()
        assert float(value.detach()) == 0 and not logits.grad.any()
