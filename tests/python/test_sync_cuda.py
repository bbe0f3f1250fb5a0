"""InPlaceABNSync over NCCL and through peer memory, a GPU for each process: equal to one process on the whole batch,
eager, compiled and in a CUDA graph; without a wait of the host."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import relative_error
from test_sync import KINDS, assert_equals_whole, layer, results, tensors
from torch import nn

import iabn
from iabn import _ops, _sync

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

SHARES = [(4, 4), (7, 1), (8, 0)]
ROUTES = ["eager", "compiled", "graph"]
PEER_KINDS = [(torch.float32, "signed"), (torch.float32, "legacy"), (torch.bfloat16, "signed")]
PEER_ROUTES = ["peers", "peers graph"]
LARGE = (6, 128, 28, 28)  # what the on-chip kernels take
STEPS = 10


def captured(step, warm_up):
    """The CUDA graph of `step` and its result, after `warm_up` eager ones on the stream of the capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        result = step()
    return graph, result


def share_of(rank, shares, dtype, gamma, folder, way=""):
    first = sum(shares[:rank])
    x, d_z = (t[first : first + shares[rank]].cuda() for t in tensors(dtype))
    made = layer(iabn.InPlaceABNSync, dtype, gamma=gamma).cuda()
    torch.save(results(made, x, d_z), os.path.join(folder, f"{way}{shares}-{dtype}-{gamma}-{rank}.pt"))


def network(kind, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), kind(8), nn.Conv2d(8, 2, 1)).to("cuda", dtype)


def ten_steps(model, x, processes, route):
    """The sum of squares over the whole batch is the loss; gradients are summed over the processes."""
    function = torch.compile(model, fullgraph=True) if route == "compiled" else model
    parameters = list(model.parameters())

    def step():
        gradients = torch.autograd.grad(function(x).square().sum(), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if processes > 1:
                    dist.all_reduce(gradient)
                parameter.sub_(1e-4 * gradient)

    if "graph" in route:
        graph, _ = captured(step, 3)
        for _ in range(STEPS - 3):
            graph.replay()
        torch.cuda.synchronize()
    else:
        for _ in range(STEPS):
            step()


def batch():
    torch.manual_seed(1)
    return torch.randn(8, 3, 6, 6, dtype=torch.float64)


def large(shares, rank=None):
    """x and d_z of a rank, or of all."""
    torch.manual_seed(5)
    parts = [torch.randn(2, *LARGE, device="cuda") * 2 + 1 for _ in shares]
    parts = [part[:, :share] for part, share in zip(parts, shares, strict=True)]
    x, d_z = torch.cat(parts, 1) if rank is None else parts[rank]
    return [t.bfloat16().contiguous(memory_format=torch.channels_last) for t in (x, d_z)]


def without_collectives(*_, **__):
    raise AssertionError("a collective")


def through_peers(rank, folder):
    os.environ["NCCL_MAX_CTAS"] = "64" if rank == 1 else "8"
    assert iabn.use_peer_memory() == "rank 1: NCCL_MAX_CTAS must be from 1 to 8, is 64"
    os.environ["NCCL_MAX_CTAS"] = "8"
    assert iabn.use_peer_memory() == ""
    for other in (torch.ones(2, 3, device="cuda", dtype=torch.float64), torch.ones(2, 8193, device="cuda")):
        assert _sync._peers_of(other, None) is None
    _sync.dist.all_gather_into_tensor = without_collectives
    for shares in SHARES:
        for dtype, gamma in PEER_KINDS:
            share_of(rank, shares, dtype, gamma, folder, "peers ")
        first = sum(shares[:rank])
        for route in PEER_ROUTES:
            model = network(iabn.InPlaceABNSync, torch.float32)
            ten_steps(model, batch()[first : first + shares[rank]].float().cuda(), 2, route)
            torch.save(model.state_dict(), os.path.join(folder, f"steps-{route}-{shares}-{rank}.pt"))
    for shares in ((6, 6), (6, 1)):
        made = iabn.InPlaceABNSync(LARGE[1]).cuda()
        torch.save(results(made, *large(shares, rank)), os.path.join(folder, f"large-{shares}-{rank}.pt"))
    # The collectives of another stream meanwhile, as when gradients are averaged.
    made, gradients = iabn.InPlaceABNSync(LARGE[1]).cuda(), torch.ones(1 << 22, device="cuda")
    x, d_z = large((6, 6), rank)
    made(x.clone())  # at its first pass a layer asks the others whether they have come to the same one
    torch.cuda.set_sync_debug_mode("error")
    works = []
    for _ in range(200):
        works.append(dist.all_reduce(gradients, op=dist.ReduceOp.AVG, async_op=True))
        made(x.clone().requires_grad_() * 1).backward(d_z)
    torch.cuda.set_sync_debug_mode("default")
    for work in works:
        work.wait()
    assert gradients.unique().tolist() == [1]


def process(rank, folder):
    os.environ |= {"NCCL_NVLS_ENABLE": "0", "NCCL_MAX_CTAS": "8"}
    torch.cuda.set_device(rank)
    device = torch.device("cuda", rank)
    dist.init_process_group("nccl", init_method=f"file://{folder}/store", rank=rank, world_size=2, device_id=device)
    for shares in SHARES:
        for dtype, gamma in KINDS:
            share_of(rank, shares, dtype, gamma, folder)
        for route in ROUTES:
            torch._dynamo.reset()
            model = network(iabn.InPlaceABNSync)
            first = sum(shares[:rank])
            ten_steps(model, batch()[first : first + shares[rank]].cuda(), 2, route)
            torch.save(model.state_dict(), os.path.join(folder, f"steps-{route}-{shares}-{rank}.pt"))
    through_peers(rank, folder)
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("sync_cuda"))
    mp.start_processes(process, (path,), nprocs=2, start_method="spawn")
    return path


