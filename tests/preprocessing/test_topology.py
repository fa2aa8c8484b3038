"""Pooling, kernels and patches: nnU-Net's rules on sizes that can be checked in the head."""

from __future__ import annotations

import pytest

from mcsc_bundle.plan import PlanError
from preprocessing.topology import fit_patch, initial_patch, network_topology, shrink


def halvings(strides: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    return tuple(sum(stride == 2 for stride in axis) for axis in zip(*strides, strict=True))


@pytest.mark.parametrize(
    ("spacing", "size", "expected_halvings", "expected_patch"),
    [
        ((1, 1, 1), (128, 128, 128), (5, 5, 5), (128, 128, 128)),
        ((3, 0.8, 0.8), (28, 256, 256), (2, 6, 6), (28, 256, 256)),
        ((1, 1, 1), (35, 50, 36), (3, 3, 3), (40, 56, 40)),
        ((1, 1), (7, 7), (0, 0), (7, 7)),
        ((1, 1), (8, 8), (1, 1), (8, 8)),
        ((1, 9), (11, 3), (0, 0), (11, 3)),  # a single axis needs 12 voxels
        ((1, 9), (12, 3), (1, 0), (12, 3)),
        ((1, 1), (12.5, 8), (1, 1), (14, 8)),  # medians may end in .5
    ],
)
def test_halvings_and_padding(spacing, size, expected_halvings, expected_patch) -> None:
    topology = network_topology(spacing, size)
    assert halvings(topology.strides) == expected_halvings
    assert topology.patch == expected_patch


def test_a_coarse_axis_waits_until_the_others_caught_up() -> None:
    # 8 mm beside 1 mm: 1, 2 and 4 mm are halved alone; then all are 8 mm.
    topology = network_topology((8, 1, 1), (16, 128, 128))
    assert [stride[0] for stride in topology.strides] == [1, 1, 1, 1, 2, 2]
    assert [kernel[0] for kernel in topology.kernels] == [1, 1, 1, 3, 3, 3]


def test_the_bottleneck_is_convolved_over_all_axes() -> None:
    assert network_topology((100, 1, 1), (4, 32, 32)).kernels[-1] == (3, 3, 3)


def test_the_stages_tile_the_patch() -> None:
    topology = network_topology((3, 1, 1), (20, 100, 90))
    assert topology.stage_shapes[0] == topology.patch
    assert all(size % divisor == 0 for size, divisor in zip(topology.patch, topology.divisor, strict=True))
    assert min(topology.stage_shapes[-1]) >= 4


def test_the_initial_patch_is_as_long_in_mm_on_every_axis() -> None:
    assert initial_patch((2, 1, 1), (999, 999, 999)) == (161, 323, 323)
    assert initial_patch((1, 1), (100, 4000)) == (100, 2048)


def test_shrinking_takes_the_step_of_the_smaller_patch() -> None:
    first = network_topology((1, 1), (256, 256))
    assert shrink(first, (1, 1), (256, 256)).patch == (256, 224)


def test_shrinking_takes_the_axis_that_covers_most_of_the_image() -> None:
    assert shrink(network_topology((1, 1), (64, 64)), (1, 1), (70, 1000)).patch == (56, 64)


def test_a_patch_that_never_fits_is_refused() -> None:
    with pytest.raises(PlanError, match="no patch is left"):
        fit_patch((1, 1), (32, 32), lambda topology: False)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
def test_permuting_the_axes_permutes_the_network(order) -> None:
    spacing, size = (3.0, 1.0, 0.8), (30, 190, 250)
    moved = network_topology([spacing[axis] for axis in order], [size[axis] for axis in order])
    assert moved == network_topology(spacing, size).permuted(order)
