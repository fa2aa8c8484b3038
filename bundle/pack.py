"""From a run folder to a bundle: one folder that runs anywhere, and the same as a zip file."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from bundle.archive import files_of, pack_zip
from bundle.card import write_card
from bundle.configs import REPOSITORY, packed_configs
from bundle.facts import PackError, RunFacts, load_weights, read_run
from bundle.metadata import OURS, make_metadata
from bundle.terms import PROJECT, Credits, DataTerms
from bundle.torchscript import export_torchscript
from bundle.zoo_test import write_zoo_test
from mcsc_bundle.ensemble import joined_weights
from mcsc_bundle.files import save_text
from mcsc_bundle.plan_files import read_json
from mcsc_bundle.postprocessing import FILE as POSTPROCESSING
from mcsc_bundle.postprocessing import decision
from mcsc_bundle.shipped import CHECKSUMS, file_digest
from mcsc_bundle.trained import save_trained

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 25 * 2**20  # the zoo's limit; larger ones are named in large_files.yml
WEIGHTS = (".pt", ".ts", ".onnx")
LARGE_FILES_URL = "https://huggingface.co/MONAI/{name}/resolve/{version}/{path}"
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", re.IGNORECASE)
VERSION = re.compile(r"\d+\.\d+\.\d+")


def pack(
    run_dir: str | Path,
    name: str,
    terms: DataTerms,
    output_dir: str | Path = "dist",
    version: str = "0.1.0",
    changes: str = "first version",
    pictures: bool = True,
    large_files_url: str = LARGE_FILES_URL,
    credits: Credits = PROJECT,
) -> tuple[Path, Path]:
    """Pack a run.

    The folder is made beside its place and exchanged when it is whole. Packing a run twice gives the same bytes.

    Args:
        run_dir: the run folder of a finished training; or that of a cross-validation, whose networks are then averaged.
        name: of the bundle, ``<organ>_<modality>_<task>`` by the zoo's custom; MONAI Label wants ``segmentation`` in it.
        terms: source and licence of the data.
        output_dir: where ``NAME/`` and ``NAME_vVERSION.zip`` go.
        version: three numbers. Entries of the changelog of a bundle of that name that lies there already are kept.
        changes: what this version brings, for the changelog.
        pictures: show a scan of the data set in the model card.
        large_files_url: where files over 25 MB will lie, with ``{name}``, ``{version}`` and ``{path}``.
        credits: authors, copyright and description.

    Returns:
        The folder and the zip; beside them lies ``test_NAME.py``, the unit test that the model zoo wants.

    Raises:
        PackError: the run, the name or the version cannot be used.
    """
    if not NAME.fullmatch(name):
        raise PackError(
            f"name: expected words of letters and digits joined by _, as hippocampus_mri_segmentation, received {name!r}."
        )
    if not VERSION.fullmatch(str(version)):
        raise PackError(f"version: expected three numbers such as 0.1.0, received {version!r}.")
    facts = read_run(run_dir)
    configs = packed_configs(facts.plan, len(facts.runs))
    output = Path(output_dir).resolve()
    target, building = output / name, output / f".packing.{os.getpid()}" / name
    _check_replaceable(target, facts)
    changelog = {version: changes, **{key: value for key, value in _changelog(target).items() if key != version}}
    shutil.rmtree(building.parent, ignore_errors=True)
    try:
        _copy(facts, building)
        metadata = make_metadata(facts, name, version, changelog, terms.source, building, credits)
        for file, content in {**configs, "metadata.json": metadata}.items():
            write_config(building / "configs" / file, content)
        export_torchscript(building)
        write_card(building / "docs", facts, metadata, name, terms, pictures)
        seal(building, large_files_url)
        if target.exists():
            shutil.rmtree(target)
        os.replace(building, target)
    finally:
        shutil.rmtree(building.parent, ignore_errors=True)
    archive = output / f"{name}_v{version}.zip"
    pack_zip(target, archive)
    write_zoo_test(output, name)
    log.info("Packed %s and %s (%.1f MB).", target, archive, archive.stat().st_size / 2**20)
    return target, archive


def seal(bundle: Path, large_files_url: str = LARGE_FILES_URL) -> None:
    """Write the checksums of the weights into the metadata, and ``large_files.yml`` if a file needs it.

    Args:
        bundle: its folder.
        large_files_url: as of ``pack``, of a file that is not listed yet, nor another one to lie beside.
    """
    path = bundle / "configs" / "metadata.json"
    metadata = read_json(path)
    weights = [file for file in files_of(bundle) if file.suffix in WEIGHTS]
    metadata[CHECKSUMS] = {file.relative_to(bundle).as_posix(): file_digest(file) for file in weights}
    write_config(path, metadata)
    listing = bundle / "large_files.yml"
    large = [file for file in files_of(bundle) if file.stat().st_size > MAX_FILE_BYTES]
    if not large:
        listing.unlink(missing_ok=True)
        return
    listed = yaml.safe_load(listing.read_text(encoding="utf-8"))["large_files"] if listing.exists() else []
    urls = {entry["path"]: entry["url"] for entry in listed}
    entries = []
    for file in large:
        relative = file.relative_to(bundle).as_posix()
        beside = next((url.replace(path, relative) for path, url in urls.items() if path in url), None)
        url = urls.get(relative, beside) or large_files_url.format(
            name=bundle.name, version=metadata["version"], path=relative
        )
        entries.append({"path": relative, "url": url, "hash_val": file_digest(file), "hash_type": "sha256"})
    save_text(listing, yaml.safe_dump({"large_files": entries}, sort_keys=False))


def write_config(path: Path, content: Mapping[str, Any]) -> None:
    """A config as JSON that a person can read."""
    save_text(path, json.dumps(content, indent=4, ensure_ascii=False) + "\n")


def data_terms(
    dataset_dir: str | Path | None = None, source: str | None = None, license_text: str | None = None
) -> DataTerms:
    """Source and licence of the data: as given, else as ``dataset.json`` declares them.

    Args:
        dataset_dir: the data set's folder, whose ``dataset.json`` may hold ``reference`` and ``licence``.
        source: in words.
        license_text: the licence's name, or a file that holds it.

    Raises:
        PackError: neither says what the licence is.
    """
    content = {} if dataset_dir is None else read_json(Path(dataset_dir) / "dataset.json", {})
    declared = {key.lower(): value for key, value in content.items()}
    source = source or declared.get("reference") or declared.get("description")
    license_text = license_text or declared.get("licence") or declared.get("license")
    if not source or not license_text:
        missing = [name for name, there in (("no source", source), ("no licence", license_text)) if not there]
        raise PackError(
            "expected the source and the licence of the data the network was trained on, received "
            f"{' and '.join(missing)}. Give --data_source and --data_license (a name, a file, or "
            '"not to be shared"), or --dataset_dir with a dataset.json that holds reference and licence.'
        )
    if len(str(license_text)) < 200 and Path(str(license_text)).is_file():
        license_text = Path(str(license_text)).read_text(encoding="utf-8")
    return DataTerms(str(source).strip(), str(license_text).strip())


def _copy(facts: RunFacts, building: Path) -> None:
    """What is taken as it is: packages, licence, log settings, plan, weights."""
    for package in OURS:
        shutil.copytree(REPOSITORY / package, building / package, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    (building / "configs").mkdir()
    (building / "models").mkdir()
    shutil.copyfile(REPOSITORY / "LICENSE", building / "LICENSE")
    shutil.copyfile(REPOSITORY / "configs" / "logging.conf", building / "configs" / "logging.conf")
    facts.plan.save(building / "plan.json")
    _write_weights(facts, building / "models" / "model.pt")
    save_trained(building / "models", facts.plan)
    if (decided := decision(facts.folder)) is not None:  # inference applies it where it lies beside the plan
        shutil.copyfile(decided, building / POSTPROCESSING)


def _write_weights(facts: RunFacts, path: Path) -> None:
    if len(facts.weights) == 1:
        shutil.copyfile(facts.weights[0], path)
    else:
        torch.save(joined_weights([load_weights(weights) for weights in facts.weights]), path)


def _check_replaceable(target: Path, facts: RunFacts) -> None:
    """Refuse to pack over anything but an earlier bundle.

    Raises:
        PackError: another folder, or one that holds the run itself.
    """
    if not target.exists():
        return
    runs = [run.resolve() for run in (facts.folder, *facts.runs)]
    if any(target.resolve() in (run, *run.parents) for run in runs):
        raise PackError(f"{target} is, or holds, the run that is to be packed. Choose another --name or --output_dir.")
    if not (target / "configs" / "metadata.json").exists():
        raise PackError(
            f"{target} is there and is no bundle: packing would delete it. Choose another --name or --output_dir."
        )


def _changelog(bundle: Path) -> dict[str, str]:
    return read_json(bundle / "configs" / "metadata.json", {}).get("changelog", {})
