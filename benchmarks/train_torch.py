"""Training step of whole networks in PyTorch: images/s, peak and held memory of InPlaceABN beside other ways.

Variants, interleaved in one process: standard (BatchNorm + in-place leaky ReLU, eager), inplace (the same through
iabn.convert, eager), compiled (torch.compile of standard), budget (the same with activation_memory_budget), checkpoint
(non-reentrant checkpointing of norm, activation and the convolution behind them).

  python benchmarks/train_torch.py --networks resnet50 resnext101 --dtypes bfloat16 float16 --csv rows.csv

--graphs: the whole step captured in a CUDA graph, so that the device's time counts alone; without it the time in which
the processor issues an eager step counts too, and for small steps decides.

held: allocated after the forward pass less before it; peak: over the step, less before it; both without parameters and
optimiser. Synthetic data, SGD with momentum, autocast with float32 parameters, channels-last.
"""

import argparse
import csv
import datetime
import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint

import iabn

sys.path.insert(0, str(Path(__file__).parent))
from compare_torch import COLUMNS, driver_version, quantiles

SLOPE = 0.01


def norm_act(channels):
    return nn.Sequential(nn.BatchNorm2d(channels), nn.LeakyReLU(SLOPE, inplace=True))


class PreActivationBlock(nn.Module):
    """Of the original package's ResNeXt: norm before every convolution, the shortcut untouched unless projected."""

    def __init__(self, before, width, groups, stride):
        super().__init__()
        middle, after = width, 2 * width
        self.bn1 = norm_act(before)
        self.conv1 = nn.Conv2d(before, middle, 1, stride, bias=False)
        self.bn2 = norm_act(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, padding=1, groups=groups, bias=False)
        self.bn3 = norm_act(middle)
        self.conv3 = nn.Conv2d(middle, after, 1, bias=False)
        project = stride != 1 or before != after
        self.proj_conv = nn.Conv2d(before, after, 1, stride, bias=False) if project else None

    def forward(self, x):
        y = self.bn1(x)
        shortcut = x if self.proj_conv is None else self.proj_conv(y)
        return self.conv3(self.bn3(self.conv2(self.bn2(self.conv1(y))))) + shortcut


def resnext101():
    """64 groups, base width 128, as in the original package."""
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)]
    before, width = 64, 128
    for stage, blocks in enumerate((3, 4, 23, 3)):
        for block in range(blocks):
            layers.append(PreActivationBlock(before, width, 64, 2 if stage > 0 and block == 0 else 1))
            before = 2 * width
        width *= 2
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000)]
    return nn.Sequential(*layers, norm_act(before), *head)


def resnet50():
    """torchvision's, with leaky ReLU."""
    model = torchvision.models.resnet50()
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.LeakyReLU(SLOPE, inplace=True))
    return model


NETWORKS = {"resnet50": (resnet50, 128), "resnext101": (resnext101, 64)}


def checkpointed(model):
    """Recomputes norm and activation in backward, not the convolution before them."""
    # Nothing here draws random numbers, and their state can't be read while a graph is captured.
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)

    def block_forward(self, x):
        y = again(lambda v: self.conv1(self.bn1(v)), x)
        shortcut = x if self.proj_conv is None else self.proj_conv(self.bn1(x))
        y = again(lambda v: self.conv2(self.bn2(v)), y)
        return again(lambda v: self.conv3(self.bn3(v)), y) + shortcut

    def bottleneck_forward(self, x):
        y = self.conv1(x)
        y = again(lambda v: self.conv2(self.relu(self.bn1(v))), y)
        y = again(lambda v: self.conv3(self.relu(self.bn2(v))), y)
        shortcut = x if self.downsample is None else self.downsample(x)
        return again(lambda v, s: F.leaky_relu_(self.bn3(v) + s, SLOPE), y, shortcut)

    for module in model.modules():
        if isinstance(module, PreActivationBlock):
            module.forward = block_forward.__get__(module)
        elif isinstance(module, torchvision.models.resnet.Bottleneck):
            module.forward = bottleneck_forward.__get__(module)
    return model


