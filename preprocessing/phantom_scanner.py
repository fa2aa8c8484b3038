"""What a scanner makes of the phantom: thick slices, contrast, coil shading, noise, and an oblique place in space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from preprocessing.phantom_anatomy import Chest, Heart, Tissue, labels, tissues

FINE = (2, 2, 3)  # samples per voxel and axis: the partial volume of thick slices


@dataclass(frozen=True)
class Scanner:
    """One scanner.

    Args:
        spacing_mm: range of the in-plane spacing, and the distance of the slices.
        matrix: voxels in plane.
        signal: mean intensity of each ``Tissue``, in its order.
        noise: standard deviation in each of the two channels of the receiver, as a share of the signal of blood.
        blur: of the image, standard deviation in voxels.
        shading: how uneven the coil is, as a logarithm.
        flipped: stores every axis from the other end.
    """

    spacing_mm: tuple[float, float, float]
    matrix: tuple[int, int]
    signal: tuple[float, ...]
    noise: float
    blur: float
    shading: float
    flipped: bool


SCANNERS = (
    Scanner((1.7, 1.9, 8.0), (96, 96), (4, 40, 150, 140, 310, 410, 420), 0.045, 0.45, 0.25, False),
    Scanner((2.0, 2.2, 10.0), (96, 88), (20, 170, 520, 500, 880, 1170, 1200), 0.06, 0.6, 0.30, True),
)


def draw_grid(
    rng: np.random.Generator, heart: Heart, scanner: Scanner
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Shape and spacing (mm) of a stack from the base to the apex or just beyond; ten slices at most."""
    low, high, thick = scanner.spacing_mm
    in_plane = round(rng.uniform(low, high), 2)
    slices = min(10, math.ceil(heart.length / thick))
    return (*scanner.matrix, slices), (in_plane, in_plane, thick)


def acquire(
    rng: np.random.Generator,
    heart: Heart,
    chest: Chest,
    scanner: Scanner,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Image (int16) and label map ``(x, y, z)``, base first.

    Each slice is held at its own breath, so slices lie up to some 2 mm beside each other; image and labels move together.
    """
    start = rng.uniform(0.2, 0.5) * spacing_mm[2]
    breath = rng.normal(0, 0.8, (2, shape[2]))
    found = tissues(heart, chest, *_places(shape, spacing_mm, start, breath, FINE))
    image = _mean_of_blocks(_signal(rng, scanner)[found], FINE)
    label = np.broadcast_to(labels(heart, *_places(shape, spacing_mm, start, breath, (1, 1, 1))), shape).copy()
    image = image * (1 + 0.1 * _smooth_noise(rng, shape, (1.5, 1.5, 0.3)))
    image = gaussian_filter(image, (scanner.blur, scanner.blur, 0))
    image = image * _shading(rng, shape, scanner.shading)
    sigma = scanner.noise * scanner.signal[Tissue.BLOOD]
    noisy = np.hypot(image + rng.normal(0, sigma, shape), rng.normal(0, sigma, shape))  # Rician
    return np.rint(noisy * rng.uniform(0.8, 1.25)).astype(np.int16), label


def _places(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], start: float, breath: np.ndarray, fine: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``x, y, z`` in mm of the samples of every voxel."""
    steps = [(np.arange(n * f, dtype=np.float32) + 0.5) / f - 0.5 for n, f in zip(shape, fine, strict=True)]
    x, y = ((s - (n - 1) / 2) * mm for s, mm, n in zip(steps[:2], spacing_mm, shape, strict=False))
    shift = np.repeat(breath, fine[2], axis=1).astype(np.float32)
    z = (start + steps[2] * spacing_mm[2]).astype(np.float32)
    return x[:, None, None] + shift[0], y[None, :, None] + shift[1], z[None, None, :]


def _mean_of_blocks(samples: np.ndarray, fine: tuple[int, ...]) -> np.ndarray:
    pairs = [part for n, f in zip(samples.shape, fine, strict=True) for part in (n // f, f)]
    return samples.reshape(pairs).mean(axis=(1, 3, 5))


def _signal(rng: np.random.Generator, scanner: Scanner) -> np.ndarray:
    """Signal of each tissue on this day; the blood of the right heart differs a little from the left heart's."""
    signal = np.array(scanner.signal) * rng.uniform(0.88, 1.12, len(Tissue))
    signal[Tissue.RIGHT_BLOOD] = signal[Tissue.BLOOD] * rng.uniform(0.93, 1.03)
    return signal.astype(np.float32)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: tuple[float, ...]) -> np.ndarray:
    """Noise of standard deviation 1 with structure of ``sigma`` voxels."""
    noise = gaussian_filter(rng.normal(size=shape), sigma, mode="nearest")
    return noise / noise.std()


def _shading(rng: np.random.Generator, shape: tuple[int, ...], amount: float) -> np.ndarray:
    """Smooth factor: a coil in front of the chest, and slow variation."""
    front = np.linspace(-1, 1, shape[1])[None, :, None]
    return np.exp(amount * (rng.uniform(0.3, 1.0) * front + 0.6 * _smooth_noise(rng, shape, (30, 30, 6))))


def draw_affine(rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Voxel index to mm (RAS) of a stack that is cut across the heart's long axis, oblique to all axes of the scanner."""
    tilt, swing, roll = np.radians(rng.uniform((-60, 25, -20), (-40, 50, 20)))
    rx = np.array([[1, 0, 0], [0, math.cos(tilt), -math.sin(tilt)], [0, math.sin(tilt), math.cos(tilt)]])
    ry = np.array([[math.cos(swing), 0, math.sin(swing)], [0, 1, 0], [-math.sin(swing), 0, math.cos(swing)]])
    rz = np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rx @ ry @ rz @ np.diag(spacing_mm)
    affine[:3, 3] = rng.uniform(-20, 20, 3) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


def store_flipped(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same scan with every axis stored from its other end: no voxel moves in space."""
    flip = np.diag([-1.0, -1.0, -1.0, 1.0])
    flip[:3, 3] = np.array(array.shape) - 1
    return array[::-1, ::-1, ::-1].copy(), affine @ flip
