"""Patches move where there is room around what is labelled, and stay where structures fill the image."""

from types import SimpleNamespace

import numpy as np
import pytest

from mcsc_bundle.leeway import MEASURED, leeway_voxels


def case(*box, shape=(40, 40)):
    """Two classes at the corners of a box of so many voxels."""
    low = np.array([3, 5])
    return SimpleNamespace(shape=shape, foreground={0: np.zeros((1, 2)), 1: low[None], 2: (low + box - 1)[None]})


EMPTY = SimpleNamespace(shape=(40, 40), foreground={})


def voxels(*cases, patch=(40, 40), leeway=0.2):
    store = SimpleNamespace(open=lambda name: cases[int(name)])
    return leeway_voxels(store, [str(index) for index in range(len(cases))], patch, leeway).tolist()


def test_a_fifth_of_the_patch_where_there_is_room(caplog):
    caplog.set_level("INFO")
    assert voxels(case(8, 4), patch=(40, 30)) == [8, 6]
    assert voxels(case(8, 4), leeway=0.0) == [0, 0]
    assert not caplog.text


def test_less_where_structures_fill_the_patch(caplog):
    """A box of 20 with 5 around it takes 30 of a patch's 40, which may move by 5; one of 28 takes 42."""
    caplog.set_level("INFO")
    assert voxels(case(20, 28)) == [5, 0]
    assert "it moves by 5 x 0 voxels, not by the 8 x 8 of --leeway 0.2" in caplog.text


def test_the_usual_case_decides_and_those_without_foreground_do_not():
    assert voxels(case(20, 20), case(20, 20), case(30, 2), EMPTY, EMPTY) == [5, 5]
    assert voxels(EMPTY) == [8, 8]


def test_the_size_of_the_image_does_not_matter():
    assert voxels(case(20, 20, shape=(40, 30))) == [5, 5]


@pytest.mark.parametrize("count", [1, MEASURED, MEASURED + 1, 3 * MEASURED])
def test_of_many_cases_some_are_looked_at_from_first_to_last(count):
    looked = []
    store = SimpleNamespace(open=lambda name: looked.append(int(name)) or case(20, 20))
    leeway_voxels(store, [str(index) for index in range(count)], (40, 40))
    assert min(count, MEASURED) / 2 <= len(looked) <= MEASURED
    assert looked[0] == 0 and count - looked[-1] <= 3
