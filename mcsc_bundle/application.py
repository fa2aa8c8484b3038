"""When an application such as MONAI Label trains a packed bundle: the bundle's weights become those just trained."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from mcsc_bundle.ensemble import count_members
from mcsc_bundle.files import replacing
from mcsc_bundle.handlers import is_main_process
from mcsc_bundle.plan_files import read_json, save_json
from mcsc_bundle.shipped import CHECKSUMS, file_digest
from mcsc_bundle.tensors import load_tensors_or_exit
from mcsc_bundle.trained import FILE, read_trained

log = logging.getLogger(__name__)

EXPORTS = ("model.ts", "model.onnx")  # of the weights that were there before


class ReplaceWeights:
    """At the end of a training, puts its network in the place of the bundle's, as every zoo bundle's training does.

    The checksums in ``metadata.json`` and ``large_files.yml`` are renewed, and exports of the former weights are removed.

    Args:
        bundle_root: the packed bundle.
        models_dir: where the training saves.

    Raises:
        SystemExit: the bundle averages several networks, of which a training gives only one.
    """

    def __init__(self, bundle_root: str, models_dir: str) -> None:
        self.bundle, self.trained = Path(bundle_root), Path(models_dir) / "model.pt"
        weights = self.bundle / "models" / "model.pt"
        if weights.exists() and count_members(load_tensors_or_exit(weights)) > 1:
            raise SystemExit(
                f"error: expected a bundle of one network to train on, received {self.bundle}, which averages several. Pack a "
                "single run for this application, or train on a folder: python -m monai.bundle run --config_file "
                "configs/train.json --dataset_dir DATA."
            )

    def attach(self, engine: Engine) -> None:
        """Listen (attach after the ``CheckpointHandler``, which saves the last epoch)."""
        engine.add_event_handler(Events.COMPLETED, self.replace)

    def replace(self, engine: Engine) -> None:
        """Copy the weights beside their place, rename, then tell the metadata."""
        if not is_main_process():
            return
        weights = self.bundle / "models" / "model.pt"
        with replacing(weights) as temporary:
            shutil.copyfile(self.trained, temporary)
        if (self.trained.parent / FILE).exists():
            plan = read_trained(self.trained.parent)["plan"]
            save_json(weights.parent / FILE, {"plan": plan})  # without the names of cases
        for name in EXPORTS:
            (weights.parent / name).unlink(missing_ok=True)
        metadata = self.bundle / "configs" / "metadata.json"
        if metadata.exists():
            save_json(metadata, {**read_json(metadata), CHECKSUMS: {"models/model.pt": file_digest(weights)}})
        listing = self.bundle / "large_files.yml"
        if listing.exists():
            _renew(listing, file_digest(weights))
        log.info("%s now holds the network just trained; its exports were removed.", weights)


def _renew(listing: Path, checksum: str) -> None:
    """Give the weights in ``large_files.yml`` their new checksum, and leave out the exports that are gone."""
    listed = ConfigParser.load_config_file(listing)["large_files"]
    entries = [
        {**entry, "hash_val": checksum} if entry["path"] == "models/model.pt" else entry
        for entry in listed
        if Path(entry["path"]).name not in EXPORTS
    ]
    with replacing(listing) as temporary:
        ConfigParser.export_config_file({"large_files": entries}, str(temporary), fmt="yaml", sort_keys=False)
