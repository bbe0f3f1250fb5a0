"""Training step of whole networks in PyTorch: images/s, peak and held memory of InPlaceABN beside other ways.

Variants, interleaved in one process: standard (BatchNorm + in-place leaky ReLU, eager), inplace (the same through
iabn.convert, eager), compiled (torch.compile of standard), budget (the same with activation_memory_budget), checkpoint
(non-reentrant checkpointing of norm, activation and the convolution behind them).

  python benchmarks/train_torch.py --networks resnet50 resnext101 --dtypes bfloat16 float16 --csv rows.csv

--graphs: the whole step captured in a CUDA graph, so that the device's time counts alone; without it the time in which
the processor issues an eager step counts too, and for small steps decides.

held: allocated after the forward pass less before it; peak: over the step, less before it; both without parameters,
optimiser and autocast's copies of weights. Synthetic data, fused SGD with momentum and weight decay, autocast with
float32 parameters, channels-last, no loss scaling.
"""

import argparse
import csv
import datetime
import json
import subprocess
import sys
import tempfile
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
    """Of the original package's networks: norm before every convolution, the shortcut untouched unless projected.

    convolutions: (channels, kernel, groups) of each; the first carries the stride.
    """

    def __init__(self, before, convolutions, stride=1):
        super().__init__()
        self.norms, self.convolutions = nn.ModuleList(), nn.ModuleList()
        channels = before
        for i, (after, kernel, groups) in enumerate(convolutions):
            self.norms.append(norm_act(channels))
            step = stride if i == 0 else 1
            self.convolutions.append(nn.Conv2d(channels, after, kernel, step, kernel // 2, groups=groups, bias=False))
            channels = after
        project = stride != 1 or before != channels
        self.proj_conv = nn.Conv2d(before, channels, 1, stride, bias=False) if project else None

    def forward(self, x):
        y = self.norms[0](x)
        shortcut = x if self.proj_conv is None else self.proj_conv(y)
        y = self.convolutions[0](y)
        for norm, convolution in zip(self.norms[1:], self.convolutions[1:], strict=True):
            y = convolution(norm(y))
        y += shortcut
        return y


def with_head(layers, channels):
    return nn.Sequential(*layers, norm_act(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def resnext101():
    """64 groups, base width 128, as in the original package."""
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)]
    before, width = 64, 128
    for stage, blocks in enumerate((3, 4, 23, 3)):
        for block in range(blocks):
            convolutions = [(width, 1, 1), (width, 3, 64), (2 * width, 1, 1)]
            layers.append(PreActivationBlock(before, convolutions, 2 if stage > 0 and block == 0 else 1))
            before = 2 * width
        width *= 2
    return with_head(layers, before)


def wider_resnet38():
    layers = [nn.Conv2d(3, 64, 3, 1, 1, bias=False)]
    before = 64
    modules = zip(
        (3, 3, 6, 3, 1, 1),
        ((128, 128), (256, 256), (512, 512), (512, 1024), (512, 1024, 2048), (1024, 2048, 4096)),
        strict=True,
    )
    for module, (blocks, channels) in enumerate(modules):
        if module < 5:
            layers.append(nn.MaxPool2d(3, 2, 1))
        kernels = (3, 3) if len(channels) == 2 else (1, 3, 1)
        for _ in range(blocks):
            layers.append(PreActivationBlock(before, list(zip(channels, kernels, (1, 1, 1), strict=False))))
            before = channels[-1]
    return with_head(layers, before)


class DenseModule(nn.Module):
    """Every layer sees the concatenation of all before it: norm, 1x1 to 4 times the growth, norm, 3x3 to the growth."""

    def __init__(self, before, layers, growth=32):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                norm_act(before + i * growth),
                nn.Conv2d(before + i * growth, 4 * growth, 1, bias=False),
                norm_act(4 * growth),
                nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
            )
            for i in range(layers)
        )

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


def densenet264():
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for module, count in enumerate((6, 12, 64, 48)):
        layers.append(DenseModule(channels, count))
        channels += 32 * count
        if module < 3:
            layers += [norm_act(channels), nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return with_head(layers, channels)


def resnet50():
    """torchvision's, with leaky ReLU."""
    model = torchvision.models.resnet50()
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.LeakyReLU(SLOPE, inplace=True))
    return model


NETWORKS = {
    "resnet50": (resnet50, 128),
    "resnext101": (resnext101, 64),
    "wider_resnet38": (wider_resnet38, 32),
    "densenet264": (densenet264, 32),
}


