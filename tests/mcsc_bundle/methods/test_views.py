"""Strong views keep shape and range of what they are made of."""

import pytest
import torch

from mcsc_bundle.methods import MCSC
from mcsc_bundle.methods.views import strong_intensity
from mcsc_bundle.plan import ChannelNormalization
from tests.mcsc_bundle.methods.cases import build


@pytest.mark.parametrize("shape", [(8, 8), (2, 8), (8, 8, 8), (8, 8, 2), (8, 1, 8), (2, 2, 2)])
def test_images_of_any_size_have_a_strong_view(shape):
    """A volume of two slices is a volume; PyTorch pools no 3-D axis that is shorter than its kernel."""
    torch.manual_seed(0)
    view = strong_intensity(torch.randn(6, 2, *shape))
    assert view.shape == (6, 2, *shape) and torch.isfinite(view).all()


def test_a_strong_view_changes_images_but_no_constant_one_gets_an_edge():
    torch.manual_seed(0)
    image = torch.randn(20, 1, 6, 6, 6)
    changed = (strong_intensity(image) - image).flatten(1).abs().amax(1) > 0
    assert 0.8 < changed.float().mean() <= 1
    flat = strong_intensity(torch.full((20, 1, 6, 6, 6), 2.0))
    assert torch.allclose(flat, flat[:, :, :1, :1, :1].expand_as(flat), atol=1e-5)  # blur counts no padding


def test_a_single_unlabelled_patch_is_mixed_with_a_labelled_one_in_every_step():
    """The usual GPU plan in 3-D has 1 + 1 patches; another unlabelled one to take a box from is not there."""
    plan, method = build("2d", MCSC)
    method.disturbed = lambda image, change: image
    shape = (1, plan.in_channels, *plan.patch_size)
    labeled, target, weak = torch.ones(shape), torch.ones(shape)[:, :1].long(), torch.zeros(shape)
    for _ in range(8):
        mixed, _ = method.strong_view(labeled, target, weak)
        assert 0 < mixed[1:].mean() < 1


def test_each_channel_has_a_range_of_its_own():
    """A channel with large values (PET beside CT) decides nothing about its neighbour."""
    image = torch.randn(1, 2, 8, 8)
    views = []
    for factor in (1.0, 50.0):
        torch.manual_seed(0)
        views.append(strong_intensity(image * torch.tensor([1.0, factor]).view(1, 2, 1, 1))[:, 0])
    assert torch.equal(*views)


def test_brightness_follows_the_scale_of_a_channel_that_is_not_normalised():
    """Raw values, or [0, 1] of a picture: ten thousand times the values, ten thousand times the change."""
    image = torch.rand(1, 3, 8, 8)
    views = []
    for factor in (1.0, 1e4):
        torch.manual_seed(0)
        views.append(strong_intensity(image * factor, unscaled=(0, 1, 2)) / factor)
    assert torch.allclose(*views, atol=1e-4)
    assert not torch.equal(views[0], image)


def test_the_method_knows_which_channels_are_not_normalised():
    names, schemes = ("R", "T1"), ("rgb_to_0_1", "zscore")
    both = tuple(ChannelNormalization(name, scheme) for name, scheme in zip(names, schemes, strict=True))
    _, method = build("2d", MCSC, channel_names=names, normalization=both)
    assert method.unscaled_channels == (0,)


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_what_lies_outside_a_masked_channel_stays_0(kind):
    """Of two channels one was normalised inside the body; the other's air has a brightness that may change."""
    scans = tuple(ChannelNormalization(name, "zscore", inside_mask=name == "T1") for name in ("CT", "T1"))
    plan, method = build(kind, MCSC, channel_names=("CT", "T1"), normalization=scans)
    image = torch.zeros(6, 2, *plan.patch_size)
    image[(..., *[slice(2, -2)] * plan.spatial_dims)] = 1 + torch.rand(6, 2, *(size - 4 for size in plan.patch_size))
    torch.manual_seed(0)
    view = method.disturbed(image, strong_intensity)
    air, body = (
        view[(slice(None), slice(None), *place)] for place in ([0] * plan.spatial_dims, [4] * plan.spatial_dims)
    )
    assert (air[:, 0] != 0).any() and (air[:, 1] == 0).all()
    assert (body[:, 1] != 0).all() and (body != image[(slice(None), slice(None), *[4] * plan.spatial_dims)]).any()


def test_thick_slices_are_not_blurred_into_each_other():
    """Slices of 0 and 1 in turn stay apart. The method knows the axis from its plan."""
    _, method = build("3d", MCSC, patch_size=(32, 32, 8), spacing_mm=(1.0, 1.0, 5.0))
    assert method.flat_axis == 2
    image = (torch.arange(8.0) % 2).expand(40, 1, 16, 16, 8)
    torch.manual_seed(0)
    for axis, kept in ((2, True), (None, False)):
        view = strong_intensity(image, axis)
        contrast = (view[..., 3] - view[..., 4]).flatten(1).mean(1)  # 1 before, times 0.5 to 1.5 after
        assert bool((contrast > 0.49).all()) is kept
