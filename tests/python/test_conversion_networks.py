"""convert(), to_batchnorm() and fold() on networks of torchvision and timm."""

import copy

import pytest
import torch
from conversion_support import assert_same_training, randomise
from torch import nn

import iabn

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def one_thread():
    """These tensors are small: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(name):
    if name.startswith("timm."):
        timm = pytest.importorskip("timm")
        return timm.create_model(name[5:], num_classes=10)
    models = pytest.importorskip("torchvision").models
    if name == "small densenet":
        return models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10)
    return models.get_model(name, weights=None, num_classes=10)


def leaky(model):
    """ReLU modules, shared ones too, become leaky."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if type(child) is nn.ReLU:
                leaky_relu = child.__dict__.setdefault("leaky", nn.LeakyReLU(0.01, child.inplace))
                module._modules[name] = leaky_relu
    return model


@pytest.mark.parametrize(
    ("name", "converted", "left"),
    [
        ("resnet18", 12, 8),  # the second norm of each block goes into +=
        ("small densenet", 20, 1),  # the last one has F.relu
        ("timm.resnet10t", 10, 4),
        ("timm.regnetx_002", 44, 0),  # BatchNormAct2d
    ],
)
def test_networks_train_as_before_and_come_back(name, converted, left):
    model = randomise(leaky(network(name))).double()
    before, state = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    report = iabn.convert(model, X.double())
    assert (len(report.converted), len(report.left)) == (converted, left), report
    assert report.relative_difference < 1e-12
    assert_same_training(before, model, X.double(), 1e-7)
    iabn.to_batchnorm(model, X.double())
    assert repr(model) == repr(before) and list(model.state_dict()) == list(state)
    assert torch.equal(model.eval()(X.double()), before.eval()(X.double()))


def test_mobilenet_with_hardswish_in_place_keeps_those_layers():
    model = network("mobilenet_v3_small")
    report = iabn.convert(model, X)
    left = {row.name: row.reason for row in report.left}
    assert "(Hardswish) works in place on its output: set inplace=False there" in left["features.0.1"]
    for module in model.modules():
        if type(module) is nn.Hardswish:
            module.inplace = False
    again = iabn.convert(model, X)
    assert "features.0.1" in [row.name for row in again.converted]
    model.train()(X).sum().backward()


def test_norms_that_apply_an_activation_that_has_no_inverse_are_left_alone():
    report = iabn.convert(network("timm.efficientnet_b0"))
    assert {row.reason for row in report.left} == {"it applies SiLU itself, which cannot be inverted"}


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "timm.regnetx_002"])
def test_folded_networks_compute_the_same_without_norms(name):
    model = randomise(network(name)).eval()
    iabn.convert(model, X, relu="leaky_relu")
    want = model(X)
    report = iabn.fold(model, X)
    assert not report.left and report.relative_difference < 1e-5
    kinds = (nn.modules.batchnorm._BatchNorm, iabn.ABN)
    assert not any(isinstance(module, kinds) for module in model.modules())
    torch.testing.assert_close(model(X), want, rtol=1e-4, atol=1e-4)


def test_all_layers_of_densenet121_but_the_last_convert():
    report = iabn.convert(network("densenet121"), relu="leaky_relu")
    assert len(report.converted) == 120 and [row.name for row in report.left] == ["features.norm5"]


def test_the_report_of_a_network_has_one_row_per_norm():
    model = network("resnet18")
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    report = iabn.convert(model)
    assert len(report.rows) == norms and report.largest_difference is None
    lines = str(report).splitlines()
    assert lines[0] == "convert: 3 of 20 layers changed"
    assert sum("downsample.1" in line for line in lines) == 3


def test_beside_a_skip_connection_that_is_added_in_place_the_layer_works_on_a_copy():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.act = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.LeakyReLU()

        def forward(self, x):
            y = self.conv(x)
            y += x.mean()  # the tensor that the layer reads is itself a sum in place
            z = self.act(self.bn(y)) * 2
            z += y
            return z

    model, x = Block().double(), X.double()
    before = copy.deepcopy(model)
    report = iabn.convert(model, x)
    assert model.bn.copy_input
    assert report.converted[0].reason == "works on a copy: an addition in place (+=) reads its input as well"
    assert_same_training(before, model, x)
