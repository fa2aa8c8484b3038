from __future__ import annotations

from pathlib import Path

import pytest

from bundle.facts import PackError
from bundle.pack import pack
from bundle.publish import publish
from tests.bundle.runs import TERMS, make_run


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setattr("bundle.pack.export_torchscript", lambda bundle: None)
    return pack(make_run(tmp_path / "run"), "tiny_mri_segmentation", TERMS, tmp_path)[0]


class Hub:
    """Takes note of what MONAI asks of the hub."""

    calls: list

    def __init__(self, token=None):
        pass

    def create_repo(self, **options):
        self.calls.append(("create", options))

    def upload_folder(self, repo_id, folder_path, **options):
        files = {path.relative_to(folder_path).as_posix() for path in Path(folder_path).rglob("*") if path.is_file()}
        self.calls.append(("upload", repo_id, files, (Path(folder_path) / "README.md").read_text()[:60]))
        return f"https://huggingface.co/{repo_id}"

    def create_tag(self, **options):
        self.calls.append(("tag", options))


@pytest.fixture
def hub(monkeypatch):
    pytest.importorskip("huggingface_hub")
    Hub.calls = []
    monkeypatch.setattr("monai.bundle.scripts.huggingface_hub.HfApi", Hub)
    return Hub


def test_a_dry_run_lists_and_sends_nothing(bundle, hub):
    lines = publish(bundle, "somebody/tiny", dry_run=True, run=False)
    assert any(line.endswith("models/model.pt") for line in lines) and hub.calls == []


def test_what_is_sent_is_what_was_listed_with_a_header_and_a_tag(bundle, hub):
    (bundle / "__pycache__").mkdir()
    (bundle / "__pycache__" / "x.pyc").write_text("")
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    lines = publish(bundle, "somebody/tiny", run=False)
    (_, created), (_, repo, files, header), (_, tag) = hub.calls
    assert created["private"] and repo == "somebody/tiny" and tag["tag"] == "0.1.0"
    assert (
        files == {line.split()[1] for line in lines} and "README.md" in files and not any("pycache" in f for f in files)
    )
    assert header.startswith("---\ntags:\n- monai\n- medical")
    assert before == {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_a_bundle_with_faults_is_not_sent(bundle, hub):
    (bundle / "models" / "model.pt").write_bytes(b"other")
    with pytest.raises(PackError, match=r"not in order: .*checksums"):
        publish(bundle, "somebody/tiny", run=False)
    with pytest.raises(PackError, match="OWNER/NAME"):
        publish(bundle, "tiny", run=False)
    assert hub.calls == []
