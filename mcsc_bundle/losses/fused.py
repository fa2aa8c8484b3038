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

from mcsc_bundle.devices import out_of_memory

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
        self._halves: tuple[Tensor, Tensor] | None = None

    def add_class_sums(self, sums: Tensor, x: Tensor, members: Tensor, weights: Tensor) -> None:
        """See ``_Tiles``; groups in which no anchor has weight are passed over."""
        self._halves = torch.ops.mcsc_bundle.class_sums(x, members, weights, sums)

    def add_slope(
        self, total: Tensor, x: Tensor, members: Tensor, ratios: Tensor, shared: Tensor, weights: Tensor
    ) -> None:
        """See ``_Tiles``; after ``add_class_sums`` of the same x."""
        assert self._halves is not None
        factors = torch.cat((members, ratios, members), 1)
        torch.ops.mcsc_bundle.slope(*self._halves, factors, shared.mT, weights, total)


@torch.library.custom_op("mcsc_bundle::class_sums", mutates_args={"sums"})
def class_sums(x: Tensor, members: Tensor, weights: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """``kernels.class_sums``; returns x as ``high + low``, two fp16.

    One operation for ``torch.compile``, the split with it: compiled, ``x - x.half()`` would be 0, as casts down and up again
    are left out.
    """
    high = x.half().contiguous()
    low = (x - high).half().contiguous()
    _launch("class_sums", (high, low, members, weights.contiguous(), sums), members.shape[1], members.shape[1])
    return high, low


@class_sums.register_fake
def _(x: Tensor, members: Tensor, weights: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    high = torch.empty(x.shape, dtype=torch.half, device=x.device)
    return high, torch.empty_like(high)


@torch.library.custom_op("mcsc_bundle::slope", mutates_args={"total"})
def slope(high: Tensor, low: Tensor, factors: Tensor, shared: Tensor, weights: Tensor, total: Tensor) -> None:
    """``kernels.slope``, as one operation for ``torch.compile``."""
    tensors = (high, low, factors, shared.contiguous(), weights.contiguous(), total)
    _launch("slope", tensors, shared.shape[1], 2 * shared.shape[1])


def _launch(name: str, tensors: tuple[Tensor, ...], classes: int, columns: int) -> None:
    from mcsc_bundle.losses import kernels

    assert all(tensor.is_contiguous() for tensor in tensors)
    groups, size, width = tensors[0].shape
    padded = {"D": _padded(width), "C": _padded(columns), "ROWS": ROWS, "COLUMNS": COLUMNS}
    programs = groups * -(-size // ROWS)
    if programs:
        kernel: Any = getattr(kernels, name)
        with torch.cuda.device_of(tensors[0]):
            kernel[programs,](*tensors, size, width, classes, **padded, num_warps=WARPS, num_stages=STAGES)


def _padded(size: int) -> int:
    return max(LEAST_SIDE, 1 << (size - 1).bit_length())


def usable(device: torch.device, dtype: torch.dtype, width: int, classes: int) -> bool:
    """Whether the kernels take vectors of this type and width, and this many classes, on this device."""
    if device.type not in DEVICES or dtype != torch.float32 or width > MOST_WIDTH or classes > MOST_CLASSES:
        return False
    if 2 * classes > LEAST_SIDE:  # not as a value: while code is traced it may be a symbol
        return works(device.type, device.index, True)
    return works(device.type, device.index, False)


@torch.compiler.assume_constant_result
def works(kind: str, index: int | None, many_classes: bool) -> bool:
    """Whether the kernels give on this device what plain PyTorch gives; without a verdict where nothing can be tried now."""
    capturing = kind == "cuda" and torch.cuda.is_current_stream_capturing()
    if capturing or type(torch.empty(0)) is not Tensor:  # a CUDA graph is recorded, or tensors are fake
        return False
    try:
        return _tried(kind, index, many_classes)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return False


@cache
def _tried(kind: str, index: int | None, many_classes: bool) -> bool:
    device = torch.device(kind if index is None else f"{kind}:{index}")
    classes = MOST_CLASSES if many_classes else LEAST_SIDE // 2
    try:
        with torch.no_grad(), torch.autocast(kind, enabled=False):
            # sizes that 16 divides and others: Triton compiles them apart
            errors = [
                error
                for size, width in ((112, MOST_WIDTH), (101, MOST_WIDTH - 3))
                for error in _errors_of_a_trial(device, size, width, classes)
            ]
    except Exception as cause:  # whatever it is, the tiles do without
        if out_of_memory(cause):  # no verdict on the kernels
            raise
        log.warning("The contrast's GPU kernels do not run here (%s); it takes plain PyTorch.", cause)
        return False
    if not all(error < TOLERANCE for error in errors):  # NaN is no less
        log.warning("The contrast's GPU kernels are off by %s here; it takes plain PyTorch.", errors)
        return False
    return True


def _errors_of_a_trial(device: torch.device, size: int, width: int, classes: int) -> list[float]:
    """Largest error of each pass, relative to its largest value."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, size, width, generator=generator)
    x = (x / x.norm(dim=2, keepdim=True) * 10**0.5).to(device)
    members = torch.nn.functional.one_hot(torch.arange(size, device=device) % classes, classes).T.float()
    members = members.expand(len(x), -1, -1).contiguous()
    e = (x.double() @ x.double().mT).exp() * (1 - torch.eye(size, device=device))
    ratios = (members / e.sum(2).unsqueeze(1)).float()  # so that, as in the loss, no entry of E * W exceeds its weights
    shared, weights = 0.1 * members, torch.ones(len(x), classes, 1, device=device)

    fused, sums, total = Fused(x), torch.zeros_like(members), torch.ones_like(x)
    fused.add_class_sums(sums, x, members, weights)
    fused.add_slope(total, x, members, ratios, shared.mT, weights)

    w = ratios.mT.double() @ members.double()
    right = e * (w + w.mT) - 2 * shared.mT.double() @ members.double()
    pairs = (sums, members.double() @ e), (total, 1 + right @ x.double())
    return [float((ours - judge).abs().max() / judge.abs().max()) for ours, judge in pairs]
