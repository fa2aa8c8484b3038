"""Local blocks: which voxels of which feature map meet in one contrastive group (MCSC, Liu et al., BMVC 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from mcsc_bundle.constants import kept


def local_blocks(
    shape: Sequence[int], block: Sequence[int], maps: int, device: torch.device | str | None = None
) -> Tensor:
    """Voxels of each group: each map shuffles its blocks, group ``k`` takes the ``k``-th block of every map.

    So a group mixes positions, slices, patients and networks at a bounded size. The grid has ``size // block`` blocks
    on an axis and starts at a random offset in the remainder, drawn at every call, so that every voxel is seen at
    times. (The authors' grid is one block short on every axis and starts at 0: D2 in ``docs/method.md``.)

    Args:
        shape: spatial shape of the feature maps, any number of axes.
        block: edges of a block, in voxels of the map.
        maps: number of maps, M.
        device: where the result is made, without synchronisation.

    Returns:
        Indices into the flattened map, ``(groups, M, voxels of a block)``, the last axis of a block fastest.

    Raises:
        ValueError: a block that is empty or larger than the map.

    Example::

        local_blocks((4, 4), (2, 2), maps=2).shape  # (4, 2, 4)
    """
    if len(shape) != len(block) or any(not 1 <= edge <= size for size, edge in zip(shape, block, strict=False)):
        raise ValueError(f"expected a block of 1 to {tuple(shape)} voxels, received {tuple(block)}.")
    device = torch.get_default_device() if device is None else torch.device(device)
    shape, block = tuple(shape), tuple(block)
    corners = kept(_corners, device, shape, block)
    order = torch.rand((len(corners), maps), device=device).argsort(0)  # one shuffle per map
    chosen = corners[order]
    for axis, (size, edge) in enumerate(zip(shape, block, strict=True)):
        if size % edge:
            offset = torch.randint(size % edge + 1, (1,), device=device)
            chosen = torch.add(chosen, offset, alpha=prod(shape[axis + 1 :]))
    return chosen.unsqueeze(2) + kept(_inside, device, shape, block)


def _corners(shape: list[int], block: list[int], device: torch.device) -> Tensor:
    """Flat index of the first voxel of each block, for a grid that starts at 0."""
    starts = [torch.arange(size // edge, device=device) * edge for size, edge in zip(shape, block, strict=True)]
    return _flat(starts, shape)


def _inside(shape: list[int], block: list[int], device: torch.device) -> Tensor:
    """Flat index of each voxel of a block that starts at 0."""
    return _flat([torch.arange(edge, device=device) for edge in block], shape)


def _flat(places: list[Tensor], shape: list[int]) -> Tensor:
    """Flat indices into ``shape`` of all combinations of places on its axes, the last axis fastest."""
    flat = torch.zeros(1, dtype=torch.long, device=places[0].device)
    for place, size in zip(places, shape, strict=True):
        flat = (size * flat[:, None] + place).flatten()
    return flat


def sample_voxels(where: Tensor, pixels: int, labels: Tensor | None = None, num_classes: int = 0) -> Tensor:
    """At most ``pixels`` voxels of every block, drawn without repetition; no device synchronisation.

    The projectors are pointwise, so sampling before them saves their work too. The authors take every pixel.

    Args:
        where: voxel indices ``(G, M, V)`` from ``local_blocks``.
        pixels: voxels kept of each map in each group.
        labels: class indices ``(M, voxels of the map)`` below ``num_classes``. If given, the classes present in a block give
            equally many voxels, each as far as it has them, and negative labels come last. ``None`` draws all voxels alike.
        num_classes: of ``labels``.

    Returns:
        ``(G, M, min(pixels, V))``.
    """
    if pixels >= where.shape[2]:
        return where
    keys = torch.rand(where.shape, device=where.device)
    if labels is not None:
        found = labels.expand(len(where), -1, -1).gather(2, where)
        # the k-th smallest of n uniform numbers is about k / n: times n, every class's k-th voxel comes at about k
        keys = (keys * _class_sizes(found, num_classes)).masked_fill_(found < 0, torch.inf)
    return where.gather(2, keys.topk(pixels, dim=2, largest=False).indices)


def _class_sizes(labels: Tensor, num_classes: int) -> Tensor:
    """For each voxel of ``(G, M, V)`` the number of voxels of its class there; negative labels are a class of their own."""
    place = torch.where(labels < 0, num_classes, labels)
    sizes = labels.new_zeros(*labels.shape[:2], num_classes + 1, dtype=torch.float32)
    sizes.scatter_add_(2, place, torch.ones((), device=labels.device).expand_as(place))
    return sizes.gather(2, place)
