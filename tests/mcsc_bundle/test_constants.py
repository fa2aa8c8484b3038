"""Tensors that are made once."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mcsc_bundle.constants import kept

CPU = torch.device("cpu")


def counted(shape, device):
    counted.calls += 1
    return torch.arange(shape[0], device=device)


def test_one_tensor_for_equal_shapes_and_another_for_others():
    counted.calls = 0
    first, again, other = kept(counted, CPU, [3]), kept(counted, CPU, (3,)), kept(counted, CPU, [4])
    assert first is again and first.tolist() == [0, 1, 2] and len(other) == 4 and counted.calls == 2


def test_nothing_is_kept_of_a_trace_or_of_fake_tensors():
    torch.jit.trace(lambda x: x + kept(counted, CPU, [5]), torch.zeros(5))
    with FakeTensorMode():
        kept(counted, CPU, [6])
    assert type(kept(counted, CPU, [5])) is type(kept(counted, CPU, [6])) is torch.Tensor


def test_what_inference_made_can_be_trained_with():
    with torch.inference_mode():
        made = kept(lambda shape, device: torch.ones(shape), CPU, [2])
    weight = torch.zeros(2, requires_grad=True)
    (weight * made).sum().backward()
    assert weight.grad.tolist() == [1, 1]
