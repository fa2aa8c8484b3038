"""The demo set: phantom short-axis heart stacks, Decathlon layout, deterministic by seed.

    python -m preprocessing.phantom FOLDER

Each case is a stack of thick slices through a left ventricle (cavity and muscle) with a crescent-shaped right ventricle, in a
chest with fat, lungs, liver and great vessels. Blood is as bright in the vessels as in the heart, and muscle as in the body
wall, so intensity alone finds no class. Pose, size, wall, contrast, bias field, noise and header differ from case to case;
there are two scanners and two kinds of disease, of which four labelled cases show only a part: the unlabelled scans tell more.
"""

from __future__ import annotations

import gzip
import math
import os
from dataclasses import dataclass
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
from monai.apps import DecathlonDataset
from scipy.ndimage import gaussian_filter

from mcsc_bundle.plan import save_json

LABELS = {"0": "background", "1": "RV", "2": "MYO", "3": "LV"}
RV, MYO, LV = 1, 2, 3
IN_PLANE = 96  # voxels


@dataclass(frozen=True)
class Scanner:
    """Grid and tissue intensities (blood, muscle, fat, lung, liver) of one scanner; noise as a share of blood."""

    spacing_mm: tuple[float, float, float]
    blood: float
    muscle: float
    fat: float
    lung: float
    liver: float
    noise: float


SCANNERS = (
    Scanner((1.8, 1.8, 8.0), blood=420, muscle=190, fat=470, lung=50, liver=230, noise=0.06),
    Scanner((2.1, 2.1, 10.0), blood=1250, muscle=760, fat=1500, lung=160, liver=700, noise=0.09),
)


@dataclass(frozen=True)
class Heart:
    """Shape of one heart, lengths in mm: what disease changes and what varies in health."""

    cavity: float
    wall: float
    right: float
    slices: int


def draw_heart(rng: np.random.Generator) -> Heart:
    """Healthy, dilated (large thin-walled cavity), or hypertrophic (small thick-walled cavity), with a large or small RV."""
    kind = rng.choice(["healthy", "dilated", "hypertrophic"], p=[0.6, 0.2, 0.2])
    cavity, wall = {"healthy": (21, 9.5), "dilated": (29, 7.5), "hypertrophic": (16, 15)}[str(kind)]
    return Heart(
        cavity=cavity * rng.uniform(0.88, 1.12),
        wall=wall * rng.uniform(0.88, 1.12),
        right=rng.uniform(0.75, 1.25),
        slices=int(rng.integers(7, 10)),
    )


def draw_stack(rng: np.random.Generator, heart: Heart, scanner: Scanner) -> tuple[np.ndarray, np.ndarray]:
    """Noise-free intensities and labels ``(x, y, z)`` of one stack, base first."""
    shape = (IN_PLANE, IN_PLANE, heart.slices)
    axis = (np.arange(IN_PLANE) - IN_PLANE / 2 + 0.5) * scanner.spacing_mm[0]
    x, y = np.meshgrid(axis, axis, indexing="ij")
    image, label = np.empty(shape), np.zeros(shape, np.uint8)
    centre, drift = rng.uniform(-10, 10, 2), rng.uniform(-1.5, 1.5, 2)
    turn = rng.uniform(-0.6, 0.6)
    ripple = rng.normal(0, 0.03, (2, 3))
    chest = _draw_chest(rng, x, y, scanner)
    vessels = rng.uniform(-1, 1, (3, 2))
    muscles = rng.uniform(0.8, 1.4, 2), rng.uniform(3.0, 4.5)
    for z in range(heart.slices):
        depth = z / (heart.slices - 1)  # 0 at the base, 1 at the apex
        cx, cy = centre + drift * z
        angle = np.arctan2(y - cy, x - cx) - turn
        radius = np.hypot(x - cx, y - cy)
        ripples = sum(a * np.cos(k * angle) + b * np.sin(k * angle) for k, (a, b) in enumerate(ripple.T, start=2))
        cavity = heart.cavity * math.sqrt(1 - 0.9 * depth**2) * (1 + ripples)
        outside = cavity + heart.wall * (1 - 0.25 * depth)
        right = _right_ventricle(angle, radius, outside, heart, depth)
        slice_label = np.select([radius < cavity, radius < outside, right], [LV, MYO, RV], 0)
        intensity = chest.copy()
        _paint_vessels(intensity, vessels, (x - cx, y - cy), outside.mean(), depth, scanner)
        intensity[_right_wall(angle, radius, outside, heart, depth)] = scanner.muscle
        intensity = np.select([slice_label == MYO, slice_label > 0], [scanner.muscle, scanner.blood], intensity)
        papillary = _papillary(x - cx, y - cy, turn, heart.cavity * math.sqrt(1 - 0.9 * depth**2), muscles, depth)
        intensity[papillary & (slice_label == LV)] = scanner.muscle  # counts as cavity, as clinicians draw it
        image[..., z], label[..., z] = intensity, slice_label
    return image, label


