"""What a pair of networks takes: feature-map voxels in nnU-Net's unit, and gigabytes.

nnU-Net does not plan in bytes. It counts the voxels of all convolution outputs of one patch
(``compute_conv_feature_map_size`` in dynamic-network-architectures) and compares the count with that of a network
known to fill a card. We keep the unit, so that ``networks="cnn"`` gives nnU-Net's plans, and count the Transformer in
it: one per output of a linear layer and per attention weight, which like a convolution's output are kept for the
backward pass beside what normalisation and activation make of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcsc_bundle.plan import CNNPlan, TransformerPlan
from preprocessing.topology import Topology

REFERENCE_BATCH = {2: 12, 3: 2}
"""Patches that fill a family's memory at its reference count (nnU-Net)."""

FEATURE_CAP = {2: 512, 3: 320}
"""Most channels of a stage (nnU-Net)."""

BYTES_PER_COUNT = {"cuda": 5.5, "cpu": 12.0}
"""Peak bytes of a training step per counted voxel: AMP on a GPU, 32 bits on a CPU (docs/planning.md)."""

BYTES_PER_PARAMETER = 16
"""Weight, gradient and two AdamW moments, 32 bits each."""


def stage_features(base: int, stages: int, dims: int) -> tuple[int, ...]:
    """Channels per stage: doubled at each, up to the cap; a narrower base lowers the cap in proportion."""
    cap = FEATURE_CAP[dims] * base // 32
    return tuple(min(cap, base * 2**stage) for stage in range(stages))


def cnn_count(
    topology: Topology,
    features: Sequence[int],
    num_classes: int,
    convs_per_stage: int = 2,
    blocks_per_stage: Sequence[int] = (),
) -> int:
    """Voxels of all convolution outputs of the U-Net for one patch, as nnU-Net counts them.

    Encoder: each convolution of each stage; of a residual one the stem, two for each block, and one for the shortcut of a
    block that changes width or size. Decoder: per stage the transposed convolution and the convolutions; the
    segmentation output of the finest stage. Inputs and normalisations do not count.
    """
    shapes = [math.prod(shape) for shape in topology.stage_shapes]
    convs = [convs_per_stage] * len(shapes)
    if blocks_per_stage:
        widths = (features[0], *features)
        changes = [
            widths[stage] != features[stage] or any(step != 1 for step in strides)
            for stage, strides in enumerate(topology.strides)
        ]
        convs = [2 * blocks + change for blocks, change in zip(blocks_per_stage, changes, strict=True)]
        convs[0] += 1
    encoder = sum(count * width * voxels for count, width, voxels in zip(convs, features, shapes, strict=True))
    decoder = sum(
        (convs_per_stage + 1) * width * voxels for width, voxels in zip(features[:-1], shapes[:-1], strict=True)
    )
    head = num_classes * shapes[0] if len(shapes) > 1 else 0
    return encoder + decoder + head


