"""The sections of the model card that come from the run: data, plan, training, performance."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from bundle.facts import RunFacts
from bundle.markdown import per_axis, table
from bundle.metadata import outputs
from bundle.terms import DataTerms
from mcsc_bundle.fingerprint import CaseFingerprint
from mcsc_bundle.labels import Values, as_tuple
from mcsc_bundle.postprocessing import decision
from mcsc_bundle.score_record import ScoreRecord, read_record
from mcsc_bundle.score_table import summary_rows
from mcsc_bundle.words import in_turn

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


def data_section(facts: RunFacts, terms: DataTerms) -> str:
    """What the network learned from: source, labels, sizes, volumes."""
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
        ("size in voxels", per_axis([case.shape for case in cases])),
        ("spacing in mm", per_axis([case.spacing_mm for case in cases])),
        ("axis codes in the files", ", ".join(sorted({case.orientation for case in cases if case.orientation})) or "-"),
    ]
    rows += [(f"volume of {name}", _volumes(fingerprint.labeled, name)) for name in plan.class_names[1:]]
    names = re.compile("|".join(rf"\b{re.escape(case.case)}\b" for case in cases) or r"\b\B")
    warnings = "".join(f"\n- {warning}" for warning in fingerprint.warnings if not names.search(warning))
    text = (
        f"## Data\n\n{table(('', ''), rows)}\n\nSizes and volumes: median (smallest to largest) of the training scans."
    )
    return text + (f"\n\nNoticed while measuring:\n{warnings}" if warnings else "")


def plan_section(facts: RunFacts) -> str:
    """What was decided, and why."""
    plan = facts.plan
    mirrored = ", averaged over their mirror images" if plan.mirror_axes else ""
    spacing = " x ".join("as in the file" if size is None else f"{size:.4g}" for size in plan.spacing_mm)
    rows = [
        ("preprocessing", "crop to the non-zero box, turn to " + (plan.orientation or "the axes of the file")),
        ("intensities", ", ".join(f"{entry.channel}: {entry.scheme}" for entry in plan.normalization)),
        ("spacing", f"{spacing} mm"),
        (
            "window",
            " x ".join(map(str, plan.patch_size)) + " voxels, half overlapping, blended by a Gaussian" + mirrored,
        ),
        ("network", f"{_networks(facts)}, channels {', '.join(map(str, plan.cnn.features))}"),
        ("input sizes", "multiples of " + " x ".join(map(str, plan.cnn.divisor)) + ", at least twice that"),
        ("output", f"{outputs(facts)}; masks come back on the grid of the scan's file"),
        ("components", _components(facts)),
    ]
    reasons = [
        (name, plan.why[name]) for name in ("spacing_mm", "patch_size", "normalization", "cnn") if name in plan.why
    ]
    text = f"## Plan\n\nMeasured and planned by the bundle itself (`plan.json`).\n\n{table(('', ''), rows)}"
    return text + (f"\n\nWhy:\n\n{table(('choice', 'reason'), reasons)}" if reasons else "")


def training_section(facts: RunFacts, drawn: set[str]) -> str:
    """Method, length, losses."""
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


def performance_section(facts: RunFacts, drawn: set[str], terms: DataTerms) -> str:
    """Scores of the scans that were kept out."""
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
        what + _made(facts) + watched,
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


def _networks(facts: RunFacts) -> str:
    return "U-Net" if len(facts.runs) == 1 else f"{len(facts.runs)} U-Nets whose probabilities are averaged"


def _made(facts: RunFacts) -> str:
    """How the masks were made that were scored, and where those of the bundle are made otherwise."""
    record, own = read_record(facts.runs[0]), ScoreRecord.of_inference(facts.plan)
    if record is None:
        return ""
    text = f" Their masks were made {record.words}."
    return text if record == own else f"{text} **Masks of this bundle are made otherwise**: {own.words}."


def _components(facts: RunFacts) -> str:
    """What inference keeps, as ``TrainedRun.postprocessing`` has it."""
    groups = facts.plan.largest_component
    if not groups:
        return "all are kept"
    if decision(facts.folder) is not None:
        decided = "decided on cross-validated masks"
    elif facts.planned is not None and facts.planned.largest_component != groups:
        decided = "edited by hand"
    else:
        decided = "decided on the label maps, in which each is one piece"
    return f"the largest is kept of {in_turn(groups)}, {decided}; `--postprocess False` keeps all"


def _scans(facts: RunFacts) -> str:
    labeled, unlabeled = len(facts.labeled), len(facts.fingerprint.unlabeled)
    if facts.uses_unlabeled:
        return f"{labeled} labelled, {unlabeled} unlabelled"
    return (
        f"{labeled} labelled ({unlabeled} more without labels, not learned from)"
        if unlabeled
        else f"{labeled} labelled"
    )


def _volumes(cases: Sequence[CaseFingerprint], name: str) -> str:
    flat = any(len(case.spacing_mm) == 2 for case in cases)
    scale, unit = (100, "cm2") if flat else (1000, "ml")
    sizes = [case.class_voxels.get(name, 0) * math.prod(case.spacing_mm) / scale for case in cases]
    if not sizes:
        return "-"
    return f"{np.median(sizes):.3g} ({min(sizes):.3g} to {max(sizes):.3g}) {unit}, in {sum(s > 0 for s in sizes)} scans"
