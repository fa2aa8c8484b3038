"""Patches move where there is room around what is labelled, and stay where images were cut around it."""

from types import SimpleNamespace

import numpy as np

from mcsc_bundle.leeway import leeway_voxels


def case(*box, shape=(40, 40)):
    """Two classes at the corners of a box of so many voxels."""
    low = np.array([3, 5])
    return SimpleNamespace(shape=shape, foreground={0: np.zeros((1, 2)), 1: low[None], 2: (low + box - 1)[None]})


def test_a_fifth_of_the_patch_where_there_is_room():
    assert leeway_voxels([case(8, 4)], (40, 30), 0.2).tolist() == [8, 6]
    assert leeway_voxels([case(8, 4)], (40, 30), 0.0).tolist() == [0, 0]


def test_less_where_structures_fill_the_image():
    """A box of 20 with 5 around it takes 30 of a patch's 40, which may move by 5; one of 28 takes 42."""
    assert leeway_voxels([case(20, 28)], (40, 40), 0.2).tolist() == [5, 0]


def test_the_usual_case_decides_and_those_without_foreground_do_not():
    empty = SimpleNamespace(shape=(40, 40), foreground={})
    cases = [case(20, 20), case(20, 20), case(30, 2), empty, empty]
    assert leeway_voxels(cases, (40, 40), 0.2).tolist() == [5, 5]
    assert leeway_voxels([empty], (40, 40), 0.2).tolist() == [8, 8]


def test_the_image_s_own_size_does_not_matter():
    assert leeway_voxels([case(20, 20, shape=(40, 30))], (40, 40), 0.2).tolist() == [5, 5]