@two_gpus
@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize(
    "dtype, gamma, way", [(*kind, "") for kind in KINDS] + [(*kind, "peers ") for kind in PEER_KINDS]
)
def test_two_gpus_equal_one_on_the_whole_batch(folder, shares, dtype, gamma, way):
    x, d_z = (t[: sum(shares)].cuda() for t in tensors(dtype))
    want = results(layer(iabn.InPlaceABN, dtype, gamma=gamma).cuda(), x, d_z)
    files = [f"{way}{shares}-{dtype}-{gamma}-{rank}.pt" for rank in range(2)]
    assert_equals_whole([torch.load(os.path.join(folder, file), map_location="cuda:0") for file in files], want, dtype)


@two_gpus
@pytest.mark.parametrize("shares", [(6, 6), (6, 1)])
def test_two_gpus_equal_one_where_the_kernels_keep_data_on_chip(folder, shares):
    want = results(iabn.InPlaceABN(LARGE[1]).cuda(), *large(shares))
    files = [f"large-{shares}-{rank}.pt" for rank in range(2)]
    got = [torch.load(os.path.join(folder, file), map_location="cuda:0") for file in files]
    assert_equals_whole(got, want, torch.bfloat16)


@two_gpus
@pytest.mark.parametrize("route", ROUTES + PEER_ROUTES)
@pytest.mark.parametrize("shares", SHARES)
def test_ten_training_steps_on_two_gpus(folder, shares, route):
    model = network(iabn.InPlaceABN)
    ten_steps(model, batch().cuda(), 1, "eager")
    tolerance = 1e-4 if "peers" in route else 1e-10  # float32
    for rank in range(2):
        state = torch.load(os.path.join(folder, f"steps-{route}-{shares}-{rank}.pt"), map_location="cuda:0")
        for name, value in model.state_dict().items():
            assert relative_error(state[name].double(), value.double()) < tolerance, (name, rank)


