"""Class-balanced supervised contrastive loss in memory linear in the number of pixels (MCSC, Liu et al., BMVC 2023).

For a group of feature vectors with unit length ``z_i``, classes ``y_i``, class counts ``n_c`` and positives
``P(i) = {p != i : y_p = y_i}``::

    l_i = -1 / (|P(i)| + 1e-6) * sum_{p in P(i)} [z_i.z_p / tau - log D_i]
    D_i = sum_{a != i} exp(z_i.z_a / tau) / m_ia + 1e-6,    m_ia = n_{y_a} - 1 if y_a = y_i else n_{y_a}

How it is computed:

- the positives need no matrix: ``sum_{p in P(i)} z_i.z_p = z_i.(S_{y_i} - z_i)`` with the class sums ``S_c``;
- ``D_i`` needs only the sums of ``exp`` per class, which tiles of the similarity matrix add up;
- that matrix ``E = exp(Z Z' / tau)`` is symmetric, so tiles on and above its diagonal do: half a product;
- the gradient of ``sum_i q_i log D_i`` is ``(E * W) Z`` with ``W_ia = r_i / m_ia + r_a / m_ai``, ``r_i = q_i / D_i``:
  symmetric too, and of rank 2 C, so one small product makes a tile of it and one product of full size remains;
- the loss is a scalar, so the gradient is computed along with it and backward only scales it.

The plain form takes three products of full size and holds every matrix until backward.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-6  # of the authors' code, in |P(i)| and in D_i
SHORTEST = 1e-6  # a feature vector shorter than this has no direction: it is taken as 0 and gets no gradient
LEAST_TEMPERATURE = 0.02  # exp(+-1 / 0.02) and sums of it are far inside float32, so no maximum need be subtracted
WORKSPACE = {"cpu": 2**23, "cuda": 2**26}  # entries of E that are held at a time: 32 MiB, 256 MiB


def balanced_contrastive_loss(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    temperature: float = 0.1,
    balance_anchors: bool = False,
    ignore_index: int = -1,
    skip_background_groups: bool = True,
    chunk_size: int | None = None,
) -> Tensor:
    """The local class-balanced supervised contrastive loss (formula above), a scalar in float32.

    Source: Liu et al., *Multi-Scale Cross Contrastive Learning for Semi-Supervised Medical Image Segmentation*,
    BMVC 2023. The authors' ``SupConLoss`` pairs features with labels in another order (D1 in ``docs/method.md``); here
    row ``n`` of ``labels`` belongs to row ``n`` of ``features``. No host-device synchronisation on a GPU; double
    backward is not supported.

    Args:
        features: ``(G, N, D)``: G groups that are contrasted apart from one another, of N vectors each, of any length
            (they are normalised here) and any floating type (computed in float32, float64 stays; autocast has no say).
        labels: class indices ``(G, N)`` in ``[0, num_classes)``, or ``ignore_index``.
        num_classes: number of classes, background (0) included.
        temperature: tau, at least 0.02.
        balance_anchors: average ``l_i`` per class over its anchors that have positives, then over these classes. If
            not, over all anchors as the authors do: large classes dominate, anchors without positives add 0 (D4).
        ignore_index: label of vectors that are left out, as anchor and as key.
        skip_background_groups: leave groups without a foreground label out of the mean over groups, as the authors do.
            Groups without any label are always left out.
        chunk_size: edge of a tile of the similarity matrix; ``None`` chooses for the device. It changes no value.

    Returns:
        Mean over the remaining groups; 0 with zero gradient if there are none.

    Raises:
        ValueError: shapes that do not fit, or a temperature below 0.02.

    Example::

        features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [1.0, 0.0]]])
        labels = torch.tensor([[0, 1, 1, 0]])
        balanced_contrastive_loss(features, labels, num_classes=2, temperature=0.5)  # 0.302453
    """
    if features.ndim != 3 or labels.shape != features.shape[:2]:
        raise ValueError(
            "expected features (G, N, D) and labels (G, N), "
            f"received {tuple(features.shape)} and {tuple(labels.shape)}."
        )
    if temperature < LEAST_TEMPERATURE:
        raise ValueError(f"expected a temperature of at least {LEAST_TEMPERATURE}, received {temperature}.")
    features = features if features.dtype == torch.float64 else features.float()
    with torch.autocast(features.device.type, enabled=False):
        classes = torch.arange(num_classes, device=labels.device)[:, None]
        members = ((labels[:, None] == classes) & (labels != ignore_index)[:, None]).to(features.dtype)  # (G, C, N)
        weights = anchor_weights(members, balance_anchors, skip_background_groups)  # (G, C)
        with_gradient = torch.is_grad_enabled() and features.requires_grad
        return _BalancedContrast.apply(features, members, weights, temperature, chunk_size, with_gradient)


def anchor_weights(members: Tensor, balance_anchors: bool, skip_background_groups: bool) -> Tensor:
    """Weight ``(G, C)`` of ``l_i`` in the loss for an anchor of class c in group g.

    Args:
        members: 1 where a vector belongs to a class, ``(G, C, N)``.
        balance_anchors, skip_background_groups: as in ``balanced_contrastive_loss``.
    """
    counts = members.sum(2)
    if balance_anchors:
        paired = (counts > 1).to(counts.dtype)
        weights = paired / counts.clamp(min=1) / paired.sum(1, keepdim=True).clamp(min=1)
    else:
        weights = (1 / counts.sum(1, keepdim=True).clamp(min=1)).expand_as(counts)
    counted = counts[:, 1:] if skip_background_groups else counts
    used = counted.sum(1, keepdim=True) > 0
    return weights * used / used.sum().clamp(min=1)


class _BalancedContrast(torch.autograd.Function):
    """Value and gradient in one go; backward scales the gradient."""

    @staticmethod
    def forward(
        ctx,
        features: Tensor,
        members: Tensor,
        weights: Tensor,
        temperature: float,
        chunk_size: int | None,
        with_gradient: bool,
    ) -> Tensor:
        loss = features.new_zeros(())
        gradient = torch.zeros_like(features) if with_gradient else None
        edge, batch = _tiling(features, chunk_size)
        for groups in _spans(len(features), batch):
            if features.device.type == "cpu" and not torch.compiler.is_compiling() and not weights[groups].any():
                continue  # nothing counts here, and on the CPU it costs nothing to look
            parts = features[groups], members[groups], weights[groups]
            value, slope = _contrast(*parts, temperature, edge, with_gradient)
            loss += value
            if gradient is not None and slope is not None:
                gradient[groups] = slope
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None, None, None


def _contrast(
    features: Tensor, members: Tensor, weights: Tensor, temperature: float, edge: int, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Weighted sum of ``l_i`` over groups ``(g, N, D)``, and its gradient."""
    length = features.norm(dim=2, keepdim=True)
    scale = torch.where((length > SHORTEST) & members.any(1).unsqueeze(2), 1 / length.clamp(min=SHORTEST), 0)
    unit = torch.where(scale > 0, features * scale, 0)  # what is left out may be NaN
    counts = members.sum(2, keepdim=True)  # (g, C, 1)
    positives = (counts - 1).clamp(min=0)
    pull = weights.unsqueeze(2) / (positives + EPSILON) / temperature  # (g, C, 1), of z_i.(S_{y_i} - z_i)
    push = weights.unsqueeze(2) * positives / (positives + EPSILON)  # of log D_i
    others = members.mT @ (members @ unit) - unit  # (g, N, D): S_{y_i} - z_i
    anchor_pull = members.mT @ pull  # (g, N, 1), 0 where ignored

    scaled = unit * temperature**-0.5
    tiles = _Tiles(scaled, edge, keep=with_gradient)
    keys = counts - members  # (g, C, N): m for anchor i and keys of class c
    inverse = torch.where(keys > 0, 1 / keys.clamp(min=1), 0)
    denominator = (tiles.class_sums(members) * inverse).sum(1, keepdim=True) + EPSILON  # (g, 1, N)
    anchor_push = push.mT @ members
    loss = (anchor_push * denominator.log()).sum() - (anchor_pull * unit * others).sum()
    if not with_gradient:
        return loss, None
    slope = tiles.weighted_product(anchor_push / denominator * inverse, members).mul_(temperature**-0.5)
    slope -= 2 * anchor_pull * others
    slope -= unit * (unit * slope).sum(2, keepdim=True)  # through the normalisation
    return loss, slope.mul_(scale)


