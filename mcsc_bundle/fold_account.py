"""What each fold of a cross-validation was trained with, so that only folds made in the same way are compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from mcsc_bundle.first_stage import is_same_stage
from mcsc_bundle.leeway import LEEWAY
from mcsc_bundle.options import references_in

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# What a fold that was trained must have as RUNS has it, and how a message names it.
SAME_IN_ALL = {
    "plan.json": "plan.json",
    "fingerprint.key": "data set (or path of it)",
    "splits.json": "split into folds",
}
# Options that a fold may go on with when they change; the data set is compared by its files, the stage before by its
# weights.
MAY_CHANGE = ("max_epochs", "dataset_dir", "device", "workers", "cache_dir", "bundle_root", "previous")


def asked(files: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a fold's account that say what it is to be trained with.

    Args:
        files: configs; of those that are not ours the content counts, too.
        options: of the training.
    """
    names = [Path(name).name for name in files]
    # The last of several files of one name bears it alone, as in accounts of older versions.
    numbered = [
        f"{name} ({names[: place + 1].count(name)})" if name in names[place + 1 :] else name
        for place, name in enumerate(names)
    ]
    overlays = [
        (key, file) for key, file in zip(numbered, files, strict=True) if Path(file).resolve().parent != CONFIGS
    ]
    methods = [content["method"] for file in files if "method" in (content := ConfigParser.load_config_file(file))]
    deep = "deep_supervision" in references_in(methods[-1:]) and options.get("deep_supervision", True)
    return {
        "config_files": names,
        "overlays": {key: _content_key(file) for key, file in overlays},
        "deep_supervision": deep,
        "leeway": options.get("leeway", LEEWAY),
        "options": json.loads(json.dumps(options, default=str)),
    }


def _content_key(config: str) -> str:
    """Changes with what a config says, not with its comments or order."""
    content = json.dumps(_sorted(ConfigParser.load_config_file(config)), default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _sorted(content: Any) -> Any:
    """Dictionaries in one order: numbers, as YAML reads some keys, before words."""
    if isinstance(content, Mapping):
        keys = sorted(content, key=lambda key: (0, key, "") if isinstance(key, (int, float)) else (1, 0, str(key)))
        return {key if isinstance(key, (int, float)) else str(key): _sorted(content[key]) for key in keys}
    return [_sorted(each) for each in content] if isinstance(content, (list, tuple)) else content


def check_same(runs: Path, folder: Path, asked: Mapping[str, Any], account: Mapping[str, Any]) -> None:
    """Refuse to go on with a fold that was made in another way.

    Args:
        runs: folder of the cross-validation.
        folder: of the fold.
        asked: what it is to be trained with.
        account: what it was trained with; empty without a training.

    Raises:
        SystemExit: naming what differs.
    """
    if not (folder / "models" / "checkpoint.pt").exists():
        return
    differing = [
        words for name, words in SAME_IN_ALL.items() if (runs / name).read_bytes() != (folder / name).read_bytes()
    ]
    if account and account["config_files"] != asked["config_files"]:
        differing.append("config_file")
    overlays = account.get("overlays", asked["overlays"])  # accounts of older versions have none
    differing += [
        f"content of {name}" for name, found in asked["overlays"].items() if overlays.get(name, found) != found
    ]
    before, now = account.get("options", {}), asked["options"]
    if account:
        if account.get("deep_supervision", False) != asked["deep_supervision"]:  # older versions had none
            differing.append("--deep_supervision")
        if account.get("leeway", 0) != asked["leeway"]:  # nor did their patches move
            differing.append("--leeway")
        differing += [
            f"--{name}"
            for name in sorted({*before, *now} - {*MAY_CHANGE, "deep_supervision", "leeway"})
            if before.get(name) != now.get(name)
        ]
    if now.get("previous") and not is_same_stage(folder, Path(now["previous"])):
        differing.append("--previous (or its networks were trained on since)")
    if differing:
        raise SystemExit(
            f"error: {folder} was trained with another {', '.join(differing)} than the other folds are to be. Give what it "
            "was trained with, choose another folder for the runs, or delete that one to train it again."
        )
