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


def read_after(m, y):
    return m.head(m.bn(y)) + y.mean()


def read_after_by_a_module(m, y):
    z = m.bn(y)
    return m.head(z) + m.head(y)


def returned(m, y):
    return m.head(m.bn(y)), y


def shape_taken_after(m, y):
    z = m.bn(y)
    return m.head(z) + torch.zeros_like(y).view(-1)[0] + y.view(-1).shape[0]


def overwritten_after(m, y):
    z = m.bn(y)
    z += 1
    return z


def found(rule, **options):
    return iabn.find_overwrites(Net(rule, iabn.InPlaceABN(8, **options)), X)


def test_nothing_is_found_where_training_works():
    assert found(plain) == []
    assert found(read_by_a_module, copy_input=True) == []
    assert found(read_after, copy_input=True) == []
    assert found(shape_taken_after) == []
    deep = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Conv2d(3, 3, 1), iabn.InPlaceABN(3))))
    assert iabn.find_overwrites(deep, X, autocast=torch.bfloat16) == []


@pytest.mark.parametrize(
    ("rule", "overwrite", "text"),
    [
        (read_before, ("", "bn"), 'the model\'s own forward keeps a tensor for backward that "bn" overwrites'),
        (
            read_by_a_module,
            ("head", "bn"),
            '"head" keeps a tensor for backward that "bn" overwrites: give the layer copy_input=True, use ABN',
        ),
        (overwritten_after, ("bn", "bn"), "in place: set inplace=False there (a = a + b for a += b), use ABN"),
    ],
)
def test_reader_and_layer_are_named(rule, overwrite, text):
    assert found(rule) == [iabn.Overwrite(*overwrite)]
    assert text in str(found(rule)[0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        Net(rule, iabn.InPlaceABN(8))(X).sum().backward()


@pytest.mark.parametrize(
    ("rule", "reader"), [(read_after, ""), (read_after_by_a_module, "head"), (returned, "")], ids=lambda v: str(v)[:20]
)
def test_reads_after_the_layer_are_found_though_nothing_raises(rule, reader):
    assert found(rule) == [iabn.Overwrite(reader, "bn", True)]
    assert (
        'reads the input of "bn" after it was overwritten, and gets the output: give the layer copy_input=True'
        in str(found(rule)[0])
    )
    result = Net(rule, iabn.InPlaceABN(8))(X)
    (result[0] if rule is returned else result).sum().backward()


@pytest.mark.parametrize("expected", [0, 1])
def test_slices_that_are_apart_are_told_apart(expected):
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 8, 3), iabn.InPlaceABN(4)

        def forward(self, x):
            y = self.conv(x)
            z = self.bn(y[:, :4])
            return z.sum() + y[:, 0 if expected else 4 :].sum()

    assert len(iabn.find_overwrites(Halves(), X)) == expected


def test_an_example_is_what_it_is_for_convert():
    class Two(Net):
        def forward(self, x, y):
            return super().forward(x + y)

    model = Two(read_after, iabn.InPlaceABN(8))
    for arguments in ((X, X), ((X, X),), ({"x": X, "y": X},)):
        assert len(iabn.find_overwrites(model, *arguments)) == 1
        assert iabn.memory_report(model, *arguments).kept
    assert len(iabn.find_overwrites(model, X, y=X)) == 1


@pytest.mark.parametrize("pictures", [[X[0], X[1]], {"first": X[0], "second": X[1]}])
def test_a_list_or_dict_may_be_the_argument_itself(pictures):
    class Stacks(Net):
        def forward(self, pictures):
            return super().forward(torch.stack(list(pictures.values() if isinstance(pictures, dict) else pictures)))

    model = Stacks(read_after, iabn.InPlaceABN(8))
    assert len(iabn.find_overwrites(model, pictures)) == 1
    assert iabn.memory_report(model, pictures).kept


def test_operators_that_take_functions_are_looked_into():
    class Chooses(Net):
        def forward(self, x):
            y = self.conv(x)
            z = self.bn(y)
            return torch.cond(z.sum() > 0, lambda t: t + 1, lambda t: t - 1, (y,)) + z

    with torch.no_grad():
        assert len(iabn.find_overwrites(Chooses(plain, iabn.InPlaceABN(8)), X)) == 1


def test_a_layer_that_was_there_before_may_be_used_for_what_it_does():
    class Writes(Net):
        def forward(self, x):
            y = self.norm(self.conv(x))
            self.bn(y)
            return self.head(y)

    model = Writes(plain, iabn.InPlaceABN(8))
    model.norm = nn.BatchNorm2d(8)
    assert "training pass" not in str(iabn.convert(model, X))


def test_convert_says_what_it_could_not_search():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(), nn.Conv2d(8, 2, 1))

        def forward(self, x):
            if self.training:
                raise AssertionError("targets are missing\nin training")
            return self.body(x)

    report = iabn.convert(Detector(), X)
    assert len(report.converted) == 1
    assert str(report).endswith("searched for overwritten tensors: AssertionError: targets are missing")


def test_a_compiled_model_is_looked_into():
    model = Net(read_after, iabn.InPlaceABN(8))
    compiled = torch.compile(model, backend="eager")
    assert iabn.find_overwrites(compiled, X) == [iabn.Overwrite("", "bn", True)]
    assert {layer.name for layer in iabn.memory_report(compiled, X).layers} <= {"", "conv", "bn", "head"}


@pytest.mark.parametrize("autocast", ["bfloat16", True, torch.float32])
def test_a_bad_type_for_autocast_is_refused(autocast):
    for function in (iabn.find_overwrites, iabn.memory_report):
        with pytest.raises(ValueError, match=r"autocast must be torch\.bfloat16, torch\.float16 or None, got"):
            function(Net(plain, iabn.InPlaceABN(8)), X, autocast=autocast)


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