class _Tiles:
    """``E = exp(X X')`` of ``(g, N, D)`` without its diagonal, as tiles on and above the diagonal.

    Tiles stay for the second pass where the workspace, of fixed size, holds them all; otherwise they are made again.
    """

    def __init__(self, x: Tensor, edge: int, keep: bool) -> None:
        self.x = x
        spans = list(_spans(x.shape[1], edge))
        self.places = [(rows, columns) for index, rows in enumerate(spans) for columns in spans[index:]]
        held = len(x) * sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in self.places)
        self.kept: dict[tuple[int, int], Tensor] = {}
        self.keep = keep and held <= _workspace(x)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        for rows, columns in self.places:
            place = rows.start, columns.start
            tile = self.kept.pop(place) if place in self.kept else self._make(rows, columns)
            yield rows, columns, tile
            if self.keep:
                self.kept[place] = tile

    def _make(self, rows: slice, columns: slice) -> Tensor:
        tile = torch.bmm(self.x[:, rows], self.x[:, columns].mT).exp_()
        if rows == columns:
            tile.diagonal(dim1=1, dim2=2).zero_()
        return tile

    def class_sums(self, members: Tensor) -> Tensor:
        """``sum_a E_ia [y_a = c]`` as ``(g, C, N)``; classes first, a layout that thin products run fast in."""
        sums = torch.zeros_like(members)
        for rows, columns, tile in self:
            sums[:, :, columns] += members[:, :, rows] @ tile
            if rows != columns:
                sums[:, :, rows] += members[:, :, columns] @ tile.mT
        return sums

    def weighted_product(self, ratios: Tensor, members: Tensor) -> Tensor:
        """``(E * W) X`` with ``W_ia = f(i, y_a) + f(a, y_i)``, ``f = ratios (g, C, N)``. Uses up the tiles."""
        self.keep = False
        left, right = torch.cat((ratios, members), 1).mT, torch.cat((members, ratios), 1)
        product = torch.zeros_like(self.x)
        for rows, columns, tile in self:
            tile *= left[:, rows] @ right[:, :, columns]
            product[:, rows] += tile @ self.x[:, columns]
            if rows != columns:
                product[:, columns] += tile.mT @ self.x[:, rows]
        return product


def _spans(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def _workspace(x: Tensor) -> int:
    return WORKSPACE.get(x.device.type, WORKSPACE["cuda"])


def _tiling(features: Tensor, chunk_size: int | None) -> tuple[int, int]:
    """Edge of a tile and number of groups in it: tiles that stay in a core's cache, or that fill a GPU."""
    groups, size, _ = features.shape
    on_cpu = features.device.type == "cpu"
    edge = min(chunk_size or (512 if on_cpu else min(4096, max(1024, size // 8))), max(size, 1))
    budget = 2**18 if on_cpu else _workspace(features) // 2
    return edge, max(1, min(groups, budget // max(1, edge * (edge if on_cpu else size))))
