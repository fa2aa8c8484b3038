"""What only a GPU can show; skipped elsewhere. ``benchmarks/gpu_check.py`` runs the same laws."""

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_laws_on_the_device():
    from benchmarks.gpu_laws import check_laws, compiles

    device = torch.device("cuda")
    laws = {**check_laws(device), "compile near eager": compiles(device)}
    broken = [name for name, kept in laws.items() if not kept]
    assert not broken


def test_cases_that_fit_on_the_gpu_and_others_that_do_not_have_one_mean():
    from mcsc_bundle.scoring import CaseDice

    dice, truth = CaseDice(include_background=False), torch.eye(3).view(1, 3, 3, 1)
    for device in ("cuda", "cpu"):
        dice(truth.to(device), truth.to(device))
    assert float(dice.aggregate()) == 1.0
