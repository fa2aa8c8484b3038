"""What is not packed, and why."""

from __future__ import annotations

import pickle

import pytest
import torch

from bundle.configs import packed_configs
from bundle.facts import PackError, read_run
from bundle.pack import pack
from tests.bundle.runs import TERMS, make_run
from tests.plans import make_plan


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_damaged_checkpoint_is_named(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "models" / "checkpoint.pt").write_bytes(b"half of it")
    with pytest.raises(PackError, match=r"checkpoint\.pt: expected a file of tensors, .*damaged or cut off.*Delete it"):
        pack(run, "tiny", TERMS, tmp_path)


def test_what_cannot_be_packed_is_refused_with_the_reason(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(PackError, match="words of letters"):
        pack(run, "../evil", TERMS, tmp_path)
    with pytest.raises(PackError, match="three numbers"):
        pack(run, "tiny", TERMS, tmp_path, version="1")
    with pytest.raises(PackError, match="folder of a training"):
        pack(tmp_path, "tiny", TERMS, tmp_path)
    make_plan("anisotropic").save(run / "plan.json")
    with pytest.raises(PackError, match=r"fit plan\.json, received others in .*model\.pt"):
        pack(run, "tiny", TERMS, tmp_path)
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    "write", [lambda path: torch.save(Evil(), path), lambda path: path.write_bytes(pickle.dumps(Evil()))]
)
def test_a_pickle_in_model_pt_is_refused_unread(tmp_path, capsys, write):
    run = make_run(tmp_path / "run")
    write(run / "models" / "model.pt")
    with pytest.raises(PackError, match="received a pickle ") as refused:
        read_run(run)
    assert "weights_only" not in str(refused.value)  # torch's advice to unpickle all the same
    assert "code ran" not in capsys.readouterr().out


def test_a_name_that_monai_would_evaluate_is_refused():
    plan = make_plan("3d", labels={"background": 0, "$__import__('os').system('true')": 1})
    with pytest.raises(PackError, match="reads as an instruction"):
        packed_configs(plan)
