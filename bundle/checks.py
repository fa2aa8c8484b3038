"""What can be seen of a bundle without running any of its code.

Each check takes the bundle's folder and returns what it saw in one line, or raises ``PackError`` with the reason.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from bundle.archive import files_of
from bundle.facts import PackError, load_tensors, load_weights
from bundle.pack import MAX_FILE_BYTES, WEIGHTS
from mcsc_bundle.networks import unet_from_plan
from mcsc_bundle.plan import Plan, PlanError, to_plain
from mcsc_bundle.shipped import CHECKSUMS, code_digest, file_digest

REQUIRED_FILES = (
    "LICENSE",
    "plan.json",
    "configs/metadata.json",
    "configs/inference.json",
    "configs/train.json",
    "configs/evaluate.json",
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
    "models/model.pt",
    "mcsc_bundle/__init__.py",
    "preprocessing/__init__.py",
)
TEXT = (".json", ".yml", ".yaml", ".md", ".txt", ".py", ".conf", ".csv")
KINDS = (*TEXT, *WEIGHTS, ".png")
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
LABEL_KEYS = (
    "device",
    "bundle_root",
    "network_def",
    "preprocessing",
    "postprocessing",
    "inferer",
)  # MONAI Label, Deploy
ALLOWED = ("monai", "torch", "mcsc_bundle", "preprocessing")
ROOTS = "home|Users|root|tmp|var|mnt|media|opt|data|workspace|srv|work|scratch"
ABSOLUTE = re.compile(
    rf"(?<![\w.:/$~%}}\])<])(?<!\+ ['\"])/(?:{ROOTS})/[\w.-]+|"  # not what is added to bundle_root, nor a URL
    r"(?<!\w)[A-Za-z]:\\{1,2}[\w.-]+"
)
ABSOLUTE_IN_BYTES = re.compile(rf"/(?:{ROOTS})/[\w.-]{{2,}}/[\w.-]{{2,}}|[A-Za-z]:\\\w{{3,}}\\\w{{2,}}", re.ASCII)
SCRIPT_MODULES = re.compile(r"(__torch__|torch)(\.[\w.]+)? \w+|collections OrderedDict")  # of classes in TorchScript


def check_files(bundle: Path) -> str:
    """Every file that is needed is there, none of a kind that is not, no links."""
    missing = [name for name in REQUIRED_FILES if not (bundle / name).is_file()]
    _expect(not missing, f"files {', '.join(REQUIRED_FILES)}", f"none of {', '.join(missing)}")
    links = [path for path in bundle.rglob("*") if path.is_symlink()]
    _expect(not links, "plain files", f"links: {_names(bundle, links)}")
    odd = [path for path in files_of(bundle) if path.suffix not in KINDS and path.name != "LICENSE"]
    _expect(not odd, f"files of the kinds {' '.join(KINDS)}", _names(bundle, odd))
    return f"{len(files_of(bundle))} files"


def check_no_pickle(bundle: Path) -> str:
    """No file is a pickle that would run code when it is read; the weights load as tensors alone."""
    for path in files_of(bundle):
        with path.open("rb") as file:
            start = file.read(2)
        if path.suffix not in WEIGHTS and start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            raise PackError(f"{path.relative_to(bundle)}: expected no pickle, received one.")
    states = [path for path in files_of(bundle) if path.suffix == ".pt"]
    for path in states:
        load_tensors(path)
    for path in (path for path in files_of(bundle) if path.suffix == ".ts"):
        _check_script(path, bundle)
    return f"{len(states)} file(s) load with weights_only"


def check_checksums(bundle: Path) -> str:
    """The weights are those that the metadata name by sha256."""
    known = metadata_of(bundle).get(CHECKSUMS, {})
    weights = [path for path in files_of(bundle) if path.suffix in WEIGHTS]
    for path in weights:
        name = path.relative_to(bundle).as_posix()
        _expect(name in known, f"a sha256 of {name} in metadata.json", "none")
        received = file_digest(path)
        _expect(received == known[name], f"sha256 {known[name]} of {name}", f"{received}; it was exchanged or damaged")
    absent = sorted(set(known) - {path.relative_to(bundle).as_posix() for path in weights})
    _expect(not absent, "the files that metadata.json has checksums of", f"none of {', '.join(absent)}")
    return ", ".join(path.relative_to(bundle).as_posix() for path in weights)


def check_schema(bundle: Path) -> str:
    """The entries that the zoo's schema of 2024-07-25 requires, of the type it requires, and the zoo's version rules."""
    metadata = metadata_of(bundle)
    _check_types("metadata.json", metadata, REQUIRED_METADATA)
    _expect(metadata["version"] in metadata["changelog"], f"{metadata['version']} in the changelog", "it is missing")
    for name in ("monai_version", "pytorch_version", "numpy_version"):
        _expect(re.fullmatch(r"\d+(\.\d+)+\w*", metadata[name]) is not None, f"{name} as on the index", metadata[name])
    for name, version in metadata["required_packages_version"].items():
        _expect("+" not in str(version), f"the version of {name} as on the index", str(version))
    form = metadata["network_data_format"]
    for part, key in (("inputs", "image"), ("outputs", "pred")):
        _expect(key in form.get(part, {}), f"network_data_format {part} with {key}", str(sorted(form.get(part, {}))))
        _check_types(f"network_data_format {part} {key}", form[part][key], REQUIRED_TENSOR)
    return f"version {metadata['version']}, MONAI {metadata['monai_version']}, torch {metadata['pytorch_version']}"


def check_truth(bundle: Path) -> str:
    """Metadata, plan, config and weights speak of the same network."""
    plan, form = _plan(bundle), metadata_of(bundle)["network_data_format"]
    image, pred = form["inputs"]["image"], form["outputs"]["pred"]
    for what, received, expected in (
        ("input channels", image["num_channels"], plan.in_channels),
        ("names of input channels", list(image["channel_def"].values()), list(plan.channel_names)),
        ("output channels", pred["num_channels"], plan.num_classes),
        ("classes", list(pred["channel_def"].values()), list(plan.class_names)),
        ("spatial dimensions", len(image["spatial_shape"]), plan.spatial_dims),
        ("output dimensions", len(pred["spatial_shape"]), plan.spatial_dims),
    ):
        _expect(received == expected, f"{what} {expected} in metadata.json, as in plan.json", repr(received))
    content = _config(bundle, "inference").get("shipped_plan", {}).get("content")
    planned = {name: value for name, value in to_plain(plan).items() if name != "why"}
    _expect(content == planned, "the plan of plan.json in inference.json", "another one; pack again")
    try:
        unet_from_plan(plan).load_state_dict(load_weights(bundle / "models" / "model.pt"))
    except RuntimeError as error:
        raise PackError(f"models/model.pt does not fit plan.json: {str(error).splitlines()[-1].strip()}") from None
    return f"{plan.in_channels} channel(s) to {plan.num_classes} classes, {plan.spatial_dims}-D"


def check_code(bundle: Path) -> str:
    """The package is the one that the config was packed with."""
    expected = _config(bundle, "inference").get("trained", {}).get("code")
    received = code_digest(bundle / "mcsc_bundle")
    _expect(
        received == expected,
        f"the code that inference.json names ({str(expected)[:12]})",
        f"{received[:12]}; pack again",
    )
    return f"mcsc_bundle {received[:12]}, {'this version' if received == code_digest() else 'another version than this one'}"


def check_keys(bundle: Path) -> str:
    """What MONAI Label and Deploy read from the one inference config, and the zoo's run ids."""
    config = _config(bundle, "inference")
    missing = [key for key in (*LABEL_KEYS, "run") if key not in config]
    _expect(not missing, f"keys {', '.join((*LABEL_KEYS, 'run'))} in inference.json", f"none of {', '.join(missing)}")
    missing = [key for key in ("run", "training", "train", "validate") if key not in _config(bundle, "train")]
    _expect(not missing, "keys run, training, train, validate in train.json", f"none of {', '.join(missing)}")
    return "MONAI Label, Deploy and the zoo find theirs"