@pytest.fixture
def group_of_one(tmp_path):
    device = torch.device("cuda", 0)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1, device_id=device)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_group_of_one_is_the_local_layer_waits_for_nothing_and_can_be_captured(group_of_one, dtype):
    shape = (16, 64, 14, 14)
    layout = {"device": "cuda", "dtype": dtype}
    x, d_z = (torch.randn(shape, **layout).to(memory_format=torch.channels_last) for _ in range(2))
    x.requires_grad_()
    made = iabn.InPlaceABN(64).cuda()

    def passes(synchronised):
        running = (made.running_mean, made.running_var, made.num_batches_tracked)
        if synchronised:
            options = (made.eps, _ops.ACTIVATIONS["leaky_relu"], 0.01, 0)
            z = _sync.synchronised(x * 1, made.weight, made.bias, (*running, 0.1), options, None)
        else:
            z = made(x * 1)
        return z.detach(), *torch.autograd.grad(z, (x, made.weight, made.bias), d_z)

    state = {name: value.clone() for name, value in made.state_dict().items()}
    want = [*passes(False), *(b.clone() for b in made.buffers())]
    made.load_state_dict(state)
    got = [*passes(True), *(b.clone() for b in made.buffers())]
    tolerance = 1e-5 if dtype == torch.float32 else 5e-3
    for a, b in zip(got, want, strict=True):
        assert relative_error(a, b) < tolerance

    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        passes(True)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    graph, graphed = captured(lambda: passes(True), 3)
    graph.replay()
    torch.cuda.synchronize()
    for a, b in zip(graphed, got, strict=False):
        assert torch.equal(a, b)


def test_opcheck_over_peer_memory(group_of_one):
    card = torch.zeros(128, dtype=torch.uint8)
    area = torch.ops.iabn.peer_area(card, 0, 8, 1)
    peers = [0, 8, 8, 1000, area]
    x, z, d_z = (torch.randn(4, 3, 5, device="cuda") for _ in range(3))
    weight, bias, var = (torch.rand(3, device="cuda") + 0.5 for _ in range(3))
    options = (1e-5, 1, 0.1, 0)
    running = (torch.zeros(3, device="cuda"), torch.ones(3, device="cuda"), torch.tensor(0, device="cuda"))
    # Not the test that compiles, which calls the operator in another order than other processes would.
    tests = ("test_schema", "test_faketensor")
    forward, backward = torch.ops.iabn.abn_peer_forward_.default, torch.ops.iabn.abn_peer_backward.default
    torch.library.opcheck(forward, (x, weight, bias, *running, 0.1, *options, peers), test_utils=tests)
    arguments = (z, d_z, torch.tensor(20.0, device="cuda"), var, weight, bias, *options, True, True)
    torch.library.opcheck(backward, (*arguments, peers), test_utils=tests)
    for wrong, text in (
        ([0, 8, 2, 1000, area], "the layer has 3 channels, the areas have room for 2"),
        ([1, 8, 8, 1000, area], "must come from use_peer_memory"),
        ([0, 8, 8, 1000], "peers must be"),
    ):
        with pytest.raises(RuntimeError, match=text):
            backward(*arguments, wrong)
    with pytest.raises(RuntimeError, match="count must be one float32"):
        backward(z, d_z, torch.ones(1, device="cuda").bfloat16(), var, *arguments[4:], peers)
    with pytest.raises(RuntimeError, match="float64 does not fit"):
        backward(z.double(), d_z.double(), *arguments[2:], peers)


def test_bad_options_of_peer_memory(group_of_one):
    with pytest.raises(ValueError, match="spare_multiprocessors must be at least 1"):
        iabn.use_peer_memory(spare_multiprocessors=0)
    for timeout in (0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="timeout from"):
            iabn.use_peer_memory(timeout=timeout)
    assert iabn.use_peer_memory() == "the group has 1 processes, 2 to 8 can"
