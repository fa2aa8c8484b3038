"""Class-balanced supervised contrastive loss in memory linear in the number of pixels (MCSC, Liu et al., BMVC 2023).

For a group of feature vectors with unit length ``z_i``, classes ``y_i``, class counts ``n_c`` and positives
``P(i) = {p != i : y_p = y_i}``::

    l_i = -1 / (|P(i)| + 1e-6) * sum_{p in P(i)} [z_i.z_p / tau - log D_i]
    D_i = sum_{a != i} exp(z_i.z_a / tau) / m_ia + 1e-6,    m_ia = n_{y_a} - 1 if y_a = y_i else n_{y_a}

How it is computed:

- the positives need no matrix: ``sum_{p in P(i)} z_i.z_p = z_i.(S_{y_i} - z_i)`` with the class sums ``S_c``, and over
  a class that is ``|S_c|^2 - n_c``;
- ``D_i`` needs only the sums of ``exp`` per class, which tiles of the similarity matrix add up;
- that matrix ``E = exp(Z Z' / tau)`` is symmetric, so tiles on and above its diagonal do: half a product;
- the gradient of ``sum_i q_i log D_i`` is ``(E * W) Z`` with ``W_ia = r_i / m_ia + r_a / m_ai``, ``r_i = q_i / D_i``:
  symmetric too, and of rank 2 C, so a thin product makes a tile of it and one product of full size remains;
- the loss is a scalar, so the gradient is computed along with it and backward only scales it.

The plain form takes three products of full size and holds every matrix until backward. On a GPU both passes are kernels that
write no tile at all (``fused.py``), where these run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mcsc_bundle.constants import kept
from mcsc_bundle.losses.fused import Fused, usable

EPSILON = 1e-6  # of the authors' code, in |P(i)| and in D_i
SHORTEST = 1e-6  # a feature vector shorter than this has no direction: it is taken as 0 and gets no gradient
LEAST_TEMPERATURE = 0.02  # exp(+-1 / 0.02) and sums of it are far inside float32, so no maximum need be subtracted
CPU_WORKSPACE, GPU_WORKSPACE = 2**23, 2**26  # entries of E that are held at a time: 32 MiB, 256 MiB


def balanced_contrastive_loss(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    temperature: float = 0.1,
    balance_anchors: bool = False,
    ignore_index: int = -1,
    skip_background_groups: bool = True,
    chunk_size: int | None = None,
    mean_over: Tensor | None = None,
) -> Tensor:
    """The local class-balanced supervised contrastive loss (formula above), a scalar in float32.

    Source: Liu et al., *Multi-Scale Cross Contrastive Learning for Semi-Supervised Medical Image Segmentation*,
    BMVC 2023. The authors' ``SupConLoss`` pairs features with labels in another order (D1 in ``docs/method.md``); here
    row ``n`` of ``labels`` belongs to row ``n`` of ``features``. No host-device synchronisation on a GPU; double
    backward is not supported.

    Args:
        features: ``(G, N, D)``: G groups that are contrasted apart from one another, of N vectors each, of any length
            (they are normalised here) and any floating type (computed in float32, float64 stays; autocast has no say).
        labels: class indices ``(G, N)`` in ``[0, num_classes)``, or ``ignore_index``; vectors with any other label are left
            out too (to look for them would wait for the device).
        num_classes: number of classes, background (0) included.
        temperature: tau, at least 0.02.
        balance_anchors: average ``l_i`` per class over its anchors that have positives, then over these classes. If
            not, over all anchors as the authors do: large classes dominate, anchors without positives add 0 (D4).
        ignore_index: label of vectors that are left out, as anchor and as key.
        skip_background_groups: leave groups without a foreground label out of the mean over groups, as the authors do.
            Groups without any label are always left out.
        chunk_size: edge of a tile of the similarity matrix; ``None`` chooses for the device, or its kernels. It changes no value.
        mean_over: number to divide by in place of the groups that remain, where these are a part of more (``counted_groups``).

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
        if 0 <= ignore_index < num_classes:
            labels = labels.masked_fill(labels == ignore_index, -1)
        members = labels[:, None] == kept(_classes, labels.device, [num_classes])  # (G, C, N)
        members = members.to(features.dtype, memory_format=torch.contiguous_format)
        counts = members.sum(2, keepdim=True)  # (G, C, 1)
        weights = anchor_weights(counts, balance_anchors, skip_background_groups, mean_over)
        with_gradient = torch.is_grad_enabled() and features.requires_grad
        return _BalancedContrast.apply(features, members, counts, weights, temperature, chunk_size, with_gradient)


def _classes(shape: list[int], device: torch.device) -> Tensor:
    return torch.arange(shape[0], device=device)[:, None]