def _right_extent(angle: np.ndarray, heart: Heart, depth: float) -> np.ndarray:
    """How far the right ventricle reaches beyond the left one's wall: widest opposite to the free wall, gone at the apex."""
    reach = 30 * heart.right * (1 - depth) ** 0.6
    return (
        reach * np.clip(np.cos((np.abs(np.angle(np.exp(1j * (angle - math.pi)))) / 1.15) * math.pi / 2), 0, None) ** 0.7
    )


def _right_ventricle(
    angle: np.ndarray, radius: np.ndarray, outside: np.ndarray, heart: Heart, depth: float
) -> np.ndarray:
    extent = _right_extent(angle, heart, depth)
    opposite = np.abs(np.angle(np.exp(1j * (angle - math.pi)))) < 1.15
    return opposite & (extent > 3) & (radius >= outside) & (radius < outside + extent)


def _right_wall(angle: np.ndarray, radius: np.ndarray, outside: np.ndarray, heart: Heart, depth: float) -> np.ndarray:
    """The thin free wall of the right ventricle: muscle, but not labelled."""
    extent = _right_extent(angle, heart, depth)
    opposite = np.abs(np.angle(np.exp(1j * (angle - math.pi)))) < 1.25
    return opposite & (extent > 2) & (radius >= outside) & (radius < outside + extent + 3.5)


def _papillary(
    x: np.ndarray, y: np.ndarray, turn: float, cavity: float, muscles: tuple[np.ndarray, float], depth: float
) -> np.ndarray:
    """Two papillary muscles inside the cavity, in the middle slices."""
    angles, size = muscles
    found = np.zeros(x.shape, bool)
    if 0.2 < depth < 0.8:
        for angle in (turn + angles[0], turn - angles[1]):
            found |= np.hypot(x - 0.6 * cavity * math.cos(angle), y - 0.6 * cavity * math.sin(angle)) < size
    return found


def _draw_chest(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, scanner: Scanner) -> np.ndarray:
    """Body wall, fat, two lungs and the liver's dome around the heart, the same in every slice."""
    wide, high = rng.uniform(74, 84), rng.uniform(68, 78)
    edge = (x / wide) ** 2 + (y / high) ** 2
    chest = np.select(
        [edge < 0.72, edge < 0.85, edge < 1], [scanner.lung, scanner.muscle, scanner.fat], 0.02 * scanner.blood
    )
    heart_fat = (x / rng.uniform(52, 60)) ** 2 + (y / rng.uniform(46, 54)) ** 2 < 1
    chest[heart_fat & (edge < 0.72)] = 0.62 * scanner.fat
    liver = np.hypot(x - rng.uniform(-25, -5), y + rng.uniform(62, 72)) < rng.uniform(30, 36)
    chest[liver & (edge < 0.74)] = scanner.liver
    return chest


def _paint_vessels(
    intensity: np.ndarray,
    jitter: np.ndarray,
    position: tuple[np.ndarray, np.ndarray],
    reach: float,
    depth: float,
    scanner: Scanner,
) -> None:
    """Descending aorta in every slice and, near the base, atrium and pulmonary artery: blood that is no class."""
    x, y = position
    vessels = [(reach + 21 + 4 * jitter[0, 0], -14 + 6 * jitter[0, 1], 9.5)]
    if depth < 0.35:
        vessels += [(10 + 5 * jitter[1, 0], -reach - 16, 13), (-14 + 5 * jitter[2, 0], reach + 14, 10)]
    for vx, vy, size in vessels:
        distance = np.hypot(x - vx, y - vy)
        intensity[distance < size + 2] = scanner.muscle
        intensity[distance < size] = scanner.blood


