"""A step neither waits for the device nor leaves constants on the host; the meta device, which has no values to read, tells."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.nn import Parameter

from benchmarks.random_training import DEEP
from benchmarks.random_training import METHODS as NAMED
from mcsc_bundle.methods import BCP, MCSC, Method, base, bcp, mcsc
from mcsc_bundle.plan import ChannelNormalization
from tests.mcsc_bundle.methods.cases import METHODS, batch_of, build

NAMES = {method: name for name, method in NAMED.items()}


def to_meta(method: Method) -> Method:
    """Weights and buffers without values, also those that a module's own ``to`` would not move."""
    for module in method.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = Parameter(weight.detach().to("meta"), weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to("meta")
    return method


def step(method: Method, batch: dict) -> None:
    losses = method(batch, 1.0)
    torch.stack(list(losses.values())).sum().backward()
    method.after_step(1.0)


@pytest.fixture
def meta(monkeypatch):
    """Autocast does not know the meta device; what MCSC and BCP read back on purpose, late, is given to them."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(mcsc, "ReadBack", lambda values: SimpleNamespace(tolist=lambda: [0.5] * len(values)))
    monkeypatch.setattr(
        bcp, "ReadBack", lambda values: SimpleNamespace(wait=lambda: torch.zeros_like(values, device="cpu"))
    )


@pytest.mark.parametrize("kind", ["slicewise", "3d"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_reads_no_value_and_mixes_no_devices(kind, method, meta):
    plan, built = build(kind, method, deep=NAMES[method] in DEEP)
    batch = {name: tensor.to("meta") for name, tensor in batch_of(plan).items()}
    for _ in range(2):
        step(to_meta(built), batch)
    assert all(weight.grad is not None for weight in built.cnn.parameters())


def test_what_lies_outside_the_body_is_found_without_reading_a_value(meta, monkeypatch):
    looked, look = [], base.outside_of_body
    monkeypatch.setattr(base, "outside_of_body", lambda image: looked.append(image.device.type) or look(image))
    plan, built = build("3d", MCSC, normalization=(ChannelNormalization("MRI", "zscore", inside_mask=True),))
    step(to_meta(built), {name: tensor.to("meta") for name, tensor in batch_of(plan).items()})
    assert looked == ["meta"]


def test_bcp_waits_for_its_pseudo_labels_when_the_student_has_its_work(meta, monkeypatch):
    plan, built = build("slicewise", BCP)
    order, clean = [], bcp.largest_components
    built.cnn.register_forward_hook(lambda *_: order.append("student"))
    built.teacher.network.register_forward_hook(lambda *_: order.append("teacher"))
    monkeypatch.setattr(bcp, "largest_components", lambda labels: order.append("host") or clean(labels))
    step(to_meta(built), {name: tensor.to("meta") for name, tensor in batch_of(plan).items()})
    assert order == ["teacher", "student", "host"]


def test_bcp_without_cleaning_reads_nothing_back(meta, monkeypatch):
    plan, built = build("slicewise", BCP)
    built.largest_component = False
    monkeypatch.setattr(bcp, "ReadBack", None)
    step(to_meta(built), {name: tensor.to("meta") for name, tensor in batch_of(plan).items()})
