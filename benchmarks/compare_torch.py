"""The layer's operators beside PyTorch's BatchNorm + leaky ReLU, eager and compiled, in one process.

Times forward and backward apart, rounds interleaved, over the BatchNorm layers of whole networks; prints milliseconds,
passes (time in units of one copy of the tensor: bytes / copy bandwidth, reads plus writes) and, per network of
layers.csv, the time of all its layers; at the end every case in which iabn is slower. Inputs rotate over more than the
L2.

  python benchmarks/compare_torch.py build/cuda/lib --networks resnet50 --dtypes bfloat16 float16 --csv rows.csv
"""

import argparse
import csv
import datetime
import functools
import itertools
import math
import statistics
import subprocess
import time
from collections import Counter
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
DIRECTIONS = ("forward", "backward", "both")
TABLE = Path(__file__).with_name("layers.csv")
ROTATED_BYTES = 192 << 20  # more than three times the L2 of an H100


def read_layers(path):
    """{network: [(shape, how many layers)]} of a file like layers.csv, which `iabn bench layer --table` reads too."""
    with path.open() as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        networks = {}
        for row in rows:
            networks.setdefault(row["network"], []).append((parse_shape(row["shape"]), int(row["count"])))
        return networks


def parse_shape(text):
    return tuple(int(size) for size in text.split("x"))


def format_shape(shape):
    return "x".join(map(str, shape))


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
    """Time of the device alone: it pauses until the host has queued all the work, whose own time doesn't count."""

    HOST_MS = 0.7  # per action, at most; autograd through a compiled function takes up to 0.6 ms

    def __init__(self, device):
        self.cuda = device.type == "cuda"
        if self.cuda:
            cycles = 10_000_000
            torch.cuda._sleep(cycles)  # the first call loads the kernel
            torch.cuda.synchronize()
            self.cycles_per_ms = cycles / self._between(lambda: torch.cuda._sleep(cycles))

    @staticmethod
    def _between(work):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop)

    def milliseconds(self, actions):
        """Mean time of one action."""
        if not self.cuda:
            start = time.perf_counter()
            for action in actions:
                action()
            return (time.perf_counter() - start) * 1e3 / len(actions)
        torch.cuda._sleep(int((1 + self.HOST_MS * len(actions)) * self.cycles_per_ms))
        return self._between(lambda: [action() for action in actions]) / len(actions)


def copy_bandwidth(device, timer):
    """Bytes per ms, reads plus writes."""
    source = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = [timer.milliseconds([lambda: target.copy_(source)] * 3) for _ in range(12)]
    return 2 * source.numel() / statistics.median(times[2:])


def quantiles(values):
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in (0.2, 0.5, 0.8)]


