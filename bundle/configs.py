"""The configs of a packed bundle: made from the repository's, each complete in itself.

MONAI Label and Deploy read one file and know nothing of our run folders; ``monai.bundle.load`` wants JSON. So every config
is JSON, and the plan lies inside the inference config.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from bundle.facts import PackError
from mcsc_bundle.plan import Plan
from mcsc_bundle.shipped import code_digest
from mcsc_bundle.trained import plan_record

REPOSITORY = Path(__file__).resolve().parents[1]
EXPRESSIONS = ("$", "@", "%", "+")  # what MONAI would evaluate or replace at the start of a text

TENSORRT: dict[str, Any] = {
    "_desc_": "over inference.json: the engine that monai.bundle trt_export made of this bundle, models/model_trt.ts",
    "+imports": ["$import torch_tensorrt", "$from pathlib import Path"],
    "engine": "$Path(@bundle_root) / 'models' / 'model_trt.ts'",
    "network_def": "$torch.jit.load(str(@engine))",
    "predictor": "$@network_def",
    "handlers#0#_disabled_": True,
    "predictions#settings#weights": "$[*@trained.all_weights, @engine]",
    "amp_dtype": "float32",  # the engine has its precision
}
"""As the zoo's bundles have it: TensorRT's engines are TorchScript files, which hold their weights and precision."""


def packed_configs(plan: Plan, members: int = 1) -> dict[str, dict[str, Any]]:
    """Config files by name, without the metadata.

    Args:
        plan: of the run.
        members: how many networks are averaged.

    Raises:
        PackError: not started from a checkout, or a name in the plan that MONAI would take for an expression.
    """
    source = REPOSITORY / "configs"
    if not (source / "train.yaml").exists():
        raise PackError(f"expected the configs of the repository in {source}. Pack from a checkout of the project.")
    inference = _inference(plan, members, ConfigParser.load_config_file(str(source / "inference.json")))
    train = _train(plan, ConfigParser.load_config_file(str(source / "train.yaml")))
    evaluate = _evaluate(inference, ConfigParser.load_config_file(str(source / "evaluate.yaml")))
    multi_gpu = ConfigParser.load_config_file(str(source / "multi_gpu_train.yaml"))
    return {
        "inference.json": inference,
        "inference_trt.json": TENSORRT,
        "train.json": train,
        "evaluate.json": evaluate,
        "multi_gpu_train.json": multi_gpu,
    }


def _inference(plan: Plan, members: int, config: dict[str, Any]) -> dict[str, Any]:
    changes = {
        "run_dir": None,
        "dataset_dir": _default_data(plan),
        "preprocessing": {"_target_": "mcsc_bundle.transforms.preprocessing", "plan": "@plan", "keys": "image"},
        "shipped_plan": {
            "_desc_": "plan.json of this bundle; plan is another one with --run_dir",
            "_target_": "mcsc_bundle.plan.Plan.from_dict",
            "content": _plain_plan(plan),
        },
        "trained": {
            "_desc_": "this bundle, or with --run_dir the run folder of a training",
            "_target_": "mcsc_bundle.trained_run.TrainedRun",
            "run_dir": "$@run_dir or @bundle_root",
            "branch": "@branch",
            "plan": "$None if @run_dir else @shipped_plan",
            "code": code_digest(),
        },
    }
    if members > 1:
        changes["network_def"] = {
            "_desc_": "the average of several networks, all in model.pt; with --run_dir what that training gave",
            "_target_": "mcsc_bundle.ensemble.network_from_plan",
            "plan": "@plan",
            "members": f"$1 if @run_dir else {members}",
        }
    return {**config, **changes}


def _train(plan: Plan, config: dict[str, Any]) -> dict[str, Any]:
    """Training on a folder, or, where MONAI Label drives it, on the items that it hands over.

    Its keys: ``network`` to load weights into, ``train#dataset#data`` and ``validate#dataset#data`` for its items, which
    name files in place of prepared cases, and ``device``, a text. It wants a new training each time it asks, and the
    bundle's weights replaced.
    """
    config = _replaced(config, "@device.type", "torch.device(@device).type")
    prepared = {**config["prepared"], "data_optional": True, "_requires_": "@shipped"}
    del prepared["demo_dir"]
    train, validate = {**config["train"]}, {**config["validate"]}
    options = {key: value for key, value in train["dataset"].items() if key != "_target_"}
    train["dataset"] = {
        "_target_": "preprocessing.items.two_stream_dataset",
        **options,
        "dataset_dir": "@dataset_dir",
    }
    options = {key: value for key, value in validate["dataset"].items() if key != "_target_"}
    validate["dataset"] = {"_target_": "preprocessing.items.stored_volumes", **options, "plan": "@plan"}
    checkpoints = next(item for item in train["handlers"] if item["_target_"].endswith(".CheckpointHandler"))
    replace_weights = {
        "_target_": "mcsc_bundle.application.ReplaceWeights",
        "_disabled_": "@on_folder",
        "bundle_root": "@bundle_root",
        "models_dir": checkpoints["models_dir"],
    }
    train["handlers"] = [
        {**item, "resumes": "@on_folder"} if item is checkpoints else item for item in train["handlers"]
    ] + [replace_weights]
    changes = {
        "dataset_dir": _default_data(plan),
        "plan_from": "$@bundle_root + '/plan.json'",
        "shipped": {
            "_desc_": "a bundle whose weights or metadata were exchanged does not train",
            "_target_": "mcsc_bundle.shipped.check_bundle_or_exit",
            "bundle_root": "@bundle_root",
        },
        "prepared": prepared,
        "on_folder": "$all('case' in item for item in @train#dataset#data)",
        "network": "$@network_def",
        "train": train,
        "validate": validate,
    }
    return {**config, **changes}


def _replaced(value: Any, old: str, new: str) -> Any:
    """The config with one text for another in every value."""
    if isinstance(value, dict):
        return {key: _replaced(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    return value.replace(old, new) if isinstance(value, str) else value


def _evaluate(inference: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Scores of the shipped weights on labelled cases; alone, or over ``train.json`` as the zoo does it."""
    config = {name: value for name, value in config.items() if name != "kept_out"}  # held_out itself sees to that
    steps = [step for step in config["run"] if step not in ("$@report", "$@kept_out")]
    reported = [*steps[:-1], "$@plan.save(@output_dir + '/plan.json')", "$@report", steps[-1]]  # it names the classes
    shared = (
        "bundle_root",
        "run_dir",
        "dataset_dir",
        "device",
        "branch",
        "amp_dtype",
        "options",
        "shipped_plan",
        "trained",
        "plan",
    )
    return {
        "imports": ["$import os", *inference["imports"]],
        **{key: inference[key] for key in shared},
        "output_dir": "$@bundle_root + '/eval'",
        "network_def": inference["network_def"],
        **config,
        "trained": inference["trained"],
        "held_out": {
            "_target_": "preprocessing.labelled.labelled_cases_or_exit",
            "dataset_dir": "@dataset_dir",
            "run_dir": "@run_dir",
        },
        "run": reported,
        "evaluate": reported,
    }


def _default_data(plan: Plan) -> str:
    """Where the data is looked for without ``--dataset_dir``."""
    name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in plan.dataset_name)
    return f"$@bundle_root + '/data/{name}'"


def _plain_plan(plan: Plan) -> dict[str, Any]:
    """The plan without its reasons, which are for readers of ``plan.json``.

    Raises:
        PackError: a name that MONAI would evaluate.
    """
    content = plan_record(plan)
    for text in (plan.dataset_name, *plan.channel_names, *plan.labels):
        if text.startswith((*EXPRESSIONS, "_")) or "::" in text or "#" in text:
            raise PackError(
                f"plan: expected names of data set, channels and classes that are plain words, received {text!r}, which "
                "MONAI's config language reads as an instruction. Rename it in dataset.json and plan.json."
            )
    return content
