"""``report.html``: what was planned and why, how training went, how good the masks are, and what they look like.

    python -m mcsc_bundle.report RUN [--images FOLDER] [--references FOLDER]

One self-contained page from whatever the run folder holds; a piece that is missing is left out.
"""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import fire
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from mcsc_bundle.case_metrics import CaseMetric, read_metrics
from mcsc_bundle.csv_log import read_rows, watched
from mcsc_bundle.figures import dice_figure, loss_figure, overlay_figure, validation_figure, watched_figure
from mcsc_bundle.files import DiskError, replacing, save_text
from mcsc_bundle.flags import check_flags_or_exit
from mcsc_bundle.io import load_image, load_label, same_grid, spacing_mm
from mcsc_bundle.labels import painted
from mcsc_bundle.metrics import masks_in
from mcsc_bundle.plan import Plan, to_plain
from mcsc_bundle.plan_files import read_json
from mcsc_bundle.score_table import summary_table

log = logging.getLogger(__name__)

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;text-align:left;vertical-align:top;"
    "border-bottom:1px solid #ddd}td:nth-child(2){overflow-wrap:anywhere;min-width:12rem}"
    "img{max-width:100%}pre{overflow-x:auto;background:#f6f6f6;padding:.7rem}"
)

Files = Mapping[str, str | os.PathLike]


def write_report(run_dir: str | os.PathLike, images: Files | None = None, references: Files | None = None) -> Path:
    """Write ``report.html`` and, with images, ``overlay.png`` into the run folder.

    Args:
        run_dir: the run folder; masks are looked for in its ``masks``.
        images: image file (or first channel) of each case, for the pictures.
        references: label file of each case, drawn over the mask.

    Returns:
        The page.

    Raises:
        ValueError: there is no such folder.
    """
    run = Path(run_dir)
    if not run.is_dir():
        raise ValueError(f"expected a run folder, received {run}. Check the path.")
    plan = Plan.load(run / "plan.json") if (run / "plan.json").exists() else None
    scores = read_metrics(run / "metrics.csv")
    trained, validated = read_rows(run / "log.csv"), read_rows(run / "validation.csv")
    sections = {
        "Held-out cases": scores_section(scores) if scores else "",
        "Masks": overlays_section(run, scores, images or {}, references or {}, plan),
        "Training": training_section(run / "log.csv", trained) if trained else "",
        "Validation": _image(validation_figure(run / "validation.csv"), "Dice") if validated else "",
        "Data": warnings_section(run),
        "Plan": plan_section(plan) if plan else "",
    }
    title = f"{html.escape(plan.dataset_name if plan else run.resolve().name)}: segmentation run"
    body = "".join(f"<h2>{name}</h2>{content}" for name, content in sections.items() if content)
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
    save_text(run / "report.html", f"{page}<h1>{title}</h1>{body or '<p>Nothing was found in the run folder.</p>'}")
    log.info("Report: %s", run / "report.html")
    return run / "report.html"


def training_section(path: Path, rows: Sequence[Mapping[str, str]]) -> str:
    """The loss terms of ``log.csv``, whose rows are given, and what else it watched."""
    losses = _image(loss_figure(path), "loss terms")
    return losses + (_image(watched_figure(path), "watched") if watched(rows[0]) else "")


def plan_section(plan: Plan) -> str:
    """Every choice that has a reason, with its value."""
    rows = [
        (name, json.dumps(to_plain(getattr(plan, name, "")), ensure_ascii=False), why) for name, why in plan.why.items()
    ]
    return _table(("choice", "value", "why"), rows)


