from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from mcsc_bundle.networks.transfer import TransferError, init_from
from mcsc_bundle.networks.unet import UNet
from mcsc_bundle.tensors import TensorFileError, load_tensors, load_tensors_or_exit
from tests.plans import make_plan


class Writes:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def test_tensors_come_back(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "model.pt")
    assert load_tensors(tmp_path / "model.pt")["a"].tolist() == [0, 1, 2]


def test_code_in_a_pickle_is_named_and_not_run(tmp_path):
    path, marker = tmp_path / "model.pt", tmp_path / "marker"
    torch.save({"a": Writes(marker)}, path)
    with pytest.raises(TensorFileError, match=r"expected a file of tensors, received a pickle that would call") as told:
        load_tensors(path)
    assert "weights_only" not in str(told.value)  # torch's advice to load it all the same
    with pytest.raises(SystemExit, match=r"error: .*Do not load it in another way"):
        load_tensors_or_exit(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # it would have


def test_neither_is_a_pickle_that_torch_did_not_write(tmp_path):
    path, marker = tmp_path / "model.pt", tmp_path / "marker"
    path.write_bytes(pickle.dumps(Writes(marker)))
    with pytest.raises(TensorFileError, match="received a pickle of other things, or a damaged file") as told:
        load_tensors(path)
    assert "weights_only" not in str(told.value) and not marker.exists()


def test_a_damaged_file_is_told_from_a_pickle(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"half of it")
    with pytest.raises(TensorFileError, match="damaged or cut off"):
        load_tensors(tmp_path / "model.pt")


def test_a_training_does_not_start_from_such_a_file(tmp_path):
    (tmp_path / "models").mkdir()
    torch.save({"a": Writes(tmp_path / "marker")}, tmp_path / "models" / "model.pt")
    with pytest.raises(TransferError, match=r"init_from: .*would call"):
        init_from({"cnn": UNet.from_plan(make_plan())}, Path(tmp_path))
    assert not (tmp_path / "marker").exists()
