"""find_overwrites(), and convert() with an example whose trace says too little."""

import copy

import pytest
import torch
from iabn._dataflow_rules import Graph
from torch import nn

import iabn

X = torch.randn(4, 3, 6, 6)


class Net(nn.Module):
    """Convolution and layer; `rule` says what else happens."""

    def __init__(self, rule, layer):
        super().__init__()
        self.conv, self.bn, self.head, self.rule = nn.Conv2d(3, 8, 3), layer, nn.Conv2d(8, 2, 1), rule

    def forward(self, x):
        return self.rule(self, self.conv(x))


def plain(m, y):
    return m.head(m.bn(y))


def read_before(m, y):
    squares = y.square()
    return m.head(m.bn(y)) + squares.mean()


def read_by_a_module(m, y):
    before = m.head(y)
    return m.head(m.bn(y)) + before


def overwritten_after(m, y):
    z = m.bn(y)
    z += 1
    return z


def found(rule, **options):
    return iabn.find_overwrites(Net(rule, iabn.InPlaceABN(8, **options)), X)


def test_nothing_is_found_where_training_works():
    assert found(plain) == []
    assert found(read_by_a_module, copy_input=True) == []
    deep = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Conv2d(3, 3, 1), iabn.InPlaceABN(3))))
    assert iabn.find_overwrites(deep, X, autocast=torch.bfloat16) == []


@pytest.mark.parametrize(
    ("rule", "overwrite", "text"),
    [
        (read_before, ("", "bn"), 'the model\'s own forward keeps a tensor for backward that "bn" overwrites'),
        (
            read_by_a_module,
            ("head", "bn"),
            '"head" keeps a tensor for backward that "bn" overwrites: give it copy_input',
        ),
        (overwritten_after, ("bn", "bn"), '"bn" needs its own output'),
    ],
)
def test_reader_and_layer_are_named(rule, overwrite, text):
    assert found(rule) == [iabn.Overwrite(*overwrite)]
    assert text in str(found(rule)[0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        Net(rule, iabn.InPlaceABN(8))(X).sum().backward()


def test_the_model_stays_as_it_is():
    model = Net(read_before, iabn.InPlaceABN(8)).eval()
    state = copy.deepcopy(model.state_dict())
    iabn.find_overwrites(model, X)
    assert not model.training and all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_convert_with_an_example_refuses_what_the_trace_has_missed(monkeypatch):
    monkeypatch.setattr(Graph, "input_problem", lambda self, node: "")
    monkeypatch.setattr(Graph, "copy_helps", lambda self, node: "")
    model = Net(read_by_a_module, nn.BatchNorm2d(8))
    before = repr(model)
    with pytest.raises(RuntimeError, match=r'convert: training would fail.*"head" keeps .* "bn" overwrites.*skip='):
        iabn.convert(model, X)
    assert repr(model) == before
