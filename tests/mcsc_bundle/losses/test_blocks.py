"""Blocks: every group takes one whole block of every map; sampling keeps the right voxels."""

import pytest
import torch

from mcsc_bundle.losses.blocks import local_blocks, sample_voxels

SHAPES = [((6,), (2,)), ((4, 6), (2, 3)), ((7, 5), (3, 2)), ((5, 4, 6), (2, 4, 3))]


def seeded_blocks(shape, block, maps, seed=0):
    torch.manual_seed(seed)
    return local_blocks(shape, block, maps)


@pytest.mark.parametrize(("shape", "block"), SHAPES)
class TestLocalBlocks:
    def test_groups_maps_and_voxels(self, shape, block):
        blocks = [size // edge for size, edge in zip(shape, block, strict=True)]
        expected = (torch.tensor(blocks).prod(), 3, torch.tensor(block).prod())
        assert local_blocks(shape, block, 3).shape == expected

    def test_a_block_is_a_box(self, shape, block):
        for voxels in local_blocks(shape, block, 2).flatten(0, 1):
            places = torch.stack(torch.unravel_index(voxels, shape))
            assert tuple(places.amax(1) - places.amin(1) + 1) == block
            assert len(voxels.unique()) == len(voxels)

    def test_the_blocks_of_a_map_do_not_overlap(self, shape, block):
        for each in local_blocks(shape, block, 2).unbind(1):
            assert len(each.unique()) == each.numel()

    def test_the_same_seed_gives_the_same_blocks(self, shape, block):
        first, second = (seeded_blocks(shape, block, 2) for _ in range(2))
        assert torch.equal(first, second)

    def test_every_voxel_is_seen_in_time(self, shape, block):
        seen = torch.cat([seeded_blocks(shape, block, 1, seed).flatten() for seed in range(60)])
        assert len(seen.unique()) == torch.tensor(shape).prod()


def test_maps_shuffle_apart():
    where = seeded_blocks((8, 8), (2, 2), 2)
    assert not torch.equal(where[:, 0], where[:, 1])
    assert torch.equal(where[:, 0].flatten().sort().values, where[:, 1].flatten().sort().values)


def test_a_block_as_large_as_the_map_is_the_map():
    assert torch.equal(local_blocks((2, 3), (2, 3), 1)[0, 0], torch.arange(6))


@pytest.mark.parametrize("block", [(5, 2), (0, 2), (2,)])
def test_a_block_that_does_not_fit_is_refused(block):
    with pytest.raises(ValueError, match="expected a block of 1 to"):
        local_blocks((4, 4), block, 1)


class TestSampleVoxels:
    where = local_blocks((6, 6), (3, 3), 2)

    def test_voxels_of_the_own_block_without_repetition(self):
        chosen = sample_voxels(self.where, 4)
        assert chosen.shape == (4, 2, 4)
        for some, every in zip(chosen.flatten(0, 1), self.where.flatten(0, 1), strict=True):
            assert len(some.unique()) == 4 and torch.isin(some, every).all()

    def test_a_budget_of_the_whole_block_changes_nothing(self):
        assert sample_voxels(self.where, 9) is self.where

    def test_all_voxels_are_alike(self):
        where = torch.arange(8).expand(1, 1, 8)
        counts = torch.stack([sample_voxels(where, 2) for _ in range(2000)]).flatten().bincount()
        assert ((counts - 500).abs() < 100).all()

    def test_classes_are_alike_if_labels_are_given(self):
        where = torch.arange(100).expand(500, 1, 100)
        labels = (torch.arange(100) < 5).long()[None]  # 5 voxels against 95
        first = sample_voxels(where, 1, labels, 2)
        assert (first < 5).float().mean() == pytest.approx(0.5, abs=0.1)

    @pytest.mark.parametrize(("rare", "drawn"), [(10, 10), (30, 30), (60, 32)])
    def test_classes_give_equally_many_voxels_as_far_as_they_have_them(self, rare, drawn):
        """64 of 361 voxels of two classes."""
        where = torch.arange(361).expand(200, 1, 361)
        chosen = sample_voxels(where, 64, (torch.arange(361) < rare).long()[None], 2)
        assert (chosen < rare).flatten(1).sum(1).float().mean() == pytest.approx(drawn, abs=1.0)

    def test_ignored_voxels_come_last(self):
        where = torch.arange(10).expand(20, 1, 10)
        labels = torch.tensor([[-1] * 6 + [0, 1, 1, 1]])
        assert (sample_voxels(where, 4, labels, 2) >= 6).all()


def test_blocks_are_drawn_under_compile_while_the_number_of_maps_changes():
    draw = torch.compile(
        lambda maps: sample_voxels(local_blocks((4, 6), (2, 3), maps=len(maps)), 2), backend="eager", dynamic=True
    )
    for count in (2, 3, 5):
        assert draw(torch.zeros(count)).shape == (4, count, 2)
