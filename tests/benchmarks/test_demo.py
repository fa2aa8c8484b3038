"""What the demo says of data that cannot be fetched."""

import pytest
from monai.apps import DecathlonDataset

from benchmarks.demo import download_decathlon


def test_offline_download_says_what_else_to_do(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(DecathlonDataset, "__init__", refuse)
    with pytest.raises(SystemExit, match=r"could not download Task04_Hippocampus \(no route to host\).*make demo"):
        download_decathlon(tmp_path, "Task04_Hippocampus")


def test_unknown_task_lists_the_known_ones(tmp_path):
    with pytest.raises(SystemExit, match=r"Task04_Hippocampus.*received 'Task99'"):
        download_decathlon(tmp_path, "Task99")
