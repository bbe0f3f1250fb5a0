"""memory_report(): the numbers of a hand count, what convert() then really saves, and nothing disturbed."""

import copy

import pytest
import torch
from conversion_support import Residual
from torch import nn

import iabn

N, C, S = 2, 8, 32
PLANE = N * C * S * S * 4  # bytes of one activation, [2, 8, 32, 32] float32
X = torch.randn(N, 3, S, S)


def net(inplace):
    act = lambda: nn.LeakyReLU(inplace=inplace)  # noqa: E731
    conv = lambda channels: nn.Conv2d(channels, C, 3, padding=1)  # noqa: E731
    return nn.Sequential(conv(3), nn.BatchNorm2d(C), act(), conv(C), nn.BatchNorm2d(C), act(), conv(C))


STATISTICS = 2 * C * 4  # bytes of mean and rstd


def test_standard_layers_keep_the_hand_count():
    report = iabn.memory_report(net(True), X)
    # Both norms keep their input; both activations their output, which the next convolution keeps too.
    assert report.kept == 4 * PLANE + 2 * STATISTICS
    layers = {layer.name: layer for layer in report.layers}
    assert layers["1"].kept == PLANE + STATISTICS and layers["1"].could_save == PLANE
    assert layers["2"].kept == PLANE and layers["2"].shared_with == ["3"]
    assert "0" not in layers  # the first convolution keeps the model's input
    assert report.inputs == X.numel() * 4
    assert report.parameters == sum(t.numel() * t.element_size() for t in net(True).state_dict().values())


def test_an_activation_out_of_place_keeps_its_input_as_well():
    report = iabn.memory_report(net(False), X)
    assert report.kept == 6 * PLANE + 2 * STATISTICS
    assert report.possible == 2 * PLANE + STATISTICS


def test_in_place_layers_keep_half():
    model = net(True)
    possible = iabn.memory_report(model, X).possible
    iabn.convert(model, X)
    report = iabn.memory_report(model, X)
    assert report.kept == report.possible == possible == 2 * PLANE + STATISTICS
    layers = {layer.name: layer for layer in report.layers}
    assert layers["1"].saves == PLANE and layers["1"].shared_with == ["3"]


def test_a_layer_whose_output_nobody_keeps_saves_nothing():
    model = nn.Sequential(nn.Conv2d(3, C, 1), nn.BatchNorm2d(C), nn.AvgPool2d(1))
    model[2] = nn.Identity()
    report = iabn.memory_report(model, X)
    assert report.layers[0].could_save == 0 and "saves nothing here" in report.layers[0].remark


def test_the_reason_against_a_layer_is_in_the_table():
    report = iabn.memory_report(Residual(nn.ReLU(), "in place"), torch.randn(2, 4, 8, 8))
    assert "an addition in place (+=) overwrites its output" in str(report)
    assert "kept until backward, each tensor once: " in str(report)


def test_autocast_counts_16_bit_tensors_and_not_the_copies_of_weights():
    model = net(True)
    report = iabn.memory_report(model, X, autocast=torch.bfloat16)
    assert report.casts == sum(m.weight.numel() * 2 for m in model if isinstance(m, nn.Conv2d))
    # The first convolution's cast input besides four activations.
    assert report.kept == 4 * PLANE // 2 + X.numel() * 2 + 2 * STATISTICS


def test_nothing_is_disturbed():
    model, x = net(False), X.clone()
    model.append(nn.Dropout())
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    iabn.memory_report(model, x)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(torch.get_rng_state(), random_state) and torch.equal(x, X)
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_it_runs_on_every_device(device):
    report = iabn.memory_report(net(True).to(device), X.to(device))
    assert report.kept >= 4 * PLANE


@pytest.mark.parametrize("name", ["ResNet", "DenseNet"])
def test_possible_is_what_a_converted_network_keeps(name):
    models = pytest.importorskip("torchvision").models
    if name == "ResNet":
        model = models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1])
    else:
        model = models.DenseNet(8, (2, 2, 2, 2), 16)
    x = torch.randn(2, 3, 64, 64)
    before = iabn.memory_report(model, x)
    iabn.convert(model, relu="leaky_relu")
    assert iabn.memory_report(model, x).kept == before.possible < 0.8 * before.kept
