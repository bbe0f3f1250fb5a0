"""InPlaceABNSync over processes: equal to one process on the whole batch, for even, uneven and empty shares."""

import copy
import os
import pickle
import re

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import relative_error
from torch import nn
from torch._inductor.utils import run_and_get_code

import iabn

CHANNELS = 6
SHARES = [(4, 4), (7, 1), (8, 0), (3, 0, 5, 1)]
KINDS = [(torch.float64, "signed"), (torch.float64, "legacy"), (torch.bfloat16, "signed")]


def layer(kind, dtype, **options):
    torch.manual_seed(2)
    made = kind(CHANNELS, activation_param=0.1, dtype=torch.float64 if dtype == torch.float64 else None, **options)
    with torch.no_grad():
        made.weight.uniform_(-1.5, 1.5)
        made.bias.uniform_(-0.5, 0.5)
    return made


def tensors(dtype):
    torch.manual_seed(3)
    return [(torch.randn(8 + 1, CHANNELS, 4, 5, dtype=torch.float64) * 2 + 1).to(dtype) for _ in range(2)]


def results(made, x, d_z, steps=2, function=None):
    """z, d_x, d_weight, d_bias of the last step; the buffers after all. Calls `function`, or the layer itself."""
    for _ in range(steps):
        made.zero_grad()
        leaf = x.clone().requires_grad_()
        z = (made if function is None else function)(leaf * 1)
        z.backward(d_z)
    return {
        "z": z.detach(),
        "d_x": leaf.grad,
        "weight": made.weight.grad,
        "bias": made.bias.grad,
        **dict(made.named_buffers()),
    }


def assert_equals_whole(got, want, dtype):
    """got: results() of each process; want: those of one process on the whole batch."""
    tolerance = 1e-12 if dtype == torch.float64 else 0.02
    for name in ("z", "d_x"):
        assert relative_error(torch.cat([one[name] for one in got]), want[name]) < tolerance, name
    for name in ("weight", "bias"):
        assert relative_error(sum(one[name] for one in got), want[name]) < tolerance, name
    for one in got:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert relative_error(one[name], want[name]) < (1e-12 if dtype == torch.float64 else 1e-5), name


def share_of(rank, shares, dtype, gamma, group, folder):
    first = sum(shares[:rank])
    x, d_z = (t[first : first + shares[rank]] for t in tensors(dtype))
    made = layer(iabn.InPlaceABNSync, dtype, gamma=gamma, group=group)
    torch.save(results(made, x, d_z), os.path.join(folder, f"{shares}-{dtype}-{gamma}-{rank}.pt"))
    torch._dynamo.reset()
    made = layer(iabn.InPlaceABNSync, dtype, gamma=gamma, group=group)
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    torch.save(results(made, x, d_z, 2, compiled), os.path.join(folder, f"compiled-{shares}-{dtype}-{gamma}-{rank}.pt"))


def different_layers(rank, group):
    made = iabn.InPlaceABNSync(4 + rank, group=group)
    text = rf"InPlaceABNSync\(.*rank {rank} of the group has num_features {4 + rank}, rank {1 - rank} has num_features "
    for function in (made, torch.compile(made, backend="aot_eager", fullgraph=True)):
        with pytest.raises(RuntimeError, match=text + f"{5 - rank}: every process"):
            function(torch.randn(2, 4 + rank, 3))


def peer_memory_without_gpu(group):
    if not torch.cuda.is_available():
        assert iabn.use_peer_memory(group).startswith("rank 0: no CUDA GPU")


def groups_in_turn(rank, everyone, pair):
    """A group that comes back must not be checked by some of the processes alone."""
    made = layer(iabn.InPlaceABNSync, torch.float64)
    for group in (everyone, pair, everyone):
        made.set_group(group)
        if group is everyone or rank < 2:
            assert torch.isfinite(made(torch.randn(2, CHANNELS, 3, dtype=torch.float64))).all()


def empty_everywhere(group):
    made = layer(iabn.InPlaceABNSync, torch.float64, group=group)
    made(torch.empty(0, CHANNELS, 3, dtype=torch.float64))
    assert torch.equal(made.running_var, torch.ones(CHANNELS, dtype=torch.float64)) and made.num_batches_tracked == 0


