"""What lies in the phantom's chest: a beating heart cut in short-axis slices, and everything around it, as functions of place.

Places are in mm: ``x`` to the patient's left in the picture, ``y`` to the front, ``z`` from the base of the heart to its
apex. All functions take arrays that broadcast to ``(x, y, z)``. Sizes are those of a small adult's heart in cine MR (LV
cavity about 48 mm wide, wall 9 mm, ejecting about half of its 90 ml); the shapes are simple on purpose and stand for no
measured heart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

RV, MYO, LV = 1, 2, 3
RIGHT_WALL_MM = 3.5


class Tissue(IntEnum):
    """What gives its own signal; the right heart's blood differs a little from the left one's."""

    AIR = 0
    LUNG = 1
    LIVER = 2
    MUSCLE = 3
    FAT = 4
    RIGHT_BLOOD = 5
    BLOOD = 6


@dataclass(frozen=True)
class Heart:
    """One heart at one moment, lengths in mm, angles in radians.

    Args:
        cavity, wall, length: radius of the left cavity and thickness of its wall at the base; base to apex.
        right: how far the right ventricle reaches beyond the septum at the base.
        flattening: how much the septum gives way to the right ventricle, 0 to 0.3.
        turn: rotation of the right ventricle around the left one.
        centre, lean: position of the left axis at the base, and its shift per mm towards the apex; ``(x, y)``.
        ripple: cosine and sine amplitude of the 2nd, 3rd and 4th harmonic of the outline.
        papillary: angles of the two papillary muscles and their radius.
        trabeculae: depth, number around and phase of the ridges on the inner wall.
    """

    cavity: float
    wall: float
    length: float
    right: float
    flattening: float
    turn: float
    centre: tuple[float, float]
    lean: tuple[float, float]
    ripple: tuple[tuple[float, float], ...]
    papillary: tuple[float, float, float]
    trabeculae: tuple[float, int, float]


# cavity, wall, length, right, flattening against a healthy heart
KINDS = {
    "healthy": (1.0, 1.0, 1.0, 1.0, 0.0),
    "dilated": (1.3, 0.85, 1.08, 0.9, 0.0),
    "hypertrophic": (0.82, 1.6, 1.0, 0.9, 0.0),
    "right_dilated": (0.9, 1.0, 0.97, 1.35, 0.22),
}


def draw_heart(rng: np.random.Generator, kind: str, systole: bool) -> Heart:
    """A heart of one of ``KINDS`` at the end of diastole or systole: then smaller, shorter and with a thicker wall."""
    cavity, wall, length, right, flattening = KINDS[kind]
    beat = (0.72, 1.35, 0.85, 0.75) if systole else (1.0, 1.0, 1.0, 1.0)
    size = rng.uniform(0.9, 1.1)
    return Heart(
        cavity=24.0 * cavity * beat[0] * size,
        wall=9.0 * wall * (beat[1] if kind != "dilated" else 1.1) * rng.uniform(0.9, 1.1),
        length=70.0 * length * beat[2] * size,
        right=27.0 * right * beat[3] * rng.uniform(0.85, 1.15),
        flattening=flattening * rng.uniform(0.6, 1.2),
        turn=rng.uniform(-0.4, 0.25),
        centre=(rng.uniform(-8, 12), rng.uniform(-12, 6)),
        lean=(rng.uniform(-0.12, 0.12), rng.uniform(-0.12, 0.12)),
        ripple=tuple((rng.normal(0, 0.018), rng.normal(0, 0.018)) for _ in range(3)),
        papillary=(rng.uniform(0.7, 1.1), -rng.uniform(0.7, 1.2), rng.uniform(3.5, 5.5)),
        trabeculae=(rng.uniform(1.5, 3.0), int(rng.integers(9, 15)), rng.uniform(0, math.tau)),
    )


@dataclass(frozen=True)
class Chest:
    """What surrounds the heart, lengths in mm.

    Args:
        body, axes: centre and half axes of the body's ellipse.
        fat, muscle: thickness of the body's fat and of the muscle below it.
        pad: mean thickness of the fat around the heart, and the direction where it is thickest.
        diaphragm: its height below the left axis at the base, its slope to the left, its rise per mm towards the apex.
        stomach: centre and radius.
        vessels: rows ``(x, y, radius, last z)`` of blood outside the heart, beside the left axis.
        lung_vessels: rows ``(x, y, radius)``.
    """

    body: tuple[float, float]
    axes: tuple[float, float]
    fat: float
    muscle: float
    pad: tuple[float, float]
    diaphragm: tuple[float, float, float]
    stomach: tuple[float, float, float]
    vessels: tuple[tuple[float, float, float, float], ...]
    lung_vessels: tuple[tuple[float, float, float], ...]


def draw_chest(rng: np.random.Generator, heart: Heart) -> Chest:
    """Surroundings that fit the heart: aorta behind it, great vessels at its base, diaphragm below."""
    outer = heart.cavity + heart.wall
    vessels = (
        (rng.uniform(16, 30), -outer - rng.uniform(24, 32), rng.uniform(9, 12), math.inf),  # descending aorta
        (rng.uniform(-14, 2), outer + rng.uniform(11, 16), rng.uniform(8, 11), rng.uniform(12, 30)),  # pulmonary artery
        (outer + rng.uniform(8, 14), rng.uniform(0, 16), rng.uniform(5, 8), rng.uniform(6, 20)),  # atrial appendage
        (
            -outer - rng.uniform(0, 8),
            -outer - rng.uniform(14, 22),
            rng.uniform(8, 11),
            rng.uniform(20, 60),
        ),  # vena cava
    )
    return Chest(
        body=(rng.uniform(40, 65), rng.uniform(-42, -25)),
        axes=(rng.uniform(132, 155), rng.uniform(110, 128)),
        fat=rng.uniform(7, 16),
        muscle=rng.uniform(7, 11),
        pad=(rng.uniform(2, 5), rng.uniform(0, math.tau)),
        diaphragm=(outer + rng.uniform(2, 12), rng.uniform(-0.35, 0.05), rng.uniform(0.0, 0.25)),
        stomach=(outer + rng.uniform(28, 40), -outer - rng.uniform(25, 45), rng.uniform(14, 22)),
        vessels=vessels,
        lung_vessels=tuple((rng.uniform(-95, 95), rng.uniform(-95, 95), rng.uniform(1.2, 3.2)) for _ in range(14)),
    )


@dataclass(frozen=True)
class _Frame:
    """The heart's own coordinates of every place: ``u`` from the right ventricle to the left one, ``v`` across."""

    u: np.ndarray
    v: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    depth: np.ndarray  # 0 at the base, 1 at the apex
    inner: np.ndarray  # radius of the left cavity in this direction
    outer: np.ndarray  # radius of the outer wall


