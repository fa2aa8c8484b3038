"""Tensors that depend on shapes alone, kept from one step to the next.

Each small operation is a launch on a GPU, and a small network's step takes as long as its launches: index grids and window masks
that every step made anew were a fifth of a cross-teaching step's (``benchmarks/launches.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

Shape = list[int] | tuple[int, ...]


def kept(make: Callable[..., Tensor], device: torch.device, *shapes: Shape) -> Tensor:
    """``make(*shapes, device)``, with lists as shapes, the same tensor at every call; it must not be written to.

    Made anew where code is traced, which keeps constants itself, and under modes that make other tensors (fake ones).
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(torch.empty(0)) is not Tensor:
        return make(*map(list, shapes), device)
    return _kept(make, device, *map(tuple, shapes))


@lru_cache(maxsize=256)
def _kept(make: Callable[..., Tensor], device: torch.device, *shapes: tuple[Any, ...]) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # a tensor of inference mode could never be trained with
        return make(*map(list, shapes), device)
