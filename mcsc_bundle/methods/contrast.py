"""Multi-scale cross contrast: projects sampled features of both networks and ties them by class (MCSC, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcsc_bundle.losses.blocks import local_blocks, sample_voxels
from mcsc_bundle.losses.contrastive import balanced_contrastive_loss, counted_groups
from mcsc_bundle.losses.distributed import gather_features, groups_of_rank, mean_over_ranks, world_size
from mcsc_bundle.methods.bank import MemoryBank
from mcsc_bundle.networks.pair import NetworkPair
from mcsc_bundle.plan import ContrastScale, Plan
from mcsc_bundle.plan_parts import BLOCK_PIXELS, PROJECTOR_HIDDEN, nearest_level


class PairProjector(nn.Module):
    """Projector of one scale: an own first layer for each network, one shared second layer (authors' code, train 149-192).

    The layers are pointwise, so they take sampled feature vectors ``(..., C)`` instead of whole maps. They compute in the type of
    their weights, float32, as the loss does: for so few vectors autocast would cost more casts than its products save.

    Args:
        cnn_channels, transformer_channels: widths of the two networks' features at this scale.
        hidden: width of the first layer.
        out: width the loss sees.
        normalize_tokens: LayerNorm before the Transformer's first layer, for maps the network did not normalise.
    """

    def __init__(
        self, cnn_channels: int, transformer_channels: int, hidden: int, out: int, normalize_tokens: bool
    ) -> None:
        super().__init__()
        norm = nn.LayerNorm(transformer_channels) if normalize_tokens else nn.Identity()
        self.cnn = nn.Linear(cnn_channels, hidden)
        self.transformer = nn.Sequential(norm, nn.Linear(transformer_channels, hidden))
        self.shared = nn.Linear(hidden, out)

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights."""
        return self.shared.weight.dtype

    def forward(self, cnn: Tensor, transformer: Tensor) -> Tensor:
        """Vectors ``(g, B, v, C_cnn)`` and ``(g, B, v, C_transformer)`` to ``(g, 2 B, v, out)``, the CNN's first."""
        with torch.autocast(cnn.device.type, enabled=False):
            hidden = torch.cat((self.cnn(cnn), self.transformer(transformer)), 1)
            return self.shared(F.relu(hidden))


class MultiScaleContrast(nn.Module):
    """The class-balanced contrastive loss at every scale of the plan.

    At each scale both networks' maps are cut into local blocks, each map shuffles its own blocks, and group ``k`` takes
    the ``k``-th block of every map: so a group mixes positions, slices, patients and networks while its size stays
    bounded. With a pixel budget, voxels are drawn first and projected after (the projectors are pointwise), and groups
    that hold foreground are preferred, since all-background groups do not count in the loss anyway. Under
    ``torch.distributed`` each group joins the vectors of all processes, each of which answers for some of the groups. With a
    pixel budget each gives fewer vectors to more groups, so that a step costs no more than alone.

    Args:
        plan: gives the scales, the patch and the width of the projection.
        networks: gives the widths and strides of the feature maps.
        temperature: tau of the loss (the paper: 0.1).
        hidden: width of the projectors' first layer.
        balance_anchors: average the loss per class over its anchors instead of over all anchors (D4), and let a pixel budget
            be drawn class by class.
        bank: vectors of each class and scale that are kept from earlier steps and join every group; 0 for none.
    """

    def __init__(
        self,
        plan: Plan,
        networks: NetworkPair,
        temperature: float = 0.1,
        hidden: int = PROJECTOR_HIDDEN,
        balance_anchors: bool = False,
        bank: int = 0,
    ) -> None:
        super().__init__()
        self.scales = plan.contrast
        self.temperature, self.balance_anchors, self.num_classes = temperature, balance_anchors, plan.num_classes
        self.levels: list[tuple[int, int]] = []
        self.projectors = nn.ModuleList()
        for scale in self.scales:
            cnn = nearest_level(networks.cnn.feature_strides, scale.stride)
            transformer = nearest_level(networks.transformer.feature_strides, scale.stride)
            self.levels.append((cnn, transformer))
            inner_map = transformer < len(networks.transformer.feature_strides) - 1
            widths = networks.cnn.feature_channels[cnn], networks.transformer.feature_channels[transformer]
            self.projectors.append(PairProjector(*widths, hidden, plan.projection_dim, normalize_tokens=inner_map))
        self.banks = nn.ModuleList(MemoryBank(plan.num_classes, bank, plan.projection_dim) for _ in self.scales if bank)

    def forward(
        self, features: tuple[Sequence[Tensor], Sequence[Tensor]], labels: tuple[Tensor, Tensor]
    ) -> list[Tensor]:
        """Loss of each scale.

        Args:
            features: decoder maps of the CNN and of the Transformer, coarse to fine, each ``(B, C, *spatial)``.
            labels: class indices ``(B, *patch)`` that the CNN's and the Transformer's features take; -1 is ignored.
        """
        losses = [self._scale_loss(index, features, labels) for index in range(len(self.scales))]
        if world_size() == 1 or not losses:
            return losses
        mine = torch.stack(losses)
        # the value of the joined batch, with the gradient of this rank's groups
        return list(mine + (mean_over_ranks(mine) - mine.detach()))

    def _scale_loss(
        self, index: int, features: tuple[Sequence[Tensor], Sequence[Tensor]], labels: tuple[Tensor, Tensor]
    ) -> Tensor:
        scale, levels = self.scales[index], self.levels[index]
        patch = labels[0].shape[1:]
        cells = tuple(math.ceil(size / stride) for size, stride in zip(patch, scale.stride, strict=True))
        maps = [_resized(branch[level], cells).flatten(2) for branch, level in zip(features, levels, strict=True)]
        targets = _resized_labels(torch.cat(labels), cells).flatten(1)  # (2B, cells)
        where = local_blocks(cells, scale.block, len(targets), device=targets.device)  # (G, 2B, V)
        balanced = self.num_classes if self.balance_anchors else 0
        per_block = share_of_block(scale, len(where), world_size())
        where, target = choose_voxels(where, targets, scale, balanced, per_block)  # both (g, 2B, v)
        projector = self.projectors[index]
        sampled = _gathered(maps, where, projector.dtype)  # type: ignore[arg-type]
        vectors = projector(*sampled).flatten(1, 2)  # (g, 2B * v, D)
        vectors, target = gather_features(vectors, target.flatten(1))
        if self.banks:
            bank, fresh = self.banks[index], (vectors, target)
            assert isinstance(bank, MemoryBank)
            vectors, target = bank.extend(*fresh)
            bank.add(*fresh)
        loss = partial(
            balanced_contrastive_loss,
            num_classes=self.num_classes,
            temperature=self.temperature,
            balance_anchors=self.balance_anchors,
        )
        if world_size() == 1:
            return loss(vectors, target)
        mine, counted = groups_of_rank(), counted_groups(target, self.num_classes)
        return world_size() * loss(vectors[mine], target[mine], mean_over=counted)


def share_of_block(scale: ContrastScale, groups: int, ranks: int) -> int:
    """Voxels of a block that each of several processes gives to a group, for a budget that is kept by all together.

    A process looks at every ``ranks``-th group of the vectors of all. Of ``W`` processes each gives a ``W``-th to ``W`` times the
    groups, or, where there are not so many, as much as keeps the number of pairs.

    Args:
        scale: its ``pixels`` are the budget of one process alone.
        groups: how many there are.
        ranks: processes.
    """
    alone = min(math.prod(scale.block), BLOCK_PIXELS)
    if scale.pixels is None or ranks == 1:
        return alone
    wanted = max(1, min(groups, scale.pixels // alone))
    at_once = -(-min(groups, wanted * ranks) // ranks)
    return max(1, min(alone, int(alone * math.sqrt(wanted / at_once) / ranks)))


def choose_voxels(
    where: Tensor, targets: Tensor, scale: ContrastScale, num_classes: int = 0, per_block: int = BLOCK_PIXELS
) -> tuple[Tensor, Tensor]:
    """Cut the block groups ``(G, M, V)`` down to the pixel budget of the scale; no device synchronisation.

    Each block gives at most ``per_block`` random voxels; of the groups, those with foreground come first, at random
    among themselves, until the budget of ``scale.pixels`` per map is used.

    Args:
        where: flat voxel indices, see ``local_blocks``.
        targets: class indices ``(M, cells)``; -1 is ignored.
        scale: its ``pixels`` are the budget.
        num_classes: the classes of a block give equally many voxels, ignored voxels come last. 0: all voxels of a block are
            drawn alike.
        per_block: voxels of a block.

    Returns:
        Flat voxel indices and their class indices, both ``(groups, M, voxels)``.
    """
    groups, _, voxels = where.shape
    if scale.pixels is not None and groups * voxels > scale.pixels:
        where = sample_voxels(where, min(voxels, per_block), targets if num_classes else None, num_classes)
        keep = max(1, scale.pixels // where.shape[2])
        if keep < groups:
            target = _labels_at(targets, where)
            score = (target > 0).flatten(1).any(1).float() + torch.rand(groups, device=where.device)
            where = where[score.topk(keep).indices]
    return where, _labels_at(targets, where)


def _resized(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``(B, C, *spatial)`` at another grid by the voxel whose centre is nearest; labels stay labels."""
    return x if tuple(x.shape[2:]) == shape else F.interpolate(x, shape, mode="nearest-exact")


def _resized_labels(labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Class indices ``(B, *spatial)`` at another grid, as ``_resized``."""
    if tuple(labels.shape[1:]) == shape:
        return labels
    return _resized(labels.unsqueeze(1).float(), shape).squeeze(1).long()


def _labels_at(targets: Tensor, where: Tensor) -> Tensor:
    """Labels ``(M, cells)`` at indices ``(G, M, v)``."""
    return targets.unsqueeze(0).expand(len(where), -1, -1).gather(2, where)


def _gathered(maps: Sequence[Tensor], where: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Feature vectors ``(G, B, v, C)`` of each of the maps ``(B, C, cells)`` at its part of the indices ``(G, maps * B, v)``.

    In ``dtype``, whatever the precision of the maps.
    """
    groups, _, voxels = where.shape
    flat = where.transpose(0, 1).flatten(1).unsqueeze(1)  # (maps * B, 1, G * v)
    vectors = [x.gather(2, at.expand(-1, x.shape[1], -1)) for x, at in zip(maps, flat.chunk(len(maps)), strict=True)]
    vectors = [x.unflatten(2, (groups, voxels)).permute(2, 0, 3, 1) for x in vectors]
    return [x.to(dtype, memory_format=torch.contiguous_format).contiguous() for x in vectors]
