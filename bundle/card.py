"""The model card ``docs/README.md`` and its pictures, written from the run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from bundle.card_of_run import data_section, performance_section, plan_section, training_section
from bundle.facts import RunFacts
from bundle.markdown import per_axis
from bundle.terms import DataTerms, licence, noncommercial
from mcsc_bundle.figures import dice_figure, loss_figure, validation_figure
from mcsc_bundle.score_record import is_current

EXPORTS = "<!-- exports -->"  # `python -m bundle export` writes its numbers here


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
        f"**Intended use.** {metadata['intended_use']}{noncommercial(terms)}",
        data_section(facts, terms),
        plan_section(facts),
        training_section(facts, drawn),
        performance_section(facts, drawn, terms),
        EXPORTS,
        _commands(name),
        _limits(facts),
        "## References\n\n" + "\n".join(f"- {reference}" for reference in metadata["references"]),
        licence(terms),
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
    if pictures and facts.scores and overlay.exists() and is_current(facts.runs[0]):
        shutil.copyfile(overlay, docs / "overlay.png")
        return {*drawn, "overlay.png"}
    return set(drawn)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})  # the same bytes with any Matplotlib
    plt.close(figure)


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

Train the same plan on other scans, of which some are labelled (`--plan_from '$None'` plans anew):

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
        f"{per_axis([case.spacing_mm for case in facts.fingerprint.cases])} mm). Other scanners, protocols, ages and "
        "diseases were not tested; check its masks before you rely on them.",
        "A mask carries no measure of its own uncertainty.",
        f"Trained with {len(facts.labeled)} label maps: rare appearances were probably not among them.",
    ]
    if plan.largest_component:
        items.append(
            "Masks keep one piece of each class named under components: where a disease has several, the others are removed. "
            "`summary.csv` counts the voxels that went; `--postprocess False` keeps all."
        )
    if plan.orientation == "RAS" and 0 in [plan.network_axes[axis] for axis in plan.mirror_axes]:
        items.append("Windows were mirrored in training, left to right too: the network does not tell the sides apart.")
    return "## Limits\n\n" + "\n".join(f"- {item}" for item in items)


def _tags(metadata: Mapping[str, Any]) -> str:
    modality = metadata["network_data_format"]["inputs"]["image"]["modality"]
    return ", ".join(["segmentation", *([] if modality == "n/a" else [modality]), "U-Net", "MCSC"])
