"""Prediction of a folder: ours and nnU-Net's, side by side in one run, with the same trained network.

    python -m benchmarks.prediction RUN DATASET --nnunet-python PYTHON_WITH_NNUNETV2 [--cases 40] [--mirror] [--amp_dtype T]

The CNN of RUN (a training on DATASET) is written down as a model folder of nnU-Net's: its plan with the run's spacing, patch and
architecture, and its weights, layer by layer. Then ``nnUNetv2_predict_from_modelfolder`` and ``configs/inference.json`` predict
the same images, each from nothing, imports included, with half a patch of overlap. Both may use the whole machine, nnU-Net with
one process to read and one to write. The masks are compared: the network is the same, so they have to agree. The interpreter
may also be given as NNUNET_PYTHON. The last line is JSON; ratios are nnU-Net's over ours.

Only for data whose files have the orientation of the plan (hippocampus, ACDC): nnU-Net never turns an image.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from benchmarks.preprocessing import DATASET_ID, subset
from benchmarks.process_tree import Cost, run
from mcsc_bundle.plan import Plan
from preprocessing.export import export
from preprocessing.nnunet_plans import SCHEMES

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin while other work wants their core would count as work
ROOT = Path(__file__).resolve().parents[1]
LEAST_SAME = 0.999  # share of voxels; windows are placed and weighted a little differently

ORACLE = """
import json, sys, torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
folder, configuration, classes, axes = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
plans = json.load(open(folder + "/plans.json"))
network = plans["configurations"][configuration]["architecture"]
channels = len(plans["foreground_intensity_properties_per_channel"])
kind = network["network_class_name"], network["arch_kwargs"], network["_kw_requires_import"]
net = get_network_from_plans(*kind, channels, classes)
ours = torch.load(folder + "/ours.pt", weights_only=True)
state = net.state_dict()
for name, value in ours.items():
    assert state[name].shape == value.shape, (name, state[name].shape, value.shape)
    state[name] = value
own = [name for name in state if ".all_modules." in name or name.startswith("decoder.encoder.")]
for name in own:  # the same tensors under further names
    first = name.removeprefix("decoder.").replace(".all_modules.0.", ".conv.").replace(".all_modules.1.", ".norm.")
    state[name] = state[first if name.startswith("decoder.encoder.") else first if first in state else "decoder." + first]
last = max(int(name.split(".")[2]) for name in state if "seg_layers" in name)
loaded = set(ours) | set(own) | {name for name in state if "seg_layers" in name and int(name.split(".")[2]) < last}
assert loaded == set(state), sorted(set(state) - loaded)
torch.save({"network_weights": state, "trainer_name": "nnUNetTrainer", "inference_allowed_mirroring_axes": axes,
            "init_args": {"configuration": configuration}}, folder + "/fold_0/checkpoint_final.pth")