def checkpointed(model):
    """Recomputes norm and activation in backward, not the convolution before them."""
    # Nothing here draws random numbers, and their state can't be read while a graph is captured.
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)

    def block_forward(self, x):
        def begin(v):
            z = self.norms[0](v)
            return self.convolutions[0](z), None if self.proj_conv is None else self.proj_conv(z)

        y, shortcut = again(begin, x)
        for norm, convolution in zip(self.norms[1:], self.convolutions[1:], strict=True):
            y = again(lambda v, norm=norm, convolution=convolution: convolution(norm(v)), y)
        y += x if shortcut is None else shortcut
        return y

    def dense_forward(self, x):
        features = [x]
        for norm1, conv1, norm2, conv2 in self.layers:
            y = again(lambda *v, norm1=norm1, conv1=conv1: conv1(norm1(torch.cat(v, 1))), *features)
            features.append(again(lambda v, norm2=norm2, conv2=conv2: conv2(norm2(v)), y))
        return torch.cat(features, 1)

    def bottleneck_forward(self, x):
        y = self.conv1(x)
        y = again(lambda v: self.conv2(self.relu(self.bn1(v))), y)
        y = again(lambda v: self.conv3(self.relu(self.bn2(v))), y)
        shortcut = x if self.downsample is None else self.downsample(x)
        return again(lambda v, s: F.leaky_relu_(self.bn3(v) + s, SLOPE), y, shortcut)

    for module in model.modules():
        if isinstance(module, PreActivationBlock):
            module.forward = block_forward.__get__(module)
        elif isinstance(module, DenseModule):
            module.forward = dense_forward.__get__(module)
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
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, 0.9, weight_decay=1e-4, fused=True)
        # Copies that autocast makes and backward keeps; of the weights, so not of the activations.
        self.weight_copies = sum(2 * p.numel() for p in self.model.parameters() if p.dim() >= 2)
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
        """Held and peak in GiB, without autocast's copies of the weights."""
        self.step()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated() + self.weight_copies
        torch.cuda.reset_peak_memory_stats()
        loss = self.forward()
        held = torch.cuda.memory_allocated() - before
        loss.backward()
        self.optimizer.step()
        peak = torch.cuda.max_memory_allocated() - before
        self.optimizer.zero_grad()
        return held / 2**30, peak / 2**30


def program_rows(program, network, dtype, batch, graphs, options):
    """Speed, held and peak of the same network in `iabn bench network`: {variant: (milliseconds, held, peak)}."""
    config = {
        "network": {"arch": network, "activation": "leaky_relu", "activation_param": SLOPE},
        "optimizer": {"batch_size": batch, "clip": 0, "schedule": {"epochs": 1}},
        "channels_last": True,
        "precision": {"bfloat16": "bf16", "float16": "fp16", "float32": "float32"}[dtype],
        "cuda_graph": graphs,
    }
    with tempfile.TemporaryDirectory() as folder:
        path, result = Path(folder) / "config.json", Path(folder) / "result.json"
        path.write_text(json.dumps(config))
        command = [program, "bench", "network", path, "--device", "cuda", "--result", result]
        subprocess.run(
            [*command, "--steps", str(options.rounds * options.steps)], check=True, stdout=subprocess.DEVNULL
        )
        figures = json.loads(result.read_text())
    return {
        f"program {mode}": (figures[f"step_ms_{mode}"], figures[f"held_bytes_{mode}"], figures[f"peak_bytes_{mode}"])
        for mode in ("standard", "inplace")
    }


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
    parser.add_argument("--program", type=Path, help="also measure this program's networks (iabn bench network)")
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
            figures = {name: (quantiles(times[name]), *memory[name]) for name in variants}
            variants.clear()
            del variant
            torch.compiler.reset()
            torch.cuda.empty_cache()
            if options.program:
                ours = program_rows(options.program.resolve(), network, dtype, batch, options.graphs, options)
                for name, (middle, held, peak) in ours.items():
                    figures[name] = ([middle] * 3, held / 2**30, peak / 2**30)
            for name, ((low, middle, high), held, peak) in figures.items():
                print(
                    f"{network} b{batch} {dtype} {name:16s} {1e3 * batch / middle:7.0f} images/s  held {held:5.2f} GiB "
                    f"({held / memory[options.variants[0]][0]:.2f})  peak {peak:5.2f} GiB",
                    flush=True,
                )
                way = "step in a graph" if options.graphs else "step"
                at = [network, name, f"{batch}x3x224x224", dtype, "channels_last", way]
                rows.append([*at, "speed", *(1e3 * batch / t for t in (high, middle, low)), "images/s", *stamp])
                rows.append([*at, "held", *[held] * 3, "GiB", *stamp])
                rows.append([*at, "peak", *[peak] * 3, "GiB", *stamp])
            if options.csv:
                with options.csv.open("w", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
