"""DistributedDataParallel over two processes: local statistics, averaged gradients."""

import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import relative_error
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import iabn


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), iabn.InPlaceABN(8), nn.Conv2d(8, 2, 1)).double()


def batch(rank):
    torch.manual_seed(10 + rank)
    return torch.randn(4, 3, 6, 6, dtype=torch.float64)


def train(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    parallel = DistributedDataParallel(model(), broadcast_buffers=False)
    for _ in range(2):  # the second pass finds the buckets in their final order
        parallel.zero_grad()
        parallel(batch(rank)).square().mean().backward()
    torch.save([p.grad for p in parallel.parameters()], os.path.join(folder, f"grads{rank}.pt"))
    dist.destroy_process_group()


def test_gradients_are_the_mean_of_the_processes(tmp_path):
    mp.start_processes(train, (str(tmp_path),), nprocs=2, start_method="spawn")
    alone = [model() for _ in range(2)]
    for rank, one in enumerate(alone):
        one(batch(rank)).square().mean().backward()
    want = [(a.grad + b.grad) / 2 for a, b in zip(*(one.parameters() for one in alone), strict=True)]
    for rank in range(2):
        got = torch.load(tmp_path / f"grads{rank}.pt")
        for mine, expected in zip(got, want, strict=True):
            assert relative_error(mine, expected) < 1e-12


def test_the_synchronised_layer_is_local_in_one_process():
    torch.manual_seed(0)
    data = torch.randn(4, 3, 5, 5)
    assert torch.equal(iabn.InPlaceABNSync(3)(data.clone()), iabn.InPlaceABN(3)(data.clone()))
