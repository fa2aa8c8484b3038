"""Counts of feature maps, weights and operations against networks as they are built."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mcsc_bundle.networks.swin_unet import SwinUNet
from mcsc_bundle.networks.unet import UNet
from mcsc_bundle.plan import Plan
from preprocessing.compute import cnn_flops, transformer_flops
from preprocessing.memory import cnn_count, cnn_parameters, transformer_parameters
from preprocessing.planner import make_plan
from preprocessing.topology import Topology
from tests.preprocessing.fingerprints import make_fingerprint


def equal_widths_at_the_end(plan: Plan) -> Plan:
    """As in a deep network, whose widths stop growing: the last shortcut only averages."""
    *features, _ = plan.cnn.features
    return plan.replace(cnn=replace(plan.cnn, features=(*features, features[-1])))


PLANS = {
    "2d": make_plan(make_fingerprint((1, 1), (60, 44), channels=("a", "b"), classes=3), 8, "cpu"),
    "3d": make_plan(make_fingerprint((2, 1, 1), (12, 30, 24), classes=4), 8, "cpu"),
    "3d residual": equal_widths_at_the_end(
        make_plan(make_fingerprint((2, 1, 1), (12, 30, 24), classes=4), 8, "cpu", preset="resenc_m")
    ),
}


def weights(network: nn.Module, kinds: tuple[type, ...]) -> int:
    return sum(module.weight.numel() for module in network.modules() if isinstance(module, kinds))


def operations(network: nn.Module, plan: Plan) -> int:
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, plan.in_channels, *plan.patch_size))
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", PLANS)
def test_the_cnns_count_is_that_of_its_convolutions(kind) -> None:
    plan, outputs = PLANS[kind], []
    network = UNet.from_plan(plan)
    convolutions = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for module in network.modules():
        # nnU-Net counts a shortcut that only averages as if it had a convolution
        averages = isinstance(module, nn.Sequential) and [type(part) for part in module] == [nn.AvgPool3d]
        if isinstance(module, convolutions) or averages:
            module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.numel()))
    network(torch.zeros(1, plan.in_channels, *plan.patch_size))
    topology = Topology(plan.patch_size, plan.cnn.strides, plan.cnn.kernel_sizes)
    cnn = plan.cnn
    counted = cnn_count(topology, cnn.features, plan.num_classes, cnn.convs_per_stage, cnn.blocks_per_stage)
    assert counted == sum(outputs)


@pytest.mark.parametrize("kind", PLANS)
def test_weights_are_counted_as_built(kind) -> None:
    plan = PLANS[kind]
    ends = plan.in_channels, plan.num_classes
    cnn, swin = UNet.from_plan(plan), SwinUNet.from_plan(plan)
    convolutions = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    assert cnn_parameters(plan.cnn, *ends) == weights(cnn, convolutions)
    assert transformer_parameters(plan.transformer, *ends) == weights(swin, (nn.Linear, nn.Conv2d, nn.Conv3d))


@pytest.mark.parametrize("kind", PLANS)
def test_operations_are_counted_as_run(kind) -> None:
    plan = PLANS[kind]
    ends = plan.in_channels, plan.num_classes
    assert cnn_flops(plan.patch_size, plan.cnn, *ends) == pytest.approx(
        operations(UNet.from_plan(plan), plan), rel=0.02
    )
    expected = operations(SwinUNet.from_plan(plan), plan)
    assert transformer_flops(plan.patch_size, plan.transformer, *ends) == pytest.approx(expected, rel=0.1)
