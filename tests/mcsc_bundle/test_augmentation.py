"""Augmentation: geometry you can check by hand, labels that stay labels, one seed decides."""

import math

import numpy as np
import pytest
import torch
from monai.transforms import RandSimulateLowResolution

from mcsc_bundle.augmentation import PatchAugmentation
from mcsc_bundle.grid_sampling import sampled, sampled_labels, sampling_grid
from mcsc_bundle.intensity import Blur, flat_axis, intensity_augmentation, outside_of_body
from mcsc_bundle.plan import ChannelNormalization
from tests.plans import KINDS, make_plan

THICK = {"patch_size": (32, 32, 8), "spacing_mm": (1.0, 1.0, 5.0)}
NNUNET = {  # share of one-channel patches that each transform of nnU-Net 2.8.1's own chain changes
    "RandGaussianNoise": 0.1,
    "Blur": 0.1,
    "RandScaleIntensity": 0.15,
    "RandScaleIntensityFixedMean": 0.15,
    "RandSimulateLowResolution": 0.125,
    "OneOf": 0.1,  # gamma of the inverted image, and of the image
    "OneOf again": 0.3,
}


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


def test_each_transform_is_as_frequent_as_nnunets():
    image, shares = torch.rand(1, 6, 6, 6), {}
    for step in intensity_augmentation(make_plan("3d")).transforms:
        step.set_random_state(1)
        changed = sum(not torch.equal(step({"image": image})["image"], image) for _ in range(1000))
        name = type(step.transform).__name__
        shares[f"{name} again" if name in shares else name] = changed / 1000
    assert shares == pytest.approx(NNUNET, abs=0.03)


def test_noise_is_no_stronger_than_nnunets():
    noise, *_ = intensity_augmentation(make_plan("3d")).transforms
    noise.set_random_state(0)
    image = torch.zeros(1, 12, 12, 12)
    strengths = [float(noise({"image": image})["image"].std()) for _ in range(600)]
    drawn = [strength for strength in strengths if strength]
    assert max(drawn) == pytest.approx(0.1, rel=0.1) and np.mean(drawn) == pytest.approx(0.05, rel=0.2)


def test_gamma_and_scaling_are_drawn_as_nnunet_draws_them():
    """Gamma is below 1 half of the time (``BGContrast((0.7, 1.5))``), the scale uniform in 0.7 to 1.4: below 1 in 3 of 7."""
    for step in intensity_augmentation(make_plan("3d")).transforms[-2:]:
        assert [gamma.gamma for gamma in step.transform.transforms] == [(0.7, 1.0), (1.0, 1.5)]
        assert list(step.transform.weights) == [0.5, 0.5]
    augment = PatchAugmentation(make_plan("3d"), spatial_probability=1.0)
    augment.set_random_state(0)
    factors = []
    for _ in range(2000):
        augment.draw()
        factors.append(np.linalg.det(augment.matrix) ** (1 / 3))
    assert 0.7 <= min(factors) < 0.72 and 1.38 < max(factors) <= 1.4
    assert np.mean(np.array(factors) < 1) == pytest.approx(3 / 7, abs=0.03)


def test_channels_draw_their_own():
    plan = make_plan("3d", channel_names=("CT", "PET"))
    scale = intensity_augmentation(plan).transforms[2]
    scale.set_random_state(0)
    image = torch.ones(2, 2, 2, 2)
    factors = {tuple(scale({"image": image})["image"][:, 0, 0, 0].tolist()) for _ in range(100)} - {(1.0, 1.0)}
    assert factors and all(first != second for first, second in factors)


@pytest.mark.parametrize(
    ("patch", "spacing", "flat"),
    [
        ((32, 32, 8), (1.0, 1.0, 5.0), 2),
        ((8, 32, 32), (4.0, 1.0, 1.0), 0),
        ((32, 32, 12), (1.0, 1.0, 5.0), None),  # 32 / 12 is not above 3
        ((16, 16, 64), (1.0, 1.0, 1.0), None),  # elongated, but no slices: nnU-Net's first axis is this last one
        ((16, 64, 64), (1.0, 1.0, 5.0), None),  # the short axis is not the coarse one
    ],
)
def test_flat_axis_is_that_of_thick_slices_alone(patch, spacing, flat):
    assert flat_axis(make_plan("3d", patch_size=patch, spacing_mm=spacing)) == flat


def test_of_equal_spacings_that_along_the_body_counts_first():
    """In nnU-Net's plans it is the first axis, and a patch of 24 x 24 x 256 has few slices along it."""
    size = {"patch_size": (24, 24, 256), "spacing_mm": (1.0, 1.0, 1.0)}
    assert flat_axis(make_plan("3d", **size)) is None
    assert flat_axis(make_plan("3d", **size, orientation="SAR")) == 0


def test_an_elongated_patch_is_not_turned_over():
    augment = PatchAugmentation(make_plan("3d", patch_size=(16, 16, 64), spacing_mm=(1.0, 1.0, 1.0)), 1.0)
    augment.set_random_state(0)
    for _ in range(50):
        region = augment.draw()
        assert np.abs(augment.matrix[2, 2]) > 0.7 * math.cos(math.radians(30)) ** 2 and max(region[:2]) < 90


