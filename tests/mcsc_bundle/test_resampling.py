from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.transform import resize

from mcsc_bundle.resampling import (
    coarse_axis,
    largest_resized,
    last_above_zero,
    resampled_shape,
    resize_classes,
    resize_image,
    resize_logits,
)

SHAPES = [((9, 14), (13, 6)), ((7, 12, 9), (11, 8, 9)), ((16, 16, 5), (9, 31, 10)), ((1, 8, 8), (3, 5, 5))]


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def by_skimage(image, shape, order):
    return resize(image.astype(np.float64), shape, order, mode="edge", anti_aliasing=False)


@pytest.mark.parametrize("old, new", SHAPES)
def test_cubic_equals_skimage(old, new):
    image = random(old)
    np.testing.assert_allclose(resize_image(torch.from_numpy(image), new), by_skimage(image, new, 3), atol=1e-5)


@pytest.mark.parametrize("old, new", SHAPES)
def test_linear_equals_skimage(old, new):
    image = random(old)
    np.testing.assert_allclose(resize_logits(torch.from_numpy(image), new), by_skimage(image, new, 1), atol=1e-5)


def slice_by_slice(image, shape, axis, order):
    """nnU-Net's separate z: each slice by skimage, then nearest neighbour along the axis."""
    plane = [size for index, size in enumerate(shape) if index != axis]
    stack = np.stack([by_skimage(part, plane, order) for part in np.moveaxis(image, axis, 0)])
    centres = (np.arange(shape[axis]) + 0.5) * image.shape[axis] / shape[axis] - 0.5
    grid = np.meshgrid(centres, *(np.arange(size) for size in plane), indexing="ij")
    return np.moveaxis(ndimage.map_coordinates(stack, grid, order=0, mode="nearest"), 0, axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_separate_z_equals_a_loop_over_slices(axis):
    old, new = [12, 12, 12], [17, 17, 17]
    old[axis], new[axis] = 4, 9
    image = random(tuple(old))
    for resize_map, order in ((resize_image, 3), (resize_logits, 1)):
        result = resize_map(torch.from_numpy(image), new, coarse=axis)
        np.testing.assert_allclose(result, slice_by_slice(image, new, axis, order), atol=1e-5)


@pytest.mark.parametrize("old, new", SHAPES[:3])
@pytest.mark.parametrize("coarse", [None, 0])
def test_two_classes_as_nnunet(old, new, coarse):
    label = ndimage.gaussian_filter(random(old, 1), 1.5) > 0.02
    share = slice_by_slice(label, new, 0, 1) if coarse == 0 else by_skimage(label, new, 1)
    clear = abs(share - 0.5) > 1e-5  # on a tie the last bit decides
    resized = resize_classes(torch.from_numpy(label.astype(np.uint8) * 3), new, coarse)
    np.testing.assert_array_equal(resized.numpy()[clear], (share * 3 > 1.5)[clear] * 3)


def test_classes_as_the_largest_share():
    label = np.random.default_rng(0).integers(0, 4, (3, 4, 5)).repeat(3, 0).repeat(3, 1).repeat(3, 2).astype(np.uint8)
    shares = np.stack([by_skimage(label == index, (13, 10, 19), 1) for index in range(4)])
    ordered = np.sort(shares, 0)
    clear = ordered[-1] - ordered[-2] > 1e-5
    resized = resize_classes(torch.from_numpy(label), (13, 10, 19)).numpy()
    np.testing.assert_array_equal(resized[clear], shares.argmax(0)[clear])


def test_a_map_without_foreground_stays_so():
    assert not resize_classes(torch.zeros(4, 4, dtype=torch.uint8), (7, 7)).any()


def test_same_shape_is_not_touched():
    image = torch.from_numpy(random((4, 5)))
    assert resize_image(image, (4, 5)) is image


@pytest.mark.parametrize("old, new", SHAPES)
def test_largest_resized_is_the_argmax_of_the_resized_maps(old, new):
    logits = torch.from_numpy(random((5, *old)))
    maps = torch.stack([resize_logits(channel, new) for channel in logits])
    assert torch.equal(largest_resized(logits, new).long(), maps.argmax(0))


@pytest.mark.parametrize("coarse", [None, 0, 2])
def test_slabs_change_nothing(monkeypatch, coarse):
    image, classes = torch.from_numpy(random((9, 12, 8))), torch.from_numpy(random((9, 12, 8))) > 0.5
    functions = (
        (resize_image, image),
        (resize_logits, image),
        (resize_classes, classes.byte()),
        (largest_resized, image[None]),
        (last_above_zero, image[None]),
    )
    whole = [function(given, (14, 7, 11), coarse) for function, given in functions]
    monkeypatch.setattr("mcsc_bundle.resampling.SLAB_VOXELS", 200)
    monkeypatch.setattr("mcsc_bundle.resampling.BAND_ROWS", 3)
    for (function, given), expected in zip(functions, whole, strict=True):
        torch.testing.assert_close(function(given, (14, 7, 11), coarse), expected, atol=1e-5, rtol=0)


def test_half_voxels_round_to_even_and_no_axis_vanishes():
    assert resampled_shape((5, 7, 1), (1.0, 1.0, 1.0), (2.0, None, 9.0)) == (2, 7, 1)


@pytest.mark.parametrize(
    "spacing, target, axis",
    [
        ((1, 1, 3), (1, 1, 1), None),  # not above 3
        ((1, 1, 3.1), (1, 1, 1), 2),
        ((1, 1, 1), (4, 1, 1), 0),  # the target counts if the image is not anisotropic
        ((1, 4, 4), (5, 1, 1), None),  # two coarse axes in the grid that is asked first
        ((1, 4), (1, 1), None),  # a picture has no slices
    ],
)
def test_coarse_axis(spacing, target, axis):
    assert coarse_axis(spacing, target, 3.0) == axis


@pytest.mark.parametrize(("shape", "coarse"), [((7, 9, 5), None), ((12, 5, 9), 2), ((6, 11), None)])
def test_regions_are_painted_one_over_the_other(shape, coarse):
    """The judge resamples each map whole and paints."""
    maps = torch.randn(3, *(6, 7, 4)[: len(shape)])
    painted = torch.zeros(shape, dtype=torch.uint8)
    for index, each in enumerate(maps, start=1):
        painted[resize_logits(each, shape, coarse) > 0] = index
    assert torch.equal(last_above_zero(maps, shape, coarse), painted) and len(painted.unique()) == 4
