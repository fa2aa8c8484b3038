"""A training of any method on one random batch: a step without the reading of data, for benchmarks of steps."""

from __future__ import annotations

from typing import Any

import torch

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
from mcsc_bundle.plan import ChannelNormalization, CNNPlan, ContrastScale, Plan, TransformerPlan
from mcsc_bundle.trainer import MCSCTrainer

METHODS = {
    "supervised": Supervised,
    "mean_teacher": MeanTeacher,
    "uamt": UAMT,
    "urpc": URPC,
    "bcp": BCP,
    "cps": CPS,
    "cross_teaching": CrossTeaching,
    "mcsc_paper": PaperMCSC,
    "mcsc": MCSC,
}
DEEP = (
    "supervised",
    "mean_teacher",
    "uamt",
    "cps",
    "cross_teaching",
    "mcsc",
)  # ``configs/`` give these deep supervision


def cardiac_plan(size: int = 224, batch: int = 2, pixels: int | None = 2048) -> Plan:
    """A 2-D slice-wise plan like the one made for ACDC on a GPU."""
    return Plan(
        dataset_name="ACDC-like",
        channel_names=("cineMRI",),
        labels={"background": 0, "RV": 1, "MYO": 2, "LV": 3},
        image_dims=3,
        spatial_dims=2,
        slice_axis=2,
        orientation="RAS",
        spacing_mm=(1.5, 1.5, None),
        median_shape=(220, 240, 9),
        normalization=(ChannelNormalization("cineMRI", "zscore"),),
        patch_size=(size, size),
        batch_labeled=batch,
        batch_unlabeled=batch,
        batch_dice=True,
        cnn=CNNPlan("plan", (32, 64, 128, 256, 512), ((3, 3),) * 5, ((1, 1),) + ((2, 2),) * 4),
        transformer=TransformerPlan("plan", (4, 4), ((1, 1), (2, 2), (2, 2)), 96, (2, 2, 2), (3, 6, 12), (7, 7), True),
        contrast=(
            ContrastScale((1, 1), (size // 12,) * 2, pixels),
            ContrastScale((8, 8), (max(2, size // 16),) * 2, pixels and pixels // 4),
        ),
        mirror_axes=(0, 1),
        device="cuda",
    )


class Batches:
    """Endless copies of one random batch, so that reading data is no part of the step."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (plan.batch_labeled + plan.batch_unlabeled, 1, *plan.patch_size)
        label = torch.zeros((plan.batch_labeled, 1, *plan.patch_size), dtype=torch.uint8)
        quarter = [slice(size // 4, size // 2) for size in plan.patch_size]
        for index in range(1, plan.num_classes):
            label[(slice(None), 0, *[slice(s.start + index * 8, s.stop) for s in quarter])] = index
        self.batch = {"image": torch.randn(shape, generator=generator).to(device), "label": label.to(device)}

    def __iter__(self) -> Any:
        while True:
            yield self.batch


def make_method(plan: Plan, name: str, deep: bool = True) -> Method:
    """The named method with new networks, contrast on every part of the batch.

    Args:
        plan: networks and batch.
        name: of a method.
        deep: whether it has the deep supervision that ``configs/`` give it, if they do; never in the paper's plan.
    """
    torch.manual_seed(0)
    networks = NetworkPair.from_plan(plan)
    method_class = METHODS[name]
    options: dict[str, Any] = {} if method_class is BCP else {"loss": nnunet_loss(plan.batch_dice)}
    if deep and name in DEEP and plan.cnn.preset != "paper":
        options["deep_supervision"] = True
    if issubclass(method_class, PaperMCSC):
        options["contrast"] = MultiScaleContrast(plan, networks, balance_anchors=method_class is MCSC)
    if method_class is PaperMCSC:
        options["contrast_unlabeled_from"] = 0.0
    if method_class is CPS:
        options["second"] = unet_from_plan(plan)
    return method_class(networks, **options)


def make_trainer(
    plan: Plan, name: str, device: torch.device, steps: int, deep: bool = True, **kwargs: Any
) -> MCSCTrainer:
    """A trainer of the named method on random data."""
    method = make_method(plan, name, deep).to(device)
    optimizer = torch.optim.AdamW(method.parameter_groups(1e-3))
    return MCSCTrainer(device, 1, Batches(plan, device), method, optimizer, steps, **kwargs)