"""


def weights_for_nnunet(state: dict[str, Tensor], dims: int) -> dict[str, Tensor]:
    """Our plain U-Net's weights under the names of nnU-Net's ``PlainConvUNet``.

    nnU-Net's axes are ours reversed, and it concatenates the upsampled map before the skip, where we put the skip first.

    Args:
        state: of ``UNet`` with preset ``plan``.
        dims: spatial dimensions.
    """
    spatial = tuple(range(dims + 1, 1, -1))
    renamed = {}
    last = max(int(name.split(".")[1]) for name in state if name.startswith("decoder"))
    for name, value in state.items():
        tensor = value.permute(0, 1, *spatial).contiguous() if value.ndim == dims + 2 else value
        part, *rest = name.split(".")
        if part == "head":
            renamed[f"decoder.seg_layers.{last}.{rest[0]}"] = tensor
        elif part == "decoder" and rest[1] == "up":
            renamed[f"decoder.transpconvs.{rest[0]}.{rest[2]}"] = tensor
        else:
            layer, kind = int(rest[-2]), rest[-1]
            place = f"encoder.stages.{rest[0]}.0" if part == "encoder" else f"decoder.stages.{rest[0]}"
            role = ("conv", "norm")[layer % 3]
            if part == "decoder" and layer == 0 and kind == "weight":
                half = tensor.shape[1] // 2
                tensor = torch.cat((tensor[:, half:], tensor[:, :half]), 1)
            renamed[f"{place}.convs.{layer // 3}.{role}.{kind}"] = tensor
    return renamed


def with_plan(plans: dict[str, Any], plan: Plan) -> str:
    """Write spacing, patch, batch, normalisation and CNN of our plan into nnU-Net's; returns the name of the configuration."""
    name = configuration_of(plan)
    entry = plans["configurations"][name]
    network = entry["architecture"]["arch_kwargs"]
    axes = list(reversed(plan.network_axes))
    stages = len(plan.cnn.features)
    scheme_names = {ours: theirs for theirs, ours in SCHEMES.items()}
    entry["spacing"] = [plan.spacing_mm[axis] for axis in axes]
    entry["patch_size"] = list(reversed(plan.patch_size))
    entry["batch_size"], entry["batch_dice"] = plan.batch_labeled, plan.batch_dice
    entry["normalization_schemes"] = [scheme_names[each.scheme] for each in plan.normalization]
    entry["use_mask_for_norm"] = [each.inside_mask for each in plan.normalization]
    network |= {
        "n_stages": stages,
        "features_per_stage": list(plan.cnn.features),
        "kernel_sizes": [list(reversed(kernel)) for kernel in plan.cnn.kernel_sizes],
        "strides": [list(reversed(stride)) for stride in plan.cnn.strides],
        "n_conv_per_stage": [plan.cnn.convs_per_stage] * stages,
        "n_conv_per_stage_decoder": [plan.cnn.convs_per_stage] * (stages - 1),
    }
    plans["transpose_forward"] = plans["transpose_backward"] = [0, 1, 2]
    return name


