"""MONAI Label and Deploy read one config and drive its parts themselves; their steps, followed on a packed bundle.

MONAI Label: monailabel/tasks/infer/bundle.py. MONAI Deploy: operators/monai_bundle_inference_operator.py.
"""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, SaveImaged

from bundle.pack import pack
from bundle.verify import make_images
from mcsc_bundle.io import load_image
from mcsc_bundle.plan import Plan
from tests.bundle.runs import TERMS, make_run
from tests.inference import infer
from tests.mcsc_bundle.methods.cases import REGIONS


@pytest.fixture(
    scope="module", params=[("3d", {}), ("slicewise", {}), ("3d", REGIONS)], ids=["3d", "slicewise", "regions"]
)
def home(request, tmp_path_factory):
    """A bundle, a scan, and the mask that the repository makes of it."""
    folder = tmp_path_factory.mktemp("home")
    kind, changes = request.param
    run = make_run(folder / "run", kind, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bundle.pack.export_torchscript", lambda bundle: None)
        pack(run, "tiny_mri_segmentation", TERMS, folder)
    make_images(Plan.load(run / "plan.json"), folder / "scans", 1)
    infer(folder / "scans", run, folder / "masks")
    return folder


def expected(home):
    return np.asarray(nib.load(home / "masks" / "case_0.nii.gz").dataobj)


def without(steps, *kinds):
    chain = steps.transforms if isinstance(steps, Compose) else steps
    return Compose([step for step in chain if not isinstance(step, kinds)])


def without_named(steps, *words):
    return Compose([step for step in steps.transforms if not any(word in type(step).__name__ for word in words)])


def parser_of(bundle):
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    return parser


def test_monai_label_gets_the_same_mask(home):
    bundle = home / "tiny_mri_segmentation"
    parser = parser_of(bundle)
    parser.config["bundle_root"] = str(bundle)
    parser.config["device"] = "cpu"
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    item = parser.get_parsed_content("preprocessing")({"image": str(home / "scans" / "case_0.nii.gz")})
    with torch.no_grad():
        item["pred"] = parser.get_parsed_content("inferer")(item["image"][None], network.eval())[0]
    item = without(parser.get_parsed_content("postprocessing"), SaveImaged)(item)
    assert np.array_equal(item["pred"].numpy()[0], expected(home))
    assert tuple(item["pred"].shape[1:]) == tuple(item["image"].meta["spatial_shape"])  # what Restored resizes to
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    assert next(iter(metadata["inputs"])) == "image" and next(iter(metadata["outputs"])) == "pred"
    names = Plan.load(bundle / "plan.json").channel_classes
    assert metadata["outputs"]["pred"]["channel_def"] == {str(index): name for index, name in enumerate(names)}


def test_deploy_gets_the_same_mask_from_an_image_in_memory_anywhere(home, tmp_path, monkeypatch):
    """Deploy gives images without channels, not files, and neither knows nor sets ``bundle_root``."""
    monkeypatch.chdir(tmp_path)
    bundle = home / "tiny_mri_segmentation"
    parser = parser_of(bundle)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    chain = without_named(parser.get_parsed_content("preprocessing"), "LoadImage", "SaveImage")
    loaded = load_image(home / "scans" / "case_0.nii.gz")
    meta = {"affine": loaded.affine.numpy(), "spatial_shape": loaded.shape[1:], "original_channel_dim": "no_channel"}
    item = chain({"image": MetaTensor.ensure_torch_and_prune_meta(loaded.as_tensor()[0].double(), meta)})
    with torch.no_grad():
        item["pred"] = parser.get_parsed_content("inferer")(item["image"][None], torch.jit.script(network.eval()))[0]
    item = without_named(parser.get_parsed_content("postprocessing"), "LoadImage", "SaveImage")(item)
    assert np.array_equal(item["pred"].numpy()[0], expected(home))