def test_thick_slices_do_not_mix():
    """Slices of 0 and 1 in turn stay of one value each, or change as a whole; no more slices are read than are used."""
    augment = PatchAugmentation(make_plan("3d", **THICK), spatial_probability=1.0)
    augment.set_random_state(0)
    for _ in range(20):
        region = augment.draw()
        assert region[2] == 8
        image = (torch.arange(8) % 2).float().expand(1, *region[:2], 8)
        grid = sampling_grid(augment.matrix, augment.patch_size, image.shape[1:])
        centre = sampled(image, grid, "bilinear")[0, 16, 16]
        assert torch.allclose(centre, image[0, 0, 0], atol=1e-4)
    coarse = augment.after.transforms[0].transforms[4]
    coarse.set_random_state(0)
    image = (torch.arange(8) % 2).float().expand(1, 32, 32, 8)
    for _ in range(50):
        assert torch.allclose(coarse({"image": image})["image"], image, atol=1e-5)


def test_what_lies_outside_a_masked_image_stays_0():
    mask = (ChannelNormalization("MRI", "zscore", inside_mask=True),)
    image = torch.zeros(1, 24, 24, 24)
    image[0, 8:16, 8:16, 8:16] = torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(0))
    outside = outside_of_body(image)[0]
    assert outside[0, 0, 0] and not outside[8:16, 8:16, 8:16].any()

    def left(plan):
        augment = PatchAugmentation(plan, spatial_probability=0)
        augment.set_random_state(0)
        size = augment.draw()
        patches = [augment({"image": image[:, : size[0], : size[1], : size[2]]})["image"] for _ in range(40)]
        return [patch for patch in patches if not (patch[:, 0] == 0).all()]

    size = {"patch_size": (24, 24, 24), "mirror_axes": ()}
    assert left(make_plan("3d", **size)) and not left(make_plan("3d", **size, normalization=mask))


def test_outside_is_what_a_cube_of_neighbours_without_signal_covers():
    """Against 27 neighbours at once."""
    image = (torch.rand(1, 9, 10, 11, generator=torch.Generator().manual_seed(0)) > 0.97).float()
    signal = torch.nn.functional.max_pool3d(image, 3, 1, 1)
    assert torch.equal(outside_of_body(image), torch.nn.functional.max_pool3d(1 - signal, 3, 1, 1) > 0)


def test_changes_leave_what_they_were_given_alone():
    """The outside is found in it afterwards, where anything changed."""
    given = torch.rand(2, 8, 9, 10, generator=torch.Generator().manual_seed(0))
    kept = given.clone()
    change = intensity_augmentation(make_plan("3d", channel_names=("CT", "PET")))
    change.set_random_state(0)
    same = [change({"image": given})["image"] is given for _ in range(60)]
    assert torch.equal(given, kept) and 0 < sum(same) < 60


def test_one_seed_decides_with_a_mask_too():
    plan = make_plan("3d", normalization=(ChannelNormalization("MRI", "zscore", inside_mask=True),))
    augment = PatchAugmentation(plan, spatial_probability=0)

    def run():
        augment.set_random_state(5)
        size = augment.draw()
        return [augment({"image": torch.ones(1, *size)})["image"] for _ in range(10)]

    assert all(torch.equal(first, second) for first, second in zip(run(), run(), strict=True))


@pytest.mark.parametrize("labels", [False, True])
def test_slices_that_stay_slices_are_resampled_as_the_volume_would_be(labels):
    plan = make_plan("3d", **THICK)
    augment = PatchAugmentation(plan, spatial_probability=1.0)
    assert augment.flat is not None
    augment.set_random_state(1)
    size = augment.draw()
    region, sample = (torch.randint(0, 3, (2, *size)), sampled_labels) if labels else (torch.rand(2, *size), sampled)
    ours = augment._resampled(region, augment._grid(size), sample)
    whole = sampling_grid(augment.matrix, plan.patch_size, size)
    assert torch.allclose(ours, sample(region, whole), atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 9), (3, 12, 9)])
def test_a_blur_darkens_no_border(shape):
    sigmas = {f"sigma_{axis}": (0.5, 1.0) for axis in "xyz"[: len(shape)]}
    assert torch.allclose(
        Blur(prob=1, **sigmas)(torch.full((1, *shape), -1.0)), torch.full((1, *shape), -1.0), atol=1e-3
    )


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_low_resolution_moves_no_structure(kind):
    """A slope stays where it is: its label does."""
    steps = intensity_augmentation(make_plan(kind)).transforms
    (coarse,) = (step for step in steps if isinstance(step.transform, RandSimulateLowResolution))
    coarse.probability = coarse.channel_probability = 1.0
    coarse.set_random_state(0)
    dims = make_plan(kind).spatial_dims
    slope = torch.arange(24.0).view(-1, *[1] * (dims - 1)).expand(*[24] * dims)[None]
    moved = [float((coarse({"image": slope})["image"] - slope)[0, 6:-6].mean()) for _ in range(40)]
    assert abs(np.mean(moved)) < 0.1 and max(map(abs, moved)) <= 0.5
