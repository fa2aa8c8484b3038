"""The model card ``docs/README.md`` and its pictures, written from the run."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from bundle.facts import RunFacts
from bundle.metadata import outputs
from mcsc_bundle.figures import dice_figure, loss_figure, validation_figure
from mcsc_bundle.fingerprint import CaseFingerprint
from mcsc_bundle.labels import Values, as_tuple
from mcsc_bundle.metrics import summary_rows

NONCOMMERCIAL = re.compile(r"\bNC\b|non-?commercial", re.IGNORECASE)
EXPORTS = "<!-- exports -->"  # `python -m bundle export` writes its numbers here
METHODS = {
    "MCSC": "MCSC (multi-scale cross contrastive learning) with weak-to-strong views, box mixing and EMA teachers",
    "PaperMCSC": "MCSC as in the paper (BMVC 2023)",
    "BCP": "BCP, bidirectional copy-paste (Bai et al., 2023)",
    "CPS": "CPS, cross pseudo supervision (Chen et al., 2021)",
    "URPC": "URPC, uncertainty rectified pyramid consistency (Luo et al., 2021)",
    "UAMT": "UA-MT, uncertainty-aware Mean Teacher (Yu et al., 2019)",
    "CrossTeaching": "cross teaching between CNN and Transformer (Luo et al., 2022)",
    "MeanTeacher": "Mean Teacher (Tarvainen and Valpola, 2017)",
    "Supervised": "supervised training of the CNN on the labelled scans alone",
}


@dataclass(frozen=True)
class DataTerms:
    """Where the data comes from and what its licence is, in the words of who packs.

    Args:
        source: name, place or reference of the data set.
        license_text: the licence's name, or its whole text.
    """

    source: str
    license_text: str


def write_card(
    docs: Path, facts: RunFacts, metadata: Mapping[str, Any], name: str, terms: DataTerms, pictures: bool
) -> None:
    """Write ``README.md``, ``data_license.txt`` and the pictures.

    Args:
        docs: the folder.
        facts: the run.
        metadata: of the bundle.
        name: of the bundle.
        terms: of the data.
        pictures: whether a scan of the data set may be shown (``overlay.png`` of the run).
    """
    docs.mkdir(parents=True, exist_ok=True)
    drawn = _draw(docs, facts, pictures)
    sections = [
        f"# {metadata['name']}",
        metadata["description"],
        f"Version {metadata['version']}, by {metadata['authors']}. Tags: {_tags(metadata)}.",
        f"**Intended use.** {metadata['intended_use']}{_noncommercial(terms)}",
        _data(facts, terms),
        _plan(facts),
        _training(facts, drawn),
        _performance(facts, drawn, terms),
        EXPORTS,
        _commands(name),
        _limits(facts),
        "## References\n\n" + "\n".join(f"- {reference}" for reference in metadata["references"]),
        _licence(terms),
    ]
    (docs / "README.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    (docs / "data_license.txt").write_text(
        f"Data set: {facts.plan.dataset_name}\nSource: {terms.source}\nLicence of the data:\n\n{terms.license_text}\n",
        encoding="utf-8",
    )


def _draw(docs: Path, facts: RunFacts, pictures: bool) -> set[str]:
    drawn = {}
    if facts.losses:
        drawn["loss.png"] = loss_figure(facts.runs[0] / "log.csv")
    if facts.validations:
        drawn["validation.png"] = validation_figure(facts.runs[0] / "validation.csv")
    if facts.scores:
        drawn["dice.png"] = dice_figure(facts.scores)
    for name, figure in drawn.items():
        _save(figure, docs / name)
    overlay = facts.runs[0] / "overlay.png"
    if pictures and overlay.exists():
        shutil.copyfile(overlay, docs / "overlay.png")
        return {*drawn, "overlay.png"}
    return set(drawn)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})  # the same bytes with any Matplotlib
    plt.close(figure)


def _label(entry: tuple[str, Values]) -> str:
    return f"{' '.join(map(str, as_tuple(entry[1])))} {entry[0]}"


def _ignored(facts: RunFacts) -> str:
    value, labeled = facts.plan.ignore_value, facts.fingerprint.labeled
    if value is None:
        return ""
    partly = sum(bool(case.ignored_voxels) for case in labeled)
    return (
        f"; {value} where nobody annotated, in {partly} of {len(labeled)} labelled scans: not learnt from, not scored"
    )


def _data(facts: RunFacts, terms: DataTerms) -> str:
    plan, fingerprint = facts.plan, facts.fingerprint
    cases = fingerprint.cases
    rows = [
        ("data set", plan.dataset_name),
        ("source", terms.source),
        ("licence of the data", terms.license_text.splitlines()[0]),
        ("channels", ", ".join(plan.channel_names)),
        ("labels", ", ".join(map(_label, plan.scored_values.items())) + _ignored(facts)),
        ("training scans", _scans(facts)),
        ("scans kept out and scored", str(len({row.case for row in facts.scores}) or "none")),
        ("size in voxels", _per_axis([case.shape for case in cases])),
        ("spacing in mm", _per_axis([case.spacing_mm for case in cases])),
        ("axis codes in the files", ", ".join(sorted({case.orientation for case in cases if case.orientation})) or "-"),
    ]
    rows += [(f"volume of {name}", _volumes(fingerprint.labeled, name)) for name in plan.class_names[1:]]
    names = re.compile("|".join(rf"\b{re.escape(case.case)}\b" for case in cases) or r"\b\B")
    warnings = "".join(f"\n- {warning}" for warning in fingerprint.warnings if not names.search(warning))
    text = (
        f"## Data\n\n{table(('', ''), rows)}\n\nSizes and volumes: median (smallest to largest) of the training scans."
    )
    return text + (f"\n\nNoticed while measuring:\n{warnings}" if warnings else "")


def _plan(facts: RunFacts) -> str:
    plan = facts.plan
    spacing = " x ".join("as in the file" if size is None else f"{size:.4g}" for size in plan.spacing_mm)
    rows = [
        ("preprocessing", "crop to the non-zero box, turn to " + (plan.orientation or "the axes of the file")),
        ("intensities", ", ".join(f"{entry.channel}: {entry.scheme}" for entry in plan.normalization)),
        ("spacing", f"{spacing} mm"),
        ("window", " x ".join(map(str, plan.patch_size)) + " voxels, half overlapping, blended by a Gaussian"),
        ("network", f"{_networks(facts)}, channels {', '.join(map(str, plan.cnn.features))}"),
        ("input sizes", "multiples of " + " x ".join(map(str, plan.cnn.divisor)) + ", at least twice that"),
        ("output", f"{outputs(facts)}; masks come back on the grid of the scan's file"),
    ]
    reasons = [
        (name, plan.why[name]) for name in ("spacing_mm", "patch_size", "normalization", "cnn") if name in plan.why
    ]
    text = f"## Plan\n\nMeasured and planned by the bundle itself (`plan.json`).\n\n{table(('', ''), rows)}"
    return text + (f"\n\nWhy:\n\n{table(('choice', 'reason'), reasons)}" if reasons else "")


def _training(facts: RunFacts, drawn: set[str]) -> str:
    plan = facts.plan
    method = METHODS.get(facts.method, facts.method) or f"loss terms {', '.join(facts.loss_terms)}"
    windows = f"{plan.batch_labeled} labelled"
    rows = [
        ("method", method),
        (
            "batch",
            f"{windows} and {plan.batch_unlabeled} unlabelled windows"
            if facts.uses_unlabeled
            else f"{windows} windows",
        ),
        ("memory", f"planned for {plan.memory_gb:.3g} GB, estimated {plan.estimated_memory_gb:.2g} GB ({plan.device})"),
    ]
    if facts.losses:
        last = facts.losses[-1]
        each = "each network: " if len(facts.runs) > 1 else ""
        seconds = sum(float(row["seconds"]) for row in facts.losses)
        rows += [
            ("length", f"{each}{last['epoch']} epochs, {last['iteration']} steps, {seconds / 60:.0f} minutes"),
            ("loss of the last epoch", f"{float(last['loss']):.3f} (sum of its terms)"),
        ]
    pictures = [
        f"![{text}]({name})"
        for name, text in (("loss.png", "loss terms"), ("validation.png", "Dice while training"))
        if name in drawn
    ]
    return "\n\n".join(["## Training", table(("", ""), rows), *pictures])


def _performance(facts: RunFacts, drawn: set[str], terms: DataTerms) -> str:
    if not facts.scores:
        return (
            "## Performance\n\nNot measured on scans that were kept out. Dice while training, if above, is of the scans "
            "that were watched."
        )
    cases = len({row.case for row in facts.scores})
    watched = " The curve above watched these scans; nothing was chosen by it." if "validation.png" in drawn else ""
    head, *lines = summary_rows(facts.scores)
    what = f"On {cases} labelled scans that took no part in the training, each on its own grid, with the last step's weights."
    if len(facts.runs) > 1:
        what = (
            f"On {cases} labelled scans, each on its own grid, by that one of the {len(facts.runs)} networks that did not "
            "train on it (cross-validation). Their average, which this bundle gives, trained on all of them and was not measured."
        )
    parts = [
        "## Performance",
        what + watched,
        table(head, lines),
        "Mean and standard deviation over the scans. A class that is empty in mask and reference is not counted; one that "
        "is missed, or found where there is none, has Dice 0 and an infinite distance.",
        "![Dice of every scan](dice.png)",
    ]
    if "overlay.png" in drawn:
        parts.append(
            "The scan of median Dice: outlines of the mask (solid) and of the reference (dashed).\n\n![overlay](overlay.png)"
            f"\n\nScan: {terms.source}; {terms.license_text.splitlines()[0]}."
        )
    return "\n\n".join(parts)


def _commands(name: str) -> str:
    common = (
        "--bundle_root . --meta_file configs/metadata.json --logging_file configs/logging.conf \\\n"
        "        --dataset_dir DATA"
    )
    train = "configs/train.json"
    return f"""## Commands

