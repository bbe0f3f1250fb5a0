"""convert() where one activation module serves several places."""

import copy
import pickle
import threading

import pytest
import torch
from conversion_support import Residual, assert_same_training, randomise
from torch import nn

import iabn

X = torch.randn(4, 4, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_shared_activation_still_acts_where_it_is_not_part_of_a_layer(inplace):
    model = nn.Sequential(nn.Conv2d(4, 4, 1), Residual(nn.LeakyReLU(0.1, inplace))).double()
    before = copy.deepcopy(randomise(model))
    report = iabn.convert(model, X)
    assert [row.name for row in report.converted] == ["1.bn1", "1.bn2"]
    assert model[1].bn2.activation == "identity"
    assert_same_training(before, model, X)
    assert_same_training(before, copy.deepcopy(model), X)
    assert_same_training(before, pickle.loads(pickle.dumps(model)), X)


def test_a_shared_activation_tells_the_layers_in_front_of_it_apart():
    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.bn1, self.bn2, self.act = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.LeakyReLU(0.3)

        def forward(self, x):
            first, second = self.bn1(self.conv1(x)), self.bn2(self.conv2(x))
            return self.act(self.act(x) + self.act(first) * self.act(second))

    model = randomise(Crossed()).double()
    before = copy.deepcopy(model)
    assert len(iabn.convert(model, X).converted) == 2 and model.act.shared
    assert_same_training(before, model, X)


def test_an_exception_between_layer_and_shared_activation_does_not_leak_into_the_next_pass():
    model = randomise(Residual(nn.LeakyReLU(0.1))).double()
    before = copy.deepcopy(model).eval()
    iabn.convert(model, X)
    model.eval().bn1(X.clone())  # its activation does not follow
    torch.testing.assert_close(model(X), before(X))


@pytest.mark.parametrize("training", [False, True])
def test_a_whole_compiled_model_with_a_shared_activation_gives_the_same(training):
    model = randomise(Residual(nn.LeakyReLU(0.1))).double().train(training)
    want = copy.deepcopy(model)(X)
    iabn.convert(model, X)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), want)
    torch.testing.assert_close(torch.export.export(model, (X,), strict=True).module()(X), model(X))


@pytest.mark.parametrize("name", ["act", "bn1"])
def test_backward_hooks_on_layer_and_activation_change_nothing(name):
    model = randomise(Residual(nn.LeakyReLU(0.1))).double()
    want = copy.deepcopy(model)(X)
    iabn.convert(model, X)
    model.bn1.copy_input = True  # a backward hook wants it
    model.get_submodule(name).register_full_backward_hook(lambda *_: None)
    torch.testing.assert_close(model(X), want)


def test_one_activation_for_all_layers_becomes_part_of_each():
    act = nn.LeakyReLU(0.3)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), act, nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), act)
    before = copy.deepcopy(randomise(model.double()))
    assert len(iabn.convert(model, X).converted) == 2
    assert model[2] is model[5] and model[2](X) is X
    assert_same_training(before, model, X)


def test_threads_evaluate_one_model():
    model = randomise(Residual(nn.LeakyReLU(0.1))).double().eval()
    inputs = [X, X + 1]
    want = [model(x) for x in inputs]
    iabn.convert(model, X)
    both = threading.Barrier(2, timeout=60)
    model.bn1.register_forward_hook(lambda *_: both.wait() * 0 or None)  # between layer and activation
    got = {}
    threads = [threading.Thread(target=lambda i=i: got.update({i: model(inputs[i])})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        torch.testing.assert_close(got[i], want[i])


def test_a_model_can_be_copied_after_an_interrupted_pass():
    model = randomise(Residual(nn.LeakyReLU(0.1))).double()
    iabn.convert(model, X)
    model.bn1(model.conv1(X))  # as if the pass had ended here
    want = copy.deepcopy(model)(X)
    assert torch.equal(pickle.loads(pickle.dumps(model))(X), want)


def test_compiled_with_graph_breaks_between_layer_and_activation():
    class Broken(Residual):
        def forward(self, x):
            y = self.bn1(self.conv1(x))
            torch._dynamo.graph_break()
            y = self.act(y)
            torch._dynamo.graph_break()
            return self.act(self.bn2(self.conv2(y)) + x)

    model = randomise(Residual(nn.LeakyReLU(0.1))).double().eval()
    want = model(X)
    iabn.convert(model, X)
    model.__class__ = Broken
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(X), want)
