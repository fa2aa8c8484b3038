"""One thread for each process: the networks are tiny, and threads that wait for one another on shared cores cost minutes."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; the processes that tests start inherit it

import pytest
import torch

if not torch.cuda.is_available():  # before Triton is imported: without a GPU its kernels are interpreted
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def ascii_locale(monkeypatch):
    """Text that is read without naming its encoding is taken for ASCII, as where LANG is C."""
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, encoding="ascii", errors=None: read(path, encoding, errors))
