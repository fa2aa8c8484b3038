"""Misspelt options and impossible values end the program before any work; what exists passes."""

from __future__ import annotations

import pytest

from mcsc_bundle.option_values import OptionError, check_values
from mcsc_bundle.options import check_options, command_line, refuse_left_out
from tests.end_to_end.road import ROOT

TRAIN = str(ROOT / "configs" / "train.yaml")
EVALUATE = str(ROOT / "configs" / "evaluate.yaml")
INFERENCE = str(ROOT / "configs" / "inference.json")
MONAI = "site-packages/monai/bundle/__main__.py"


@pytest.mark.parametrize(
    ("file", "name", "meant"),
    [
        (TRAIN, "num_labelled", "--num_labeled"),
        (TRAIN, "max_epoch", "--max_epochs"),
        (TRAIN, "run_dir", "--output_dir"),
        (TRAIN, "plan_file", "--plan_from"),
        (INFERENCE, "rundir", "--run_dir"),
        (INFERENCE, "save_probability", "--save_probabilities"),
        (TRAIN, "train#trainer#ampp", "--train#trainer#amp"),
        (TRAIN, "train::trainer::grad_clipp", "--train#trainer#grad_clip"),
        (TRAIN, "train#trainre#amp", "--train#trainer#amp"),
        (TRAIN, "train#handlers#9#interval", None),
        (TRAIN, "xyz", None),
    ],
)
def test_an_option_that_nothing_uses_is_refused_with_the_nearest_one(file, name, meant):
    with pytest.raises(OptionError) as refused:
        check_options([file], {name: 3})
    assert f"--{name}" in str(refused.value)
    assert (f"Did you mean {meant}?" in str(refused.value)) == (meant is not None)


def test_all_unknown_options_are_named_at_once():
    with pytest.raises(
        OptionError, match=r"--num_labelled, --max_epoch, which .* Did you mean --num_labeled, --max_epochs\?"
    ):
        check_options([TRAIN], {"num_labelled": 3, "seed": 1, "max_epoch": 2})


def test_who_asks_for_help_is_told_where_the_options_are():
    with pytest.raises(OptionError, match=r"received --help, .*README\.md, and in configs/train\.yaml"):
        check_options([TRAIN], {"help": True})


@pytest.mark.parametrize(
    ("files", "options"),
    [
        ([TRAIN], {"num_labeled": 4, "train#trainer#compile": True, "train#handlers#0#interval": 3}),
        ([TRAIN], {"train#trainer#grad_clip": 1.0, "optimizer#weight_decay": 0.1}),  # taken by the component
        ([TRAIN], {"train#trainer#accumulation_steps": 2}),  # by the class it inherits from
        ([TRAIN, EVALUATE], {"branch": "both", "run_id": "evaluate", "meta_file": "m.json"}),
        ([TRAIN], {"loss": "@own", "own": {"_target_": "mcsc_bundle.losses.segmentation.paper_loss"}, "own#x": 1}),
        ([TRAIN], {"tracking": "mlflow", "experiment_name": "first"}),
        ([TRAIN], {"device": "$torch.device('cpu')", "max_epochs": "$2 * 3", "num_labeled": "all"}),
        (
            [INFERENCE],
            {"run_dir": ["a", "b"], "overlap": 0.5, "_meta_#version": "2", "mirror": True, "workflow_type": "infer"},
        ),
    ],
)
def test_what_exists_passes(files, options):
    check_options(files, options)


@pytest.mark.parametrize("overlay", sorted(path.name for path in (ROOT / "configs").glob("m*_*.yaml")))
def test_our_overlays_pass(overlay):
    check_options([TRAIN, str(ROOT / "configs" / overlay), EVALUATE], {})
    if overlay.startswith("multi_gpu"):
        check_options([INFERENCE, str(ROOT / "configs" / overlay)], {})


def test_the_main_config_comes_first():
    with pytest.raises(OptionError, match=r"config_file: expected .*train\.yaml first"):
        check_options([EVALUATE, TRAIN], {})


def test_two_methods_are_refused():
    both = [str(ROOT / "configs" / f"method_{name}.yaml") for name in ("bcp", "cps")]
    with pytest.raises(OptionError, match=r"one method at most, received .*method_bcp.yaml, .*method_cps.yaml"):
        check_options([TRAIN, *both], {})