def captured(actions):
    """One CUDA graph of all of them, as a list of one action that replays it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for action in actions:
            action()
    return [graph.replay]


def measure(shape, dtype, layout, device, timer, variants, rounds, graphs):
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
    directions = ("forward", "backward")
    times = {name: dict.fromkeys(directions) for name in variants}
    actions = {
        (name, d): [pair[i] for pair in pairs] for name, pairs in prepared.items() for i, d in enumerate(directions)
    }
    for turn in range(rounds + 2):  # two to warm up and compile
        for (name, direction), work in actions.items():
            elapsed = timer.milliseconds(work) * len(work) / sets
            if turn >= 2:
                times[name][direction] = [*(times[name][direction] or []), elapsed]
        if turn == 1 and graphs:
            actions = {key: captured(work) for key, work in actions.items()}
    return times


def driver_version():
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")[0]


def git_sha():
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def measure_layers(title, layers, measure_shape, element_ms):
    """Prints a line per shape, then the network's; returns {(shape, direction): {variant: (p20, p50, p80) in ms}}.

    element_ms: one pass over one element."""
    results, least = {}, {}
    totals, passes = Counter(), 0  # of all layers, in ms
    for shape, count in layers:
        times = measure_shape(shape)
        torch.compiler.reset()
        for directions in times.values():
            directions["both"] = [sum(pair) for pair in zip(*directions.values(), strict=True)]
        for direction in DIRECTIONS:
            results[shape, direction] = {name: quantiles(directions[direction]) for name, directions in times.items()}
        both = {name: middle for name, (_, middle, _) in results[shape, "both"].items()}
        pass_ms = math.prod(shape) * element_ms
        passes += count * pass_ms
        for name, ms in both.items():
            totals[name] += count * ms
            least[name] = min(least.get(name, math.inf), ms / both["iabn"])
        line = "  ".join(f"{name} {ms:.3f} ms {ms / pass_ms:5.1f} passes" for name, ms in both.items())
        print(f"[{format_shape(shape)}] x{count} {title}: {line}", flush=True)
    print(f"== {title}: all {sum(count for _, count in layers)} layers")
    for name, ms in totals.items():
        ratio = "" if name == "iabn" else f", {ms / totals['iabn']:.2f} times iabn, least of a shape {least[name]:.2f}"
        print(f"     {name:10} {ms:9.2f} ms {ms / passes:6.2f} passes{ratio}", flush=True)
    return results


def print_slower(slower, cases):
    """slower: {baseline: lines}, of `cases` comparisons each."""
    for name, lines in slower.items():
        print(f"slower than {name}: {f'{len(lines)} of {cases}' if lines else 'none'}")
        for line in lines:
            print(f"  {line}")


def six_digits(value):
    return f"{value:.6g}"


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def parse_options():
    networks = read_layers(TABLE)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", type=Path, help="folder of libiabn_ops.so and libiabn_ops_cuda.so")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--networks", nargs="+", default=list(networks), choices=networks, help="default: all")
    parser.add_argument("--shapes", nargs="+", default=[], help="instead of networks, e.g. 128x256x56x56")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16", "float32"])
    parser.add_argument("--layouts", nargs="+", default=["channels_last"], choices=["channels_last", "contiguous"])
    parser.add_argument("--graphs", action="store_true", help="replay CUDA graphs, of iabn alone")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", type=Path, help="write the rows to this file, after every network, dtype and layout")
    options = parser.parse_args()
    cases = {name: networks[name] for name in options.networks}
    if options.shapes:
        cases = {"shapes": [(parse_shape(shape), 1) for shape in options.shapes]}
    return options, cases


def main():
    options, cases = parse_options()
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
    if options.graphs:  # autograd runs a backward pass on the stream of the forward pass, which is not captured
        variants = {"iabn": iabn_variant}
    timer = Timer(device)
    bandwidth = copy_bandwidth(device, timer)
    print(f"{gpu}, PyTorch {torch.__version__}; copy bandwidth {bandwidth / 1e6:.0f} GB/s")

    rows, compared = [], 0
    slower = {name: [] for name in variants if name != "iabn"}
    for (case, layers), dtype_name, layout in itertools.product(cases.items(), options.dtypes, options.layouts):
        case += " in a graph" if options.graphs else ""
        dtype = getattr(torch, dtype_name)
        setting = {"dtype": dtype, "layout": layout, "device": device, "timer": timer}
        setting |= {"rounds": options.rounds, "graphs": options.graphs}
        measure_shape = functools.partial(measure, variants=variants, **setting)
        element_ms = dtype.itemsize / bandwidth
        results = measure_layers(f"{case} {dtype_name} {layout}", layers, measure_shape, element_ms)
        for (shape, direction), times in results.items():
            compared += 1
            at = [format_shape(shape), dtype_name, layout, direction]
            for name, spread in times.items():
                rows.append([case, name, *at, "time", *map(six_digits, spread), "ms", *stamp])
                passes = [six_digits(ms / (math.prod(shape) * element_ms)) for ms in spread]
                rows.append([case, name, *at, "passes", *passes, "tensors", *stamp])
                ratio = times["iabn"][1] / times[name][1]
                if ratio > 1:
                    slower[name].append(f"{case} {' '.join(at)}: {ratio:.2f} times its time")
        if options.csv:
            write_rows(options.csv, rows)
    print_slower(slower, compared)


if __name__ == "__main__":
    main()