def check_targets(bundle: Path) -> str:
    """The configs call nothing but MONAI, torch and the bundle's own packages."""
    foreign = foreign_targets(bundle)
    _expect(not foreign, f"targets of {', '.join(ALLOWED)} alone", "; ".join(foreign))
    return f"{len(targets(bundle))}, of {', '.join(ALLOWED)} alone"


def check_paths(bundle: Path) -> str:
    """No absolute path of a machine in any text, nor among the bytes of other files."""
    found = []
    for path in files_of(bundle):
        if path.suffix in TEXT:
            texts = {"": path.read_text(encoding="utf-8")}
        elif path.suffix == ".ts":
            with zipfile.ZipFile(path) as zipped:
                texts = {f"!{name}": zipped.read(name).decode("latin-1") for name in zipped.namelist()}
        else:
            texts = {"": path.read_bytes().decode("latin-1")}
        for place, text in texts.items():
            written = path.suffix in TEXT or place.endswith((".py", ".json"))
            matches = (ABSOLUTE if written else ABSOLUTE_IN_BYTES).finditer(text)
            found += [f"{path.relative_to(bundle)}{place}: {match.group()}" for match in matches]
    _expect(not found, "no absolute path", "; ".join(found[:5]))
    return "none is absolute"


def check_sizes(bundle: Path) -> str:
    """A file over the zoo's 25 MB is named in ``large_files.yml`` with its place and checksum."""
    listing = bundle / "large_files.yml"
    content = yaml.safe_load(listing.read_text(encoding="utf-8")) if listing.exists() else {}
    named = {entry["path"]: entry for entry in content.get("large_files", [])}
    large = [path for path in files_of(bundle) if path.stat().st_size > MAX_FILE_BYTES]
    for path in large:
        name = path.relative_to(bundle).as_posix()
        _expect(name in named, f"{name}, which is over 25 MB, in large_files.yml", "it is missing")
        entry = named[name]
        fits = entry.get("url") and entry.get("hash_type") == "sha256" and entry.get("hash_val") == file_digest(path)
        _expect(bool(fits), f"url and sha256 of {name} in large_files.yml", str(entry))
    total = sum(path.stat().st_size for path in files_of(bundle)) / 2**20
    return f"{total:.1f} MB, {len(large)} file(s) over 25 MB"