def _frame(heart: Heart, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> _Frame:
    dx, dy = x - heart.centre[0] - heart.lean[0] * z, y - heart.centre[1] - heart.lean[1] * z
    u = dx * math.cos(heart.turn) + dy * math.sin(heart.turn)
    v = dy * math.cos(heart.turn) - dx * math.sin(heart.turn)
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    depth = np.clip(z / heart.length, 0, None)
    outline = 1 - heart.flattening * np.clip(-u / np.maximum(radius, 1e-3), 0, 1) ** 3
    for number, (a, b) in enumerate(heart.ripple, start=2):
        outline = outline + a * np.cos(number * angle) + b * np.sin(number * angle)
    inner = heart.cavity * _taper(depth / 0.9) * outline
    outer = (heart.cavity + heart.wall) * _taper(depth) * outline
    return _Frame(u, v, radius, angle, depth, inner, outer)


def _taper(depth: np.ndarray) -> np.ndarray:
    """Width of a bullet: 1 at the base, 0 at the tip."""
    return np.sqrt(np.clip(1 - depth**2.5, 0, None))


def _right_ellipse(heart: Heart, at: _Frame, margin: float | np.ndarray) -> np.ndarray:
    """Squared distance from the middle of the right ventricle, 1 on its outline; the left one is cut out of it elsewhere."""
    left = (heart.cavity + heart.wall) * _taper(at.depth)
    share = np.clip(1 - (at.depth / 0.86) ** 1.8, 0, None) ** 0.7  # ends before the left apex, not in a film
    half_long = 0.58 * (left + heart.right * share)
    half_wide = left * (0.72 + 0.33 * share) + 0.15 * heart.right * share
    middle = -(left + heart.right * share - half_long)
    tilted = at.v - 0.08 * left
    long, wide = np.maximum(half_long + margin, 1), np.maximum(half_wide + margin, 1)
    distance = ((at.u - middle) / long) ** 2 + (tilted / wide) ** 2
    return np.where(heart.right * share > 4, distance, np.inf)


def labels(heart: Heart, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Label map: smooth outlines as clinicians draw them, papillary muscles and trabeculae inside the cavities."""
    at = _frame(heart, x, y, z)
    right = _right_ellipse(heart, at, 0.0) < 1
    return np.select([at.radius < at.inner, at.radius < at.outer, right], [LV, MYO, RV], 0).astype(np.uint8)


def tissues(heart: Heart, chest: Chest, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """``Tissue`` of every place."""
    at = _frame(heart, x, y, z)
    below_skin = _below_skin(chest, x, y)
    found = _chest_inside(chest, x, y, z)
    pad, thickest = chest.pad
    fat = pad * (1 + 0.8 * np.cos(at.angle - thickest) + 0.5 * np.sin(3 * at.angle + z / 9))
    found[at.radius < at.outer + np.clip(fat, 1, None)] = Tissue.FAT
    found[_right_ellipse(heart, at, RIGHT_WALL_MM + np.clip(1.3 * fat, 1, None)) < 1] = Tissue.FAT
    for vx, vy, size, last in chest.vessels:
        distance = np.hypot(x - heart.centre[0] - vx, y - heart.centre[1] - vy)
        found[(distance < size + 1.8) & (z < last)] = Tissue.MUSCLE
        found[(distance < size) & (z < last)] = Tissue.BLOOD
    _paint_body_wall(found, chest, below_skin, x, y, z)
    ridge, number, phase = heart.trabeculae
    ridges = ridge * np.clip(np.sin(number * at.angle + phase + z / 6), 0, None)
    found[_right_ellipse(heart, at, RIGHT_WALL_MM) < 1] = Tissue.MUSCLE
    found[_right_ellipse(heart, at, -0.8 * ridges) < 1] = Tissue.RIGHT_BLOOD
    found[at.radius < at.outer] = Tissue.MUSCLE
    found[at.radius < at.inner - ridges * np.clip(2 * at.depth, 0, 1)] = Tissue.BLOOD
    found[_papillary(heart, at)] = Tissue.MUSCLE
    return found


def _papillary(heart: Heart, at: _Frame) -> np.ndarray:
    """Two muscles that stand off the free wall in the middle of the cavity."""
    *angles, size = heart.papillary
    reach = 0.68 * heart.cavity * _taper(at.depth / 0.9)
    near = [np.hypot(at.u - reach * math.cos(a), at.v - reach * math.sin(a)) < size for a in angles]
    return (near[0] | near[1]) & (at.depth > 0.25) & (at.depth < 0.78) & (at.radius < at.inner)


def _below_skin(chest: Chest, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Depth below the skin in mm, about; negative outside."""
    share = np.hypot((x - chest.body[0]) / chest.axes[0], (y - chest.body[1]) / chest.axes[1])
    return (1 - share) * min(chest.axes)


def _chest_inside(chest: Chest, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Lungs with vessels, and below the diaphragm the liver and the stomach."""
    found = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), Tissue.LUNG, np.uint8)
    for vx, vy, size in chest.lung_vessels:
        found[np.hypot(x - vx - 0.2 * z, y - vy) < size] = Tissue.BLOOD
    height, slope, rise = chest.diaphragm
    found[y < -height + slope * x - 0.004 * x**2 + rise * z] = Tissue.LIVER
    sx, sy, size = chest.stomach
    stomach = np.hypot(x - sx, y - sy - rise * z)
    found[stomach < size + 2.5] = Tissue.MUSCLE
    found[stomach < size] = Tissue.FAT  # its content is as bright
    return found


def _paint_body_wall(
    found: np.ndarray, chest: Chest, below_skin: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray
) -> None:
    """Muscle with ribs, fat below the skin, and the air outside."""
    around = np.arctan2(y - chest.body[1], x - chest.body[0])
    ribs = (np.sin(14 * around + z / 12) > 0.55) & (np.abs(below_skin - chest.fat - chest.muscle / 2) < 3)
    found[below_skin < chest.fat + chest.muscle] = Tissue.MUSCLE
    found[ribs] = Tissue.FAT  # marrow
    found[below_skin < chest.fat] = Tissue.FAT
    found[below_skin < 0] = Tissue.AIR
