"""What a packed bundle says about itself, checked before use: its weights are those it was packed with, its code too, and
its metadata speak of its network.

A process imports ``mcsc_bundle`` once, while every packed bundle holds a copy of it. Bundles with the same copy share the
one that came first; a bundle with another copy is refused, since its networks might mean something else by the same
names. So any number of bundles packed by one version of this project run side by side.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from mcsc_bundle.plan import Plan, PlanError
from mcsc_bundle.plan_files import read_json

PACKAGE = Path(__file__).parent
PACKAGES = ("mcsc_bundle", "preprocessing")
METADATA = "configs/metadata.json"
CHECKSUMS = "sha256"  # entry of metadata.json: file of the bundle to the checksum of its bytes


class BundleError(ValueError):
    """A packed bundle that is not what it says it is; the message says what differs and what to do."""


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_digest(folder: Path = PACKAGE.parent) -> str:
    """sha256 over the Python files of our packages in a folder, by relative path and content."""
    paths = [path for package in PACKAGES for path in (folder / package).rglob("*.py")]
    files = {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def check_code(expected: str) -> None:
    """Refuse to go on with other copies of our packages than a bundle was packed with.

    Args:
        expected: ``code_digest`` of the bundle.

    Raises:
        BundleError: another bundle, or another version that lies on the path, was imported first; or files were edited.
    """
    if code_digest() != expected:
        raise BundleError(
            f"expected the code that this bundle was packed with ({expected[:12]}), received {PACKAGE} "
            f"({code_digest()[:12]}): its files were edited, or another bundle or version was imported first. Use the "
            "bundle in a process of its own, started outside of folders that hold another mcsc_bundle; or, if the "
            "edit is meant, pack again."
        )


def check_weights(bundle: Path, path: Path) -> None:
    """Refuse weights that are not those of ``bundle``'s metadata; a folder without checksums passes.

    Args:
        bundle: a packed bundle, or a run folder.
        path: file of weights in it.

    Raises:
        BundleError: the checksum differs.
    """
    expected = _metadata(bundle).get(CHECKSUMS, {}).get(path.relative_to(bundle).as_posix())
    if expected is not None and file_digest(path) != expected:
        raise BundleError(
            f"{path}: expected sha256 {expected} as in metadata.json, received {file_digest(path)}. The file is "
            "damaged or was exchanged: get the bundle again, or pack it again if the exchange is meant."
        )


def check_metadata(bundle: Path, plan: Plan) -> None:
    """Refuse a bundle whose metadata tell of another network; a folder without metadata passes, and what they leave out.

    Args:
        bundle: a packed bundle, or a run folder.
        plan: of its weights.

    Raises:
        BundleError: other channels, classes or dimensions.
    """
    for what, received, expected in stated(_metadata(bundle), plan):
        if received is not None and received != expected:
            raise BundleError(
                f"{(bundle / METADATA).resolve()}: expected {what} {expected}, as in plan.json, received {received!r}. It tells "
                "of another network than the bundle holds: get the bundle again, or pack it again."
            )


def stated(metadata: dict[str, Any], plan: Plan) -> list[tuple[str, Any, Any]]:
    """What metadata say of the network: in words, as they have it (``None``: not at all), as the plan has it."""
    form = _entry(metadata, "network_data_format")
    image, pred = _entry(_entry(form, "inputs"), "image"), _entry(_entry(form, "outputs"), "pred")
    return [
        ("input channels", _entry(image, "num_channels"), plan.in_channels),
        ("names of input channels", _listed(_entry(image, "channel_def")), list(plan.channel_names)),
        ("output channels", _entry(pred, "num_channels"), plan.out_channels),
        ("classes", _listed(_entry(pred, "channel_def")), list(plan.channel_classes)),
        ("spatial dimensions", _length(_entry(image, "spatial_shape")), plan.spatial_dims),
        ("output dimensions", _length(_entry(pred, "spatial_shape")), plan.spatial_dims),
    ]


def check_bundle_or_exit(bundle_root: str | Path) -> None:
    """For the training config of a packed bundle: what is not in order ends the program before any work.

    Weights that were not downloaded yet are no fault: a training does not need them.

    Raises:
        SystemExit: metadata of another network, weights that are not the bundle's own, an unreadable plan.
    """
    bundle = Path(bundle_root)
    weights = bundle / "models" / "model.pt"
    try:
        check_metadata(bundle, Plan.load(bundle / "plan.json"))
        if weights.exists():
            check_weights(bundle, weights)
    except (BundleError, PlanError) as error:
        raise SystemExit(f"error: {error}") from None


def _metadata(bundle: Path) -> dict[str, Any]:
    return read_json(bundle / METADATA, {})


def _entry(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, dict) else None


def _listed(content: Any) -> Any:
    return list(content.values()) if isinstance(content, dict) else content


def _length(content: Any) -> Any:
    return len(content) if isinstance(content, list) else content
