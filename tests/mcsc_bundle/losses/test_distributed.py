"""Two ranks equal one process on the joined batch."""

import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from mcsc_bundle.losses.contrastive import balanced_contrastive_loss
from mcsc_bundle.losses.distributed import gather_features, mean_over_ranks

RANKS = 2


def batch():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(RANKS, 3, 10, 6, generator=generator)  # (rank, G, N, channels)
    return inputs, torch.randint(-1, 3, (RANKS, 3, 10), generator=generator)


def projector():
    torch.manual_seed(1)
    return nn.Linear(6, 4)


def rank_main(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    network = nn.parallel.DistributedDataParallel(projector())
    inputs, labels = batch()
    loss = balanced_contrastive_loss(*gather_features(network(inputs[rank]), labels[rank]), num_classes=3)
    loss.backward()
    mean = mean_over_ranks(torch.tensor([1.0, rank]))
    torch.save((loss.detach(), network.module.weight.grad, mean), f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's destructor joins a thread that may wait for the GIL, which the destructor holds (torch 2.13)


def test_two_ranks_equal_one_process_on_the_joined_batch(tmp_path):
    mp.spawn(rank_main, (str(tmp_path),), nprocs=RANKS)
    inputs, labels = batch()
    network = projector()
    loss = balanced_contrastive_loss(torch.cat([network(x) for x in inputs], 1), torch.cat([*labels], 1), 3)
    loss.backward()
    for rank in range(RANKS):
        value, gradient, mean = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert mean.tolist() == [1.0, 0.5]
        assert torch.allclose(value, loss, rtol=1e-6) and torch.allclose(gradient, network.weight.grad, rtol=1e-5)


def test_without_a_process_group_nothing_changes():
    features, labels = batch()[0][0], batch()[1][0]
    gathered = gather_features(features, labels)
    assert gathered[0] is features and gathered[1] is labels
    assert mean_over_ranks(features) is features
