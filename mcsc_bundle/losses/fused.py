"""The balanced contrast on a GPU by the kernels of ``kernels.py``, where they work.

They are tried once on each device beside plain PyTorch, since much can keep Triton from working (no C compiler, a card from
before 2020); where they fail or differ, the contrast takes its tiles, as on a CPU, and the log says so.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

# With these, what a card from 2020 on has on the chip is enough (99 KiB, 255 registers) for the plan's 128 features.
ROWS, COLUMNS, WARPS, STAGES = 64, 32, 4, 2
MOST_WIDTH, MOST_CLASSES = 128, 16
LEAST_SIDE = 16  # of a matrix that tensor cores take
DEVICES = ("cuda",)
TOLERANCE = 1e-5


class Fused:
    """Both passes over ``E`` as one launch each; in place of ``contrastive._Tiles``, with the same two methods.

    Args:
        features: ``(G, N, D)`` in float32; all groups at once.
    """

    def __init__(self, features: Tensor) -> None:
        self.batch = self.at_once = max(1, len(features))
        self._parts: tuple[Tensor, Tensor] | None = None

    def add_class_sums(self, sums: Tensor, x: Tensor, members: Tensor, weights: Tensor) -> None:
        """See ``_Tiles``; groups in which no anchor has weight are passed over."""
        high = x.half().contiguous()
        self._parts = high, (x - high).half().contiguous()
        torch.ops.mcsc_bundle.class_sums(*self._parts, members, weights.contiguous(), sums)

    def add_slope(
        self, total: Tensor, x: Tensor, members: Tensor, ratios: Tensor, shared: Tensor, weights: Tensor
    ) -> None:
        """See ``_Tiles``; after ``add_class_sums`` of the same x."""
        assert self._parts is not None
        factors = torch.cat((members, ratios, members), 1)
        torch.ops.mcsc_bundle.slope(*self._parts, factors, shared.mT.contiguous(), weights.contiguous(), total)


@torch.library.custom_op("mcsc_bundle::class_sums", mutates_args={"sums"})
def class_sums(high: Tensor, low: Tensor, members: Tensor, weights: Tensor, sums: Tensor) -> None:
    """``kernels.class_sums``, as one operation for ``torch.compile``."""
    _launch("class_sums", (high, low, members, weights, sums), members.shape[1], members.shape[1])


@torch.library.custom_op("mcsc_bundle::slope", mutates_args={"total"})
def slope(high: Tensor, low: Tensor, factors: Tensor, shared: Tensor, weights: Tensor, total: Tensor) -> None:
    """``kernels.slope``, as one operation for ``torch.compile``."""
    _launch("slope", (high, low, factors, shared, weights, total), shared.shape[1], 2 * shared.shape[1])


def _launch(name: str, tensors: tuple[Tensor, ...], classes: int, columns: int) -> None:
    from mcsc_bundle.losses import kernels

    groups, size, width = tensors[0].shape
    padded = {"D": _padded(width), "C": _padded(columns), "ROWS": ROWS, "COLUMNS": COLUMNS}
    kernel: Any = getattr(kernels, name)
    if groups and size:
        with torch.cuda.device_of(tensors[0]):
            kernel[-(-size // ROWS), groups](
                *tensors, size, width, classes, **padded, num_warps=WARPS, num_stages=STAGES
            )


def _padded(size: int) -> int:
    return max(LEAST_SIDE, 1 << (size - 1).bit_length())


@torch.compiler.assume_constant_result
def usable(device: torch.device, dtype: torch.dtype, width: int, classes: int) -> bool:
    """Whether the kernels take vectors of this type and width, and this many classes, on this device."""
    fits = dtype == torch.float32 and width <= MOST_WIDTH and classes <= MOST_CLASSES
    return fits and device.type in DEVICES and works(device.type, device.index)


@cache
def works(kind: str, index: int | None) -> bool:
    """Whether the kernels, tried on a small problem, give what plain PyTorch gives; the answer is kept."""
    try:
        with torch.no_grad(), torch.autocast(kind, enabled=False):
            error = _error_of_a_trial(torch.device(kind if index is None else f"{kind}:{index}"))
    except Exception as cause:  # whatever it is, the tiles do without
        log.warning("The contrast's GPU kernels do not run here (%s); it takes plain PyTorch, which is slower.", cause)
        return False
    if not error < TOLERANCE:
        log.warning("The contrast's GPU kernels are off by %.1e here; it takes plain PyTorch, which is slower.", error)
        return False
    return True


def _error_of_a_trial(device: torch.device) -> float:
    """Largest error of both passes, each relative to its largest value."""
    generator = torch.Generator().manual_seed(0)
    groups, size, width, classes = 2, ROWS + COLUMNS + 5, MOST_WIDTH - 3, 3
    x = torch.randn(groups, size, width, generator=generator)
    x = (x / x.norm(dim=2, keepdim=True) * 10**0.5).to(device)
    members = torch.nn.functional.one_hot(torch.arange(size, device=device) % classes, classes).T.float()
    members = members.expand(groups, -1, -1).contiguous()
    e = (x.double() @ x.double().mT).exp() * (1 - torch.eye(size, device=device))
    ratios = (members / e.sum(2).unsqueeze(1)).float()  # so that, as in the loss, no entry of E * W exceeds its weights
    shared, weights = 0.1 * members, torch.ones(groups, classes, 1, device=device)

    fused, sums, total = Fused(x), torch.zeros_like(members), torch.ones_like(x)
    fused.add_class_sums(sums, x, members, weights)
    fused.add_slope(total, x, members, ratios, shared.mT, weights)

    w = ratios.mT.double() @ members.double()
    right = e * (w + w.mT) - 2 * shared.mT.double() @ members.double()
    pairs = (sums, members.double() @ e), (total, 1 + right @ x.double())
    return max(float((ours - judge).abs().max() / judge.abs().max()) for ours, judge in pairs)
