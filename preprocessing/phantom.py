"""The demo set: phantom short-axis heart stacks, Decathlon layout, deterministic by seed.

    python -m preprocessing.phantom FOLDER

Each case is a stack of thick slices through a heart (``phantom_anatomy``) as one of two scanners shows it
(``phantom_scanner``). Blood outside the heart is as bright as inside, and the body wall as dark as the heart's muscle:
intensity alone finds no class. Labelled cases show healthy and some sick hearts, three of four from the first scanner. Half
of the other scans come from the second, and a disease of the right ventricle is never labelled: only the unlabelled cases
show it. How hard the set is was chosen so that the demo's short training reaches its aim; it says nothing of real scans.
"""

from __future__ import annotations

import gzip
import os
import sys
from pathlib import Path
from typing import Any

import fire
import nibabel as nib
import numpy as np

from mcsc_bundle.files import DiskError, replacing
from mcsc_bundle.flags import check_flags_or_exit
from mcsc_bundle.plan import save_json
from preprocessing.phantom_anatomy import KINDS, LV, MYO, RV, draw_chest, draw_heart
from preprocessing.phantom_scanner import SCANNERS, Scanner, acquire, draw_affine, draw_grid, store_flipped

LABELS = {"0": "background", str(RV): "RV", str(MYO): "MYO", str(LV): "LV"}
LABELED_KINDS = ("healthy", "dilated", "healthy", "hypertrophic")  # in turn


def make_phantom_dataset(
    folder: str | os.PathLike,
    labeled: int = 4,
    unlabeled: int = 20,
    test: int = 8,
    seed: int = 0,
    label_all: bool = False,
) -> Path:
    """Write the set: ``imagesTr``, ``labelsTr`` (labelled cases alone), ``imagesTs``, ``labelsTs`` (truth for evaluation).

    Unlabelled cases are entries of ``training`` without ``label``; test cases are entries of ``test`` with theirs.
    ``dataset.json`` is written last, so a set that was cut off is made again. The same arguments give the same bytes.

    Args:
        folder: where to.
        labeled, unlabeled, test: numbers of cases.
        seed: decides everything.
        label_all: write the labels of the unlabelled cases too, for the upper bound; the images stay the same.
    """
    folder = Path(folder)
    entries: dict[str, list[dict[str, str]]] = {"training": [], "test": []}
    for number in range(labeled + unlabeled + test):
        name = f"heart_{number + 1:03d}.nii.gz"
        image, label = make_case(seed, number, is_labeled=number < labeled)
        part, entry_list = ("Ts", "test") if number >= labeled + unlabeled else ("Tr", "training")
        entry = {"image": f"./images{part}/{name}"}
        _write(image, folder / f"images{part}" / name)
        if part == "Ts" or number < labeled or label_all:
            entry["label"] = f"./labels{part}/{name}"
            _write(label, folder / f"labels{part}" / name)
        entries[entry_list].append(entry)
    content: dict[str, Any] = {
        "name": "PhantomHeart",
        "description": "Phantom short-axis heart stacks; synthetic, no patient data",
        "licence": "CC0 1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": LABELS,
        "numTraining": labeled + unlabeled,
        "numTest": test,
        **entries,
    }
    save_json(folder / "dataset.json", content)
    return folder


def make_case(seed: int, number: int, is_labeled: bool) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Image and label map of one case, a function of the arguments.

    Args:
        seed: of the set.
        number: of the case in the set, from 0.
        is_labeled: draws from what the labelled cases show, else from everything.
    """
    rng = np.random.default_rng((seed, number))
    if is_labeled:
        kind, scanner = LABELED_KINDS[number % 4], SCANNERS[number % 4 == 3]
    else:
        kind, scanner = str(rng.choice(list(KINDS))), SCANNERS[number % 2]
    return _scan(rng, kind, bool(number // 2 % 2), scanner)


def _scan(
    rng: np.random.Generator, kind: str, systole: bool, scanner: Scanner
) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    heart = draw_heart(rng, kind, systole)
    chest = draw_chest(rng, heart)
    shape, spacing_mm = draw_grid(rng, heart, scanner)
    image, label = acquire(rng, heart, chest, scanner, shape, spacing_mm)
    affine = draw_affine(rng, shape, spacing_mm)
    if scanner.flipped:
        (image, _), (label, affine) = store_flipped(image, affine), store_flipped(label, affine)
    return _nifti(image, affine), _nifti(label, affine)


def _nifti(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return image


def _write(image: nib.Nifti1Image, path: Path) -> None:
    """Compressed without name and time, so that the same case is the same bytes."""
    with (
        replacing(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as packed,
    ):
        packed.write(image.to_bytes())


if __name__ == "__main__":
    check_flags_or_exit(sys.argv[1:], make_phantom_dataset)
    try:
        fire.Fire(make_phantom_dataset)
    except DiskError as error:
        raise SystemExit(f"error: {error}") from None
