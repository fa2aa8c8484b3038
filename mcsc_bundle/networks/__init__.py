"""The networks: a U-Net and a Swin-Unet shaped by the plan, and the pair of both.

``unet_from_plan`` can stand as ``_target_`` of ``network_def`` in a config.
"""

from __future__ import annotations

from mcsc_bundle.networks.pair import BranchPredictor, NetworkPair, pair_or_exit
from mcsc_bundle.networks.swin_unet import SwinUNet
from mcsc_bundle.networks.swin_weights import load_imagenet_weights
from mcsc_bundle.networks.unet import UNet
from mcsc_bundle.plan import Plan

__all__ = [
    "BranchPredictor",
    "NetworkPair",
    "SwinUNet",
    "UNet",
    "load_imagenet_weights",
    "pair_or_exit",
    "unet_from_plan",
]


def unet_from_plan(plan: Plan) -> UNet:
    """The CNN of ``plan``."""
    return UNet.from_plan(plan)