class Variant:
    def __init__(self, name, build, batch, dtype, budget):
        torch.manual_seed(0)
        self.model = build().cuda().to(memory_format=torch.channels_last)
        self.budget = budget if name == "budget" else 1.0
        self.dtype = dtype
        if name == "inplace":
            iabn.convert(self.model, dtype=dtype)
        self.function = self.model
        if name == "checkpoint":
            checkpointed(self.model)
        if name in ("compiled", "budget"):
            # Code of its own, or the second variant would be given what was compiled for the first.
            forward = type(self.model).forward
            code = forward.__code__.replace(co_name=f"forward_{name}")
            own = types.FunctionType(code, forward.__globals__, code.co_name, forward.__defaults__, forward.__closure__)
            self.model.forward = own.__get__(self.model)
            self.function = torch.compile(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)
        self.x = torch.randn(batch, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
        self.target = torch.randint(1000, (batch,), device="cuda")
        self.timed_step = self.step

    def forward(self):
        with (
            torch._functorch.config.patch(activation_memory_budget=self.budget),
            torch.autocast("cuda", self.dtype),
        ):
            return F.cross_entropy(self.function(self.x).float(), self.target)

    def step(self):
        self.forward().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def capture(self):
        """From now on a step is the replay of one CUDA graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.timed_step = graph.replay

    def milliseconds(self, steps):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(steps):
            self.timed_step()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / steps

    def memory(self):
        """Held and peak in GiB; a second forward pass, whose autocast copies of weights are released before."""
        self.step()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loss = self.forward()
        held = torch.cuda.memory_allocated() - before
        loss.backward()
        peak = torch.cuda.max_memory_allocated() - before
        self.optimizer.zero_grad()
        return held / 2**30, peak / 2**30


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16"])
    parser.add_argument("--variants", nargs="+", default=["standard", "inplace", "compiled", "budget", "checkpoint"])
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--batch", type=int, help="instead of the network's own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="per round")
    parser.add_argument("--graphs", action="store_true", help="capture each step in a CUDA graph")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()

    torch.backends.cudnn.benchmark = True
    sha = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    stamp = [torch.cuda.get_device_name(), driver_version(), torch.__version__, sha.strip(), datetime.date.today()]
    print(f"{stamp[0]}, PyTorch {stamp[2]}, iabn {iabn.__version__}", flush=True)
    rows = []
    for network in options.networks:
        build, batch = NETWORKS[network]
        batch = options.batch or batch
        for dtype in options.dtypes:
            variants, memory = {}, {}
            for name in options.variants:
                variants[name] = Variant(name, build, batch, getattr(torch, dtype), options.budget)
                for _ in range(3):
                    variants[name].step()
                memory[name] = variants[name].memory()
                if options.graphs:
                    variants[name].capture()
            times = {name: [] for name in variants}
            for _ in range(options.rounds):
                for name, variant in variants.items():
                    times[name].append(variant.milliseconds(options.steps))
            for name in variants:
                low, middle, high = quantiles(times[name])
                held, peak = memory[name]
                print(
                    f"{network} b{batch} {dtype} {name:10s} {1e3 * batch / middle:7.0f} images/s  held {held:5.2f} GiB "
                    f"({held / memory[options.variants[0]][0]:.2f})  peak {peak:5.2f} GiB",
                    flush=True,
                )
                at = [
                    network,
                    name,
                    f"{batch}x3x224x224",
                    dtype,
                    "channels_last",
                    "step in a graph" if options.graphs else "step",
                ]
                rows.append([*at, "speed", *(1e3 * batch / t for t in (high, middle, low)), "images/s", *stamp])
                rows.append([*at, "held", *[held] * 3, "GiB", *stamp])
                rows.append([*at, "peak", *[peak] * 3, "GiB", *stamp])
            del variants
            torch.compiler.reset()
            torch.cuda.empty_cache()
            if options.csv:
                with options.csv.open("w", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
