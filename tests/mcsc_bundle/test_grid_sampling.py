"""Resampling at turned and scaled places: geometry you can check by hand, labels by a slow reference."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mcsc_bundle.grid_sampling import rotation_matrix, sampled, sampled_labels, sampling_grid


def test_identity_samples_the_centre_of_the_region():
    region = torch.arange(64.0).view(1, 8, 8)
    grid = sampling_grid(np.eye(2), (4, 4), region.shape[1:])
    assert torch.allclose(sampled(region, grid, "bilinear"), region[:, 2:6, 2:6], atol=1e-4)


def test_quarter_turn_equals_rot90():
    region = torch.arange(30.0).view(1, 5, 6)
    grid = sampling_grid(rotation_matrix([math.pi / 2]), (6, 5), region.shape[1:])
    turned = sampled(region, grid, "bilinear")
    assert any(torch.allclose(turned, torch.rot90(region, k, (1, 2)), atol=1e-4) for k in (1, 3))


def test_half_size_step_enlarges():
    region = torch.zeros(1, 8, 8)
    region[0, 3:5, 3:5] = 1
    grown = sampled(region, sampling_grid(0.5 * np.eye(2), (8, 8), region.shape[1:]), "nearest")
    assert grown.sum() == 16


def test_rotation_about_an_axis_leaves_that_axis_alone():
    matrix = rotation_matrix([0.7, 0.0, 0.0])
    assert np.allclose(matrix @ [1, 0, 0], [1, 0, 0]) and np.allclose(matrix @ matrix.T, np.eye(3))


def one_hot_reference(labels, grid):
    """Every class interpolated everywhere, the largest share wins; what lies outside is background."""
    values = labels.unique().tolist()
    shares = {
        value: F.grid_sample((labels == value)[None].double(), grid.double(), align_corners=False)[0]
        for value in values
    }
    shares[0] = 1 - sum(share for value, share in shares.items() if value != 0)
    order = sorted(shares)
    return torch.tensor(order)[torch.stack([shares[value] for value in order]).argmax(0)].to(labels.dtype)


@pytest.mark.parametrize("size", [(23, 30), (9, 14, 17)])
@pytest.mark.parametrize("values", [[0, 1], [0, 1, 2, 5], [-1, 0, 3], [1, 2]])
def test_the_largest_share_wins_as_if_every_class_were_interpolated(size, values):
    random = np.random.default_rng(len(size) + len(values))
    smooth = F.interpolate(torch.tensor(random.normal(size=(1, 2, *(n // 3 for n in size)))).float(), size)[0]
    labels = torch.tensor(values)[((smooth + 3) / 6 * len(values)).clamp(0, len(values) - 1).long()].to(torch.int8)
    matrix = rotation_matrix([0.4] if len(size) == 2 else [0.4, -0.2, 0.3]) * 0.8
    grid = sampling_grid(matrix, tuple(n + 4 for n in size), size)  # past the region's border, too
    ours, theirs = sampled_labels(labels, grid), one_hot_reference(labels, grid)
    assert ours.dtype == labels.dtype and set(ours.unique().tolist()) <= {*values, 0}
    assert (ours != theirs).float().mean() < 1e-3  # float32 and float64 may part where two shares are equal
    assert (ours != sampled(labels, grid, "nearest")).float().mean() > 0.002  # and it is another resampling


def test_an_oblique_border_keeps_its_place():
    """A disc that is turned by itself stays the disc; the nearest voxel frays its edge."""
    axis = torch.arange(41) - 20
    disc = ((axis[:, None] ** 2 + axis**2) < 15**2)[None].to(torch.uint8)
    grid = sampling_grid(rotation_matrix([0.6]), (41, 41), (41, 41))
    wrong = {
        name: int((turned != disc).sum())
        for name, turned in {"shares": sampled_labels(disc, grid), "nearest": sampled(disc, grid, "nearest")}.items()
    }
    assert wrong["shares"] < wrong["nearest"]


@pytest.mark.parametrize(("column", "label"), [(1.5, 0), (3.5, 1), (-0.5, 0), (4.0, 1)])
def test_a_tie_goes_to_the_lower_label(column, label):
    """Between 1 and 0; between 2 and 1; between 1 and the outside; on a voxel itself."""
    row = torch.tensor([1, 1, 0, 2, 1, 1, 1, 1]).expand(1, 3, 8)
    place = torch.tensor([(column + 0.5) / 4 - 1, 0.0]).view(1, 1, 1, 2)
    assert sampled_labels(row, place).item() == label