def acquire(rng: np.random.Generator, image: np.ndarray, scanner: Scanner) -> np.ndarray:
    """What the scanner makes of it: contrast of the day, partial volume, bias field, Rician noise; int16."""
    contrast = rng.uniform(0.85, 1.15)
    image = scanner.muscle * (np.maximum(image, 1) / scanner.muscle) ** contrast
    image = gaussian_filter(image, (rng.uniform(0.6, 0.9), rng.uniform(0.6, 0.9), 0.25))
    field = gaussian_filter(rng.normal(size=image.shape), (24, 24, 4), mode="nearest")
    image = image * np.exp(0.25 * field / np.abs(field).max())
    sigma = scanner.noise * scanner.blood
    noisy = np.hypot(image + rng.normal(0, sigma, image.shape), rng.normal(0, sigma, image.shape))
    return np.rint(noisy * rng.uniform(0.8, 1.25)).astype(np.int16)


def draw_affine(rng: np.random.Generator, scanner: Scanner, shape: tuple[int, ...]) -> np.ndarray:
    """A double-oblique short-axis orientation; scanner 2 stores its axes flipped (mixed handedness is left alone)."""
    a, b, c = np.radians(rng.uniform((-45, 20, -15), (-25, 40, 15)))
    rx = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    ry = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    rz = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    flips = (-1.0, -1.0, 1.0) if scanner is SCANNERS[1] else (1.0, 1.0, 1.0)
    affine = np.eye(4)
    affine[:3, :3] = rx @ ry @ rz @ np.diag(flips) @ np.diag(scanner.spacing_mm)
    affine[:3, 3] = -affine[:3, :3] @ (np.asarray(shape) / 2) + rng.uniform(-20, 20, 3)
    return affine


def make_case(seed: tuple[int, int], scanner: Scanner) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Image and label map of one case, a function of the seed."""
    rng = np.random.default_rng(seed)
    clean, label = draw_stack(rng, draw_heart(rng), scanner)
    affine = draw_affine(rng, scanner, label.shape)
    image = acquire(rng, clean, scanner)
    if scanner is SCANNERS[1]:  # stored flipped: the same chest in space, since the affine is flipped too
        image, label = image[::-1, ::-1].copy(), label[::-1, ::-1].copy()
    return _nifti(image, affine), _nifti(label, affine)


def make_phantom_dataset(
    folder: str | os.PathLike, labeled: int = 4, unlabeled: int = 20, test: int = 8, seed: int = 0
) -> Path:
    """Write the set: ``imagesTr``, ``labelsTr`` (labelled cases alone), ``imagesTs``, ``labelsTs`` (truth for evaluation).

    Unlabelled cases are entries of ``training`` without ``label``. The test cases are entries of ``test`` with their label.
    ``dataset.json`` is written last, so a set that was cut off is made again. The same arguments give the same bytes.

    Args:
        folder: where to.
        labeled, unlabeled, test: numbers of cases. The first labelled ones are of scanner 1, the fourth of scanner 2.
        seed: decides everything.
    """
    folder = Path(folder)
    entries: dict[str, list] = {"training": [], "test": []}
    for number in range(labeled + unlabeled + test):
        name = f"heart_{number + 1:03d}.nii.gz"
        scanner = SCANNERS[number % 4 == 3] if number < labeled else SCANNERS[number % 2]
        image, label = make_case((seed, number), scanner)
        is_test, has_label = number >= labeled + unlabeled, number < labeled or number >= labeled + unlabeled
        part = "Ts" if is_test else "Tr"
        entry = {"image": f"./images{part}/{name}"}
        _write(image, folder / f"images{part}" / name)
        if has_label:
            entry["label"] = f"./labels{part}/{name}"
            _write(label, folder / f"labels{part}" / name)
        entries["test" if is_test else "training"].append(entry)
    content = {
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


def download_decathlon(folder: str | os.PathLike, task: str) -> Path:
    """Fetch a task of the Medical Segmentation Decathlon by MONAI, for those who are online.

    Args:
        folder: the task becomes a folder in it.
        task: e.g. ``Task04_Hippocampus``.

    Raises:
        SystemExit: it cannot be fetched.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        DecathlonDataset(root_dir=str(folder), task=task, section="training", download=True, cache_num=0)
    except (OSError, RuntimeError) as error:
        raise SystemExit(
            f"error: could not download {task} ({error}). Without a network run `make demo`, which makes its own data, "
            f"or unpack the task into {folder} by hand."
        ) from None
    return Path(folder) / task


def _nifti(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return image


def _write(image: nib.Nifti1Image, path: Path) -> None:
    """Compressed without name and time, so that the same case is the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
        packed.write(image.to_bytes())
    os.replace(temporary, path)


if __name__ == "__main__":
    fire.Fire(make_phantom_dataset)