def token_grids(patch: Sequence[int], swin: TransformerPlan) -> tuple[tuple[int, ...], ...]:
    """Tokens per axis in each stage; the network pads a patch that the last stage's stride does not divide."""
    padded = tuple(
        math.ceil(length / stride) * stride for length, stride in zip(patch, swin.cumulative_strides[-1], strict=True)
    )
    return tuple(
        tuple(length // stride for length, stride in zip(padded, strides, strict=True))
        for strides in swin.cumulative_strides
    )


def attended_tokens(grid: Sequence[int], window: Sequence[int]) -> int:
    """Tokens that one token attends to: its window, which never exceeds the grid."""
    return math.prod(min(length, edge) for length, edge in zip(grid, window, strict=True))


def transformer_count(patch: Sequence[int], swin: TransformerPlan, num_classes: int) -> int:
    """The Swin-UNet's activations for one patch, in the unit of ``cnn_count``.

    Per token of width ``d`` a block gives 9 d values (query, key, value 3, attention 1, projection 1, hidden layer 4)
    and ``heads x window`` attention weights. Each decoder stage but the deepest mirrors the encoder's and adds fusion
    of the skip and expansion (2 d).
    The end expands to full size: 16 channels per voxel, as many from the image, then the classes.
    """
    total = 0
    grids = token_grids(patch, swin)
    for stage, (grid, depth, heads) in enumerate(zip(grids, swin.depths, swin.heads, strict=True)):
        width = swin.embed_dim * 2**stage
        block = 9 * width + heads * attended_tokens(grid, swin.window)
        deepest = stage == len(grids) - 1
        blocks, seams = (depth, width) if deepest else (2 * depth, 3 * width)
        total += math.prod(grid) * (blocks * block + seams)
    full_size = math.prod(grids[0]) * math.prod(swin.patch)
    return total + full_size * (swin.full_size_channels + stem_channels(swin) + num_classes)


def stem_channels(swin: TransformerPlan) -> int:
    """Width of the convolution that brings the image to the Swin-UNet's map at full size."""
    return swin.full_size_channels if swin.joins_image else 0


def cnn_parameters(cnn: CNNPlan, in_channels: int, num_classes: int) -> int:
    """Weights of the U-Net (without the few of biases and normalisations)."""
    total, width = 0.0, in_channels
    for stage, features in enumerate(cnn.features):
        total += math.prod(cnn.kernel_sizes[stage]) * encoder_products(cnn, stage, width)
        width = features
    for stage in reversed(range(len(cnn.features) - 1)):
        features, below = cnn.features[stage], cnn.features[stage + 1]
        kernel = math.prod(cnn.kernel_sizes[stage])
        total += math.prod(cnn.strides[stage + 1]) * below * features
        total += kernel * features * (2 * features + (cnn.convs_per_stage - 1) * features)
    return round(total) + cnn.features[0] * num_classes


def encoder_products(cnn: CNNPlan, stage: int, width: int) -> float:
    """Products of input and output channels, summed over the convolutions of an encoder stage.

    Args:
        cnn: the U-Net.
        stage: which.
        width: channels that come in.
    """
    features = cnn.features[stage]
    if not cnn.blocks_per_stage:
        return width * features + (cnn.convs_per_stage - 1) * features**2
    stem, width = (width * features, features) if stage == 0 else (0, width)
    shortcut = 0 if width == features else width * features / math.prod(cnn.kernel_sizes[stage])
    return stem + shortcut + width * features + (2 * cnn.blocks_per_stage[stage] - 1) * features**2


def transformer_parameters(swin: TransformerPlan, in_channels: int, num_classes: int) -> int:
    """Weights of the Swin-UNet (without biases, normalisations and position tables)."""
    total = in_channels * math.prod(swin.patch) * swin.embed_dim
    for stage, depth in enumerate(swin.depths):
        width, deepest = swin.embed_dim * 2**stage, stage == len(swin.depths) - 1
        total += (depth if deepest else 2 * depth) * 12 * width**2
        if stage > 0:  # merging on the way down; expansion and fusion of the skip on the way up
            merged = math.prod(swin.merges[stage])
            total += merged * (width // 2) * width + width * merged * (width // 2) + 2 * (width // 2) ** 2
    kernel = 3 ** len(swin.patch)
    full_size = swin.full_size_channels * (swin.embed_dim * math.prod(swin.patch) + kernel * num_classes)
    return total + full_size + stem_channels(swin) * kernel * in_channels


def step_gigabytes(counts: int, batch: int, parameters: int, device: str) -> float:
    """Peak memory of one training step: activations of the batch, weights, gradients and optimiser state.

    Args:
        counts: feature-map voxels of one patch, all networks.
        batch: patches, labelled and unlabelled.
        parameters: trained weights, all networks.
        device: ``cpu`` or ``cuda``.
    """
    return (counts * batch * BYTES_PER_COUNT[device] + parameters * BYTES_PER_PARAMETER) / 1e9
