"""ImageNet weights of the official Swin Transformer for ``SwinUNet``.

As Swin-Unet does (networks/vision_transformer.py, ``load_from``): the encoder takes the checkpoint's stages, each
decoder stage the blocks of the encoder stage of its width. What has no counterpart of the same shape stays as it is.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mcsc_bundle.networks.swin_unet import SwinUNet
from mcsc_bundle.tensors import load_tensors

logger = logging.getLogger(__name__)

PROBE = "encoder.0.blocks.0.attn.qkv.weight"  # where the checkpoint's width must agree


def load_imagenet_weights(network: SwinUNet, path: str | os.PathLike) -> list[str]:
    """Copy what fits from an official checkpoint, e.g. ``swin_tiny_patch4_window7_224.pth``.

    Args:
        network: changed in place; best with preset ``paper``, whose shapes are those of Swin-T.
        path: ``.pth`` / ``.pt`` (tensors only, at top level or under ``model`` or ``state_dict``) or ``.safetensors``.

    Returns:
        Names of the parameters that were set.

    Raises:
        ValueError: no such file, no readable checkpoint, or weights of another width.
    """
    source = {ours: tensor for name, tensor in _read(Path(path)).items() for ours in _our_names(name, network)}
    own = network.state_dict()
    fitting = {name: tensor for name, tensor in source.items() if name in own and own[name].shape == tensor.shape}
    if PROBE not in fitting:
        width = own[PROBE].shape[1]
        raise ValueError(
            f"{path}: expected official Swin Transformer weights of width {width} (layers.0.blocks.0.attn.qkv.weight: "
            f"{3 * width} x {width}), which it does not hold. Use such weights or none (pretrained: null)."
        )
    network.load_state_dict(fitting, strict=False)
    kept = sorted(set(own) - set(fitting))
    logger.info("%s: %d of %d parameters loaded.", path, len(fitting), len(own))
    logger.info("Start from scratch: %s", ", ".join(kept))
    return sorted(fitting)


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"expected a file of pretrained weights, received {path}, which does not exist.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else load_tensors(path)
    for key in ("model", "state_dict"):
        content = content.get(key, content)
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file  # optional: only this format needs it

        return load_file(path)
    except ImportError:
        raise ValueError(f"{path}: .safetensors files need a package: pip install safetensors.") from None
    except Exception as error:  # of the package's own kind
        raise ValueError(f"{path}: expected a file of tensors, received one that cannot be read ({error}).") from None


def _our_names(official: str, network: SwinUNet) -> list[str]:
    """Where a parameter of the official network goes in ours: nowhere, once, or also mirrored into the decoder."""
    block = re.fullmatch(r"layers\.(\d+)\.blocks\.(.+)", official)
    if block:
        stage, rest = int(block[1]), block[2]
        mirror = len(network.decoder) - 1 - stage
        names = [f"encoder.{stage}.blocks.{rest}"]
        return [*names, f"decoder.{mirror}.blocks.{rest}"] if mirror >= 0 else names
    merge = re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", official)
    if merge:
        return [f"encoder.{int(merge[1]) + 1}.merge.{merge[2]}"]
    return [official] if official.startswith(("patch_embed.", "norm.")) else []