def warnings_section(run: Path) -> str:
    """Warnings of the fingerprint and cases that were set aside."""
    lines: list[str] = list(read_json(run / "fingerprint.json", {}).get("warnings", []))
    lines += [f"set aside: {case}: {reason}" for case, reason in read_json(run / "rejected.json", {}).items()]
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def scores_section(scores: Sequence[CaseMetric]) -> str:
    """The table of means, the picture, and the Dice of every case."""
    names = list(dict.fromkeys(row.class_name for row in scores))
    dice = {(row.case, row.class_name): row.dice for row in scores}
    rows = [
        (case, *(_number(dice.get((case, name), math.nan)) for name in names))
        for case, _ in _from_worst_to_best(scores)
    ]
    return (
        f"<pre>{html.escape(summary_table(scores))}</pre>{_image(dice_figure(scores), 'Dice by class')}"
        f"<details><summary>Dice of every case, worst first</summary>{_table(('case', *names), rows)}</details>"
    )


def overlays_section(
    run: Path, scores: Sequence[CaseMetric], images: Files, references: Files, plan: Plan | None
) -> str:
    """Pictures of the worst, the median and the best case; the median one is saved as ``overlay.png`` too."""
    masks = masks_in(run / "masks") if (run / "masks").is_dir() else {}
    scored = [(case, f"mean Dice {_number(dice)}") for case, dice in _from_worst_to_best(scores)]
    cases = [
        (case, text) for case, text in scored or [(case, "") for case in masks] if case in masks and case in images
    ]
    roles = {0: "worst", len(cases) // 2: "median", len(cases) - 1: "best"}
    if not scored or len(cases) == 1:
        roles = {len(cases) // 2: ""}
    content = ""
    for index, role in roles.items() if cases else ():
        case, text = cases[index]
        title = ", ".join(part for part in (case, role, text) if part)
        try:
            figure = _case_overlay(title, images[case], masks[case], references.get(case), plan)
        except ValueError as error:
            log.warning("case %s is not drawn: %s", case, error)
            continue
        if index == len(cases) // 2:
            _save(figure, run / "overlay.png")
        content += _image(figure, title)
    return content


def _case_overlay(
    title: str,
    image_file: str | os.PathLike,
    mask_file: str | os.PathLike,
    reference_file: str | os.PathLike | None,
    plan: Plan | None,
) -> Figure:
    image, mask = load_image(Path(image_file)), load_label(Path(mask_file))
    reference = load_label(Path(reference_file)) if reference_file is not None else None
    for file, other in ((mask_file, mask), (reference_file, reference)):
        if other is not None and not same_grid(image, other):
            raise ValueError(f"expected {file} on the grid of {image_file}, received another. Give files of one scan.")
    values = np.asarray(mask[0])
    classes = dict(list(plan.labels.items())[1:]) if plan else {f"{v}": int(v) for v in np.unique(values) if v}
    truth = None if reference is None else np.asarray(reference[0])
    if plan and truth is not None:
        truth = painted(truth, plan.labels, plan.regions)
    return overlay_figure(np.asarray(image[0]), values, classes, spacing_mm(image), truth, title)


def _from_worst_to_best(scores: Sequence[CaseMetric]) -> list[tuple[str, float]]:
    """Cases with their mean Dice; those without a score last."""
    by_case: dict[str, list[float]] = {}
    for row in scores:
        by_case.setdefault(row.case, []).extend([] if math.isnan(row.dice) else [row.dice])
    means = [(case, float(np.mean(dice)) if dice else math.nan) for case, dice in by_case.items()]
    return sorted(means, key=lambda pair: (math.isnan(pair[1]), pair[1], pair[0]))


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _image(figure: Figure, text: str) -> str:
    """The figure inside the page, closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{html.escape(text)}" src="data:image/png;base64,{data}"></p>'


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def report(run_dir: str, images: str | None = None, references: str | None = None) -> None:
    """Command line: write the report of a run folder.

    Args:
        run_dir: the run folder.
        images: folder of image files named as the masks, for the pictures; ``None`` draws none.
        references: folder of label files named as the masks, drawn over them.

    Raises:
        SystemExit: a folder is not there or the report cannot be written; the message says which.
    """
    try:
        path = write_report(run_dir, masks_in(images) if images else None, masks_in(references) if references else None)
    except (ValueError, DiskError) as error:
        raise SystemExit(f"error: {error}") from None
    print(path)


if __name__ == "__main__":
    check_flags_or_exit(sys.argv[1:], report)
    fire.Fire(report)
