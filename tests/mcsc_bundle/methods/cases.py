"""Every method on the tests' tiny plans, with one batch to go with it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mcsc_bundle.losses.segmentation import nnunet_loss
from mcsc_bundle.methods import (
    BCP,
    CPS,
    MCSC,
    UAMT,
    URPC,
    CrossTeaching,
    MeanTeacher,
    Method,
    MultiScaleContrast,
    PaperMCSC,
    Supervised,
)
from mcsc_bundle.networks import NetworkPair, unet_from_plan
from mcsc_bundle.plan import Plan
from tests.plans import make_plan

METHODS: tuple[type[Method], ...] = (Supervised, MeanTeacher, UAMT, CrossTeaching, CPS, URPC, BCP, PaperMCSC, MCSC)
SUPERVISED_TERMS = ("supervised", "labeled")  # how the names of terms begin that see true labels alone


REGIONS = {"labels": {"background": 0, "whole": 2, "core": 1}, "regions": {"whole": (1, 2), "core": (1,)}}
"""Changes to a plan that make its three label values two regions, one in the other."""


def build(
    kind: str,
    method: type[Method],
    seed: int = 0,
    batch_dice: bool = True,
    regions: bool = False,
    deep: bool = False,
    **changes: Any,
) -> tuple[Plan, Method]:
    """The method with nnU-Net's loss and, but for ``deep`` supervision, its class's defaults; ``changes`` are of the plan."""
    plan = make_plan(kind, batch_labeled=2, batch_unlabeled=2, **(REGIONS if regions else {}), **changes)
    torch.manual_seed(seed)
    networks = NetworkPair.from_plan(plan)
    options: dict[str, Any] = {} if method is BCP else {"loss": nnunet_loss(batch_dice, networks.outputs)}
    options |= {"deep_supervision": True} if deep else {}
    if issubclass(method, PaperMCSC):
        options["contrast"] = MultiScaleContrast(plan, networks)
    if method is CPS:
        options["second"] = unet_from_plan(plan)
    return plan, method(networks, **options)


def batch_of(plan: Plan, seed: int = 0, labeled: int = 2, unlabeled: int = 2) -> dict[str, Tensor]:
    """Noise with random labels; what ``collate_streams`` makes of a step's patches."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, plan.num_classes, (labeled, 1, *plan.patch_size), generator=generator)
    image = torch.randn(labeled + unlabeled, plan.in_channels, *plan.patch_size, generator=generator)
    return {"image": image, "label": label}


def confident(method: Method) -> Method:
    """A teacher that has not learnt yet is never sure; take whatever it says."""
    if isinstance(method, MCSC):
        method.confidence = 0.0
    if isinstance(method, UAMT):
        method.max_entropy = math.inf
    return method


def names_of_trained(method: Method) -> set[str]:
    """Attribute names of the trained networks."""
    trained = set(map(id, method.trained_networks()))
    return {name for name, child in method.named_children() if id(child) in trained}


def moved_by(method: Method, term: Tensor) -> set[str]:
    """Names of the method's parts that a term alone gives a gradient other than 0."""
    method.zero_grad()
    term.backward(retain_graph=True)
    return {
        name
        for name, part in method.named_children()
        if any(p.grad is not None and p.grad.any() for p in part.parameters())
    }
