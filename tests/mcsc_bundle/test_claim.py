"""Two trainings at once in one folder."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mcsc_bundle.claim import ClaimError, claim
from mcsc_bundle.handlers import CheckpointHandler
from mcsc_bundle.trainer import CheckpointError

pytest.importorskip("fcntl")

OTHER = "from mcsc_bundle.claim import claim; claim({folder!r}); print('has it', flush=True); input()"


def other_process(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER.format(folder=str(folder))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "has it\n"
    return process


def test_what_another_process_trains_is_left_alone_until_it_ends_or_is_killed(tmp_path):
    process = other_process(tmp_path / "models")
    with pytest.raises(ClaimError, match=rf"found that process {process.pid} on .* trains there\. Wait for it"):
        claim(tmp_path / "models")
    with pytest.raises(CheckpointError, match="expected no other training in"):
        CheckpointHandler(str(tmp_path / "models")).claim(None)
    process.kill()
    process.wait()
    claim(tmp_path / "models")


def test_a_process_may_train_again_where_it_trained(tmp_path):
    claim(tmp_path)
    claim(tmp_path / ".." / tmp_path.name)


def test_other_folders_are_free(tmp_path):
    process = other_process(tmp_path / "one")
    claim(tmp_path / "two")
    process.communicate("\n")