def counted_groups(labels: Tensor, num_classes: int) -> Tensor:
    """How many groups of class indices ``(G, N)`` hold foreground, a scalar: the loss is a mean over these."""
    return ((labels > 0) & (labels < num_classes)).any(1).sum()


def anchor_weights(
    counts: Tensor, balance_anchors: bool, skip_background_groups: bool, mean_over: Tensor | None = None
) -> Tensor:
    """Weight ``(G, C, 1)`` of ``l_i`` in the loss for an anchor of class c in group g.

    Args:
        counts: vectors of each class, ``(G, C, 1)``.
        balance_anchors, skip_background_groups, mean_over: as in ``balanced_contrastive_loss``.
    """
    counted = counts[:, 1:] if skip_background_groups else counts
    used = (counted.sum(1, keepdim=True) > 0).to(counts.dtype)
    group = used / (used.sum() if mean_over is None else mean_over).clamp(min=1)
    if not balance_anchors:
        return (group / counts.sum(1, keepdim=True).clamp_(min=1)).expand_as(counts)
    paired = (counts > 1).to(counts.dtype)
    return paired / counts.clamp(min=1) * (group / paired.sum(1, keepdim=True).clamp_(min=1))


class _BalancedContrast(torch.autograd.Function):
    """Value and gradient in one go; backward scales the gradient."""

    @staticmethod
    def forward(
        ctx,
        features: Tensor,
        members: Tensor,
        counts: Tensor,
        weights: Tensor,
        temperature: float,
        chunk_size: int | None,
        with_gradient: bool,
    ) -> Tensor:
        gradient = torch.zeros_like(features, memory_format=torch.contiguous_format) if with_gradient else None
        kernels = chunk_size is None and usable(features.device, features.dtype, features.shape[2], members.shape[1])
        tiles = Fused(features) if kernels else _Tiles(features, chunk_size, with_gradient)
        values: list[Tensor] = []
        for here in _spans(len(features), tiles.at_once):
            if _on_cpu(features.device) and not torch.compiler.is_compiling() and not weights[here].any():
                continue  # nothing counts here, and on the CPU it costs nothing to look
            slope = None if gradient is None else gradient[here]
            values.append(
                _contrast(features[here], members[here], counts[here], weights[here], temperature, tiles, slope)
            )
        ctx.save_for_backward(gradient)
        return torch.stack(values).sum() if len(values) > 1 else values[0] if values else features.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None, None, None, None


def _contrast(
    features: Tensor,
    members: Tensor,
    counts: Tensor,
    weights: Tensor,
    temperature: float,
    tiles: _Tiles | Fused,
    slope: Tensor | None,
) -> Tensor:
    """Weighted sum of ``l_i`` over groups ``(g, N, D)``; its gradient is added to ``slope``, if there is one."""
    length = features.norm(dim=2, keepdim=True)
    annotated = members.any(1).unsqueeze(2)
    reach = torch.where((length > SHORTEST) & annotated, length * temperature**0.5, torch.inf)  # no direction: x is 0
    x = (features / reach).masked_fill_(~annotated, 0)  # x_i.x_a = z_i.z_a / tau; rows that are left out may be NaN
    others = counts - 1  # |P(i)|, (g, C, 1)
    share = weights * (counts > 1) / (others + EPSILON)
    class_sum = members @ x  # (g, C, D): S_c
    alone = members @ x.norm(dim=2, keepdim=True).square()
    pairs = class_sum.double().square().sum(2, keepdim=True) - alone  # (g, C, 1): sum of x_i.(S_c - x_i) over the class

    inverse = (counts - members).clamp_(min=1).reciprocal_()  # (g, C, N): 1 / m for anchor i and keys of class c
    push = (share * others).mT @ members  # (g, 1, N): weight of log D_i
    denominator, sums, shared = torch.empty_like(push), torch.zeros_like(members), (members * share).mT
    for groups in _spans(len(x), tiles.batch):
        tiles.add_class_sums(sums[groups], x[groups], members[groups], weights[groups])
        density = torch.sum(sums[groups].mul_(inverse[groups]), 1, keepdim=True, out=denominator[groups]).add_(EPSILON)
        if slope is not None:
            ratios = push[groups] / density * inverse[groups]
            tiles.add_slope(slope[groups], x[groups], members[groups], ratios, shared[groups], weights[groups])
    if slope is not None:
        slope.addcmul_(x, (x * slope).sum(2, keepdim=True), value=-temperature)  # a longer vector changes nothing
        slope.div_(reach)
    loss = (push * denominator.double().log_()).sum() - (share * pairs).sum()
    return loss.to(features.dtype)


