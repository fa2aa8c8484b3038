from __future__ import annotations

import torch

from mcsc_bundle.normalization import body_mask, normalize
from mcsc_bundle.plan import ChannelNormalization as Scheme

IMAGE = torch.tensor([[[0.0, 2.0, 4.0]]])


def normalized(scheme, image=IMAGE, **fields):
    return normalize(image, [Scheme("x", scheme, **fields)])[0, 0]


def test_schemes_by_hand():
    torch.testing.assert_close(normalized("rescale_to_0_1"), torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(normalized("rgb_to_0_1"), torch.tensor([0.0, 2 / 255, 4 / 255]))
    torch.testing.assert_close(normalized("none"), IMAGE[0, 0])
    torch.testing.assert_close(normalized("ct", lower=1, upper=3, mean=1, std=2), torch.tensor([0.0, 0.5, 1.0]))


def test_zscore_has_mean_0_and_deviation_1():
    image = torch.rand(1, 8, 9, generator=torch.Generator().manual_seed(0)) * 50 + 7
    result = normalize(image, [Scheme("x", "zscore")])
    assert abs(float(result.mean())) < 1e-5 and abs(float(result.std(correction=0)) - 1) < 1e-5


def test_zscore_inside_the_mask_leaves_outside_at_0():
    torch.testing.assert_close(normalized("zscore", inside_mask=True), torch.tensor([0.0, -1.0, 1.0]))


def test_a_constant_channel_becomes_0():
    assert not normalized("zscore", torch.full((1, 1, 4), 3.0)).any()


def test_the_given_image_is_left_alone():
    image = IMAGE.clone()
    normalize(image, [Scheme("x", "zscore")])
    assert torch.equal(image, IMAGE)


def test_holes_belong_to_the_body():
    image = torch.ones(1, 5, 5)
    image[0, 2, 2] = 0  # enclosed
    image[0, 0, 0] = 0  # open to the outside
    mask = body_mask(image)
    assert mask[2, 2] and not mask[0, 0] and mask.sum() == 24
