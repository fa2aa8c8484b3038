"""What only a GPU can show; skipped elsewhere. ``benchmarks/gpu_check.py`` runs the same laws."""

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_laws_on_the_device():
    from benchmarks.gpu_check import check_laws

    broken = [name for name, kept in check_laws(torch.device("cuda")).items() if not kept]
    assert not broken