In this folder (`{name}`), with the packages of `configs/metadata.json` installed. `DATA` is a folder of scans (NIfTI `.nii` or
`.nii.gz`, `.mha`, `.nrrd`); for training and evaluation one in the layout of the Decathlon, of nnU-Net, or `images/` and
`labels/`.

Masks for new scans, each on its own grid:

    python -m monai.bundle run --config_file configs/inference.json {common} --output_dir MASKS

Scores on labelled scans:

    python -m monai.bundle run --config_file "['{train}','configs/evaluate.json']" {common} --output_dir SCORES

Train the same plan on other scans, of which some are labelled (`--plan_from None` plans anew):

    python -m monai.bundle run --config_file {train} {common} --output_dir RUN

on several GPUs:

    torchrun --nproc_per_node=2 -m monai.bundle run \\
        --config_file "['{train}','configs/multi_gpu_train.json']" {common} --output_dir RUN

and use what came out: add `--run_dir RUN` to the commands for masks and scores. From another folder give the absolute paths and
`--bundle_root`. In Python, put this folder on the path: `sys.path.insert(0, BUNDLE)`. Bundles packed with the same code run side
by side in one process; one with other code is refused there and needs a process of its own."""


def _limits(facts: RunFacts) -> str:
    plan = facts.plan
    items = [
        f"Made for scans like those it was trained on ({', '.join(plan.channel_names)}, "
        f"{_per_axis([case.spacing_mm for case in facts.fingerprint.cases])} mm). Other scanners, protocols, ages and "
        "diseases were not tested; check its masks before you rely on them.",
        "A mask carries no measure of its own uncertainty.",
        f"Trained with {len(facts.labeled)} label maps: rare appearances were probably not among them.",
    ]
    if plan.orientation == "RAS" and 0 in [plan.network_axes[axis] for axis in plan.mirror_axes]:
        items.append("Windows were mirrored in training, left to right too: the network does not tell the sides apart.")
    return "## Limits\n\n" + "\n".join(f"- {item}" for item in items)


def _networks(facts: RunFacts) -> str:
    return "U-Net" if len(facts.runs) == 1 else f"{len(facts.runs)} U-Nets whose probabilities are averaged"


def _scans(facts: RunFacts) -> str:
    labeled, unlabeled = len(facts.labeled), len(facts.fingerprint.unlabeled)
    if facts.uses_unlabeled:
        return f"{labeled} labelled, {unlabeled} unlabelled"
    return (
        f"{labeled} labelled ({unlabeled} more without labels, not learned from)"
        if unlabeled
        else f"{labeled} labelled"
    )


def _tags(metadata: Mapping[str, Any]) -> str:
    modality = metadata["network_data_format"]["inputs"]["image"]["modality"]
    return ", ".join(["segmentation", *([] if modality == "n/a" else [modality]), "U-Net", "MCSC"])


def _noncommercial(terms: DataTerms) -> str:
    if not NONCOMMERCIAL.search(terms.license_text):
        return ""
    return " Not for commercial use either: the licence of the data excludes it."


def _licence(terms: DataTerms) -> str:
    return (
        "## Licence\n\nCode: Apache-2.0, see `LICENSE`. Weights: Apache-2.0 as far as the licence of the data they were "
        f"trained on leaves that free. That licence is: {terms.license_text.splitlines()[0]}; see `docs/data_license.txt`."
        f"{_noncommercial(terms)}"
    )


def _per_axis(values: Sequence[Sequence[float]]) -> str:
    """Median and range of each axis."""
    if not values:
        return "-"
    array = np.array([value for value in values if len(value) == len(values[0])], dtype=float)
    cells = [
        f"{np.median(column):.3g}" + (f" ({column.min():.3g} to {column.max():.3g})" if np.ptp(column) else "")
        for column in array.T
    ]
    return " x ".join(cells)


def _volumes(cases: Sequence[CaseFingerprint], name: str) -> str:
    flat = any(len(case.spacing_mm) == 2 for case in cases)
    scale, unit = (100, "cm2") if flat else (1000, "ml")
    sizes = [case.class_voxels.get(name, 0) * math.prod(case.spacing_mm) / scale for case in cases]
    if not sizes:
        return "-"
    return f"{np.median(sizes):.3g} ({min(sizes):.3g} to {max(sizes):.3g}) {unit}, in {sum(s > 0 for s in sizes)} scans"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
