"""Two ranks equal one process on the joined batch."""

import os
from dataclasses import replace

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from mcsc_bundle.losses.contrastive import balanced_contrastive_loss
from mcsc_bundle.losses.distributed import gather_features, groups_of_rank, mean_over_ranks, world_size
from mcsc_bundle.methods import MultiScaleContrast, contrast
from mcsc_bundle.networks import NetworkPair
from tests.plans import make_plan

RANKS = 2


def batch():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(RANKS, 3, 10, 6, generator=generator)  # (rank, G, N, channels)
    return inputs, torch.randint(-1, 3, (RANKS, 3, 10), generator=generator)


def projector():
    torch.manual_seed(1)
    return nn.Linear(6, 4)


def unshuffled_blocks(shape, block, maps, device=None):
    """Of every map the same blocks in the same order, so that the ranks' draw is that of the joined batch."""
    torch.manual_seed(3)
    return contrast_blocks(shape, block, 1, device).expand(-1, maps, -1)


contrast_blocks = contrast.local_blocks


def multi_scale(balanced):
    """The module, and for each rank the decoder maps of both networks and the labels of either."""
    plan = make_plan("slicewise")
    plan = replace(plan, contrast=tuple(replace(scale, pixels=None) for scale in plan.contrast))
    torch.manual_seed(1)
    networks = NetworkPair.from_plan(plan)
    module = MultiScaleContrast(plan, networks, balance_anchors=balanced)
    ranks = []
    for _ in range(RANKS):
        image = torch.randn(2, plan.in_channels, *plan.patch_size)
        maps = tuple([m.detach() for m in network.features(image)] for network in (networks.cnn, networks.transformer))
        labels = tuple(torch.randint(-1, plan.num_classes, (2, *plan.patch_size)) for _ in range(2))
        ranks.append((maps, labels))
    return module, ranks


def losses_and_gradients(module, maps, labels):
    losses = torch.stack(module(maps, labels))
    losses.sum().backward()
    return losses.detach(), [p.grad for p in module.parameters()]


def rank_main(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    network = nn.parallel.DistributedDataParallel(projector())
    inputs, labels = batch()
    loss = balanced_contrastive_loss(*gather_features(network(inputs[rank]), labels[rank]), num_classes=3)
    loss.backward()
    mean = mean_over_ranks(torch.tensor([1.0, rank]))
    torch.save((loss.detach(), network.module.weight.grad, mean), f"{folder}/{rank}.pt")
    contrast.local_blocks = unshuffled_blocks
    for balanced in (False, True):
        module, ranks = multi_scale(balanced)
        losses, gradients = losses_and_gradients(module, *ranks[rank])
        torch.save((losses, [mean_over_ranks(g) for g in gradients]), f"{folder}/{rank}{balanced}.pt")  # as DDP
    dist.barrier()
    os._exit(0)  # gloo's destructor joins a thread that may wait for the GIL, which the destructor holds (torch 2.13)


def test_two_ranks_equal_one_process_on_the_joined_batch(tmp_path, monkeypatch):
    mp.spawn(rank_main, (str(tmp_path),), nprocs=RANKS)
    inputs, labels = batch()
    network = projector()
    loss = balanced_contrastive_loss(torch.cat([network(x) for x in inputs], 1), torch.cat([*labels], 1), 3)
    loss.backward()
    for rank in range(RANKS):
        value, gradient, mean = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert mean.tolist() == [1.0, 0.5]
        assert torch.allclose(value, loss, rtol=1e-6) and torch.allclose(gradient, network.weight.grad, rtol=1e-5)

    monkeypatch.setattr(contrast, "local_blocks", unshuffled_blocks)
    for balanced in (False, True):
        module, ranks = multi_scale(balanced)
        maps = tuple([torch.cat(both) for both in zip(*(of[0][k] for of in ranks), strict=True)] for k in range(2))
        labels = tuple(torch.cat([of[1][k] for of in ranks]) for k in range(2))
        losses, gradients = losses_and_gradients(module, maps, labels)
        for rank in range(RANKS):
            found = torch.load(tmp_path / f"{rank}{balanced}.pt", weights_only=True)
            assert torch.allclose(found[0], losses, rtol=1e-6)
            for mine, theirs in zip(found[1], gradients, strict=True):
                assert (mine - theirs).norm() < 1e-4 * theirs.norm()


def test_without_a_process_group_nothing_changes():
    features, labels = batch()[0][0], batch()[1][0]
    gathered = gather_features(features, labels)
    assert gathered[0] is features and gathered[1] is labels
    assert mean_over_ranks(features) is features
    assert groups_of_rank() == slice(None) and world_size() == 1
