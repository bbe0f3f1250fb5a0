"""The synchronised layer beside torch.nn.SyncBatchNorm + leaky ReLU and beside the local layer, a process per GPU.

"iabn sync" goes through NCCL, "iabn peers" through memory that the GPUs share (iabn.use_peer_memory). Times forward +
backward of the modules in bfloat16, channels-last, eager (where the host's time counts too) and in a
CUDA graph; prints microseconds and passes (time in units of one copy of the tensor). With one GPU the group has one
process and the synchronised path is taken all the same. Every process runs the same; rows are those of rank 0.

  python benchmarks/compare_sync.py --processes 2 --csv rows.csv
"""

import argparse
import csv
import datetime
import gc
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

import iabn
from iabn import _ops, _sync

sys.path.insert(0, str(Path(__file__).parent))
from compare_torch import COLUMNS, Timer, copy_bandwidth, driver_version, format_shape, parse_shape, quantiles

SHAPES = ["32x256x56x56", "16x1024x14x14", "16x2048x7x7"]
SLOPE = 0.01


class SameMemory(torch.autograd.Function):
    """A tensor that may be overwritten in place of a leaf, without a copy."""

    @staticmethod
    def forward(ctx, x):
        return x.new_empty(0).set_(x.untyped_storage(), 0, x.shape, x.stride())

    @staticmethod
    def backward(ctx, d):
        return d


class OverGroup(iabn.InPlaceABN):
    """The synchronised path, whatever the size of the group."""

    def forward(self, x):
        running = (self.running_mean, self.running_var, self.num_batches_tracked, self.momentum)
        options = (self.eps, _ops.ACTIVATIONS["leaky_relu"], SLOPE, 0)
        return _sync.synchronised(x, self.weight, self.bias, running, options, None)


class SyncBatchNorm(torch.nn.SyncBatchNorm):
    def forward(self, x):
        return F.leaky_relu_(super().forward(x), SLOPE)


def variants(channels, processes, peers):
    made = {
        "iabn local": iabn.InPlaceABN(channels),
        "iabn sync": iabn.InPlaceABNSync(channels) if processes > 1 else OverGroup(channels),
        "iabn peers": iabn.InPlaceABNSync(channels, group=peers),
        "torch sync": SyncBatchNorm(channels),
    }
    if processes == 1:
        del made["torch sync"], made["iabn peers"]  # alone they are the local ones
    return {name: module.cuda() for name, module in made.items()}


def timed(step, repeats, rounds):
    """Microseconds of one step, of each round."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(rounds):
        dist.barrier()
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            step()
        stop.record()
        stop.synchronize()
        times.append(1e3 * start.elapsed_time(stop) / repeats)
    return times


def captured(step):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(GRAPH_STEPS):
            step()
    return graph.replay


GRAPH_STEPS = 10


def process(rank, options, folder):
    os.environ |= {"NCCL_NVLS_ENABLE": "0", "NCCL_MAX_CTAS": "8"}
    torch.cuda.set_device(rank)
    device = torch.device("cuda", rank)
    dist.init_process_group(
        "nccl", init_method=f"file://{folder}/store", rank=rank, world_size=options.processes, device_id=device
    )
    peers = dist.new_group() if options.processes > 1 else None
    if peers and (reason := iabn.use_peer_memory(peers)):
        raise RuntimeError(reason)
    bandwidth = copy_bandwidth(device, Timer(device))  # bytes per ms
    sha = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    stamp = [torch.cuda.get_device_name(), driver_version(), torch.__version__, sha.strip(), datetime.date.today()]
    rows = []
    for shape in map(parse_shape, options.shapes):
        one_pass = 1e3 * 2 * math.prod(shape) / bandwidth  # us: 2 bytes a value
        x, d_z = (
            torch.randn(shape, device=device, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
            for _ in range(2)
        )
        x.requires_grad_()
        steps = {}
        for name, module in variants(shape[1], options.processes, peers).items():
            parameters = [x, module.weight, module.bias]

            def step(module=module, parameters=parameters, x=x, d_z=d_z):
                return torch.autograd.grad(module(SameMemory.apply(x)), parameters, d_z)

            for _ in range(3):
                step()
            steps[name, "eager"] = (step, 1)
            steps[name, "in a graph"] = (captured(step), GRAPH_STEPS)
        times = {key: [] for key in steps}
        for _ in range(options.rounds):
            for key, (step, held) in steps.items():
                times[key] += [t / held for t in timed(step, 20 if held == 1 else 4, 1)]
        for (name, way), values in times.items():
            middle = statistics.median(values)
            if rank == 0:
                print(
                    f"{format_shape(shape):16s} {name:10s} {way:10s} {middle:8.1f} us {middle / one_pass:6.2f} passes"
                )
                at = [f"{options.processes} processes", name, format_shape(shape), "bfloat16", "channels_last"]
                rows.append([*at, f"both, {way}", "time", *quantiles(values), "us", *stamp])
    steps.clear()  # a group waits for the graphs that hold its work
    del step
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0 and options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=torch.cuda.device_count())
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(process, (options, folder), nprocs=options.processes, start_method="spawn")


if __name__ == "__main__":
    main()
