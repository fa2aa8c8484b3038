"""The U-Net: shapes, both presets, and what a bundle asks of a network (TorchScript, ONNX)."""

from __future__ import annotations

import dataclasses
import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcsc_bundle.networks import UNet, unet_from_plan
from mcsc_bundle.networks.residual import ResidualBlock
from tests.plans import KINDS, make_plan

PAPER = {
    "features": (16, 32, 64, 128, 256),
    "kernel_sizes": ((3, 3),) * 5,
    "strides": ((1, 1), (2, 2), (2, 2), (2, 2), (2, 2)),
    "preset": "paper",
}


def image_for(kind: str, batch: int = 2) -> Tensor:
    plan = make_plan(kind)
    return torch.randn(batch, plan.in_channels, *plan.patch_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_maps_have_the_stated_width_and_stride(kind: str) -> None:
    plan = make_plan(kind)
    network = UNet.from_plan(plan)
    maps = network.features(image_for(kind))
    assert network.feature_strides == tuple(reversed(plan.cnn.cumulative_strides))
    for feature_map, channels, stride in zip(maps, network.feature_channels, network.feature_strides, strict=True):
        cells = tuple(size // step for size, step in zip(plan.patch_size, stride, strict=True))
        assert feature_map.shape == (2, channels, *cells)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_the_head_on_the_last_map(kind: str) -> None:
    network, x = UNet.from_plan(make_plan(kind)).eval(), image_for(kind)
    logits = network(x)
    assert logits.shape == (2, 3, *x.shape[2:])
    torch.testing.assert_close(network.head(network.features(x)[-1]), logits)


def test_two_stage_network_equals_the_formula() -> None:
    """One convolution per stage, written out: encode, downsample, upsample, concatenate, decode, classify."""
    network = UNet(2, 1, 2, features=(2, 3), kernel_sizes=((3, 3), (3, 1)), strides=((1, 1), (1, 2)), convs_per_stage=1)
    weights, x = network.state_dict(), torch.randn(1, 1, 4, 6)

    def layer(x: Tensor, name: str, **options: object) -> Tensor:
        x = F.conv2d(x, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"], **options)
        x = F.instance_norm(x, weight=weights[f"{name}.1.weight"], bias=weights[f"{name}.1.bias"])
        return F.leaky_relu(x, 0.01)

    full = layer(x, "encoder.0", padding=1)
    bottleneck = layer(full, "encoder.1", stride=(1, 2), padding=(1, 0))
    up = F.conv_transpose2d(bottleneck, weights["decoder.0.up.weight"], weights["decoder.0.up.bias"], stride=(1, 2))
    decoded = layer(torch.cat([full, up], 1), "decoder.0.block", padding=1)
    expected = F.conv2d(decoded, weights["head.weight"], weights["head.bias"])
    torch.testing.assert_close(network(x), expected)


def test_paper_preset_has_the_published_size_and_maps() -> None:
    network = UNet(2, 1, 4, **PAPER).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_813_764  # 1.8 M
    maps = network.features(torch.zeros(1, 1, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [(256, 2, 2), (128, 4, 4), (64, 8, 8), (32, 16, 16), (16, 32, 32)]
    assert network.head.kernel_size == (3, 3)


def test_paper_preset_drops_more_the_deeper_and_nothing_in_the_decoder() -> None:
    network = UNet(2, 1, 4, **PAPER)
    rates = [module.p for module in network.encoder.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.05, 0.1, 0.2, 0.3, 0.5]
    assert {module.p for module in network.decoder.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


def test_paper_preset_refuses_three_dimensions() -> None:
    with pytest.raises(ValueError, match="preset 'paper': expected 2 dimensions"):
        UNet(3, 1, 2, (4,) * 5, ((3,) * 3,) * 5, ((1,) * 3, *((2,) * 3,) * 4), preset="paper")


def test_unknown_preset_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="'plan', 'resenc' or 'paper', received 'papper'"):
        UNet(2, 1, 2, (4,), ((3, 3),), ((1, 1),), preset="papper")


def test_odd_size_is_refused_with_the_divisor() -> None:
    with pytest.raises(ValueError, match="multiple of 4 on spatial axis 1, received 23"):
        UNet.from_plan(make_plan("2d"))(torch.zeros(1, 1, 16, 23))


@pytest.mark.parametrize("kind", KINDS)
def test_learning_signal_reaches_every_weight(kind: str) -> None:
    network = UNet.from_plan(make_plan(kind))
    network(image_for(kind)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # a bias before an instance norm has no effect, so only the kernels must feel something
        assert parameter.ndim == 1 or parameter.grad.abs().max() > 0, name


def test_same_seed_same_weights() -> None:
    first, second = [], []
    for weights in (first, second):
        torch.manual_seed(3)
        weights.extend(UNet.from_plan(make_plan("3d")).state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", ["2d", "anisotropic"])
def test_scripted_network_equals_eager(kind: str) -> None:
    network, x = unet_from_plan(make_plan(kind)).eval(), image_for(kind)
    scripted = reloaded(torch.jit.script(network))
    torch.testing.assert_close(scripted(x), network(x))
    torch.testing.assert_close(scripted.features(x), network.features(x))


def test_scripted_paper_preset_equals_eager() -> None:
    network, x = UNet(2, 1, 4, **PAPER).eval(), torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(reloaded(torch.jit.script(network))(x), network(x))


def reloaded(scripted: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The module after a round through its file format."""
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    return torch.jit.load(file)


def residual(kind: str, blocks: tuple[int, ...] = (1, 2, 2), **changes: object) -> UNet:
    plan = make_plan(kind)
    cnn = dataclasses.replace(plan.cnn, preset="resenc", blocks_per_stage=blocks[: len(plan.cnn.features)])
    return UNet.from_plan(plan.replace(cnn=dataclasses.replace(cnn, **changes)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_residual_encoder_has_the_maps_of_the_plain_one(kind: str) -> None:
    network, plain, x = residual(kind), UNet.from_plan(make_plan(kind)), image_for(kind)
    assert (network.feature_channels, network.feature_strides) == (plain.feature_channels, plain.feature_strides)
    assert [m.shape for m in network.features(x)] == [m.shape for m in plain.features(x)]
    assert network(x).shape == plain(x).shape


def test_a_new_residual_block_passes_on_what_its_shortcut_gives() -> None:
    """The second normalisation starts at 0. Halving an axis averages two voxels; equal widths need no projection."""
    block = ResidualBlock(2, 3, 3, (3, 3), (1, 2), lambda conv: conv, lambda: nn.LeakyReLU(0.01))
    x = torch.randn(2, 3, 4, 6)
    average = (x[..., ::2] + x[..., 1::2]) / 2
    torch.testing.assert_close(block(x), F.leaky_relu(average, 0.01))


def test_a_residual_block_equals_the_formula() -> None:
    block = ResidualBlock(2, 2, 3, (3, 1), (2, 1), lambda conv: conv, lambda: nn.LeakyReLU(0.01))
    nn.init.constant_(block.path[-1].weight, 0.5)
    weights, x = block.state_dict(), torch.randn(1, 2, 6, 5)

    def normalised(x: Tensor, name: str) -> Tensor:
        return F.instance_norm(x, weight=weights[f"{name}.weight"], bias=weights[f"{name}.bias"])

    first = F.conv2d(x, weights["path.0.weight"], weights["path.0.bias"], stride=(2, 1), padding=(1, 0))
    first = F.leaky_relu(normalised(first, "path.1"), 0.01)
    second = normalised(F.conv2d(first, weights["path.3.weight"], weights["path.3.bias"], padding=(1, 0)), "path.4")
    shortcut = normalised(F.conv2d((x[:, :, ::2] + x[:, :, 1::2]) / 2, weights["shortcut.1.weight"]), "shortcut.2")
    torch.testing.assert_close(block(x), F.leaky_relu(second + shortcut, 0.01))


@pytest.mark.parametrize("kind", ("slicewise", "3d"))
def test_the_residual_encoder_scripts(kind: str) -> None:
    network, x = residual(kind).eval(), image_for(kind)
    torch.testing.assert_close(torch.jit.script(network)(x), network(x))
