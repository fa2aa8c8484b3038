"""Mirror axes: nnU-Net's, left-right on a CPU, and never what shows a left label as its right one."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from mcsc_bundle.grid_sampling import rotation_matrix
from mcsc_bundle.intensity import flat_axis
from preprocessing.mirroring import plan_mirroring, sided_labels
from preprocessing.planner import make_plan
from tests.plans import make_plan as tiny_plan
from tests.preprocessing.fingerprints import make_fingerprint

KIDNEYS = {"background": 0, "liver": 1, "right kidney": 2, "left kidney": 3}
PLAIN = {"background": 0, "liver": 1}
FLAT_PATCH = (4, 16, 16)  # of few slices along its first axis


def axes_of(orientation: str | None, slice_axis: int | None, device: str, labels=PLAIN, patch=(8, 16, 16)):
    """Mirror axes of a plan with these entries."""
    entries = {"orientation": orientation, "device": device, "labels": labels}
    if slice_axis is None:
        kind = "anisotropic" if patch == FLAT_PATCH else "3d"
        return plan_mirroring(tiny_plan(kind, **entries))
    spacing, shape = ([1.0] * 3, [16] * 3)
    spacing[slice_axis] = None
    grid = {"slice_axis": slice_axis, "spacing_mm": tuple(spacing), "median_shape": tuple(shape)}
    return plan_mirroring(tiny_plan("slicewise", **entries, **grid))


@pytest.mark.parametrize(
    ("orientation", "slice_axis", "device", "expected"),
    [
        ("RAS", None, "cuda", (0, 1, 2)),
        ("RAS", None, "cpu", (0,)),
        ("RAS", 2, "cpu", (0,)),
        ("RAS", 0, "cpu", (0, 1)),  # left-right is the slice axis
        ("SAR", None, "cpu", (2,)),
        (None, 2, "cpu", (0, 1)),  # axes of the file: nobody knows which is which
    ],
)
def test_mirroring(orientation, slice_axis, device, expected):
    assert axes_of(orientation, slice_axis, device) == expected


@pytest.mark.parametrize(
    ("orientation", "slice_axis", "device", "patch", "expected"),
    [
        ("RAS", None, "cuda", (8, 16, 16), (1, 2)),
        ("RAS", None, "cpu", (8, 16, 16), ()),
        ("RAS", 0, "cpu", (16, 24), (0, 1)),  # within the slices nothing tells left from right
        ("RAS", 2, "cuda", (16, 24), ()),  # turned by 180 degrees, front-back is left-right
        ("SAR", None, "cuda", (8, 16, 16), (0, 1)),
        ("SAR", None, "cuda", FLAT_PATCH, (0,)),
        ("RAS", None, "cuda", FLAT_PATCH, (1, 2)),  # sagittal slices, turned within themselves
        (None, 2, "cuda", (16, 24), ()),
        (None, None, "cuda", (8, 16, 16), ()),
    ],
)
def test_labels_that_differ_in_their_side_are_not_mirrored(orientation, slice_axis, device, patch, expected):
    assert axes_of(orientation, slice_axis, device, KIDNEYS, patch) == expected


@pytest.mark.parametrize("orientation", ["RAS", "SAR", "ASR"])
@pytest.mark.parametrize("kind", ["3d", "anisotropic", "slicewise"])
def test_no_turn_makes_a_left_right_flip_of_what_is_left(kind, orientation):
    """Half turns are those of ``PatchAugmentation``: in the plane of a 2-D patch, or about the flat axis."""
    plan = tiny_plan(kind, orientation=orientation, labels=KIDNEYS, device="cuda")
    dims, flat = plan.spatial_dims, flat_axis(plan)
    codes = [plan.orientation[axis] for axis in plan.network_axes]
    if "R" not in codes:
        return
    flipped = [-1.0 if code == "R" else 1.0 for code in codes]
    half = [math.pi] if dims == 2 else [math.pi if axis == flat else 0.0 for axis in range(3)]
    turns = [torch.eye(dims), torch.as_tensor(rotation_matrix(half)).float()]
    flips = itertools.product(*[(1.0, -1.0) if axis in plan_mirroring(plan) else (1.0,) for axis in range(dims)])
    for turn, signs in itertools.product(turns, flips):
        shown = turn @ torch.diag(torch.tensor(signs))
        assert not torch.allclose(shown, torch.diag(torch.tensor(flipped)), atol=1e-5)


THICK, CUBE = ((5.0, 0.7, 0.7), (20, 256, 256)), ((1, 1, 1), (40, 48, 40))


@pytest.mark.parametrize(
    ("grid", "configuration", "device", "axes", "words"),
    [
        (CUBE, "3d_fullres", "cuda", (0, 1), "as the other. The other axes are mirrored, as in nnU-Net."),
        (CUBE, "3d_fullres", "cpu", (), "takes more steps than a CPU run has."),
        (THICK, "3d_fullres", "cuda", (0,), "can amount to it. Mirrored: network axis 0 (head-foot)."),
        (THICK, "2d", "cuda", (), "can amount to it. Nothing is mirrored."),
        (((1, 1), (64, 64)), "2d", "cuda", (), "Which axis that is, is unknown. Nothing is mirrored."),
    ],
)
def test_the_reason_tells_what_became_of_the_axes(grid, configuration, device, axes, words):
    fingerprint = dataclasses.replace(make_fingerprint(*grid, channels=("MRI",)), labels=KIDNEYS)
    plan = make_plan(fingerprint, 8, device, configuration=configuration)
    assert plan.mirror_axes == axes
    assert plan.why["mirror_axes"].startswith(
        "right kidney and left kidney differ in their side: mirrored left to right"
    )
    assert plan.why["mirror_axes"].endswith(words)


@pytest.mark.parametrize(
    "names",
    [
        ("Kidney_L", "Kidney_R"),
        ("kidney (L)", "kidney (R)"),
        ("lung-rt", "lung-lt"),
        ("LeftLung", "RightLung"),
        ("leftlung", "rightlung"),
        ("LEFTkidney", "RIGHTkidney"),
        ("lh hippocampus", "rh hippocampus"),
        ("hippocampus_lh", "hippocampus_rh"),
        ("ctx-lh-insula", "ctx-rh-insula"),
        ("LKidney", "RKidney"),
        ("KidneyL", "KidneyR"),
        ("left kidney", "right_kidney"),
        ("Kidney_Left", "Right_Kidney"),
        ("rib_left_1", "rib_right_1"),
        ("left", "right"),
    ],
)
def test_sides_are_read_off_names(names):
    assert sided_labels(("background", *names, "liver")) == list(names)


@pytest.mark.parametrize(
    "names",
    [
        ("left_atrium", "liver"),
        ("left_atrium", "right_kidney"),
        ("left kidney", "Kidney_L"),  # one side twice
        ("left kidney", "kidneys left and right"),
        ("LV", "RV"),  # two shapes, not one on two sides
        ("liver", "river"),
        ("L1", "R1"),
        ("vertebra L1", "vertebra R1"),
        ("L1", "L2", "T1", "T2"),
        ("rib_left_1", "rib_right_2"),
    ],
)
def test_names_without_a_pair_of_sides(names):
    assert sided_labels(names) == []
