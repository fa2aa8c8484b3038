"""``report.html``: what was planned and why, how training went, how good the masks are, and what they look like.

    python -m mcsc_bundle.report RUN [--images FOLDER] [--references FOLDER]

One self-contained page from whatever the run folder holds; a piece that is missing is left out.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import fire
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from mcsc_bundle.io import load_image, load_label
from mcsc_bundle.metrics import masks_in
from mcsc_bundle.plan import Plan, to_plain

COLOURS = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)  # Okabe and Ito: told apart by all
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;text-align:left;vertical-align:top;"
    "border-bottom:1px solid #ddd}img{max-width:100%}"
)


def write_report(
    run_dir: str | os.PathLike,
    images: Mapping[str, str | os.PathLike] | None = None,
    references: Mapping[str, str | os.PathLike] | None = None,
) -> Path:
    """Write ``report.html`` and, with images, ``overlay.png`` into the run folder.

    Args:
        run_dir: the run folder; masks are looked for in its ``masks``.
        images: image file (or first channel) of each case, for the pictures.
        references: label file of each case, drawn beside the mask.

    Returns:
        The page.
    """
    run = Path(run_dir)
    plan = Plan.load(run / "plan.json")
    sections = [
        ("Plan", plan_table(plan)),
        ("Data", warnings_list(run)),
        ("Training", _if_there(run / "log.csv", lambda path: _image(loss_figure(path)))),
        ("Validation", _if_there(run / "validation.csv", lambda path: _image(validation_figure(path)))),
        (
            "Held-out cases",
            _if_there(run / "metrics.csv", lambda path: metrics_table(path) + _image(dice_figure(path))),
        ),
        ("Masks", _pictures(run, plan, images or {}, references or {})),
    ]
    title = f"{html.escape(plan.dataset_name)}: segmentation run"
    body = "".join(f"<h2>{name}</h2>{content}" for name, content in sections if content)
    page = f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>{body}"
    target = run / "report.html"
    temporary = run / ".report.html.tmp"
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, target)
    return target


def plan_table(plan: Plan) -> str:
    """Every choice that has a reason, with its value."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(_value(plan, name))}</td><td>{html.escape(why)}</td></tr>"
        for name, why in plan.why.items()
    )
    return f"<table><tr><th>choice</th><th>value</th><th>why</th></tr>{rows}</table>"


def _value(plan: Plan, name: str) -> str:
    return json.dumps(to_plain(getattr(plan, name, "")), ensure_ascii=False)


def warnings_list(run: Path) -> str:
    """Warnings of the fingerprint and cases that were set aside."""
    lines: list[str] = []
    if (run / "fingerprint.json").exists():
        lines += json.loads((run / "fingerprint.json").read_text(encoding="utf-8"))["warnings"]
    if (run / "rejected.json").exists():
        rejected = json.loads((run / "rejected.json").read_text(encoding="utf-8"))
        lines += [f"set aside: {case}: {reason}" for case, reason in rejected.items()]
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def loss_figure(path: Path) -> Figure:
    """Each loss term over the iterations."""
    rows = _rows(path)
    known = {"epoch", "iteration", "seconds", "lr", "nonfinite_steps"}
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    steps = [int(row["iteration"]) for row in rows]
    for index, name in enumerate(name for name in rows[0] if name not in known):
        values = [float(row[name] or "nan") for row in rows]
        axes.plot(
            steps,
            values,
            label=name,
            lw=2.5 if name == "loss" else 1.2,
            ls="-" if index < 7 else "--",
            color=COLOURS[index % 7],
        )
    axes.set(xlabel="iteration", ylabel="loss term (weighted)", yscale="log")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def validation_figure(path: Path) -> Figure:
    """Mean Dice and Dice of each class over the iterations."""
    rows = _rows(path)
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    steps = [int(row["iteration"]) for row in rows]
    for index, name in enumerate(name for name in rows[0] if name not in ("epoch", "iteration")):
        black = name == "mean_dice"
        axes.plot(
            steps,
            [float(row[name] or "nan") for row in rows],
            marker="o",
            ms=3,
            label=name,
            color="black" if black else COLOURS[index % 7],
        )
    axes.set(xlabel="iteration", ylabel="Dice", ylim=(0, 1))
    axes.legend(fontsize=8, frameon=False)
    return figure


def dice_figure(path: Path) -> Figure:
    """Dice of every case, by class."""
    rows = _rows(path)
    names = list(dict.fromkeys(row["class_name"] for row in rows))
    figure, axes = plt.subplots(figsize=(1.6 + 1.1 * len(names), 3), layout="constrained")
    values = [_finite(row["dice"] for row in rows if row["class_name"] == name) for name in names]
    axes.boxplot(values, widths=0.5, showfliers=False, medianprops={"color": "black"})
    for index, column in enumerate(values, start=1):
        spread = np.linspace(-0.12, 0.12, len(column)) if len(column) > 1 else [0.0]
        axes.scatter(index + np.asarray(spread), column, s=12, color=COLOURS[(index - 1) % 7], zorder=3)
    axes.set_xticks(range(1, len(names) + 1), names)
    axes.set(ylabel="Dice", ylim=(0, 1.02))
    return figure