def test_a_misspelt_key_of_an_overlay_is_refused_with_its_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("max_epoch: 3\n")
    with pytest.raises(OptionError, match=r"mine\.yaml: .*received max_epoch, .*Did you mean max_epochs\?"):
        check_options([TRAIN, str(file)], {})
    file.write_text(
        "max_epochs: 3\ntrain#trainer#grad_clip: 1.0\nmy_loss:\n  a: 1\nloss: '@my_loss'\nlook: [$print(1)]\n"
    )
    check_options([TRAIN, str(file)], {})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_labeled", "some", "1 or more, or all"),
        ("num_labeled", 0, "1 or more"),
        ("num_test", -1, "0 or more"),
        ("memory_gb", "8GB", "number of GB above 0, or None, received '8GB'. Give 8"),
        ("max_epochs", 0, "1 or more, received 0"),
        ("max_epochs", 2.5, "1 or more"),
        ("max_epochs", True, "1 or more"),
        ("val_interval", 0, "1 or more"),
        ("lr", "fast", "number of 0 or more, received 'fast'"),
        ("lr", "1e-4", "1.0e-4"),  # as YAML reads it
        ("split_seed", None, "whole number, received None"),
        ("overlap", 1, "from 0 to below 1"),
        ("mirror", "false", "True or False, received 'false'"),
        ("check_memory", "false", "True or False, received 'false'"),
        ("train#trainer#amp", "false", "True or False"),
        ("configuration", "2", "2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres or auto"),
        ("configuration", "3d_fulres", "Did you mean 3d_fullres?"),
        ("configuration", "2d,3d_fullres", "cross_validate DATA RUNS --configurations 2d,3d_fullres"),
        ("configuration", ("2d", "3d_fullres"), "cross_validate DATA RUNS --configurations 2d,3d_fullres"),
        ("fold", "first", "number of a fold, all or auto"),
        ("branch", "cnnn", "cnn, transformer or both"),
        ("device", "gpu", "a GPU that is there"),
        ("evaluator#amp", False, "expected amp_dtype in its place (float32"),
        ("networks", "cnn", "--prepared#networks cnn"),
        ("device", "cuda:99", "a GPU that is there"),
    ],
)
def test_a_value_that_cannot_be_is_refused_in_words(name, value, expected):
    with pytest.raises(OptionError) as refused:
        check_values({name: value})
    assert expected in str(refused.value) and str(refused.value).startswith(f"{name}: ")


@pytest.mark.parametrize("name", ["bundle_root", "train#trainer#seed", "train#trainer#grad_clip", "lr"])
def test_none_that_monai_would_leave_out_is_refused_and_told_how_to_give(name):
    line = command_line([MONAI, "run", "training", "--config_file", TRAIN, f"--{name}", "None"])
    with pytest.raises(OptionError, match=rf"--{name} None: MONAI leaves out .* would stay .*--{name} '\$None'"):
        refuse_left_out(line)


def test_none_where_it_is_none_already_passes(tmp_path):
    (tmp_path / "more.json").write_text('{"bundle_root": null}')  # MONAI keeps those of a file
    typed = [
        "--config_file",
        TRAIN,
        "--plan_from",
        "None",
        "--bundle_root",
        "$None",
        "--args_file",
        str(tmp_path / "more.json"),
    ]
    refuse_left_out(command_line([MONAI, "run", "training", *typed]))


def test_a_method_without_deep_supervision_refuses_the_option():
    overlay = str(ROOT / "configs" / "method_urpc.yaml")
    with pytest.raises(OptionError, match="this method has none"):
        check_options([TRAIN, overlay], {"deep_supervision": False})
    check_options([TRAIN], {"deep_supervision": False})


def test_what_fire_does_not_read_as_a_path_is_told_how_to_write():
    for file, name in ((TRAIN, "dataset_dir"), (TRAIN, "output_dir"), (INFERENCE, "run_dir")):
        with pytest.raises(OptionError, match=rf"{name}: expected a path, received the number 2024\. Write \./2024"):
            check_options([file], {name: 2024})
    with pytest.raises(OptionError, match="dataset_dir: expected one path, received 2: A, B"):
        check_options([INFERENCE], {"dataset_dir": ["A", "B"]})
    check_options([INFERENCE], {"run_dir": ["A", "B"], "dataset_dir": "./2024"})


def test_a_file_is_no_output_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for path in ("file", "file/run"):
        with pytest.raises(OptionError, match="a folder that can be written to"):
            check_values({"output_dir": str(tmp_path / path)})
        with pytest.raises(OptionError, match="a folder, or None"):
            check_values({"cache_dir": str(tmp_path / path)})
    check_values({"output_dir": str(tmp_path / "new" / "run"), "cache_dir": None})


def test_the_command_line_is_read_as_monai_reads_it(tmp_path):
    (tmp_path / "args.yaml").write_text("lr: 0.5\nseed: 3\n")
    typed = (
        "run training --config_file ['a.yaml','b.yaml'] --num-labeled 4 --train#trainer#amp=False --mirror --lr -1 "
        f"--args_file {tmp_path}/args.yaml"
    )
    line = command_line([MONAI, *typed.split()])
    assert line is not None and line.words == ("run", "training") and line.config_files == ["a.yaml", "b.yaml"]
    expected = {"num_labeled": 4, "train#trainer#amp": False, "mirror": True, "lr": -1, "seed": 3}
    assert expected.items() <= line.options.items()


@pytest.mark.parametrize("arguments", [["pytest", "run"], [MONAI], [MONAI, "verify_metadata", "--x", "1"]])
def test_other_programs_have_no_command_line_to_check(arguments):
    assert command_line(arguments) is None
