"""nnU-Net's plans as ours."""

from __future__ import annotations

import copy
import json

import pytest

from mcsc_bundle.plan import PlanError
from preprocessing.nnunet import plan_from_nnunet
from preprocessing.nnunet_plans import import_nnunet_plans
from preprocessing.plan_from_files import plan_from_files
from tests.preprocessing.test_nnunet import STATISTICS, write

NETWORK = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [32, 64, 128],
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
    },
}
FULLRES = {
    "batch_size": 5,
    "patch_size": [8, 32, 24],
    "median_image_size_in_voxels": [8.0, 33.5, 24.0],
    "spacing": [3.0, 1.0, 1.5],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
    "architecture": NETWORK,
    "batch_dice": False,
}
PLANS = {
    "dataset_name": "Dataset001_Tiny",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [3.0, 1.0, 1.5],
    "original_median_shape_after_transp": [9, 34, 24],
    "transpose_forward": [2, 0, 1],
    "foreground_intensity_properties_per_channel": {"0": STATISTICS},
    "configurations": {
        "3d_fullres": FULLRES,
        "3d_lowres": {"inherits_from": "3d_fullres", "spacing": [6.0, 2.0, 3.0]},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
}


def files(folder, **changes):
    """The two files."""
    path = folder / "nnUNetPlans.json"
    path.write_text(json.dumps({**PLANS, **changes}))
    return path, write(folder)[1]


def with_network(**changes):
    """Plans whose network differs."""
    plans = copy.deepcopy(PLANS)
    network = plans["configurations"]["3d_fullres"]["architecture"]
    network["network_class_name"] = changes.pop("name", network["network_class_name"])
    network["arch_kwargs"].update(changes)
    return {"configurations": plans["configurations"]}


def test_a_configuration_arrives_as_it_stands(tmp_path) -> None:
    plan = import_nnunet_plans(*files(tmp_path))
    assert (plan.spacing_mm, plan.patch_size, plan.batch_labeled) == ((3, 1, 1.5), (8, 32, 24), 5)
    assert plan.cnn.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    assert plan.cnn.kernel_sizes[0] == (1, 3, 3)
    assert (plan.cnn.features, plan.cnn.convs_per_stage) == ((32, 64, 128), 2)
    assert (plan.normalization[0].scheme, plan.normalization[0].upper) == ("ct", 8)
    assert plan.batch_dice is False


def test_other_networks_are_refused(tmp_path) -> None:
    with pytest.raises(PlanError, match="networks to be 'pair' or 'cnn', received 'both'"):
        import_nnunet_plans(*files(tmp_path), networks="both")


def test_axes_are_named_by_the_transposition(tmp_path) -> None:
    assert import_nnunet_plans(*files(tmp_path)).orientation == "RSA"  # axis 2 of (z, y, x) first


@pytest.mark.parametrize(("patch", "axes"), [((24, 32, 24), (1, 2)), ((8, 32, 24), (1, 2))])
def test_labels_with_sides_are_not_mirrored_left_to_right(tmp_path, patch, axes) -> None:
    plans, declared = files(tmp_path, configurations={"3d_fullres": {**FULLRES, "patch_size": patch}})
    plan = import_nnunet_plans(plans, declared)
    assert plan.mirror_axes == (0, 1, 2) and plan.why["mirror_axes"].startswith("All network axes, as in nnU-Net.")
    entries = json.loads(declared.read_text()) | {"labels": {"background": 0, "LKidney": 1, "RKidney": 2}}
    declared.write_text(json.dumps(entries))
    for transposed, left in (([2, 0, 1], axes), ([0, 1, 2], (0,) if patch[0] == 8 else (0, 1))):  # RSA, SAR
        plans.write_text(json.dumps({**json.loads(plans.read_text()), "transpose_forward": transposed}))
        plan = import_nnunet_plans(plans, declared)
        assert plan.mirror_axes == left
        assert plan.why["mirror_axes"].startswith("LKidney and RKidney differ in their side")


def test_a_configuration_inherits(tmp_path) -> None:
    plan = import_nnunet_plans(*files(tmp_path), configuration="3d_lowres")
    assert (plan.spacing_mm, plan.patch_size) == ((6, 2, 3), (8, 32, 24))


def test_two_dimensions_walk_along_the_first_axis(tmp_path) -> None:
    flat = {key: [stage[1:] for stage in NETWORK["arch_kwargs"][key]] for key in ("kernel_sizes", "strides")}
    network = {**NETWORK, "arch_kwargs": {**NETWORK["arch_kwargs"], **flat}}
    entries = {"patch_size": [32, 24], "spacing": [1.0, 1.5], "median_image_size_in_voxels": [33.5, 24]}
    configurations = {"2d": {**FULLRES, **entries, "architecture": network}}
    plan = import_nnunet_plans(*files(tmp_path, configurations=configurations))
    assert (plan.spatial_dims, plan.slice_axis, plan.spacing_mm) == (2, 0, (None, 1, 1.5))
    assert plan.median_shape == (9, 34, 24)


def test_entries_of_plans_before_version_2_5_are_read(tmp_path) -> None:
    old = {key: value for key, value in FULLRES.items() if key != "architecture"} | {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 32,
        "unet_max_num_features": 64,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "pool_op_kernel_sizes": NETWORK["arch_kwargs"]["strides"],
        "conv_kernel_sizes": NETWORK["arch_kwargs"]["kernel_sizes"],
    }
    plan = import_nnunet_plans(*files(tmp_path, configurations={"3d_fullres": old}))
    assert plan.cnn.features == (32, 64, 64)


def test_a_residual_encoder_is_read(tmp_path) -> None:
    kwargs = {key: value for key, value in NETWORK["arch_kwargs"].items() if key != "n_conv_per_stage"}
    kwargs |= {"n_blocks_per_stage": [1, 3, 4], "n_conv_per_stage_decoder": [1, 1]}
    network = {"network_class_name": "unet.ResidualEncoderUNet", "arch_kwargs": kwargs}
    plan = import_nnunet_plans(*files(tmp_path, configurations={"3d_fullres": {**FULLRES, "architecture": network}}))
    assert (plan.cnn.preset, plan.cnn.blocks_per_stage, plan.cnn.convs_per_stage) == ("resenc", (1, 3, 4), 1)


def test_half_of_the_batch_goes_to_unlabelled_cases_where_asked(tmp_path) -> None:
    plan = import_nnunet_plans(*files(tmp_path), unlabeled=True)
    assert (plan.batch_labeled, plan.batch_unlabeled) == (3, 2)


def test_the_import_of_a_plan_is_what_the_fingerprint_gives(tmp_path) -> None:
    made = plan_from_nnunet(*write(tmp_path, spacing=(3, 1, 1.5), shape=(8, 34, 24)), networks="cnn")
    network = {
        "n_stages": len(made.cnn.strides),
        "features_per_stage": made.cnn.features,
        "strides": made.cnn.strides,
        "kernel_sizes": made.cnn.kernel_sizes,
        "n_conv_per_stage": [2] * len(made.cnn.strides),
        "n_conv_per_stage_decoder": [2] * (len(made.cnn.strides) - 1),
    }
    entries = {
        "batch_size": made.batch_labeled,
        "patch_size": made.patch_size,
        "median_image_size_in_voxels": made.median_shape,
        "architecture": {**NETWORK, "arch_kwargs": network},
    }
    plans = {"configurations": {"3d_fullres": {**FULLRES, **entries}}, "transpose_forward": [0, 1, 2]}
    imported = import_nnunet_plans(*files(tmp_path, **plans), networks="cnn")
    assert imported.replace(why={}, dataset_name=made.dataset_name) == made.replace(why={})


@pytest.mark.parametrize(
    ("changes", "configuration", "words"),
    [
        ({}, "3d", "one of .*3d_fullres.*, received '3d'"),
        ({}, "3d_cascade_fullres", "Import 3d_fullres or 3d_lowres"),
        ({"configurations": None}, "auto", "expected 'configurations'"),
        ({"configurations": {"2d": {"batch_size": 2}}}, "auto", "Let nnU-Net plan again"),
        (with_network(name="a.ResidualEncoderUNet"), "auto", "expected a PlainConvUNet .*ResidualEncoderUNet"),
        (with_network(n_conv_per_stage=[1, 2, 2]), "auto", "as many convolutions in each stage"),
        ({"configurations": {"2d": {**FULLRES, "normalization_schemes": ["Mine"]}}}, "2d", "received Mine for channel"),
        ({"configurations": {"2d": {**FULLRES, "normalization_schemes": []}}}, "2d", "for each of the 1 channels"),
    ],
)
def test_what_cannot_be_a_plan_is_refused_with_a_remedy(tmp_path, changes, configuration, words) -> None:
    with pytest.raises(PlanError, match=f"nnUNetPlans.json: .*{words}"):
        import_nnunet_plans(*files(tmp_path, **changes), configuration=configuration)


def test_one_source_is_needed(tmp_path) -> None:
    plans, dataset = map(str, files(tmp_path))
    with pytest.raises(PlanError, match="received both"):
        plan_from_files(fingerprint=plans, nnunet_plans=plans, dataset_json=dataset)
    with pytest.raises(PlanError, match="Give --dataset_json"):
        plan_from_files(nnunet_plans=plans)
    with pytest.raises(PlanError, match="expected options of"):
        plan_from_files(nnunet_plans=plans, dataset_json=dataset, patch=3)
