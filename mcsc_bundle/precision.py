"""Which mixed precision a device is good for."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import nn

log = logging.getLogger(__name__)

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def autocast_dtype(device: torch.device, wanted: torch.dtype | str | None) -> torch.dtype | None:
    """What ``torch.autocast`` is to compute in; ``None`` without mixed precision.

    Args:
        device: where.
        wanted: bf16, fp16 or, for no mixed precision, float32, also by name; ``None`` takes bf16 where a GPU has it (not where
            it is emulated), else fp16. A CPU takes bf16 alone, and only if told to: it gains by it where it has bf16
            instructions (AVX512-BF16, AMX).

    Raises:
        SystemExit: another name.
    """
    if isinstance(wanted, str):
        if wanted not in AMP_DTYPES:
            raise SystemExit(f"error: amp_dtype: expected {', '.join(AMP_DTYPES)}, received {wanted!r}.")
        wanted = AMP_DTYPES[wanted]
    if wanted == torch.float32:
        return None
    if device.type != "cuda" and wanted != torch.bfloat16:
        _tell_off(str(device))
        return None
    return wanted or (torch.bfloat16 if _computes_bf16(device) else torch.float16)


def _computes_bf16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


@cache
def _tell_off(device: str) -> None:
    log.info("AMP is off: it needs a CUDA device or amp_dtype bfloat16, the device is %s.", device)


def forget_overflow(module: nn.Module) -> None:
    """Begin the running statistics of batch normalisation anew where they are not finite.

    A forward pass whose activations overflow (in float16) writes infinity into them before anybody can skip the step. Training
    goes on without them, but the saved network would answer NaN for ever.
    """
    for part in module.modules():
        if not isinstance(part, nn.modules.batchnorm._BatchNorm) or part.running_var is None:
            continue
        if not all(bool(numbers.isfinite().all()) for numbers in part.buffers()):
            part.reset_running_stats()
