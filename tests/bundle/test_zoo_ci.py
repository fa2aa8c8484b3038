"""What the model zoo's CI does to a bundle, in a folder that looks like the zoo's checkout.

Followed: ``ci/verify_bundle.py`` (mode full), ``ci/get_bundle_requirements.py`` and ``ci/unit_tests/runner.py`` of
Project-MONAI/model-zoo, with its relative paths and order of ``sys.path``. The network is not needed: the schema
is the part of the published one that a bundle can miss.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

from bundle.pack import pack
from bundle.zoo_test import TEMPLATE, write_zoo_test
from tests.bundle.runs import TERMS, make_run

CHECK_WORKFLOW = """
def check_workflow(workflow, check_properties=False):
    workflow.initialize()
    if check_properties:
        missing = workflow.check_properties()
        assert not missing, missing
    workflow.run()
    workflow.finalize()
"""

VERIFY = """
import json, os, sys
import torch
from monai.bundle import ckpt_export, verify_metadata, verify_net_in_out

bundle = os.path.join("models", sys.argv[1])
sys.path = [bundle] + sys.path
meta = f"{bundle}/configs/metadata.json"
inference = f"{bundle}/configs/inference.json"
verify_metadata(meta_file=meta, filepath=f"{bundle}/eval/schema.json")
verify_net_in_out(net_id="network_def", meta_file=meta, config_file=inference, bundle_root=bundle)
ckpt_export(
    net_id="network_def", filepath=f"{bundle}/models/verify_model.ts", ckpt_file=f"{bundle}/models/model.pt", meta_file=meta,
    config_file=inference, bundle_root=bundle,
)
torch.jit.load(f"{bundle}/models/verify_model.ts")
torch.jit.load(f"{bundle}/models/model.ts")
"""

TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    },
}
SCHEMA = {
    "type": "object",
    "required": [
        "schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
        "description", "authors", "copyright", "network_data_format",
    ],
    "properties": {
        "changelog": {"type": "object"},
        "required_packages_version": {"type": "object"},
        "eval_metrics": {"type": "object"},
        "supported_apps": {"type": "object"},
        "references": {"type": "array", "items": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {key: {"additionalProperties": TENSOR} for key in ("inputs", "outputs")},
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=["3d", "slicewise"])
def zoo(request, tmp_path_factory):
    """``models/NAME`` and ``ci/unit_tests/test_NAME.py`` as a pull request brings them."""
    folder = tmp_path_factory.mktemp("zoo")
    name = f"tiny{request.param}_mri_segmentation"
    channels = ("T1", "T2") if request.param == "slicewise" else ("MRI",)
    pack(make_run(folder / "run", request.param, channel_names=channels), name, TERMS, folder / "dist")
    tests = folder / "checkout" / "ci" / "unit_tests"
    tests.mkdir(parents=True)
    bundle = shutil.copytree(folder / "dist" / name, folder / "checkout" / "models" / name)
    shutil.copyfile(folder / "dist" / f"test_{name}.py", tests / f"test_{name}.py")
    (tests / "utils.py").write_text(CHECK_WORKFLOW)
    (bundle / "eval").mkdir()
    (bundle / "eval" / "schema.json").write_text(json.dumps(SCHEMA))
    return folder / "checkout", name


def python(zoo, *arguments):
    call = [sys.executable, "-P", "-W", "ignore", *arguments]
    return subprocess.run(call, cwd=zoo[0], capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_verify_bundle(zoo):
    root, name = zoo
    bundle = root / "models" / name
    ended = python(zoo, "-c", VERIFY, name)
    assert ended.returncode == 0, ended.stderr
    for file in ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt"):
        assert (bundle / file).exists()
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]


@pytest.mark.slow
def test_the_zoo_unit_test_passes(zoo):
    root, name = zoo
    tests = root / "ci" / "unit_tests"
    code = f"import sys, unittest; sys.path.append({str(tests)!r}); unittest.main('test_{name}', argv=['test'])"
    ended = python(zoo, "-c", code)
    assert ended.returncode == 0, ended.stderr
    assert "Ran 2 tests" in ended.stderr


def test_the_unit_test_names_the_bundle_and_the_template_nothing_else(tmp_path):
    text = write_zoo_test(tmp_path, "heart_mri_segmentation").read_text()
    assert text.replace("heart_mri_segmentation", "bundle_name") == TEMPLATE.read_text()
    assert text.count("heart_mri_segmentation") == 1


@pytest.mark.slow
def test_every_requirement_is_a_version_that_an_index_can_have(zoo):
    metadata = json.loads((zoo[0] / "models" / zoo[1] / "configs" / "metadata.json").read_text())
    versions = {name: metadata[f"{name}_version"] for name in ("monai", "pytorch", "numpy")}
    versions |= metadata["required_packages_version"]
    assert all(re.fullmatch(r"\d+(\.\d+)*", version) for version in versions.values()), versions
