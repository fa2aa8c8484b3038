"""Pictures: what is shown, in true proportion, in colours that belong to classes."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from mcsc_bundle.case_metrics import CaseMetric
from mcsc_bundle.figures import COLOURS, dice_figure, overlay_figure


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_overlay_shows_slices_across_the_thick_axis_in_true_proportion():
    image, mask = np.arange(10 * 20 * 9.0).reshape(10, 20, 9), np.zeros((10, 20, 9), int)
    mask[2:5, 2:5, 2:7] = 1
    figure = overlay_figure(image, mask, {"organ": 1}, (2.0, 1.0, 9.0))
    for axes, z in zip(figure.axes[:3], (3, 4, 5), strict=True):
        assert np.array_equal(axes.images[0].get_array(), image[:17, :17, z].T)  # marked part and 12 voxels around
        assert axes.get_aspect() == 0.5  # a row is 1 mm, a column 2 mm


def test_isotropic_volumes_are_cut_across_the_last_axis():
    image = np.random.default_rng(0).random((6, 7, 8))
    figure = overlay_figure(image, np.ones((6, 7, 8), int), {"organ": 1}, (1, 1, 1))
    assert figure.axes[0].images[0].get_array().shape == (7, 6)


def test_a_flat_image_is_one_picture_with_and_without_outlines():
    mask = np.zeros((30, 30), int)
    mask[10:20, 10:20] = 3
    figure = overlay_figure(np.zeros((30, 30)), mask, {"a": 1, "b": 3}, (1, 1), reference=mask)
    plain, drawn = figure.axes
    assert not plain.collections
    assert [to_hex(lines.get_edgecolor()[0]).upper() for lines in drawn.collections] == [COLOURS[1], "#FFFFFF"]


def test_an_empty_mask_shows_the_whole_image():
    figure = overlay_figure(np.zeros((30, 40, 4)), np.zeros((30, 40, 4), int), {"organ": 1}, (1, 1, 5))
    assert figure.axes[0].images[0].get_array().shape == (40, 30)


def test_scale_bar_has_its_length_in_voxels():
    mask = np.ones((60, 60), int)
    axes = overlay_figure(np.zeros((60, 60)), mask, {"organ": 1}, (2.0, 2.0)).axes[0]
    assert axes.texts[0].get_text() == "20 mm" and np.ptp(axes.lines[0].get_xdata()) == 10


def test_dice_figure_has_a_point_for_each_counted_case():
    rows = [CaseMetric(f"{i}", "organ", dice, 0, 0, 0, 1, 1) for i, dice in enumerate((0.2, 0.8, float("nan")))]
    assert dice_figure(rows).axes[0].collections[0].get_offsets()[:, 1].tolist() == [0.2, 0.8]
