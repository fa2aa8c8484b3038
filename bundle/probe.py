"""Runs inside a bundle's own process: its package on the path, ours not. Prints what was seen as one line of JSON.

    PYTHONPATH=BUNDLE python -P probe.py BUNDLE DATA WORK '["mcsc_bundle....", ...]'

Started by ``bundle.verify``; it must not import anything of the repository.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_net_in_out
from monai.bundle.config_item import ComponentLocator


def resolved(targets: list[str]) -> str:
    """Every ``_target_`` names something that can be imported."""
    locator = ComponentLocator()
    missing = [
        name for name in targets if (locate(name) if "." in name else locator.get_component_module_name(name)) is None
    ]
    if missing:
        raise ValueError(f"expected targets that can be imported, received {', '.join(missing)}.")
    return f"{len(targets)} targets"


def properties(bundle: Path, data: Path, work: Path) -> str:
    """MONAI's lists of required ids, for both kinds of workflow; MONAI builds each object to see that it can."""
    short: dict[str, Any] = {"workers": 1, "num_labeled": 2, "num_test": 1}
    for names, kind in ((["inference"], "infer"), (["train"], "train"), (["train", "evaluate"], "train")):
        workflow = ConfigWorkflow(
            config_file=[str(bundle / "configs" / f"{name}.json") for name in names],
            workflow_type=kind,
            logging_file=False,
            bundle_root=str(bundle),
            dataset_dir=str(data),
            output_dir=str(work / "+".join(names)),
            device=torch.device("cpu"),
            **(short if "train" in names else {}),
        )
        workflow.initialize()
        wrong = workflow.check_properties()
        if wrong:
            raise ValueError(f"{'+'.join(names)}: expected MONAI's properties, received none of {wrong}.")
    return "inference, train, train + evaluate"


def in_out(bundle: Path) -> str:
    """The network takes and gives what the metadata say, at several sizes."""
    for n in (1, 2):
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(bundle / "configs" / "metadata.json"),
            config_file=str(bundle / "configs" / "inference.json"),
            device="cpu",
            n=n,
            p=1,
        )
    return "verify_net_in_out with n = 1 and 2"


def torchscript(bundle: Path, work: Path) -> str:
    """The zoo's export works, and the shipped TorchScript says the same as the network."""
    configs, exported = bundle / "configs", work / "exported.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
    )
    parser = ConfigParser()
    parser.read_config(str(configs / "inference.json"))
    parser.read_meta(str(configs / "metadata.json"))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    image = parser["_meta_#network_data_format#inputs#image"]
    shape = [int(eval(size, {"n": 2, "p": 1})) if isinstance(size, str) else size for size in image["spatial_shape"]]
    batch = torch.randn(2, image["num_channels"], *shape, generator=torch.Generator().manual_seed(0))
    worst = 0.0
    shipped = bundle / "models" / "model.ts"
    with torch.no_grad():
        expected = network(batch)
        for path in [exported, shipped] if shipped.exists() else [exported]:
            received = torch.jit.load(path)(batch)
            worst = max(worst, float((received - expected).abs().max()))
    if worst > 1e-4 * max(1.0, float(expected.abs().max())):
        raise ValueError(
            f"expected the logits of the network from {shipped.name}, received a deviation of {worst:.2g}."
        )
    return f"largest deviation {worst:.2g}"


def main(bundle: Path, data: Path, work: Path, targets: list[str]) -> None:
    """All points; a later one is tried when an earlier one fails."""
    points: dict[str, Callable[[], str]] = {
        "targets resolve": lambda: resolved(targets),
        "properties": lambda: properties(bundle, data, work),
        "network in and out": lambda: in_out(bundle),
        "TorchScript": lambda: torchscript(bundle, work),
    }
    seen: dict[str, Any] = {}
    for name, check in points.items():
        try:
            seen[name] = [True, check()]
        except (Exception, SystemExit) as error:
            while error.__cause__ is not None:
                error = error.__cause__  # type: ignore[assignment]
            seen[name] = [False, f"{type(error).__name__}: {error}"]
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