def copies_and_evaluation(group):
    made = layer(iabn.InPlaceABNSync, torch.float64, group=group)
    assert copy.deepcopy(made).group is group and copy.copy(made).group is group
    assert pickle.loads(pickle.dumps(made)).group is None
    x, _ = tensors(torch.float64)
    made.eval()
    expected = layer(iabn.InPlaceABN, torch.float64).eval()
    assert torch.equal(made(x.clone()), expected(x.clone()))


def network(kind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), kind(8), nn.Conv2d(8, 2, 1)).double()


def ten_steps(model, share):
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    torch.manual_seed(1)
    for _ in range(10):
        x = torch.randn(8, 3, 6, 6, dtype=torch.float64)
        optimizer.zero_grad()
        model(x[share]).square().mean().backward()
        optimizer.step()


def uneven_compiled_steps(rank, pair, folder):
    """By Inductor; a process compiles again when its batch changes. The convolution's output is overwritten."""
    torch._dynamo.reset()
    model = network(iabn.InPlaceABNSync)
    model[1].set_group(pair)
    compiled = torch.compile(model, fullgraph=True)
    for step, split in enumerate((4, 7, 5)):
        torch.manual_seed(step)
        x = torch.randn(8, 3, 6, 6, dtype=torch.float64)[slice(split) if rank == 0 else slice(split, 8)]
        y, codes = run_and_get_code(compiled, x)
        y.square().sum().backward()
        if step == 0:
            convolved = re.search(r"(buf\d+) = extern_kernels.convolution", codes[0])[1]
            assert f"abn_apply_.default({convolved}, " in codes[0]
            assert not re.search(r"fused_\w*clone", codes[0])
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    state = {"y": y, **gradients, **dict(model.named_buffers())}
    torch.save(state, os.path.join(folder, f"uneven-{rank}.pt"))


def process(rank, folder):
    """Everything in one start of four processes, which takes the longest."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=4)
    pair = dist.new_group([0, 1])
    for shares in SHARES:
        if rank < len(shares):
            for dtype, gamma in KINDS:
                share_of(rank, shares, dtype, gamma, pair if len(shares) == 2 else None, folder)
    groups_in_turn(rank, dist.group.WORLD, pair)
    if rank < 2:
        different_layers(rank, pair)
        peer_memory_without_gpu(pair)
        empty_everywhere(pair)
        copies_and_evaluation(pair)
        model = network(iabn.InPlaceABNSync)
        model[1].set_group(pair)
        parallel = nn.parallel.DistributedDataParallel(model, process_group=pair, broadcast_buffers=False)
        ten_steps(parallel, slice(4 * rank, 4 * rank + 4))
        torch.save(model.state_dict(), os.path.join(folder, f"trained-{rank}.pt"))
        uneven_compiled_steps(rank, pair, folder)
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("sync"))
    mp.start_processes(process, (path,), nprocs=4, start_method="spawn")
    return path


@pytest.mark.parametrize("route", ["", "compiled-"])
@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("dtype, gamma", KINDS)
def test_equals_one_process_on_the_whole_batch(folder, shares, dtype, gamma, route):
    x, d_z = (t[: sum(shares)] for t in tensors(dtype))
    want = results(layer(iabn.InPlaceABN, dtype, gamma=gamma), x, d_z)
    files = [f"{route}{shares}-{dtype}-{gamma}-{rank}.pt" for rank in range(len(shares))]
    assert_equals_whole([torch.load(os.path.join(folder, file)) for file in files], want, dtype)


def test_ten_training_steps(folder):
    model = network(iabn.InPlaceABN)
    ten_steps(model, slice(0, 8))
    for rank in range(2):
        state = torch.load(os.path.join(folder, f"trained-{rank}.pt"))
        for name, value in model.state_dict().items():
            assert relative_error(state[name], value) < 1e-11, name


def test_compiled_network_with_batches_that_change(folder):
    model = network(iabn.InPlaceABN)
    for step in range(3):
        torch.manual_seed(step)
        y = model(torch.randn(8, 3, 6, 6, dtype=torch.float64))
        y.square().sum().backward()
    ranks = [torch.load(os.path.join(folder, f"uneven-{rank}.pt")) for rank in range(2)]
    assert relative_error(torch.cat([one["y"] for one in ranks]), y) < 1e-11
    for name, parameter in model.named_parameters():
        assert relative_error(ranks[0][name] + ranks[1][name], parameter.grad) < 1e-11, name
    for name, value in model.named_buffers():
        for one in ranks:
            assert relative_error(one[name], value) < 1e-11, name
