"""Checks of what a bundle says: schema, truth of the metadata, code, configs. None runs any of its code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bundle.checking import config_of, expect, metadata_of
from bundle.facts import PackError, load_weights
from mcsc_bundle.ensemble import count_members, network_from_plan
from mcsc_bundle.plan import Plan
from mcsc_bundle.plan_files import read_json
from mcsc_bundle.shipped import code_digest, stated
from mcsc_bundle.tensors import misfit
from mcsc_bundle.trained import plan_record

REQUIRED_METADATA: dict[str, type | tuple[type, ...]] = {
    "schema": str,
    "version": str,
    "changelog": dict,
    "monai_version": str,
    "pytorch_version": str,
    "numpy_version": str,
    "required_packages_version": dict,
    "task": str,
    "description": str,
    "authors": str,
    "copyright": str,
    "network_data_format": dict,
}
REQUIRED_TENSOR: dict[str, type | tuple[type, ...]] = {
    "type": str,
    "format": str,
    "num_channels": int,
    "spatial_shape": list,
    "dtype": str,
    "value_range": list,
    "channel_def": dict,
}
LABEL_KEYS = (  # of the one config that MONAI Label and Deploy read
    "device",
    "bundle_root",
    "network_def",
    "preprocessing",
    "postprocessing",
    "inferer",
)  # MONAI Label, Deploy
ALLOWED = ("monai", "torch", "mcsc_bundle", "preprocessing")


def check_schema(bundle: Path) -> str:
    """The entries that the zoo's schema of 2024-07-25 requires, of the type it requires, and the zoo's version rules."""
    metadata = metadata_of(bundle)
    _check_types("metadata.json", metadata, REQUIRED_METADATA)
    expect(metadata["version"] in metadata["changelog"], f"{metadata['version']} in the changelog", "it is missing")
    for name in ("monai_version", "pytorch_version", "numpy_version"):
        expect(re.fullmatch(r"\d+(\.\d+)+\w*", metadata[name]) is not None, f"{name} as on the index", metadata[name])
    for name, version in metadata["required_packages_version"].items():
        expect("+" not in str(version), f"the version of {name} as on the index", str(version))
    form = metadata["network_data_format"]
    for part, key in (("inputs", "image"), ("outputs", "pred")):
        expect(key in form.get(part, {}), f"network_data_format {part} with {key}", str(sorted(form.get(part, {}))))
        _check_types(f"network_data_format {part} {key}", form[part][key], REQUIRED_TENSOR)
    return f"version {metadata['version']}, MONAI {metadata['monai_version']}, torch {metadata['pytorch_version']}"


def check_truth(bundle: Path) -> str:
    """Metadata, plan, config and weights speak of the same network."""
    plan = Plan.load(bundle / "plan.json")
    for what, received, expected in stated(metadata_of(bundle), plan):
        expect(received == expected, f"{what} {expected} in metadata.json, as in plan.json", repr(received))
    content = config_of(bundle, "inference").get("shipped_plan", {}).get("content")
    expect(content == plan_record(plan), "the plan of plan.json in inference.json", "another one; pack again")
    state = load_weights(bundle / "models" / "model.pt")
    members = count_members(state)
    averaged = str(config_of(bundle, "inference").get("network_def", {}).get("members", "1")).split()[-1]
    expect(averaged == str(members), f"{averaged} network(s) in models/model.pt, as in inference.json", str(members))
    try:
        network_from_plan(plan, members).load_state_dict(state)
    except RuntimeError as error:
        raise PackError(misfit(error, "models/model.pt")) from None
    kind = "regions" if plan.regions else "classes"
    networks = f", {members} networks averaged" if members > 1 else ""
    return f"{plan.in_channels} channel(s) to {plan.out_channels} {kind}, {plan.spatial_dims}-D{networks}"


def check_code(bundle: Path) -> str:
    """The packages are those that the config was packed with."""
    expected = config_of(bundle, "inference").get("trained", {}).get("code")
    received = code_digest(bundle)
    expect(
        received == expected,
        f"the code that inference.json names ({str(expected)[:12]})",
        f"{received[:12]}; pack again",
    )
    version = "this version" if received == code_digest() else "another version than this one"
    return f"mcsc_bundle and preprocessing {received[:12]}, {version}"


def check_keys(bundle: Path) -> str:
    """What MONAI Label and Deploy read from the one inference config, and the zoo's run ids."""
    config = config_of(bundle, "inference")
    missing = [key for key in (*LABEL_KEYS, "run") if key not in config]
    expect(not missing, f"keys {', '.join((*LABEL_KEYS, 'run'))} in inference.json", f"none of {', '.join(missing)}")
    missing = [key for key in ("run", "training", "train", "validate") if key not in config_of(bundle, "train")]
    expect(not missing, "keys run, training, train, validate in train.json", f"none of {', '.join(missing)}")
    return "MONAI Label, Deploy and the zoo find theirs"


def check_targets(bundle: Path) -> str:
    """The configs call nothing but MONAI, torch and the bundle's own packages."""
    foreign = foreign_targets(bundle)
    expect(not foreign, f"targets of {', '.join(ALLOWED)} alone", "; ".join(foreign))
    return f"{len(targets(bundle))}, of {', '.join(ALLOWED)} alone"


def expressions(bundle: Path) -> list[str]:
    """Every ``$`` expression of the configs: Python that runs when the bundle is used."""
    return [f"{file}: {place}: {value}" for file, place, value in _texts(bundle) if value.startswith("$")]


def foreign_targets(bundle: Path) -> list[str]:
    """Every ``_target_`` that is neither MONAI's, nor torch's, nor ours."""
    return [
        f"{file}: {place}: {value}"
        for file, place, value in _texts(bundle)
        if place.endswith("_target_") and "." in value and value.split(".")[0].lstrip("$") not in ALLOWED
    ]


def targets(bundle: Path) -> list[str]:
    """Every ``_target_`` that is a name."""
    found = {value for _, place, value in _texts(bundle) if place.endswith("_target_") and not value.startswith("$")}
    return sorted(found)


def _texts(bundle: Path) -> Iterator[tuple[str, str, str]]:
    """File, place and value of every text in the configs but the metadata."""

    def walk(value: Any, place: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, f"{place}#{key}" if place else str(key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from walk(item, f"{place}#{index}")
        elif isinstance(value, str):
            yield place, value

    for path in sorted((bundle / "configs").glob("*.json")):
        if path.name != "metadata.json":
            for place, value in walk(read_json(path), ""):
                yield path.name, place, value


def _check_types(where: str, content: Any, required: dict[str, type | tuple[type, ...]]) -> None:
    expect(isinstance(content, dict), f"an object in {where}", type(content).__name__)
    for name, kind in required.items():
        expect(name in content, f"{name} in {where}", "it is missing")
        right = isinstance(content[name], kind) and not isinstance(content[name], bool)
        expect(right, f"{name} in {where} as {getattr(kind, '__name__', kind)}", repr(content[name])[:60])
