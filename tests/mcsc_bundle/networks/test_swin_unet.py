"""The Swin-Unet: shapes, any input size, both presets, and ImageNet weights."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from mcsc_bundle.networks import SwinUNet
from mcsc_bundle.plan import Plan
from tests.mcsc_bundle.networks.test_unet import image_for, reloaded
from tests.plans import KINDS, make_plan

PAPER_MERGES = ((1, 1), (2, 2), (2, 2), (2, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_maps_have_the_stated_width_and_stride(kind: str) -> None:
    plan = make_plan(kind)
    network = SwinUNet.from_plan(plan)
    maps = network.features(image_for(kind))
    full_size = (1,) * plan.spatial_dims
    assert network.feature_strides == (*reversed(plan.transformer.cumulative_strides), full_size)
    for feature_map, channels, stride in zip(maps, network.feature_channels, network.feature_strides, strict=True):
        cells = tuple(size // step for size, step in zip(plan.patch_size, stride, strict=True))
        assert feature_map.shape == (2, channels, *cells)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_the_head_on_the_last_map(kind: str) -> None:
    network, x = SwinUNet.from_plan(make_plan(kind)).eval(), image_for(kind)
    logits = network(x)
    assert logits.shape == (2, 3, *x.shape[2:])
    torch.testing.assert_close(network.head(network.features(x)[-1]), logits)


def test_any_size_works_as_if_padded_with_zeros() -> None:
    network, x = SwinUNet.from_plan(make_plan("3d")).eval(), torch.randn(1, 1, 5, 9, 14)
    larger = F.pad(x, (0, 2, 0, 3, 0, 3))
    padded, maps = network.features(larger), network.features(x)
    assert [tuple(m.shape[2:]) for m in maps] == [(2, 3, 4), (3, 5, 7), (5, 9, 14)]
    of_tokens = (padded[-1] - network.stem(larger))[:, :, :5, :9, :14]
    torch.testing.assert_close(maps[-1] - network.stem(x), of_tokens)


@pytest.mark.parametrize(("preset", "std"), [("plan", 16**-0.5), ("paper", 0.02)])
def test_linear_layers_start_loud_enough_to_be_heard(preset: str, std: float) -> None:
    """Of 16 channels 0.02 leaves 0.6 % of the variance. (ImageNet weights replace the paper's.)"""
    network = SwinUNet(2, 1, 4, (4, 4), PAPER_MERGES, 16, (2, 2, 2, 2), (1, 2, 4, 8), (7, 7), preset)
    layer = network.encoder[0].blocks[0].mlp[0]
    assert layer.in_features == 16
    assert layer.weight.std().item() == pytest.approx(std, rel=0.1)


def test_edges_are_seen_between_tokens() -> None:
    """One convolution of the image joins the full-size map."""
    network = SwinUNet(2, 1, 2, (4, 4), PAPER_MERGES[:2], 8, (2, 2), (1, 2), (4, 4), joins_image=True).eval()
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        network.up.expand.weight.zero_()  # silence what comes from tokens
        torch.testing.assert_close(network.features(x)[-1], network.stem(x))


def test_plans_of_older_versions_keep_their_network(tmp_path) -> None:
    """Weights, checkpoints and folds that were trained before the image joined go on."""
    plan = make_plan("slicewise")
    plan.save(tmp_path / "plan.json")
    entries = json.loads((tmp_path / "plan.json").read_text())
    assert entries["transformer"].pop("joins_image")
    (tmp_path / "plan.json").write_text(json.dumps(entries))
    older = Plan.load(tmp_path / "plan.json")
    missing = SwinUNet.from_plan(plan).state_dict().keys() - SwinUNet.from_plan(older).state_dict().keys()
    assert {name.split(".")[0] for name in missing} == {"stem"}


def test_paper_preset_has_the_published_size_and_maps() -> None:
    """Official Swin-Unet tiny: 27,168,036 parameters before its classifier; here with a 3 x 3 head to 4 classes."""
    network = SwinUNet(2, 1, 4, (4, 4), PAPER_MERGES, 96, (2, 2, 2, 2), (3, 6, 12, 24), (7, 7), "paper").eval()
    head = 96 * 4 * 9 + 4
    assert sum(parameter.numel() for parameter in network.parameters()) == 27_168_036 + head
    with torch.no_grad():
        maps = network.features(torch.zeros(1, 1, 224, 224))
    sizes = [(768, 7), (384, 14), (192, 28), (96, 56), (96, 224)]
    assert [tuple(m.shape[1:]) for m in maps] == [(channels, size, size) for channels, size in sizes]


def test_paper_preset_sees_grey_images_in_three_channels() -> None:
    network = SwinUNet(2, 1, 2, (4, 4), PAPER_MERGES[:2], 8, (2, 2), (1, 2), (4, 4), "paper").eval()
    assert network.patch_embed.proj.in_channels == 3
    x = torch.randn(1, 1, 16, 16)
    network.repeat_grey = False
    three = network(x.expand(-1, 3, -1, -1))
    network.repeat_grey = True
    torch.testing.assert_close(network(x), three)


def test_paper_preset_drops_paths_up_to_a_fifth() -> None:
    network = SwinUNet(2, 1, 2, (4, 4), PAPER_MERGES[:2], 8, (2, 2), (1, 2), (4, 4), "paper")
    rates = [[block.drop_path for block in stage.blocks] for stage in (*network.encoder, *network.decoder)]
    assert rates[0] == rates[2] == pytest.approx([0.0, 0.2 / 3])
    assert rates[1] == pytest.approx([0.4 / 3, 0.2])


def test_unknown_preset_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="'plan' or 'paper', received 'tiny'"):
        SwinUNet(2, 1, 2, (4, 4), ((1, 1),), 8, (2,), (1,), (4, 4), "tiny")


@pytest.mark.parametrize("kind", KINDS)
def test_learning_signal_reaches_every_parameter(kind: str) -> None:
    torch.manual_seed(0)
    network = SwinUNet.from_plan(make_plan(kind))
    (network(image_for(kind)) ** 2).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_same_seed_same_weights() -> None:
    first, second = [], []
    for weights in (first, second):
        torch.manual_seed(3)
        weights.extend(SwinUNet.from_plan(make_plan("3d")).state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", ["2d", "anisotropic"])
def test_scripted_network_equals_eager(kind: str) -> None:
    network, x = SwinUNet.from_plan(make_plan(kind)).eval(), image_for(kind)
    scripted = reloaded(torch.jit.script(network))
    torch.testing.assert_close(scripted(x), network(x))
    torch.testing.assert_close(scripted.features(x), network.features(x))


def test_scripted_network_takes_other_sizes() -> None:
    network, x = SwinUNet.from_plan(make_plan("3d")).eval(), torch.randn(1, 1, 5, 9, 14)
    torch.testing.assert_close(torch.jit.script(network)(x), network(x))
