"""The layer's operators beside PyTorch's BatchNorm + leaky ReLU, eager and compiled, in one process.

Times forward and backward apart, rounds interleaved, over the BatchNorm layers of whole networks; prints milliseconds,
passes (time in units of one copy of the tensor: bytes / copy bandwidth, reads plus writes) and, per network, the time
of all its layers and the geometric mean of the ratios. Inputs rotate over more than the L2.

  python benchmarks/compare_torch.py build/cuda/lib --networks resnet50 --dtypes bfloat16 float16 --csv rows.csv
"""

import argparse
import csv
import datetime
import math
import statistics
import subprocess
import time
from pathlib import Path

import torch
import torch.nn.functional as F

LEAKY_RELU, SIGNED, SLOPE, EPS = 1, 0, 0.01, 1e-5  # iabn::Activation, iabn::kernels::GammaMode
COLUMNS = [
    "case",
    "variant",
    "shape",
    "dtype",
    "layout",
    "pass",
    "metric",
    "p20",
    "p50",
    "p80",
    "unit",
    "gpu",
    "driver",
    "torch",
    "git_sha",
    "date",
]
ROTATED_BYTES = 192 << 20  # more than three times the L2 of an H100


def bottleneck_layers(batch, blocks, base_width, groups_width=1):
    """(shape, how often) of the BatchNorm layers of a torchvision bottleneck ResNet at 224 x 224."""
    layers = [((batch, 64, 112, 112), 1)]
    size, planes = 56, base_width
    for stage, count in enumerate(blocks):
        width, out = planes * groups_width, 4 * planes
        before = size if stage == 0 else 2 * size
        layers += [((batch, width, before, before), 1), ((batch, width, size, size), 2 * count - 1)]
        layers += [((batch, out, size, size), count + 1)]
        size, planes = size // 2, 2 * planes
    return layers


NETWORKS = {
    "resnet50": lambda: bottleneck_layers(128, [3, 4, 6, 3], 64),
    "resnext101": lambda: bottleneck_layers(64, [3, 4, 23, 3], 64, groups_width=4),
    # 3-D and segmentation shapes, one layer each.
    "others": lambda: [
        (s, 1) for s in [(8, 1024, 65, 65), (8, 64, 257, 257), (2, 32, 64, 64, 64), (4, 256, 16, 16, 16)]
    ],
}


def iabn_variant(x, weight, bias, running, d_z):
    """forward() writes over x; backward() reads what it left."""
    state = {}

    def forward():
        _, state["var"] = torch.ops.iabn.abn_forward_(
            x, weight, bias, *running, None, 0.1, EPS, LEAKY_RELU, SLOPE, SIGNED
        )

    def backward():
        torch.ops.iabn.abn_backward(
            x, d_z, state["var"], weight, bias, True, EPS, LEAKY_RELU, SLOPE, SIGNED, True, True
        )

    return forward, backward


def norm_and_activate(x, weight, bias, mean, var):
    return F.leaky_relu(F.batch_norm(x, mean, var, weight, bias, True, 0.1, EPS), SLOPE, inplace=True)


def autograd_variant(function):
    def variant(x, weight, bias, running, d_z):
        inputs = [t.detach().requires_grad_() for t in (x, weight, bias)]
        state = {}

        def forward():
            state["z"] = function(*inputs, *running)

        def backward():
            torch.autograd.grad(state["z"], inputs, d_z, retain_graph=True)

        return forward, backward

    return variant


def memory_format(layout, dimensions):
    if layout == "contiguous":
        return torch.contiguous_format
    return torch.channels_last if dimensions == 4 else torch.channels_last_3d


class Timer:
    def __init__(self, device):
        self.cuda = device.type == "cuda"

    def milliseconds(self, actions):
        """Mean time of one action."""
        if not self.cuda:
            start = time.perf_counter()
            for action in actions:
                action()
            return (time.perf_counter() - start) * 1e3 / len(actions)
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for action in actions:
            action()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / len(actions)


def copy_bandwidth(device, timer):
    """Bytes per ms, reads plus writes."""
    source = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = [timer.milliseconds([lambda: target.copy_(source)] * 3) for _ in range(12)]
    return 2 * source.numel() / statistics.median(times[2:])


def quantiles(values):
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in (0.2, 0.5, 0.8)]


