"""The mask of a previous stage: as channels, spoiled as training spoils it, and out of reach of what disturbs intensities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.morphology import ball, closing, dilation, erosion, opening
from torch import nn

from mcsc_bundle import cascade
from mcsc_bundle.augmentation import PatchAugmentation
from mcsc_bundle.cascade import (
    MORPHOLOGY,
    SpoiledMask,
    closed,
    grown,
    input_transform,
    joined,
    one_hot,
    opened,
    shrunk,
)
from mcsc_bundle.methods import Supervised
from mcsc_bundle.methods.mean_teacher import noisy
from mcsc_bundle.methods.views import strong_intensity
from mcsc_bundle.networks import NetworkPair, SwinUNet, UNet
from mcsc_bundle.plan import PlanError
from preprocessing.planner import make_plan as plan_data
from tests.mcsc_bundle.methods.cases import METHODS, batch_of, build
from tests.plans import make_plan
from tests.preprocessing.fingerprints import make_fingerprint

PLAN = make_plan("3d", previous_stage="3d_lowres")


def test_each_foreground_label_has_a_channel():
    previous = torch.tensor([0, 1, 2, 1], dtype=torch.uint8).view(1, 2, 2, 1)
    expected = torch.tensor([[0.0, 1, 0, 1], [0, 0, 1, 0]]).view(2, 2, 2, 1)
    assert torch.equal(one_hot(previous, PLAN), expected)
    item = joined({"image": torch.full((1, 2, 2, 1), 7.0), "previous": previous, "label": previous}, PLAN)
    assert set(item) == {"image", "label"} and torch.equal(item["image"][1:], expected)
    assert PLAN.network_channels == 3 and PLAN.in_channels == 1 and make_plan("3d").network_channels == 1


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_growing_and_shrinking_are_those_of_a_ball(radius):
    rng = np.random.default_rng(radius)
    mask = np.zeros((24, 24, 24), bool)
    mask[8:16, 8:15, 7:16] = rng.random((8, 7, 9)) < 0.95  # away from the border, where conventions differ
    shape = ball(radius)
    for ours, theirs in ((grown, dilation), (shrunk, erosion), (closed, closing), (opened, opening)):
        np.testing.assert_array_equal(ours(mask, radius), theirs(mask, shape).astype(bool))


@pytest.mark.parametrize("operation", MORPHOLOGY)
@pytest.mark.parametrize("value", [False, True])
def test_nothing_and_everything_stay_as_they_are(operation, value):
    mask = np.full((4, 4, 4), value)
    np.testing.assert_array_equal(operation(mask, 2), mask)


def test_a_spoiled_mask_has_other_errors_and_the_same_labels():
    classes = torch.zeros(1, 20, 20, 20, dtype=torch.uint8)
    classes[0, 4:10, 4:10, 4:10], classes[0, 12:16, 4:10, 4:10] = 1, 2
    spoil, changed = SpoiledMask(PLAN), 0
    for seed in range(300):
        spoil.set_random_state(seed)
        after = spoil(classes)
        assert after.shape == classes.shape and set(after.unique().tolist()) <= {0, 1, 2}
        changed += not torch.equal(after, classes)
        spoil.set_random_state(seed)
        assert torch.equal(spoil(classes), after)
    # 1 - (1 - 0.4 * 0.75) (1 - 0.2 * 0.75) = 0.405 with two labels, each with 0.5; nnU-Net's own transforms: 0.395 of 1500
    assert changed / 300 == pytest.approx(0.405, abs=0.06)
    assert int(classes.sum()) == 216 + 2 * 144  # the mask that came in is as it was


def test_balls_have_every_radius_of_nnunets(monkeypatch):
    radii = []
    monkeypatch.setattr(cascade, "MORPHOLOGY", [lambda mask, radius: radii.append(radius) or mask])
    spoil, classes = SpoiledMask(make_plan("3d", labels={"background": 0, "organ": 1})), torch.ones(1, 2, 2, 2)
    spoil.set_random_state(0)
    for _ in range(2000):
        spoil(classes)
    assert 1 <= min(radii) < 1.2 and 7.8 < max(radii) <= 8 and np.mean(radii) == pytest.approx(4.5, abs=0.3)


def test_voxels_that_touch_at_a_corner_are_removed_together():
    spoil, classes = SpoiledMask(make_plan("3d", labels={"background": 0, "organ": 1})), np.zeros((8, 8, 8), np.uint8)
    classes[1, 1, 1] = classes[2, 2, 2] = 1
    spoil._remove(classes, 1)
    assert not classes.any()


def test_a_component_that_fills_much_of_the_patch_is_not_removed():
    spoil = SpoiledMask(make_plan("3d", labels={"background": 0, "organ": 1}))
    large, small = np.zeros((10, 10, 10), np.uint8), np.zeros((10, 10, 10), np.uint8)
    large[:2], small[:1] = 1, 1
    for classes, left in ((large, 200), (small, 0)):
        spoil._remove(classes, 1)
        assert classes.sum() == left


def test_the_mask_turns_with_the_image_and_is_never_interpolated(monkeypatch):
    """Image and mask hold the same blocks; after augmentation the mask's channel is where the image is bright."""
    plan = make_plan("3d", previous_stage="3d_lowres", mirror_axes=(0, 1, 2))
    augmentation = PatchAugmentation(plan, spatial_probability=1.0)
    monkeypatch.setattr(SpoiledMask, "__call__", lambda self, previous: previous)
    for seed in range(5):
        augmentation.set_random_state(seed)
        region = augmentation.draw()
        mask = torch.zeros(1, *region, dtype=torch.uint8)
        mask[:, region[0] // 2 :, region[1] // 3 :] = 1
        out = augmentation({"image": 100.0 * mask, "previous": mask})["image"]
        assert out.shape == (3, *plan.patch_size) and set(out[1:].unique().tolist()) <= {0.0, 1.0}
        bright = out[0] > out[0].mean()
        assert (bright == out[1].bool()).float().mean() > 0.9


def test_what_disturbs_intensities_leaves_masks_alone():
    method = Supervised(NetworkPair.from_plan(PLAN), nn.Identity())
    batch = torch.rand(2, 3, 8, 8, 8)
    for disturb in (strong_intensity, noisy, torch.neg):
        disturbed = method.disturbed(batch, disturb)
        assert torch.equal(disturbed[:, 1:], batch[:, 1:]) and not torch.equal(disturbed[:, :1], batch[:, :1])
    plain = Supervised(NetworkPair.from_plan(make_plan("3d")), nn.Identity())
    assert torch.equal(plain.disturbed(batch[:, :1], torch.neg), -batch[:, :1])


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_shows_its_networks_masks_as_they_are(kind, monkeypatch):
    """Of every input of every network, the mask channels hold 0 and 1 alone, in training and in the teachers' looks."""
    seen = []
    for network in (UNet, SwinUNet):
        plain = network.features
        monkeypatch.setattr(network, "features", lambda self, x, plain=plain: seen.append(x) or plain(self, x))
    plan, method = build("3d", kind, previous_stage="3d_lowres")
    batch = batch_of(plan)
    masks = (torch.rand(len(batch["image"]), 2, *plan.patch_size) < 0.5).float()
    batch["image"] = torch.cat((batch["image"], masks), 1)
    method(batch, 1.0)
    assert seen and all(x.shape[1] == 3 and set(x[:, 1:].unique().tolist()) <= {0.0, 1.0} for x in seen)


def test_a_cascade_is_3d_fullres_and_needs_a_3d_lowres():
    large = make_fingerprint((1, 1, 1), (64, 64, 64))
    first, second = (
        plan_data(large, 8, "cpu", configuration=name, step_seconds=0.3)
        for name in ("3d_fullres", "3d_cascade_fullres")
    )
    assert second.replace(configuration="3d_fullres", previous_stage="", why=first.why) == first
    assert second.why["spatial_dims"].startswith("3d_cascade_fullres was asked for")
    with pytest.raises(PlanError, match=r"3d_fullres, 2d or auto, received '3d_cascade_fullres'"):
        plan_data(make_fingerprint((1, 1, 1), (32, 32, 32)), 8, "cpu", configuration="3d_cascade_fullres")


def test_without_the_first_stage_there_is_no_input():
    with pytest.raises(ValueError, match="expected the networks of 3d_lowres"):
        input_transform(PLAN)


def test_regions_have_a_channel_for_each_value_of_the_label_files():
    """Two regions of three values: the whole is painted 1, its core 3, which are the first and the third channel."""
    plan = make_plan(
        "3d",
        previous_stage="3d_lowres",
        labels={"background": 0, "whole": 1, "core": 3},
        regions={"whole": (1, 2, 3), "core": (3,)},
    )
    assert (
        plan.label_values == (0, 1, 2, 3)
        and plan.network_channels == 4 == UNet.from_plan(plan).encoder[0][0].in_channels
    )
    stored = torch.tensor([0, 1, 3], dtype=torch.uint8).view(1, 3, 1, 1)  # positions in label_values
    assert one_hot(stored, plan).flatten(1).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
