"""Two ranks equal one process on the joined batch, for the terms whose definition allows it.

``DistributedDataParallel`` averages the ranks' gradients. That is the joined batch's gradient for a mean over voxels. It is
not where a term is a ratio of sums over the batch, which each rank takes over its own patches, as nnU-Net does outside its
batch Dice:

- Dice over the batch: ``cross_*`` of cross teaching and of MCSC as the paper means it, and all terms of BCP;
- URPC's consistency, divided by the batch's mean trust, and UA-MT's, divided by the number of certain voxels.

Those are asked for less: with the same patches on both ranks they too give the joined batch's gradient. Left out are terms
that draw at random for each patch, so that the ranks' draws are not those of the joined batch: MCSC's strong views, and the
block shuffle of the contrast, whose law is in ``tests/mcsc_bundle/losses/test_distributed.py``. For the rest the noise is
switched off, and dropout by eval mode.
"""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from mcsc_bundle.methods import BCP, CPS, MCSC, UAMT, URPC, CrossTeaching, MeanTeacher, PaperMCSC, Supervised
from mcsc_bundle.trainer import sum_of_terms
from tests.mcsc_bundle.methods.cases import METHODS, batch_of, build, confident

RANKS = 2
KINDS = ("slicewise", "3d")
OF_PATCHES = {  # terms that are means over patches
    Supervised: {"supervised"},
    MeanTeacher: {"supervised", "consistency"},
    UAMT: {"supervised", "consistency"},  # of a teacher that is certain everywhere
    CPS: {"supervised_cnn", "supervised_second", "cross_cnn", "cross_second"},
    CrossTeaching: {"supervised_cnn", "supervised_transformer"},
    PaperMCSC: {"supervised_cnn", "supervised_transformer"},
    MCSC: {"supervised_cnn", "supervised_transformer"},
    URPC: {"supervised"},
    BCP: set(),
}
OF_THE_BATCH = {  # ratios of sums over the batch
    CrossTeaching: {"cross_cnn", "cross_transformer"},
    PaperMCSC: {"cross_cnn", "cross_transformer"},
    URPC: {"consistency"},
    BCP: {"labeled_inside", "labeled_outside", "unlabeled_inside", "unlabeled_outside"},
}


def gradients(kind, method, batch):
    """Gradient of each term, all parameters in one vector (0 where a term does not reach)."""
    _, module = build(kind, method, batch_dice=False)
    confident(module).eval()
    with_opinions(module)
    torch.manual_seed(7)  # the box of BCP
    terms = module(batch, 1.0)
    parameters = [p for p in module.parameters() if p.requires_grad]
    result = {}
    for name, term in terms.items():
        parts = torch.autograd.grad(term, parameters, retain_graph=True, materialize_grads=True)
        result[name] = torch.cat([part.flatten() for part in parts])
    return result


@torch.no_grad()
def with_opinions(module):
    """Teachers that are not their students, and lower heads that are far from the main one, as after some training."""
    torch.manual_seed(5)
    for name, parameter in module.named_parameters():
        if "teacher" in name:
            parameter.add_(0.3 * torch.randn(parameter.shape))
        if name.startswith("heads"):
            parameter.mul_(20)


def batches(kind, method):
    """Of each rank: patches of its own, and the same for both."""
    plan, _ = build(kind, method)
    different = [batch_of(plan, seed) for seed in range(RANKS)]
    return {"different": different, "same": different[:1] * RANKS}


def joined(parts):
    """Labelled patches of all ranks first, then the unlabelled ones."""
    image = torch.stack([part["image"] for part in parts])  # (rank, L + U, C, *spatial)
    return {
        "image": torch.cat((image[:, :2].flatten(0, 1), image[:, 2:].flatten(0, 1))),
        "label": torch.cat([part["label"] for part in parts]),
    }


def rank_main(rank, folder):
    torch.set_num_threads(1)
    torch.randn_like = torch.zeros_like  # no noise
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    found = {}
    for kind in KINDS:
        for method in METHODS:
            for patches, parts in batches(kind, method).items():
                terms = gradients(kind, method, parts[rank])
                for gradient in terms.values():
                    dist.all_reduce(gradient)
                found[kind, method.__name__, patches] = {name: g / RANKS for name, g in terms.items()}
            in_step(kind, method, batches(kind, method)["different"][rank])
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's destructor joins a thread that may wait for the GIL, which the destructor holds (torch 2.13)


def in_step(kind, method, batch):
    """Two steps as the trainer takes them, at both ends of the training; the ranks must stay equal.

    Raises:
        RuntimeError: from DDP, where a step leaves a parameter without gradient.
        AssertionError: the ranks have drifted apart.
    """
    _, module = build(kind, method)
    wrapped = DistributedDataParallel(confident(module))
    optimizer = torch.optim.SGD(module.parameter_groups(0.1))
    for progress in (0.0, 1.0, 1.0):
        optimizer.zero_grad()
        sum_of_terms(wrapped(batch, progress)).backward()
        optimizer.step()
        module.after_step(progress)
    mine = torch.cat([value.detach().float().flatten() for value in module.parameters()])
    others = [torch.empty_like(mine) for _ in range(RANKS)]
    dist.all_gather(others, mine)
    assert torch.equal(*others), (kind, method.__name__)
    if method is MCSC:  # rank 0's checkpoint is that of all ranks
        losses = [None] * RANKS
        dist.all_gather_object(losses, module.mistakes_so_far)
        assert losses[0] == losses[1]


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("ranks"))
    mp.spawn(rank_main, (folder,), nprocs=RANKS)
    return [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.slow
def test_two_ranks_equal_one_process_on_the_joined_batch(of_ranks, monkeypatch):
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    for kind in KINDS:
        for method in METHODS:
            for patches, parts in batches(kind, method).items():
                wanted = OF_PATCHES[method] | (OF_THE_BATCH.get(method, set()) if patches == "same" else set())
                one = gradients(kind, method, joined(parts))
                assert wanted <= one.keys()
                for name in wanted:
                    for rank in of_ranks:
                        two = rank[kind, method.__name__, patches][name]
                        error = (two - one[name]).norm() / one[name].norm()
                        assert error < 1e-4, (kind, method.__name__, patches, name, float(error))


@pytest.mark.slow
def test_ratios_over_the_batch_are_taken_on_each_rank(of_ranks):
    """What the account above says they do; if this fails, they have become part of the first table."""
    for method, names in OF_THE_BATCH.items():
        one = gradients("3d", method, joined(batches("3d", method)["different"]))
        for name in names:
            two = of_ranks[0]["3d", method.__name__, "different"][name]
            assert (two - one[name]).norm() / one[name].norm() > 1e-4, (method.__name__, name)