def measure(shape, dtype, layout, device, timer, variants, rounds):
    """{variant: {"forward" | "backward": times of all rounds in ms}}"""
    channels = shape[1]
    numbers = torch.float64 if dtype == torch.float64 else torch.float32
    weight = torch.rand(channels, device=device, dtype=numbers) + 0.5
    bias = torch.rand(channels, device=device, dtype=numbers) - 0.5
    running = (torch.zeros(channels, device=device, dtype=numbers), torch.ones(channels, device=device, dtype=numbers))
    bytes_ = math.prod(shape) * dtype.itemsize
    sets = max(2, min(16, math.ceil(ROTATED_BYTES / (2 * bytes_)))) if timer.cuda else 1
    prepared = {}
    for name, variant in variants.items():
        prepared[name] = []
        for _ in range(sets):
            x, d_z = (
                torch.randn(shape, device=device, dtype=dtype).to(memory_format=memory_format(layout, len(shape)))
                for _ in range(2)
            )
            prepared[name].append(variant(x, weight, bias, running, d_z))
    times = {name: {"forward": [], "backward": []} for name in variants}
    for turn in range(rounds + 2):  # two to warm up and compile
        for name, pairs in prepared.items():
            for index, direction in enumerate(("forward", "backward")):
                elapsed = timer.milliseconds([pair[index] for pair in pairs])
                if turn >= 2:
                    times[name][direction].append(elapsed)
    return times


def driver_version():
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")[0]


def git_sha():
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", type=Path, help="folder of libiabn_ops.so and libiabn_ops_cuda.so")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--shapes", nargs="+", default=[], help="instead of networks, e.g. 128x256x56x56")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16", "float32"])
    parser.add_argument("--layouts", nargs="+", default=["channels_last"], choices=["channels_last", "contiguous"])
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", type=Path, help="write the rows to this file")
    options = parser.parse_args()

    device = torch.device(options.device)
    for name in ["libiabn_ops.so"] + (["libiabn_ops_cuda.so"] if device.type == "cuda" else []):
        torch.ops.load_library(str((options.libraries / name).resolve()))
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    driver = driver_version() if device.type == "cuda" else ""
    stamp = [gpu, driver, torch.__version__, git_sha(), datetime.date.today().isoformat()]

    variants = {"iabn": iabn_variant, "batch_norm": autograd_variant(norm_and_activate)}
    if not options.no_compile:
        variants["compiled"] = autograd_variant(torch.compile(norm_and_activate, dynamic=False))
        torch._dynamo.config.cache_size_limit = 1024
    timer = Timer(device)
    bandwidth = copy_bandwidth(device, timer)
    print(f"{gpu}, PyTorch {torch.__version__}; copy bandwidth {bandwidth / 1e6:.0f} GB/s")

    cases = {name: NETWORKS[name]() for name in options.networks}
    if options.shapes:
        cases = {"shapes": [(tuple(int(n) for n in shape.split("x")), 1) for shape in options.shapes]}
    rows = []
    for case, layers in cases.items():
        for dtype_name in options.dtypes:
            for layout in options.layouts:
                dtype = getattr(torch, dtype_name)
                totals = dict.fromkeys(variants, 0.0)
                ratios = {name: [] for name in variants}
                for shape, count in layers:
                    pass_ms = math.prod(shape) * dtype.itemsize / bandwidth
                    times = measure(shape, dtype, layout, device, timer, variants, options.rounds)
                    torch.compiler.reset()
                    text = "x".join(map(str, shape))
                    both = {}
                    for name, directions in times.items():
                        directions["both"] = [sum(pair) for pair in zip(*directions.values(), strict=True)]
                        both[name] = statistics.median(directions["both"])
                        totals[name] += count * both[name]
                        for direction, values in directions.items():
                            at = [case, name, text, dtype_name, layout, direction]
                            low, middle, high = quantiles(values)
                            rows.append([*at, "time", low, middle, high, "ms", *stamp])
                            passes = [value / pass_ms for value in (low, middle, high)]
                            rows.append([*at, "passes", *passes, "tensors", *stamp])
                    for name in variants:
                        ratios[name].append(both[name] / both["iabn"])
                    line = "  ".join(f"{n} {t:.3f} ms {t / pass_ms:5.1f} passes" for n, t in both.items())
                    print(f"[{text}] x{count} {dtype_name} {layout}: {line}", flush=True)
                for name in variants:
                    mean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios[name]))
                    print(
                        f"== {case} {dtype_name} {layout}: {name} {totals[name]:.2f} ms for all layers, "
                        f"geometric mean {mean:.2f} times the time of iabn, least {min(ratios[name]):.2f}"
                    )
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