def metrics_table(path: Path) -> str:
    """Mean over the cases of each score, by class."""
    rows = _rows(path)
    columns = ("dice", "surface_dice", "hd95_mm", "asd_mm")
    lines = []
    for name in dict.fromkeys(row["class_name"] for row in rows):
        mine = [row for row in rows if row["class_name"] == name]
        values = [_finite(row[column] for row in mine) for column in columns]
        cells = "".join(f"<td>{np.mean(v):.3f} &plusmn; {np.std(v):.3f}</td>" if v else "<td>-</td>" for v in values)
        missed = sum(row["hd95_mm"] == "inf" for row in mine)
        lines.append(f"<tr><td>{html.escape(name)}</td>{cells}<td>{missed}</td></tr>")
    head = "".join(f"<th>{column}</th>" for column in ("class", *columns, "missed"))
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def overlay_figure(
    image: np.ndarray,
    prediction: np.ndarray,
    class_values: Mapping[str, int],
    spacing_mm: Sequence[float],
    reference: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """One image slice with the contours of the mask (solid) and of the reference (dotted).

    Args:
        image, prediction, reference: ``(*spatial)`` on one grid; of a volume the slice with most foreground is shown, across
            the axis with the thickest slices.
        class_values: class name to label value, without the background.
        spacing_mm: per axis, so that the picture has true proportions.
        title: above the picture.
    """
    arrays = [image, prediction] + ([] if reference is None else [reference])
    spacing = [float(s) for s in spacing_mm]
    if image.ndim == 3:
        axis = int(np.argmax(spacing))
        marked = prediction if reference is None else reference
        counts = (marked > 0).sum(tuple(other for other in range(3) if other != axis))
        arrays = [np.take(array, int(counts.argmax()), axis) for array in arrays]
        spacing.pop(axis)
    picture, masks = arrays[0].astype(float), arrays[1:]
    low, high = np.percentile(picture, (0.5, 99.5))
    figure, axes = plt.subplots(figsize=(4.2, 4.4), layout="constrained")
    axes.imshow(
        picture.T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=spacing[1] / spacing[0], origin="lower"
    )
    for index, (name, value) in enumerate(class_values.items()):
        for mask, style in zip(masks, ("solid", "dotted"), strict=False):
            if (mask == value).any():
                axes.contour(
                    (mask == value).T.astype(float), [0.5], colors=COLOURS[index % 7], linewidths=1.6, linestyles=style
                )
        axes.plot([], [], color=COLOURS[index % 7], label=name)
    if reference is not None:
        axes.plot([], [], color="gray", ls=":", label="reference")
    axes.legend(fontsize=7, loc="lower right", framealpha=0.6)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()
    return figure


def _pictures(
    run: Path, plan: Plan, images: Mapping[str, str | os.PathLike], references: Mapping[str, str | os.PathLike]
) -> str:
    """Overlays of the worst, the median and the best case; the median one is saved as ``overlay.png`` too."""
    masks = masks_in(run / "masks") if (run / "masks").is_dir() else {}
    cases = [case for case in _by_score(run / "metrics.csv", list(masks)) if case in images]
    if not cases:
        return ""
    middle = cases[len(cases) // 2]
    content = ""
    for role, case in (("worst", cases[0]), ("median", middle), ("best", cases[-1])):
        image, mask = load_image(Path(images[case])), load_label(masks[case])
        reference = np.asarray(load_label(Path(references[case]))[0]) if case in references else None
        spacing = np.linalg.norm(np.asarray(image.affine)[:-1, :-1], axis=0)[: image.ndim - 1].tolist()
        classes = dict(list(plan.labels.items())[1:])
        figure = overlay_figure(
            np.asarray(image[0]), np.asarray(mask[0]), classes, spacing, reference, f"{case} ({role} mean Dice)"
        )
        if case == middle:
            figure.savefig(run / "overlay.png", dpi=150)
        content += _image(figure)
    return content


def _by_score(path: Path, cases: list[str]) -> list[str]:
    """Cases from the worst to the best mean Dice; without scores in the order of their names."""
    scores: dict[str, list[float]] = {}
    for row in _rows(path) if path.exists() else []:
        scores.setdefault(row["case"], []).extend(_finite([row["dice"]]))
    return sorted(
        (case for case in cases), key=lambda case: (float(np.mean(scores[case])) if scores.get(case) else -1.0, case)
    )


def _if_there(path: Path, draw: Callable[[Path], str]) -> str:
    return draw(path) if path.exists() and _rows(path) else ""


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _finite(values: object) -> list[float]:
    numbers = [float(value or "nan") for value in values]  # type: ignore[attr-defined]
    return [number for number in numbers if math.isfinite(number)]


def _image(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return f'<p><img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"></p>'


def report(run_dir: str, images: str | None = None, references: str | None = None) -> None:
    """Command line: write the report of a run folder; images and references are folders of files named as the masks."""
    print(write_report(run_dir, masks_in(images) if images else None, masks_in(references) if references else None))


if __name__ == "__main__":
    fire.Fire(report)
