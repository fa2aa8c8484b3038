"""Augmentation: geometry you can check by hand, labels that stay labels, one seed decides."""

import math

import numpy as np
import pytest
import torch

from mcsc_bundle.augmentation import PatchAugmentation, _sampled, _sampling_grid, rotation_matrix
from tests.plans import KINDS, make_plan


def test_identity_samples_the_centre_of_the_region():
    region = torch.arange(64.0).view(1, 8, 8)
    grid = _sampling_grid(np.eye(2), (4, 4), region.shape[1:])
    assert torch.allclose(_sampled(region, grid, "bilinear"), region[:, 2:6, 2:6], atol=1e-4)


def test_quarter_turn_equals_rot90():
    region = torch.arange(30.0).view(1, 5, 6)
    grid = _sampling_grid(rotation_matrix([math.pi / 2]), (6, 5), region.shape[1:])
    turned = _sampled(region, grid, "bilinear")
    assert any(torch.allclose(turned, torch.rot90(region, k, (1, 2)), atol=1e-4) for k in (1, 3))


def test_half_size_step_enlarges():
    region = torch.zeros(1, 8, 8)
    region[0, 3:5, 3:5] = 1
    grown = _sampled(region, _sampling_grid(0.5 * np.eye(2), (8, 8), region.shape[1:]), "nearest")
    assert grown.sum() == 16


def test_rotation_about_an_axis_leaves_that_axis_alone():
    matrix = rotation_matrix([0.7, 0.0, 0.0])
    assert np.allclose(matrix @ [1, 0, 0], [1, 0, 0]) and np.allclose(matrix @ matrix.T, np.eye(3))


@pytest.mark.parametrize("kind", KINDS)
def test_output_is_the_patch_and_labels_stay_labels(kind):
    plan = make_plan(kind)
    augment = PatchAugmentation(plan, spatial_probability=1.0)
    for seed in range(6):
        augment.set_random_state(seed)
        region = augment.draw()
        out = augment({"image": torch.rand(1, *region), "label": torch.randint(0, 3, (1, *region)).to(torch.uint8)})
        assert out["image"].shape == (1, *plan.patch_size) == out["label"].shape
        assert torch.isfinite(out["image"]).all() and set(out["label"].unique().tolist()) <= {0, 1, 2}


def test_one_seed_decides():
    plan = make_plan("3d")
    augment = PatchAugmentation(plan, spatial_probability=0.5)

    def run(seed):
        augment.set_random_state(seed)
        return augment({"image": torch.linspace(0, 1, math.prod(region := augment.draw())).view(1, *region)})["image"]

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


def test_region_covers_the_rotated_patch():
    augment = PatchAugmentation(make_plan("slicewise"), spatial_probability=1.0)
    for seed in range(20):
        augment.set_random_state(seed)
        region = augment.draw()
        reach = np.abs(augment.matrix) @ np.asarray(augment.patch_size)
        assert (np.asarray(region) >= reach - 1).all()
