"""Starting from another run: what fits is taken over, the rest is named and left as it was."""

import logging

import pytest
import torch

from mcsc_bundle.networks import NetworkPair, pair_or_exit
from mcsc_bundle.networks.transfer import TransferError, init_from
from tests.plans import make_plan


def run_folder(folder, pair, both=True):
    (folder / "models").mkdir(parents=True)
    torch.save(pair.cnn.state_dict(), folder / "models" / "model.pt")
    if both:
        branches = {"cnn": pair.cnn.state_dict(), "transformer": pair.transformer.state_dict()}
        torch.save(branches, folder / "models" / "pair.pt")
    return folder


def test_the_same_plan_takes_over_everything(tmp_path):
    trained = NetworkPair.from_plan(make_plan("3d"))
    fresh = pair_or_exit(make_plan("3d"), init_from=run_folder(tmp_path / "run", trained))
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name


def test_another_number_of_classes_starts_only_the_heads_anew(tmp_path, caplog):
    folder = run_folder(tmp_path / "run", NetworkPair.from_plan(make_plan("3d")))
    more = NetworkPair.from_plan(make_plan("3d", labels={"background": 0, "a": 1, "b": 2, "c": 3}))
    before = {name: tensor.clone() for name, tensor in more.cnn.head.state_dict().items()}
    with caplog.at_level(logging.INFO):
        transfers = init_from({"cnn": more.cnn, "transformer": more.transformer}, folder)
    for branch, network in (("cnn", more.cnn), ("transformer", more.transformer)):
        heads = tuple(name for name in network.state_dict() if name.startswith("head."))
        assert transfers[branch].kept == heads and heads
    assert all(torch.equal(tensor, before[name]) for name, tensor in more.cnn.head.state_dict().items())
    assert "head." in caplog.text


def test_a_bundle_with_the_cnn_alone_leaves_the_transformer(tmp_path, caplog):
    folder = run_folder(tmp_path / "bundle", NetworkPair.from_plan(make_plan("3d")), both=False)
    torch.manual_seed(5)
    expected = NetworkPair.from_plan(make_plan("3d")).transformer.state_dict()
    torch.manual_seed(5)
    with caplog.at_level(logging.INFO):
        started = NetworkPair.from_plan(make_plan("3d"), init_from=folder)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in started.transformer.state_dict().items())
    assert "holds no transformer" in caplog.text


def test_a_network_of_other_dimensions_is_refused(tmp_path):
    folder = run_folder(tmp_path / "run", NetworkPair.from_plan(make_plan("2d")))
    with pytest.raises(SystemExit, match="plan_from"):
        pair_or_exit(make_plan("3d"), init_from=folder)


@pytest.mark.parametrize("content", (None, b"no checkpoint"))
def test_a_folder_without_readable_weights_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "model.pt").write_bytes(content)
    with pytest.raises(TransferError, match=r"init_from: .*expected"):
        NetworkPair.from_plan(make_plan("3d"), init_from=tmp_path)
