"""The pictures of a run: curves of the training, scores of the cases, and masks drawn on images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mcsc_bundle.case_metrics import CaseMetric
from mcsc_bundle.csv_log import WATCHED, loss_terms, read_rows, watched

# Okabe and Ito (2008): told apart by colour-blind readers too
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def loss_figure(path: Path) -> Figure:
    """Each loss term of ``log.csv`` over the iterations."""
    rows = read_rows(path)
    figure, axes = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
    for index, name in enumerate(loss_terms(rows[0])):
        colour, width = ("black", 2.2) if name == "loss" else (_colour(index - 1), 1.4)
        dashes = "-" if index <= len(COLOURS) else "--"
        (line,) = axes.plot(
            _column(rows, "iteration"), _column(rows, name), label=name, color=colour, lw=width, ls=dashes
        )
        line.set_marker(_marker(rows))
    axes.set(xlabel="iteration", ylabel="loss term (weighted)", yscale="log")
    _finish(axes)
    return figure


def _marker(rows: Sequence[object]) -> str:
    """A line of one point would not be seen."""
    return "o" if len(rows) == 1 else ""


def watched_figure(path: Path) -> Figure:
    """What ``log.csv`` watches beside the loss, a small plot each: scales differ."""
    rows = read_rows(path)
    names = watched(rows[0])
    figure, grid = plt.subplots(1, len(names), figsize=(2.5 * len(names), 2.2), layout="constrained", squeeze=False)
    for axes, name in zip(grid[0], names, strict=True):
        axes.plot(_column(rows, "iteration"), _column(rows, name), color="black", lw=1.2, marker=_marker(rows))
        axes.set_title(name.removeprefix(WATCHED).replace("_", " "), fontsize=9)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=7)
    figure.supxlabel("iteration", fontsize=9)
    return figure


def validation_figure(path: Path) -> Figure:
    """Mean Dice and Dice of each class in ``validation.csv`` over the iterations."""
    rows = read_rows(path)
    figure, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    for index, name in enumerate(name for name in rows[0] if name not in ("epoch", "iteration")):
        colour, width = ("black", 2.2) if name == "mean_dice" else (_colour(index - 1), 1.4)
        axes.plot(_column(rows, "iteration"), _column(rows, name), marker="o", ms=3, label=name, color=colour, lw=width)
    axes.set(xlabel="iteration", ylabel="Dice", ylim=(0, 1))
    _finish(axes)
    return figure


def dice_figure(rows: Sequence[CaseMetric]) -> Figure:
    """Dice of every case by class: a point each, over the quartiles."""
    names = list(dict.fromkeys(row.class_name for row in rows))
    values = [[row.dice for row in rows if row.class_name == name and not math.isnan(row.dice)] for name in names]
    figure, axes = plt.subplots(figsize=(1.8 + 1.1 * len(names), 3.2), layout="constrained")
    axes.boxplot(values, widths=0.5, showfliers=False, medianprops={"color": "black"})
    for index, column in enumerate(values):
        places = index + 1 + (np.linspace(-0.14, 0.14, len(column)) if len(column) > 1 else np.zeros(len(column)))
        axes.scatter(places, column, s=16, color=_colour(index), edgecolor="black", lw=0.4, zorder=3)
    axes.set_xticks(range(1, len(names) + 1), names)
    axes.set(ylabel="Dice", ylim=(0, 1.02))
    axes.grid(axis="y", alpha=0.3)
    return figure


def overlay_figure(
    image: np.ndarray,
    prediction: np.ndarray,
    class_values: Mapping[str, int],
    spacing_mm: Sequence[float],
    reference: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Slices of an image, above without and below with the outlines of the mask (colours) and the reference (dashed).

    Args:
        image, prediction, reference: ``(*spatial)`` on one grid. Of a volume three slices are shown, at a quarter, half and
            three quarters of the marked part, across the axis with the thickest slices; cut to the marked part.
        class_values: class name to label value, without the background.
        spacing_mm: per axis, so that the picture has true proportions.
        title: above the picture.
    """
    arrays = [image, prediction] if reference is None else [image, prediction, reference]
    spacing = [float(s) for s in spacing_mm]
    marked = prediction > 0 if reference is None else (prediction > 0) | (reference > 0)
    columns = [arrays]
    if image.ndim == 3:
        axis = max(range(3), key=lambda a: (round(spacing[a], 2), a))
        columns = [[np.take(array, z, axis) for array in arrays] for z in _three_slices(marked, axis)]
        marked = np.any(marked, axis=axis)
        spacing.pop(axis)
    window = _window(marked)
    low, high = np.percentile(np.stack([column[0] for column in columns]), (0.5, 99.5))
    figure, grid = plt.subplots(2, len(columns), figsize=(3 * len(columns), 6.4), layout="constrained", squeeze=False)
    for column, (plain, drawn) in zip(columns, grid.T, strict=True):
        picture, *masks = (array[window] for array in column)
        for axes in (plain, drawn):
            shown = {"vmin": low, "vmax": max(high, low + 1e-6), "aspect": spacing[1] / spacing[0]}
            axes.imshow(picture.T, cmap="gray", origin="lower", **shown)
            axes.set_axis_off()
        _draw_outlines(drawn, masks, class_values)
    _scale_bar(grid[0, 0], spacing[0])
    _legend(figure, class_values, reference is not None)
    figure.suptitle(title, fontsize=10)
    return figure


