"""Plans from fingerprints: nnU-Net's values, laws, the pair, the CPU."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
import torch

from mcsc_bundle.losses.blocks import local_blocks
from mcsc_bundle.methods.contrast import choose_voxels
from mcsc_bundle.plan import Plan, PlanError
from preprocessing.explain import explain
from preprocessing.planner import make_plan, split_batch
from preprocessing.sizing import CPU_STEP_SECONDS, Task, build_networks
from preprocessing.topology import Topology
from tests.preprocessing.fingerprints import make_fingerprint

HIPPOCAMPUS = {"spacing": (1, 1, 1), "shape": (35, 50, 36), "channels": ("MRI",), "classes": 3, "orientation": "RAS"}
CINE = {"spacing": (1.5, 1.5, 10), "shape": (216, 256, 10), "channels": ("MRI",), "classes": 4, "orientation": "RAS"}
CT = {"spacing": (0.8, 0.8, 1.5), "shape": (512, 512, 200), "orientation": "RAS"}


def one_network(spacing, shape, configuration, **options) -> Plan:
    fingerprint = make_fingerprint(spacing, shape, **options)
    return make_plan(fingerprint, 8, "cuda", networks="cnn", configuration=configuration)


@pytest.mark.parametrize(  # nnU-Net 2.8.1, ExperimentPlanner, 8 GB, 40 CT cases, one class
    ("spacing", "shape", "configuration", "patch", "batch", "stages", "batch_dice"),
    [
        ((1, 1, 1), (64, 64, 64), "3d_fullres", (64, 64, 64), 2, 5, False),
        ((1, 1, 1), (64, 64, 64), "2d", (64, 64), 128, 5, True),
        ((1.5, 0.8, 0.8), (200, 512, 512), "3d_fullres", (64, 192, 192), 2, 6, True),
        ((1.5, 0.8, 0.8), (200, 512, 512), "3d_lowres", (64, 192, 192), 2, 6, False),
        ((1.5, 0.8, 0.8), (200, 512, 512), "2d", (512, 512), 12, 8, True),
        ((10, 1.5, 1.5), (10, 256, 216), "3d_fullres", (10, 256, 224), 2, 6, False),
        ((10, 1.5, 1.5), (10, 256, 216), "2d", (256, 224), 19, 6, True),
    ],
)
def test_one_network_is_planned_as_nnunet_does(spacing, shape, configuration, patch, batch, stages, batch_dice) -> None:
    plan = one_network(spacing, shape, configuration)
    assert (plan.patch_size, plan.batch_labeled) == (patch, batch)
    assert (len(plan.cnn.features), plan.batch_dice) == (stages, batch_dice)


def test_widths_double_up_to_nnunets_caps() -> None:
    assert one_network((1, 1, 1), (128, 128, 128), "3d_fullres").cnn.features == (32, 64, 128, 256, 320, 320)
    assert one_network((1, 1, 1), (128, 128, 128), "2d").cnn.features == (32, 64, 128, 256, 512, 512)


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("networks", ["cnn", "pair"])
def test_permuting_the_axes_permutes_the_plan(order, networks) -> None:
    spacing, shape = (2.0, 0.9, 0.8), (90, 300, 410)  # no two axes tie
    plan = make_plan(make_fingerprint(spacing, shape), 8, "cuda", networks)
    moved_fingerprint = make_fingerprint([spacing[axis] for axis in order], [shape[axis] for axis in order])
    moved = make_plan(moved_fingerprint, 8, "cuda", networks)
    assert moved.patch_size == tuple(plan.patch_size[axis] for axis in order)
    assert moved.spacing_mm == tuple(plan.spacing_mm[axis] for axis in order)
    assert moved.cnn.strides == tuple(tuple(stage[axis] for axis in order) for stage in plan.cnn.strides)
    assert moved.transformer.window == tuple(plan.transformer.window[axis] for axis in order)


@pytest.mark.parametrize("networks", ["cnn", "pair"])
@pytest.mark.parametrize("data", [HIPPOCAMPUS, CINE, CT])
def test_more_memory_never_shrinks_the_patch_nor_the_batch_of_the_same_patch(networks, data) -> None:
    fingerprint = make_fingerprint(**data)
    plans = [make_plan(fingerprint, memory, "cuda", networks) for memory in (3, 5, 8, 12, 24, 48)]
    for less, more in pairwise(plans):
        assert math.prod(more.patch_size) >= math.prod(less.patch_size)
        if more.patch_size == less.patch_size:
            assert more.batch_labeled >= less.batch_labeled


@pytest.mark.parametrize("data", [HIPPOCAMPUS, CINE, CT])
def test_the_second_network_never_enlarges_the_patch(data) -> None:
    fingerprint = make_fingerprint(**data)
    alone, pair = (make_plan(fingerprint, 8, "cuda", networks) for networks in ("cnn", "pair"))
    assert math.prod(pair.patch_size) <= math.prod(alone.patch_size)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("data", [HIPPOCAMPUS, CINE, CT, {"spacing": (1, 1), "shape": (90, 70)}])
def test_patches_divide_in_both_networks(device, data) -> None:
    plan = make_plan(make_fingerprint(**data, unlabeled=20), 8, device)
    for divisors in (plan.cnn.divisor, plan.transformer.cumulative_strides[-1]):
        assert all(size % divisor == 0 for size, divisor in zip(plan.patch_size, divisors, strict=True))


@pytest.mark.parametrize("data", [HIPPOCAMPUS, CINE, CT, {"spacing": (0.4, 0.4, 0.4), "shape": (700, 700, 900)}])
@pytest.mark.parametrize("seconds", [CPU_STEP_SECONDS, 0.5])
def test_a_step_on_a_cpu_stays_in_seconds(data, seconds) -> None:
    fingerprint = make_fingerprint(**data, cases=200, unlabeled=180)
    plan = make_plan(fingerprint, 8, "cpu", step_seconds=seconds)
    median = tuple(float(size) for size in plan.median_shape)
    spacing = tuple(value for value in plan.spacing_mm if value is not None)
    task = Task(spacing, median, 0.0, plan.in_channels, plan.num_classes, 8, "cpu", pair=True)
    topology = Topology(plan.patch_size, plan.cnn.strides, plan.cnn.kernel_sizes)
    networks = build_networks(task, topology, plan.cnn.features[0])
    assert networks.step_seconds(plan.batch_labeled + plan.batch_unlabeled) <= seconds


def test_a_step_that_no_network_can_do_in_time_is_refused():
    with pytest.raises(PlanError, match=r"received step_seconds=0\.01\. Give more; the usual is 2\."):
        make_plan(make_fingerprint((1, 1, 1), (64, 64, 64)), 8, "cpu", step_seconds=0.01)


@pytest.mark.parametrize("data", [HIPPOCAMPUS, CINE])
def test_a_cpu_keeps_nnunets_patch_where_it_can(data) -> None:
    fingerprint = make_fingerprint(**data, cases=200, unlabeled=180)
    cpu, nnunet = make_plan(fingerprint, 8, "cpu"), make_plan(fingerprint, 8, "cuda", "cnn")
    assert (cpu.patch_size, cpu.spacing_mm) == (nnunet.patch_size, nnunet.spacing_mm)
    assert cpu.cnn.strides == nnunet.cnn.strides


def test_a_cpu_says_that_it_narrows() -> None:
    plan = make_plan(make_fingerprint(**HIPPOCAMPUS, cases=200), 8, "cpu")
    assert plan.cnn.features[0] < 32
    assert "Narrower than nnU-Net's 32" in plan.why["cnn"]


def test_thick_slices_are_taken_one_by_one() -> None:
    plan = make_plan(make_fingerprint(**CINE), 8, "cuda")
    assert (plan.spatial_dims, plan.slice_axis, plan.spacing_mm) == (2, 2, (1.5, 1.5, None))
    assert "6.67 times" in plan.why["spatial_dims"]


def test_slices_up_to_three_times_as_thick_stay_in_3d() -> None:
    assert make_plan(make_fingerprint((1, 1, 3), (90, 90, 30)), 8, "cuda").spatial_dims == 3


def test_a_single_slice_is_2d_along_its_axis() -> None:
    assert make_plan(make_fingerprint((1, 1, 1), (64, 1, 64)), 8, "cuda").slice_axis == 1


@pytest.mark.parametrize(("spacing", "shape"), [((1, 1), (64, 64)), ((5, 1, 1), (1, 64, 64))])
def test_3d_is_refused_without_a_third_dimension(spacing, shape) -> None:
    with pytest.raises(PlanError, match="configuration to be 2d or auto"):
        make_plan(make_fingerprint(spacing, shape), 8, "cuda", configuration="3d_fullres")


@pytest.mark.parametrize(
    ("option", "value"), [("configuration", "4d"), ("networks", "both"), ("device", "tpu"), ("memory_gb", 0)]
)
def test_impossible_options_are_named(option, value) -> None:
    with pytest.raises(PlanError, match=f"expected {option} to be"):
        make_plan(make_fingerprint((1, 1), (64, 64)), **{option: value})


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(PlanError, match="Give more memory_gb"):
        make_plan(make_fingerprint((1, 1, 1), (64, 64, 64)), 1e-6, "cuda")


def test_ct_is_clipped_to_its_foreground() -> None:
    (entry,) = make_plan(make_fingerprint((1, 1), (64, 64), channels=("ct",)), 8, "cuda").normalization
    assert (entry.scheme, entry.lower, entry.upper, entry.mean, entry.std) == ("ct", -100, 200, 40, 20)


@pytest.mark.parametrize(
    ("name", "scheme", "inside"),
    [("T2", "zscore", True), ("noNorm", "none", False), ("RGB_to_0_1", "rgb_to_0_1", False), ("CT", "ct", False)],
)
def test_channels_are_normalised_by_name(name, scheme, inside) -> None:
    fingerprint = make_fingerprint((1, 1), (64, 64), channels=(name,), kept_ratio=0.7)
    (entry,) = make_plan(fingerprint, 8, "cuda").normalization
    assert (entry.scheme, entry.inside_mask) == (scheme, inside)


def test_images_that_fill_their_frame_are_normalised_whole() -> None:
    fingerprint = make_fingerprint((1, 1), (64, 64), channels=("T2",), kept_ratio=0.75)
    assert not make_plan(fingerprint, 8, "cuda").normalization[0].inside_mask


@pytest.mark.parametrize(
    ("batch", "has_unlabeled", "expected"),
    [(2, True, (1, 1)), (4, True, (2, 2)), (9, True, (5, 4)), (9, False, (9, 0))],
)
def test_the_batch_is_split_in_half(batch, has_unlabeled, expected) -> None:
    assert split_batch(batch, has_unlabeled) == expected


@pytest.mark.parametrize(  # 100 volumes of 10 slices, a patch being a slice: nnU-Net's 5 % are 50; a fifth of 80, 100, 200 slices
    ("labeled", "batch"), [(8, (16, 16)), (10, (20, 20)), (20, (25, 25)), (1, (12, 12)), (100, (50, 0))]
)
def test_a_step_does_not_show_most_of_the_labelled_slices(labeled, batch) -> None:
    fingerprint = make_fingerprint((1.5, 1.5, 10), (64, 64, 10), cases=100, unlabeled=100 - labeled, orientation="RAS")
    plan = make_plan(fingerprint, 80, "cuda")
    assert (plan.batch_labeled, plan.batch_unlabeled) == batch
    assert ("the same few scans" in plan.why["batch_labeled"]) == (labeled < 20)


def test_the_scales_of_the_contrast_are_the_papers_at_its_size() -> None:
    plan = make_plan(make_fingerprint((1, 1), (224, 224), unlabeled=20), 8, "cuda")
    fine, coarse = plan.contrast
    assert (fine.stride, fine.block) == ((1, 1), (19, 19))
    assert (coarse.stride, coarse.block) == ((8, 8), (14, 14))


@pytest.mark.parametrize("case", [HIPPOCAMPUS, CINE, CT], ids=("hippocampus", "cine", "CT"))
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_contrast_looks_at_as_many_pixels_as_its_plan_says(case, device) -> None:
    plan = make_plan(make_fingerprint(**case, unlabeled=20), 8, device)
    for scale in plan.contrast:
        cells = tuple(math.ceil(size / stride) for size, stride in zip(plan.patch_size, scale.stride, strict=True))
        blocks = local_blocks(cells, scale.block, maps=1)
        chosen, _ = choose_voxels(blocks, torch.ones(1, math.prod(cells), dtype=torch.long), scale)
        if scale.pixels is None:
            assert torch.equal(chosen, blocks)
        else:
            assert scale.pixels - chosen.shape[2] < chosen.shape[0] * chosen.shape[2] <= scale.pixels


def test_the_transformer_is_the_papers_at_its_size() -> None:
    swin = make_plan(make_fingerprint((1, 1), (224, 224)), 8, "cuda").transformer
    assert (swin.patch, swin.embed_dim, swin.window) == ((4, 4), 96, (7, 7))
    assert (swin.merges, swin.heads) == (((1, 1), (2, 2), (2, 2), (2, 2)), (3, 6, 12, 24))


def test_a_plan_survives_its_file(tmp_path) -> None:
    plan = make_plan(make_fingerprint(**CINE, unlabeled=20), 8, "cpu")
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_every_choice_has_its_reason_and_the_page_shows_it() -> None:
    fingerprint = make_fingerprint(**CINE, unlabeled=20)
    plan = make_plan(fingerprint, 8, "cpu")
    page = " ".join(explain(plan, fingerprint).split())
    for reason in plan.why.values():
        assert " ".join(reason.split()) in page
    assert "20 labelled and 20 unlabelled cases" in page


def test_a_choice_without_a_reason_was_made_by_hand() -> None:
    plan = make_plan(make_fingerprint(**CINE), 8, "cpu").replace(why={})
    assert "Set by hand." in explain(plan)


def test_lowres_sees_a_quarter_of_the_image_on_a_coarser_grid() -> None:
    """nnU-Net 2.8.1 plans 2.709 x 1.445 x 1.445 mm for it."""
    full, low = (one_network((1.5, 0.8, 0.8), (200, 512, 512), f"3d_{name}res") for name in ("full", "low"))
    assert low.spacing_mm == pytest.approx((2.709, 1.445, 1.445), abs=1e-3)
    assert low.median_shape == tuple(
        round(n * a / b) for n, a, b in zip(full.median_shape, full.spacing_mm, low.spacing_mm, strict=True)
    )
    assert math.prod(low.patch_size) >= math.prod(low.median_shape) / 4 > math.prod(full.patch_size) / 4
    assert low.data_key != full.data_key, "preprocessed cases of one are none of the other"


def test_lowres_is_refused_where_a_patch_sees_enough() -> None:
    with pytest.raises(PlanError, match="3d_fullres, 2d or auto, received '3d_lowres'"):
        one_network((1, 1, 1), (64, 64, 64), "3d_lowres")


@pytest.mark.parametrize(
    ("shape", "labeled", "configuration"),
    [((400, 512, 512), 3, "3d_lowres"), ((400, 512, 512), 30, "3d_fullres"), ((64, 64, 64), 3, "3d_fullres")],
)
def test_auto_takes_lowres_for_a_narrow_view_of_few_labels(shape, labeled, configuration) -> None:
    plan = make_plan(make_fingerprint((1, 0.8, 0.8), shape, unlabeled=40 - labeled, cases=40), 8, "cuda")
    assert plan.configuration == configuration
    assert plan.why["configuration"]


def test_what_was_edited_is_marked_and_the_reason_is_for_what_was_planned(tmp_path):
    fingerprint = make_fingerprint((1, 1, 1), (40, 40, 40))
    planned = make_plan(fingerprint, 4, "cpu")
    assert "by hand" not in explain(planned, fingerprint, planned)
    assert "Classes, by their value in the label files: background = 0" in " ".join(explain(planned).split())
    labels = {**planned.labels, "extra": 99}
    edited = planned.replace(spacing_mm=(1.0, 1.5, 1.0), inference_overlap=0.25, labels=labels)
    page = " ".join(explain(edited, fingerprint, planned).split())
    assert (
        "Target spacing: 1 x 1.5 x 1 mm (edited by hand) spacing_mm[1] = 1.5 (planned 1.0). The reason for what" in page
    )
    assert "Window overlap: 0.25 (edited by hand) inference_overlap = 0.25 (planned 0.5)." in page
    assert "Also edited by hand: labels = " in page
    assert "Figures in the reasons are those of the plan before." in page
    assert page.count("(edited by hand)") == 2


def test_show_compares_with_what_was_planned(tmp_path, capsys):
    from preprocessing.verbs import show

    planned = make_plan(make_fingerprint((1, 1, 1), (40, 40, 40)), 4, "cpu")
    planned.replace(batch_labeled=9).save(tmp_path / "plan.json")
    show(str(tmp_path))  # a run of an older version
    assert "by hand" not in capsys.readouterr().out
    planned.save(tmp_path / "planned.json")
    show(str(tmp_path))
    assert f"batch_labeled = 9 (planned {planned.batch_labeled})" in capsys.readouterr().out


def test_regions_and_ignored_voxels_are_planned_and_explained():
    """Three labels are two regions: two channels. Memory counts, as nnU-Net's does, all labels of dataset.json, four here."""
    plain = make_fingerprint((1, 1, 1), (40, 48, 40), cases=4, channels=("MRI",), classes=3)
    cases = tuple(dataclasses.replace(case, ignored_voxels=40 * 48 * 30) for case in plain.cases[:2]) + plain.cases[2:]
    regions = {"class_1": (1, 2), "class_2": (2,)}
    fingerprint = dataclasses.replace(plain, cases=cases, regions=regions, ignore_value=3)
    plan = make_plan(fingerprint, device="cpu", memory_gb=4)
    assert (plan.out_channels, plan.num_classes, plan.ignore_value) == (2, 3, 3)
    four = make_fingerprint((1, 1, 1), (40, 48, 40), cases=4, channels=("MRI",), classes=4)
    assert plan.estimated_memory_gb == make_plan(four, device="cpu", memory_gb=4).estimated_memory_gb
    page = " ".join(explain(plan, fingerprint).split())
    assert "Regions: class_1: [1, 2], painted 1; class_2: [2], painted 2" in page
    assert "Ignored label: 3" in page and "2 of 4 labelled cases have it, on 38% of their voxels" in page
