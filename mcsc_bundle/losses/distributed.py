"""What the processes of a training share besides gradients: features for the contrast, and running values."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def gather_features(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Join the groups of all ranks, so that group ``k`` holds the vectors of group ``k`` on every rank.

    With ``DistributedDataParallel``, which averages gradients over the ranks, the gradient is that of one process on the joined
    batch if the ranks' losses have that batch's loss as their mean. (The authors train on one GPU.)

    Args:
        features: ``(G, N, D)`` of this rank, the same shape on every rank.
        labels: class indices ``(G, N)``.

    Returns:
        Features ``(G, ranks * N, D)`` through which gradients flow back to the rank they came from, and labels
        ``(G, ranks * N)``. Without a process group, or alone in it, the arguments themselves.
    """
    if _alone():
        return features, labels
    return _Gather.apply(features), _joined(labels)


def world_size() -> int:
    """How many processes train; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def groups_of_rank() -> slice:
    """Which of the joined groups this rank answers for, so that all together look at each of them once."""
    return slice(None) if _alone() else slice(dist.get_rank(), None, dist.get_world_size())


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of what each rank has, without a gradient; without a process group the tensor itself."""
    if _alone():
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _alone() -> bool:
    return world_size() == 1


class _Gather(torch.autograd.Function):
    """All-gather along axis 1. Gradients of a rank's part are summed over the losses of all ranks."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.size = x.shape[1]
        return _joined(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        total = upstream.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.narrow(1, dist.get_rank() * ctx.size, ctx.size)


def _joined(x: Tensor) -> Tensor:
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts, dim=1)
