"""Windows over an image: Gaussian-weighted patches in 3-D and 2-D, slices of a volume, and mirrored windows."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from monai.inferers import Inferer, SliceInferer, SlidingWindowInferer
from torch import Tensor

from mcsc_bundle.devices import out_of_memory
from mcsc_bundle.plan import Plan
from mcsc_bundle.precision import autocast_dtype

log = logging.getLogger(__name__)

GAUSSIAN_SIGMA = 0.125  # of the patch, as nnU-Net


def window_inferer(
    plan: Plan, overlap: float | None = None, mirror: bool = False, amp_dtype: str | None = None
) -> Inferer:
    """The inferer of a plan.

    Args:
        plan: patch, slice axis, mirror axes.
        overlap: of neighbouring windows, a fraction of the patch in [0, 1); ``None`` takes the plan's.
        mirror: average the logits of each window over all flips of ``plan.mirror_axes`` (nnU-Net's test-time
            augmentation); ``2^axes`` times the work.
        amp_dtype: ``bfloat16``, ``float16`` or ``float32`` for the network, see ``mcsc_bundle.precision``; ``None`` is what the
            device is good for.
    """
    options: dict[str, Any] = {
        "roi_size": plan.patch_size,
        "overlap": plan.inference_overlap if overlap is None else overlap,
        "mode": "gaussian",
        "sigma_scale": GAUSSIAN_SIGMA,
    }
    kind: Callable[..., SlidingWindowInferer] = SlidingWindowInferer
    if plan.slice_axis is not None:
        kind = partial(SliceInferer, spatial_dim=plan.slice_axis)
    batch = plan.batch_labeled + plan.batch_unlabeled  # the memory was planned for that many and gradients
    return WindowInferer(partial(kind, **options), plan.mirror_axes if mirror else (), amp_dtype, batch)


class WindowInferer(Inferer):
    """MONAI's sliding windows with mirroring, on a GPU with as much of its memory as there is.

    Where it does not suffice the windows are collected in main memory, and where that is not enough fewer of them are taken
    at once: half as many, down to one. How many went through is kept for the next images.

    Args:
        windows: makes the inferer; takes its ``device``, ``sw_device`` and ``sw_batch_size``.
        mirror_axes: network axes to flip.
        amp_dtype: of the network, as in training (``float32``: no mixed precision); ``None`` is what the device is good
            for. Windows are weighted and added in float32.
        at_once: windows that the network is given together.
    """

    def __init__(
        self,
        windows: Callable[..., SlidingWindowInferer],
        mirror_axes: Sequence[int] = (),
        amp_dtype: str | None = None,
        at_once: int = 1,
    ) -> None:
        self.windows, self.mirror_axes, self.amp_dtype = windows, tuple(mirror_axes), amp_dtype
        self.at_once = at_once

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Logits ``(B, classes, *spatial)`` of ``(B, C, *spatial)``."""
        predict = network
        told = inputs.is_cuda or self.amp_dtype is not None
        if told and (dtype := autocast_dtype(inputs.device, self.amp_dtype)):
            predict = partial(in_precision, network=network, dtype=dtype)
        if self.mirror_axes:
            predict = partial(mirrored, network=predict, axes=self.mirror_axes)
        try:
            return self.windows(sw_batch_size=self.at_once)(inputs, predict, *args, **kwargs)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            log.info("The GPU has no room for all windows of this image; collecting them in main memory.")
        return self._in_main_memory(inputs.device, inputs.cpu(), predict, *args, **kwargs)

    def _in_main_memory(self, device: torch.device, image: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Windows computed on the device, fewer at once until they have room, and collected beside the image."""
        while True:
            torch.cuda.empty_cache()  # outside of the handler, which holds what an attempt had made
            try:
                return self.windows(device="cpu", sw_device=device, sw_batch_size=self.at_once)(image, *args, **kwargs)
            except RuntimeError as error:
                if self.at_once == 1 or not out_of_memory(error):
                    raise
            self.at_once //= 2
            log.info("The GPU has no room for so many windows; taking %d at once.", self.at_once)


def in_precision(x: Tensor, network: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Tensor:
    """Logits in float32 of a network in mixed precision."""
    with torch.autocast(x.device.type, dtype):
        return network(x).float()


def mirrored(x: Tensor, network: Callable[[Tensor], Tensor], axes: Sequence[int]) -> Tensor:
    """Mean logits over every combination of flips of the network axes ``axes``, each flipped back."""
    total = network(x)
    for count in range(1, len(axes) + 1):
        for flips in itertools.combinations([axis + 2 for axis in axes], count):
            total = total + network(x.flip(flips)).flip(flips)
    return total / 2 ** len(axes)
