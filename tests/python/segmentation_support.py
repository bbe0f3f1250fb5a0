"""Segmentation networks in PyTorch, written from their description, and snapshots of them."""

import json

import torch
from torch import nn
from torch.nn import functional


class NormAct(nn.Module):
    """BatchNorm in evaluation mode, then leaky ReLU; legacy: gamma is |weight| + eps."""

    def __init__(self, channels, slope=0.01, legacy=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels) * 0.3 + (0 if legacy else 1))
        self.bias = nn.Parameter(torch.randn(channels) * 0.1)
        self.register_buffer("running_mean", torch.randn(channels) * 0.1)
        self.register_buffer("running_var", torch.rand(channels) + 0.5)
        self.slope, self.legacy = slope, legacy

    def forward(self, x):
        gamma = self.weight.abs() + 1e-5 if self.legacy else self.weight
        y = functional.batch_norm(x, self.running_mean, self.running_var, gamma, self.bias)
        return functional.leaky_relu(y, self.slope)


def conv(in_channels, channels, kernel, stride=1, dilation=1):
    return nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2 * dilation, dilation, bias=False)


def norms(module, legacy):
    for child in module.modules():
        if isinstance(child, NormAct):
            child.legacy = legacy
            if legacy:
                nn.init.normal_(child.weight, std=0.7)
    return module


class CifarBlock(nn.Module):
    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(in_channels, channels, 3, stride), NormAct(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3), NormAct(channels, slope=1)
        self.stride, self.further = stride, channels - in_channels

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        half = self.further // 2
        x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.further - half))
        return functional.leaky_relu(x + y, 0.01)


class CifarBody(nn.Module):
    """cifar_resnet20 without its classifier: 64 channels at a quarter of the picture's size."""

    def __init__(self, channels=3):
        super().__init__()
        self.conv1, self.bn1 = conv(channels, 16, 3), NormAct(16)
        for layer, (before, channels) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):
            blocks = [
                CifarBlock(before if i == 0 else channels, channels, 1 + (layer > 1 and i == 0)) for i in range(3)
            ]
            setattr(self, f"layer{layer}", nn.Sequential(*blocks))

    def forward(self, x):
        return self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)))))


class IdentityBlock(nn.Module):
    def __init__(self, in_channels, channels, stride, dilation):
        super().__init__()
        kernels = (3, 3) if len(channels) == 2 else (1, 3, 1)
        self.bn1 = NormAct(in_channels)
        self.convs, before = nn.Sequential(), in_channels
        for i, (kernel, width) in enumerate(zip(kernels, channels, strict=True), start=1):
            if i > 1:
                self.convs.add_module(f"bn{i}", NormAct(before))
            step = {"stride": stride if i == 1 else 1, "dilation": dilation if kernel == 3 else 1}
            self.convs.add_module(f"conv{i}", conv(before, width, kernel, **step))
            before = width
        if stride != 1 or in_channels != before:
            self.proj_conv = conv(in_channels, before, 1, stride)

    def forward(self, x):
        y = self.bn1(x)
        return self.convs(y) + (self.proj_conv(y) if hasattr(self, "proj_conv") else x)


class WiderBody(nn.Module):
    """wider_resnet38_a2 with dilation, without its classifier; its dropouts do nothing in evaluation."""

    def __init__(self):
        super().__init__()
        self.mod1 = nn.Sequential()
        self.mod1.add_module("conv1", conv(3, 64, 3))
        structure, before = [3, 3, 6, 3, 1, 1], 64
        widths = [(128, 128), (256, 256), (512, 512), (512, 1024), (512, 1024, 2048), (1024, 2048, 4096)]
        for number, (blocks, channels) in enumerate(zip(structure, widths, strict=True), start=2):
            dilation = {5: 2, 6: 4, 7: 4}.get(number, 1)
            module = nn.Sequential()
            for i in range(blocks):
                stride = 2 if number == 4 and i == 0 else 1
                module.add_module(f"block{i + 1}", IdentityBlock(before, channels, stride, dilation))
                before = channels[-1]
            setattr(self, f"mod{number}", module)
        self.bn_out = NormAct(before)

    def forward(self, x):
        x = self.mod1(x)
        for number in range(2, 8):
            if number < 4:
                x = functional.max_pool2d(x, 3, 2, 1)
            x = getattr(self, f"mod{number}")(x)
        return self.bn_out(x)


class Head(nn.Module):
    """DeepLabV3 whose average is that of the whole map."""

    def __init__(self, channels, hidden, out):
        super().__init__()
        dilated = [conv(channels, hidden, 3, dilation=d) for d in (12, 24, 36)]
        self.map_convs = nn.ModuleList([conv(channels, hidden, 1), *dilated])
        self.map_bn, self.red_conv = NormAct(4 * hidden), conv(4 * hidden, out, 1)
        self.global_pooling_conv, self.global_pooling_bn = conv(channels, hidden, 1), NormAct(hidden)
        self.pool_red_conv, self.red_bn = conv(hidden, out, 1), NormAct(out)

    def forward(self, x):
        y = self.red_conv(self.map_bn(torch.cat([branch(x) for branch in self.map_convs], 1)))
        pool = self.global_pooling_bn(self.global_pooling_conv(x.mean((2, 3), keepdim=True)))
        return self.red_bn(y + self.pool_red_conv(pool))


class Segmenter(nn.Module):
    def __init__(self, body, channels, hidden, out, classes, legacy=False):
        super().__init__()
        self.body, self.head, self.cls = body, Head(channels, hidden, out), nn.Conv2d(out, classes, 1)
        norms(self, legacy).eval()

    def forward(self, x):
        return self.cls(self.head(self.body(x)))


MEAN, STD = (0.4, 0.45, 0.5), (0.2, 0.25, 0.3)
COLORS = [[200, 0, 10], [0, 150, 20], [30, 40, 250], [255, 255, 1]]


@torch.no_grad()
def spread_classes(network, x):
    """So that the classes differ from pixel to pixel of pictures like x: logits of mean 0 and deviation 2."""
    logits = network(x)
    mean, deviation = logits.mean((0, 2, 3)), logits.std((0, 2, 3))
    network.cls.weight.mul_(2 / deviation[:, None, None, None])
    network.cls.bias.sub_(mean).mul_(2 / deviation)
    return network


def small_segmenter(channels=3):
    """The network of small_config()."""
    network = Segmenter(CifarBody(channels), 64, hidden=8, out=12, classes=len(COLORS))
    return spread_classes(
        network, functional.interpolate(torch.randn(4, channels, 8, 8), scale_factor=8, mode="bilinear")
    )


def small_config(**segmentation):
    return {
        "task": "segmentation",
        "network": {"arch": "cifar_resnet20", "activation": "leaky_relu", "bn_mode": "inplace"},
        "input": {"mean": MEAN, "std": STD},
        "segmentation": {
            "classes": ["a", "b", "c", "d"], "colors": COLORS, "head_channels": 12, "hidden_channels": 8, **segmentation
        },
    }  # fmt: skip


def save_snapshot(path, network, config, gamma="signed"):
    """As iabn::train::snapshot_bytes writes it, without what only a resumed training needs."""
    weights = {f"module.{key}": value for key, value in network.state_dict().items()}
    own = {"format": 2, "version": "0.1.0", "config": json.dumps(config), "gamma": gamma}
    torch.save({"epoch": 1, "arch": config["network"]["arch"], "state_dict": weights, "iabn": own}, path)


def save_vistas(path, network):
    parts = {name: getattr(network, name).state_dict() for name in ("body", "head", "cls")}
    torch.save({"state_dict": parts}, path)
