"""Checks of a bundle's files: kinds, pickles, checksums, paths, sizes, licences. None runs any of its code."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path

import yaml

from bundle.archive import FILES, PARTS, belongs, files_of
from bundle.checking import expect, metadata_of, names
from bundle.facts import PackError, load_tensors
from bundle.pack import MAX_FILE_BYTES, WEIGHTS
from mcsc_bundle.shipped import CHECKSUMS, file_digest

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
    expect(not missing, f"files {', '.join(REQUIRED_FILES)}", f"none of {', '.join(missing)}")
    links = [path for path in bundle.rglob("*") if path.is_symlink()]
    expect(not links, "plain files", f"links: {names(bundle, links)}")
    foreign = [path for path in files_of(bundle) if not belongs(path.relative_to(bundle))]
    expect(
        not foreign,
        f"nothing beside {', '.join(sorted((*PARTS, *FILES)))}",
        f"{names(bundle, foreign)}; move masks and other results out, they may name patients",
    )
    odd = [path for path in files_of(bundle) if path.suffix not in KINDS and path.name != "LICENSE"]
    expect(not odd, f"files of the kinds {' '.join(KINDS)}", names(bundle, odd))
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
        expect(name in known, f"a sha256 of {name} in metadata.json", "none")
        received = file_digest(path)
        expect(received == known[name], f"sha256 {known[name]} of {name}", f"{received}; it was exchanged or damaged")
    absent = sorted(set(known) - {path.relative_to(bundle).as_posix() for path in weights})
    expect(not absent, "the files that metadata.json has checksums of", f"none of {', '.join(absent)}")
    return ", ".join(path.relative_to(bundle).as_posix() for path in weights)


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
    expect(not found, "no absolute path", "; ".join(found[:5]))
    return "none is absolute"


def check_sizes(bundle: Path) -> str:
    """A file over the zoo's 25 MB is named in ``large_files.yml`` with its place and checksum."""
    listing = bundle / "large_files.yml"
    content = yaml.safe_load(listing.read_text(encoding="utf-8")) if listing.exists() else {}
    named = {entry["path"]: entry for entry in content.get("large_files", [])}
    large = [path for path in files_of(bundle) if path.stat().st_size > MAX_FILE_BYTES]
    for path in large:
        name = path.relative_to(bundle).as_posix()
        expect(name in named, f"{name}, which is over 25 MB, in large_files.yml", "it is missing")
        entry = named[name]
        fits = entry.get("url") and entry.get("hash_type") == "sha256" and entry.get("hash_val") == file_digest(path)
        expect(bool(fits), f"url and sha256 of {name} in large_files.yml", str(entry))
    total = sum(path.stat().st_size for path in files_of(bundle)) / 2**20
    return f"{total:.1f} MB, {len(large)} file(s) over 25 MB"


def check_licences(bundle: Path) -> str:
    """Licence of code and weights, licence of the data, and a card that says what the bundle is not for."""
    text = (bundle / "LICENSE").read_text(encoding="utf-8")
    expect("Apache License" in text and "Version 2.0" in text, "the Apache License 2.0 in LICENSE", text[:40])
    data = (bundle / "docs" / "data_license.txt").read_text(encoding="utf-8")
    stated = data.split("Licence of the data:")[-1].strip()
    expect(bool(stated), "the licence of the data in docs/data_license.txt", "nothing")
    card = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [
        part for part in ("## Data", "## Training", "## Performance", "## Limits", "clinical") if part not in card
    ]
    expect(not missing, "docs/README.md with data, training, performance, limits and use", f"none of {missing}")
    return f"Apache-2.0; data: {stated.splitlines()[0][:60]}"


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
