"""The older ways to a graph: torch.fx, torch.jit.trace, and ONNX by TorchScript. For torch.export: test_compile.py."""

import copy
import io

import pytest
import torch
from conversion_support import Residual, randomise
from torch import fx, nn

import iabn

X = torch.randn(2, 3, 8, 8)
LAYERS = [iabn.ABN, iabn.InPlaceABN, iabn.InPlaceABNSync]


def net(layer):
    return nn.Sequential(nn.Conv2d(3, 8, 3), layer(8), nn.Conv2d(8, 4, 1))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_symbolic_tracing_keeps_the_layer_as_one_call(layer, training):
    model = net(layer).train(training)
    traced = fx.symbolic_trace(copy.deepcopy(model))
    assert [node.op for node in traced.graph.nodes].count("call_module") == 3
    want, got = model(X), traced(X)
    want.sum().backward()
    got.sum().backward()
    assert torch.equal(got, want)
    for p, q in zip(model.parameters(), traced.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_symbolic_tracing_of_a_shared_activation():
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 1), Residual(nn.LeakyReLU(0.1))))
    iabn.convert(model, X)
    assert model[1].act.shared
    assert torch.equal(fx.symbolic_trace(model)(X), copy.deepcopy(model)(X))


def test_features_by_torchvision():
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model = net(iabn.InPlaceABN).eval()
    features = extraction.create_feature_extractor(model, ["1"])(X)["1"]
    assert torch.equal(features, model[1](model[0](X)))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("layer", LAYERS)
def test_an_evaluated_model_is_traced_as_standard_operators(layer):
    model = net(layer).eval()
    want = model(X)
    with torch.no_grad():
        traced = torch.jit.trace(model, X)
    torch.testing.assert_close(traced(X), want)
    assert "iabn::" not in str(traced.inlined_graph)
    pytest.importorskip("onnx")
    torch.onnx.export(model, (X,), io.BytesIO(), dynamo=False)
