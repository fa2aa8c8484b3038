from __future__ import annotations

import itertools

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from mcsc_bundle.inferers import mirrored, window_inferer
from tests.plans import KINDS, make_plan


class Pointwise(nn.Module):
    """Two classes from each voxel alone: windows, slices and flips must not matter."""

    def forward(self, x):
        return torch.cat([x, 2 * x + 1], dim=1)


def convolution(dims):
    torch.manual_seed(0)
    return {2: nn.Conv2d, 3: nn.Conv3d}[dims](1, 2, 3, padding=1).eval()


@pytest.mark.parametrize(
    "kind, shape", [("2d", (40, 30)), ("3d", (13, 20, 40)), ("slicewise", (20, 40, 5)), ("3d", (3, 4, 5))]
)
@pytest.mark.parametrize("mirror", [False, True])
def test_windows_of_a_pointwise_network_equal_the_network(kind, shape, mirror):
    x = torch.randn(1, 1, *shape)
    torch.testing.assert_close(window_inferer(make_plan(kind), mirror=mirror)(x, Pointwise()), Pointwise()(x))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slicewise_equals_a_loop_over_slices(axis):
    spacing = tuple(None if index == axis else 1.0 for index in range(3))
    plan, network = make_plan("slicewise", slice_axis=axis, spacing_mm=spacing), convolution(2)
    x = torch.randn(1, 1, *(5 if index == axis else 40 for index in range(3)))
    windows = SlidingWindowInferer(plan.patch_size, 1, plan.inference_overlap, "gaussian", 0.125)
    with torch.no_grad():
        loop = torch.stack([windows(part, network) for part in x.unbind(axis + 2)], axis + 2)
        torch.testing.assert_close(window_inferer(plan)(x, network), loop, atol=1e-5, rtol=1e-5)


def test_mirroring_is_the_mean_over_all_flips():
    network, x = convolution(2), torch.randn(1, 1, 8, 8)
    flips = [dims for count in range(3) for dims in itertools.combinations((2, 3), count)]
    expected = torch.stack([network(x.flip(dims)).flip(dims) for dims in flips]).mean(0)
    torch.testing.assert_close(mirrored(x, network, axes=(0, 1)), expected)


def test_mirroring_flips_the_axes_of_the_plan_alone():
    network, x = convolution(2), torch.randn(1, 1, 16, 24)  # one window
    result = window_inferer(make_plan("2d", mirror_axes=(1,)), mirror=True)(x, network)
    torch.testing.assert_close(result, mirrored(x, network, axes=(1,)))
    assert not torch.allclose(result, network(x))


@pytest.mark.parametrize("mirror", [False, True])
def test_mixed_precision_is_the_network_s_alone(mirror):
    """A weight of 1 + 2^-10 is 1 in bf16; what the windows add up stays float32."""
    network, x = nn.Conv2d(1, 1, 1, bias=False), torch.full((1, 1, 16, 24), 3.0)
    nn.init.constant_(network.weight, 1 + 2**-10)
    plan = make_plan("2d", mirror_axes=(0, 1))
    for amp_dtype, expected in ((None, 3 * (1 + 2**-10)), ("bfloat16", 3.0)):
        with torch.no_grad():
            result = window_inferer(plan, mirror=mirror, amp_dtype=amp_dtype)(x, network)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, torch.full_like(x, expected), atol=1e-6, rtol=0)


def test_a_cpu_predicts_in_float32_where_fp16_is_asked_for():
    network, x = convolution(2), torch.randn(1, 1, 16, 24)
    with torch.no_grad():
        assert torch.equal(
            window_inferer(make_plan("2d"), amp_dtype="float16")(x, network),
            window_inferer(make_plan("2d"))(x, network),
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mirror", [False, True])
def test_a_small_gpu_takes_fewer_windows_at_once(kind, mirror):
    """A network that has room for three windows: the first image finds that out, the next one knows."""
    plan, sizes = make_plan(kind, batch_labeled=6, batch_unlabeled=6), []
    network = convolution(plan.spatial_dims)
    x = torch.randn(1, 1, *((64, 48) if kind == "2d" else (40, 48, 40)))

    def small(windows):
        sizes.append(len(windows))
        if len(windows) > 3:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return network(windows)

    inferer = window_inferer(plan, mirror=mirror)
    with torch.no_grad():
        expected = window_inferer(plan, mirror=mirror)(x, network)
        torch.testing.assert_close(inferer(x, small), expected)
        assert sizes[:3] == [sizes[0], sizes[0], 6] and max(sizes[3:]) == 3
        sizes.clear()
        torch.testing.assert_close(inferer(x, small), expected)
        assert max(sizes) == 3


@pytest.mark.parametrize("words", ["CUDA out of memory", "another error"])
def test_what_does_not_fit_at_all_is_an_error(words):
    def never(windows):
        raise (torch.OutOfMemoryError if "memory" in words else RuntimeError)(words)

    with pytest.raises(RuntimeError, match=words):
        window_inferer(make_plan("2d"))(torch.randn(1, 1, 64, 48), never)