def check_licences(bundle: Path) -> str:
    """Licence of code and weights, licence of the data, and a card that says what the bundle is not for."""
    text = (bundle / "LICENSE").read_text(encoding="utf-8")
    _expect("Apache License" in text and "Version 2.0" in text, "the Apache License 2.0 in LICENSE", text[:40])
    data = (bundle / "docs" / "data_license.txt").read_text(encoding="utf-8")
    stated = data.split("Licence of the data:")[-1].strip()
    _expect(bool(stated), "the licence of the data in docs/data_license.txt", "nothing")
    card = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [
        part for part in ("## Data", "## Training", "## Performance", "## Limits", "clinical") if part not in card
    ]
    _expect(not missing, "docs/README.md with data, training, performance, limits and use", f"none of {missing}")
    return f"Apache-2.0; data: {stated.splitlines()[0][:60]}"


STATIC: dict[str, Callable[[Path], str]] = {
    "files": check_files,
    "no pickles": check_no_pickle,
    "checksums": check_checksums,
    "schema": check_schema,
    "metadata is true": check_truth,
    "code": check_code,
    "keys": check_keys,
    "targets": check_targets,
    "paths": check_paths,
    "sizes": check_sizes,
    "licences": check_licences,
}


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
            for place, value in walk(_read_json(path), ""):
                yield path.name, place, value


def _check_script(path: Path, bundle: Path) -> None:
    """A TorchScript file names no Python class outside torch."""
    try:
        with zipfile.ZipFile(path) as zipped:
            pickles = {name: zipped.read(name) for name in zipped.namelist() if name.endswith(".pkl")}
    except zipfile.BadZipFile:
        raise PackError(f"{path.relative_to(bundle)}: expected TorchScript, received no zip file.") from None
    if not any(name.endswith("/constants.pkl") for name in pickles):
        raise PackError(f"{path.relative_to(bundle)}: expected TorchScript, received a pickled module.")
    for name, content in pickles.items():
        for operation, argument, _ in pickletools.genops(io.BytesIO(content)):
            if operation.name == "GLOBAL" and not SCRIPT_MODULES.fullmatch(str(argument)):
                raise PackError(
                    f"{path.relative_to(bundle)}: expected torch's own classes, received {argument!r} in {name}."
                )
            if operation.name in ("STACK_GLOBAL", "INST"):
                raise PackError(
                    f"{path.relative_to(bundle)}: expected what TorchScript writes, received {operation.name}."
                )


def _check_types(where: str, content: Any, required: dict[str, type | tuple[type, ...]]) -> None:
    _expect(isinstance(content, dict), f"an object in {where}", type(content).__name__)
    for name, kind in required.items():
        _expect(name in content, f"{name} in {where}", "it is missing")
        right = isinstance(content[name], kind) and not isinstance(content[name], bool)
        _expect(right, f"{name} in {where} as {getattr(kind, '__name__', kind)}", repr(content[name])[:60])


def metadata_of(bundle: Path) -> dict[str, Any]:
    """``configs/metadata.json``."""
    return _read_json(bundle / "configs" / "metadata.json")


def _config(bundle: Path, name: str) -> dict[str, Any]:
    return _read_json(bundle / "configs" / f"{name}.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PackError(f"{path.name}: expected a JSON file, received {error}.") from None


def _plan(bundle: Path) -> Plan:
    try:
        return Plan.load(bundle / "plan.json")
    except PlanError as error:
        raise PackError(str(error)) from None


def _names(bundle: Path, paths: list[Path]) -> str:
    return ", ".join(str(path.relative_to(bundle)) for path in paths[:5])


def _expect(condition: bool, expected: str, received: str) -> None:
    if not condition:
        raise PackError(f"expected {expected}, received {received}.")
