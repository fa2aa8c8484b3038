from __future__ import annotations

import json
import re
import shutil

import pytest
import torch

from bundle.checks_of_files import ABSOLUTE
from bundle.facts import PackError
from bundle.pack import pack, seal
from bundle.verify import report, verify
from tests.bundle.runs import TERMS, make_run
from tests.bundle.test_archive import zip_of
from tests.bundle.test_pack_refused import Evil


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bundle.pack.export_torchscript", lambda bundle: None)
        return pack(make_run(folder / "run"), "tiny_mri_segmentation", TERMS, folder)


@pytest.fixture
def bundle(packed, tmp_path):
    return shutil.copytree(packed[0], tmp_path / packed[0].name)


def failures(bundle):
    return {point.name: point.detail for point in verify(bundle, run=False).failed}


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_packed_bundle_has_no_faults_as_folder_and_as_zip(packed):
    assert failures(packed[0]) == {} and failures(packed[1]) == {}


def image(metadata):
    return metadata["network_data_format"]["inputs"]["image"]


LIES = [
    (lambda m: image(m).update(num_channels=3), "metadata is true", "expected input channels 1 .* received 3"),
    (lambda m: image(m).update(channel_def={"0": "CT"}), "metadata is true", "names of input channels"),
    (lambda m: image(m).update(spatial_shape=[8, 8]), "metadata is true", "expected spatial dimensions 3"),
    (lambda m: image(m).pop("dtype"), "schema", "expected dtype in network_data_format inputs image"),
    (lambda m: m.pop("required_packages_version"), "schema", "expected required_packages_version"),
    (lambda m: m.update(version="9.9.9"), "schema", "9.9.9 in the changelog"),
    (lambda m: m.update(pytorch_version="2.13.0+cpu"), "schema", "as on the index"),
    (lambda m: m["sha256"].update({"models/model.pt": "0" * 64}), "checksums", "expected sha256 0000"),
    (lambda m: m["sha256"].clear(), "checksums", "expected a sha256 of models/model.pt"),
]


@pytest.mark.parametrize(("lie", "point", "reason"), LIES)
def test_metadata_that_lie_are_refused(bundle, lie, point, reason):
    edit(bundle / "configs" / "metadata.json", lie)
    found = failures(bundle)
    assert list(found) == [point]
    assert re.search(reason, found[point])


def test_a_pickle_in_model_pt_is_refused_unread(bundle, capsys):
    torch.save(Evil(), bundle / "models" / "model.pt")
    seal(bundle)  # even where the checksum is right
    assert "received a pickle" in failures(bundle)["no pickles"]
    assert "code ran" not in capsys.readouterr().out


def test_other_faults(bundle):
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    torch.save({name: value[:1] for name, value in state.items()}, bundle / "models" / "model.pt")
    (bundle / "mcsc_bundle" / "folder.py").write_text("# edited")
    (bundle / "docs" / "notes.pkl").write_bytes(b"\x80\x04.")
    (bundle / "docs" / "data_license.txt").write_text("Licence of the data:\n\n")
    edit(bundle / "configs" / "train.json", lambda config: config.update(cache_dir="/home/somebody/cache"))
    found = failures(bundle)
    assert set(found) == {"files", "no pickles", "checksums", "metadata is true", "code", "paths", "licences"}
    assert (
        "notes.pkl" in found["files"]
        and "/home/somebody" in found["paths"]
        and "received others in models/model.pt" in found["metadata is true"]
    )


@pytest.mark.parametrize(
    ("text", "absolute"),
    [
        ("'/home/somebody/data'", True),
        ("C:\\\\Users\\\\me", True),
        ("$@bundle_root + '/data/Hearts'", False),
        ("https://example.org/data/hearts", False),
        ("../data/hearts", False),
    ],
)
def test_absolute_paths_in_text(text, absolute):
    assert bool(ABSOLUTE.search(text)) == absolute


def test_absolute_paths_among_bytes(bundle):
    network = bundle / "models" / "model.onnx"
    network.write_bytes(bytes(range(256)) * 4 + b"i:\\\xe4 R:\\I /tmp/a")
    assert "paths" not in failures(bundle)
    network.write_bytes(network.read_bytes() + b"\x00/home/somebody/mcsc/unet.py\x00")
    assert "/home/somebody/mcsc" in failures(bundle)["paths"]


def test_expressions_are_listed_and_foreign_targets_refused(bundle):
    edit(
        bundle / "configs" / "inference.json", lambda config: config.update(x={"_target_": "os.system"}, y="$print(1)")
    )
    assert "inference.json: x#_target_: os.system" in failures(bundle)["targets"]
    assert "inference.json: y: $print(1)" in verify(bundle).expressions


def test_the_report_fails_loudly(bundle, capsys, tmp_path):
    report(str(bundle), run=False)
    assert "all passed" in capsys.readouterr().out
    edit(bundle / "configs" / "metadata.json", lambda metadata: metadata.update(version="9.9.9"))
    with pytest.raises(SystemExit, match="FAILED: schema") as end:
        report(str(bundle))
    assert end.value.code and "is not run" in capsys.readouterr().out
    with pytest.raises(PackError, match="which leaves it"):
        verify(zip_of(tmp_path / "evil.zip", "good/a", "../evil"))