class _Tiles:
    """``E = exp(X X')`` of ``(g, N, D)`` without its diagonal, as tiles on and above the diagonal.

    Tiles live in one buffer for all groups, since fresh pages would cost as much as the products. Those of the first
    pass stay for the second where a workspace of fixed size holds them all; otherwise they are made again.

    On a GPU, where each call is a launch that costs more than a small matrix, what is linear in N is done for all groups
    ``at_once``; on a CPU for as many as stay in the cache.

    Args:
        features: ``(G, N, D)``, of which ``batch`` groups at a time will be asked for.
        edge: of a tile; ``None`` takes one that stays in a core's cache, or fills a GPU.
        with_gradient: make room for ``slope``.
    """

    def __init__(self, features: Tensor, edge: int | None, with_gradient: bool) -> None:
        groups, size, _ = features.shape
        on_cpu = _on_cpu(features.device)
        workspace = CPU_WORKSPACE if on_cpu else GPU_WORKSPACE
        self.edge = min(max(1, size), edge or _even_edge(max(1, size), _least_edge(on_cpu)))
        self.with_gradient = with_gradient
        spans = list(_spans(size, self.edge))
        self.places = [(rows, columns) for index, rows in enumerate(spans) for columns in spans[index:]]
        entries = sum(_area(*place) for place in self.places)
        self.batch = max(1, min(groups, (4 * _least_edge(True) ** 2 if on_cpu else workspace) // max(1, entries)))
        self.at_once = self.batch if on_cpu else max(1, groups)
        self.keep = with_gradient and self.batch * entries <= workspace
        self.buffer = features.new_empty(self.batch * (entries if self.keep else self.edge**2))
        self.weights = features.new_empty(self.batch * self.edge**2 if with_gradient else 0)

    def add_class_sums(self, sums: Tensor, x: Tensor, members: Tensor, _weights: Tensor) -> None:
        """Add ``sum_a E_ia [y_a = c]`` to ``(g, C, N)``; classes first, a layout that thin products run fast in."""
        for rows, columns, tile in self._made(x):
            sums[:, :, columns].baddbmm_(members[:, :, rows], tile)
            if rows != columns:
                sums[:, :, rows].baddbmm_(members[:, :, columns], tile.mT)

    def add_slope(
        self, total: Tensor, x: Tensor, members: Tensor, ratios: Tensor, shared: Tensor, _weights: Tensor
    ) -> None:
        """Add ``(E * W - A) X`` to ``total``, after ``add_class_sums``.

        Near the optimum both parts cancel, so they meet before the product.

        Args:
            total, x: ``(g, N, D)``.
            members: 1 where a vector belongs to a class, ``(g, C, N)``.
            ratios: f in ``W_ia = f(i, y_a) + f(a, y_i)``, as ``(g, C, N)``.
            shared: half of ``A_ia`` for vectors of the anchor's class c, ``(g, N, C)``; of other classes it is 0.
        """
        classes = members.shape[1]
        factors = torch.cat((members, ratios, members), 1)  # two overlapping views: f beside M, and M beside f
        left, right = factors[:, classes:].mT, factors[:, : 2 * classes]
        for rows, columns, tile in self._places(len(x)) if self.keep else self._made(x):
            weights = self.weights[: tile.numel()].view_as(tile)
            tile *= torch.bmm(left[:, rows], right[:, :, columns], out=weights)
            tile.baddbmm_(shared[:, rows], members[:, :, columns], alpha=-2)
            total[:, rows].baddbmm_(tile, x[:, columns])
            if rows != columns:
                total[:, columns].baddbmm_(tile.mT, x[:, rows])

    def _made(self, x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        for rows, columns, tile in self._places(len(x)):
            torch.bmm(x[:, rows], x[:, columns].mT, out=tile).exp_()
            if rows == columns:
                tile.diagonal(dim1=1, dim2=2).zero_()
            yield rows, columns, tile

    def _places(self, groups: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows, columns and memory of each tile."""
        start = 0
        for rows, columns in self.places:
            end = start + groups * _area(rows, columns)
            yield rows, columns, self.buffer[start:end].view(groups, rows.stop - rows.start, -1)
            start = end if self.keep else 0


def _spans(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def _on_cpu(device: torch.device) -> bool:
    return device.type == "cpu"


@torch.compiler.assume_constant_result
def _least_edge(on_cpu: bool) -> int:
    """Smallest edge that is worth a call.

    On a CPU its tile stays in the cache of one or two cores. On a GPU without kernels (not measured) a group of the paper's, 2888
    vectors, is cut into three large tiles: on and above the diagonal of two by two.
    """
    return 256 * min(2, torch.get_num_threads()) if on_cpu else 2048


def _even_edge(size: int, least: int) -> int:
    """Edge of equal tiles: four on a side, but from ``least`` to twice that."""
    return math.ceil(size / math.ceil(size / min(2 * least, max(least, math.ceil(size / 4)))))


def _area(rows: slice, columns: slice) -> int:
    return (rows.stop - rows.start) * (columns.stop - columns.start)