def write_model(run_dir: Path, folder: Path, plans: dict[str, Any], dataset_json: dict[str, Any], python: str) -> None:
    """nnU-Net's model folder with the plan and the CNN of a run."""
    plan = Plan.load(run_dir / "plan.json")
    name = with_plan(plans, plan)
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    state = torch.load(run_dir / "models" / "model.pt", map_location="cpu", weights_only=True)
    torch.save(weights_for_nnunet(state, plan.spatial_dims), folder / "ours.pt")
    mirror = [plan.spatial_dims - 1 - axis for axis in plan.mirror_axes]
    arguments = [str(folder), name, str(plan.num_classes), json.dumps(mirror)]
    done = subprocess.run([python, "-c", ORACLE, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"nnU-Net cannot hold this network:\n{done.stderr[-2000:]}")


def configuration_of(plan: Plan) -> str:
    """nnU-Net's name for what the plan is."""
    return "2d" if plan.spatial_dims == 2 else "3d_fullres"


def nnunet_plans(python: str, work: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What nnU-Net plans for the exported data set, and its ``dataset.json``."""
    variables = {f"nnUNet_{kind}": str(work / kind) for kind in ("raw", "preprocessed", "results")}
    command = [
        str(Path(python).parent / "nnUNetv2_plan_and_preprocess"),
        "-d",
        str(DATASET_ID),
        "--no_pp",
        "-npfp",
        "1",
    ]
    run(command, {**os.environ, **variables}, work / "plan.log")
    (folder,) = (work / "preprocessed").glob(f"Dataset{DATASET_ID}_*")
    return json.loads((folder / "nnUNetPlans.json").read_text()), json.loads((folder / "dataset.json").read_text())


def predict_nnunet(
    python: str, images: Path, model: Path, output: Path, mirror: bool, device: str, fold: str = "0"
) -> Cost:
    """``nnUNetv2_predict_from_modelfolder``."""
    command = [str(Path(python).parent / "nnUNetv2_predict_from_modelfolder"), "-i", str(images), "-o", str(output)]
    command += ["-m", str(model), "-f", fold, "-npp", "1", "-nps", "1", "-device", device]
    command += [] if mirror else ["--disable_tta"]
    unused = {f"nnUNet_{kind}": str(model) for kind in ("raw", "preprocessed", "results")}
    return run(command, {**unused, **os.environ, **PASSIVE}, output.with_suffix(".log"))


def predict_ours(run_dir: Path, images: Path, output: Path, mirror: bool, device: str, amp_dtype: str | None) -> Cost:
    """``configs/inference.json``."""
    options = {"dataset_dir": images, "output_dir": output, "run_dir": run_dir, "overlap": 0.5, "mirror": mirror}
    options |= {
        "bundle_root": ROOT,
        "device": f"$torch.device('{device}')",
        "postprocess": False,
        "amp_dtype": amp_dtype,
    }
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        str(ROOT / "configs/inference.json"),
    ]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return run(command, {**os.environ, **PASSIVE, "PYTHONPATH": str(ROOT)}, output.with_suffix(".log"))


def compare(ours: Path, theirs: Path) -> dict[str, Any]:
    """Share of voxels with the same class in each case, and mean foreground Dice between both masks."""
    same, dice = [], []
    for path in sorted(theirs.glob("*.nii.gz")):
        a, b = (np.asarray(nib.load(folder / path.name).dataobj) for folder in (ours, theirs))
        same.append(float((a == b).mean()))
        for value in np.unique(b[b > 0]):
            dice.append(2 * float(((a == value) & (b == value)).sum()) / float((a == value).sum() + (b == value).sum()))
    return {
        "cases": len(same),
        "least_same": min(same),
        "mean_same": float(np.mean(same)),
        "mean_dice": float(np.mean(dice)),
    }


def main() -> None:
    """Predict with both, compare, print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="a training with the plain CNN of a plan")
    parser.add_argument("dataset", type=Path, help="what it was trained on")
    parser.add_argument("--nnunet-python", default=os.environ.get("NNUNET_PYTHON"))
    parser.add_argument("--cases", type=int, default=40, help="the first so many labelled cases")
    parser.add_argument("--mirror", action="store_true", help="average over flips, both")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp_dtype", help="of ours")
    parser.add_argument("--work", type=Path, help="an empty folder to keep everything in; else a temporary one")
    options = parser.parse_args()
    if not options.nnunet_python:
        parser.error("expected --nnunet-python or NNUNET_PYTHON: an interpreter with nnunetv2 installed")
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        data, _ = export(
            options.dataset, work / "raw", DATASET_ID, workers=1, **subset(options.dataset, options.cases, work)
        )
        model = work / f"nnUNetTrainer__nnUNetPlans__{configuration_of(Plan.load(options.run_dir / 'plan.json'))}"
        write_model(options.run_dir, model, *nnunet_plans(options.nnunet_python, work), options.nnunet_python)
        images = data / "imagesTr"
        theirs = predict_nnunet(options.nnunet_python, images, model, work / "theirs", options.mirror, options.device)
        ours = predict_ours(options.run_dir, images, work / "ours", options.mirror, options.device, options.amp_dtype)
        result = {
            "dataset": data.name,
            "mirror": options.mirror,
            "device": options.device,
            "amp_dtype": options.amp_dtype,
            "nnunet": dataclasses.asdict(theirs),
            "ours": dataclasses.asdict(ours),
            "times_faster": round(theirs.seconds / ours.seconds, 2),
            "times_less_cpu": round(theirs.cpu_seconds / ours.cpu_seconds, 2),
            "memory_ratio": round(theirs.peak_gb / ours.peak_gb, 2),
            "masks": compare(work / "ours", work / "theirs"),
        }
    print(json.dumps(result))
    raise SystemExit(0 if result["masks"]["mean_same"] >= LEAST_SAME else 1)


if __name__ == "__main__":
    main()