def _three_slices(marked: np.ndarray, axis: int) -> list[int]:
    there = np.flatnonzero(marked.any(tuple(other for other in range(3) if other != axis)))
    if not len(there):
        there = np.arange(marked.shape[axis])
    return [int(there[round(share * (len(there) - 1))]) for share in (0.25, 0.5, 0.75)]


def _window(marked: np.ndarray) -> tuple[slice, ...]:
    """The marked part of a slice with half its size, at least 12 voxels, around it; everything if nothing is marked."""
    window = []
    for axis in range(2):
        there = np.flatnonzero(marked.any(1 - axis))
        if not len(there):
            return (slice(None), slice(None))
        margin = max(12, (there[-1] - there[0]) // 2)
        window.append(slice(max(0, there[0] - margin), there[-1] + 1 + margin))
    return tuple(window)


def _draw_outlines(axes: Axes, masks: Sequence[np.ndarray], class_values: Mapping[str, int]) -> None:
    for index, value in enumerate(class_values.values()):
        for mask, is_reference in zip(masks, (False, True), strict=False):
            if not (mask == value).any():
                continue
            outline = (mask == value).T.astype(float)
            if is_reference:
                axes.contour(outline, [0.5], colors="white", linewidths=0.9, linestyles="dashed")
            else:
                axes.contour(outline, [0.5], colors=_colour(index), linewidths=1.8)


def _scale_bar(axes: Axes, voxel_mm: float) -> None:
    """A bar of 5 to 50 mm in the lower left corner, at most a third of the picture."""
    left, right = axes.get_xlim()
    length = max((mm for mm in (5, 10, 20, 50) if mm <= (right - left) * voxel_mm / 3), default=1)
    low = axes.get_ylim()[0] + 3
    axes.plot([left + 3, left + 3 + length / voxel_mm], [low, low], color="white", lw=3)
    axes.text(left + 3, low + 1.5, f"{length} mm", color="white", fontsize=8, va="bottom")


def _legend(figure: Figure, class_values: Mapping[str, int], has_reference: bool) -> None:
    lines = [Line2D([], [], color=_colour(index), lw=2, label=name) for index, name in enumerate(class_values)]
    if has_reference:
        lines.append(Line2D([], [], color="gray", lw=1, ls="--", label="reference"))
    figure.legend(handles=lines, loc="outside lower center", ncols=min(len(lines), 6), fontsize=9, frameon=False)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _column(rows: Sequence[Mapping[str, str]], name: str) -> list[float]:
    return [float(row[name] or "nan") for row in rows]
