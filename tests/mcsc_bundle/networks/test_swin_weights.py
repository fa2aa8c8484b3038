"""ImageNet weights, with checkpoints made here under the official names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mcsc_bundle.networks import SwinUNet, load_imagenet_weights


def small_network(in_channels: int = 1) -> SwinUNet:
    merges = ((1, 1), (2, 2), (2, 2))
    return SwinUNet(2, in_channels, 2, (4, 4), merges, 8, (2, 2, 2), (1, 2, 4), (7, 7), "paper")


def official_weights(width: int = 8, depths: tuple[int, ...] = (2, 2, 6)) -> dict[str, Tensor]:
    """Random weights with the names and shapes of microsoft/Swin-Transformer; a deeper last stage, as in Swin-T."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, 3, 4, 4),
        "patch_embed.proj.bias": (width,),
        "patch_embed.norm.weight": (width,),
        "patch_embed.norm.bias": (width,),
        "head.weight": (1000, 4 * width),
    }
    for stage, depth in enumerate(depths):
        c = width * 2**stage
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            shapes |= {
                f"{name}.norm1.weight": (c,),
                f"{name}.attn.relative_position_bias_table": (169, 2**stage),
                f"{name}.attn.relative_position_index": (49, 49),
                f"{name}.attn.qkv.weight": (3 * c, c),
                f"{name}.attn.qkv.bias": (3 * c,),
                f"{name}.mlp.fc1.weight": (4 * c, c),
            }
        if stage < len(depths) - 1:
            shapes[f"layers.{stage}.downsample.reduction.weight"] = (2 * c, 4 * c)
            shapes[f"layers.{stage}.downsample.norm.weight"] = (4 * c,)
    shapes["norm.weight"] = (4 * width,)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_encoder_takes_the_weights(tmp_path: Path) -> None:
    network, weights = small_network(), official_weights()
    torch.save({"model": weights}, tmp_path / "swin.pth")
    loaded = load_imagenet_weights(network, tmp_path / "swin.pth")
    own = network.state_dict()
    pairs = {
        "patch_embed.proj.weight": "patch_embed.proj.weight",
        "layers.0.blocks.1.attn.qkv.weight": "encoder.0.blocks.1.attn.qkv.weight",
        "layers.2.blocks.1.attn.relative_position_bias_table": "encoder.2.blocks.1.attn.relative_position_bias_table",
        "layers.1.downsample.reduction.weight": "encoder.2.merge.reduction.weight",
        "norm.weight": "norm.weight",
    }
    for official, ours in pairs.items():
        assert ours in loaded
        assert torch.equal(own[ours], weights[official])


def test_decoder_takes_the_blocks_of_its_width(tmp_path: Path) -> None:
    network, weights = small_network(), official_weights()
    torch.save(weights, tmp_path / "swin.pth")
    load_imagenet_weights(network, tmp_path / "swin.pth")
    for stage, mirror in ((1, 0), (0, 1)):
        own = network.state_dict()[f"decoder.{mirror}.blocks.1.mlp.fc1.weight"]
        assert torch.equal(own, weights[f"layers.{stage}.blocks.1.mlp.fc1.weight"])


def test_what_does_not_fit_stays(tmp_path: Path) -> None:
    """Two input channels: the three-channel patch embedding is left out, the blocks are not."""
    network = small_network(in_channels=2)
    before = network.patch_embed.proj.weight.clone()
    torch.save(official_weights(), tmp_path / "swin.pth")
    loaded = load_imagenet_weights(network, tmp_path / "swin.pth")
    assert "patch_embed.proj.weight" not in loaded and "encoder.0.blocks.0.attn.qkv.bias" in loaded
    assert torch.equal(network.patch_embed.proj.weight, before)


def test_safetensors_give_the_same(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    network, weights = small_network(), official_weights()
    save_file(weights, tmp_path / "swin.safetensors")
    load_imagenet_weights(network, tmp_path / "swin.safetensors")
    assert torch.equal(network.norm.weight, weights["norm.weight"])


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    torch.save(official_weights(width=16), tmp_path / "swin.pth")
    with pytest.raises(ValueError, match=r"swin\.pth: expected official Swin Transformer weights .* width 8"):
        load_imagenet_weights(small_network(), tmp_path / "swin.pth")


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pth, which does not exist"):
        load_imagenet_weights(small_network(), tmp_path / "none.pth")
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"bad\.pth: expected a file of tensors"):
        load_imagenet_weights(small_network(), tmp_path / "bad.pth")
