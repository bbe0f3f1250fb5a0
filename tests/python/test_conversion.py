"""convert() and to_batchnorm() on small networks: exact, nothing lost, and a reason for whatever is left alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conversion_support import Residual, assert_same_training, randomise
from iabn.conversion import unsafe_channels
from torch import fx, nn

import iabn

X = torch.randn(3, 4, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def net(*behind, norm=nn.BatchNorm2d):
    """Convolution, norm, whatever is behind it, convolution; float64."""
    layers = [nn.Conv2d(4, 4, 3, padding=1), norm(4), *behind, nn.Conv2d(4, 2, 1)]
    return randomise(nn.Sequential(*layers)).double()


def reason(model, layer, **options):
    """Converts and returns the reason that the report gives for a layer that was left alone."""
    report = iabn.convert(model, **options)
    row = next(row for row in report.rows if row.name == layer)
    assert row in report.left, report
    assert not isinstance(model.get_submodule(layer), iabn.InPlaceABN)
    assert row.reason in str(report)
    return row.reason


@pytest.mark.parametrize(
    "activation",
    [nn.LeakyReLU(0.2), nn.LeakyReLU(inplace=True), nn.ELU(0.7), nn.Identity(), nn.SiLU(), nn.Hardswish(), nn.GELU()],
    ids=repr,
)
def test_a_converted_pair_trains_as_before(activation):
    model = net(activation)
    before = copy.deepcopy(model)
    report = iabn.convert(model, X)
    assert len(report.converted) == 1 and report.exact
    assert report.largest_difference < 1e-13
    assert isinstance(model[1], iabn.InPlaceABN)
    assert_same_training(before, model, X)


def test_an_addition_in_place_keeps_the_layer_before_it():
    model = Residual(nn.LeakyReLU(), "in place")
    assert "an addition in place (+=) overwrites its output" in reason(model, "bn2")


@pytest.mark.parametrize("activation", [nn.Hardswish(inplace=True), nn.SiLU(inplace=True)], ids=repr)
def test_an_in_place_activation_that_needs_its_input_keeps_the_layer(activation):
    assert reason(net(activation), "1").endswith("works in place on its output: set inplace=False there")


@pytest.mark.parametrize("inplace", [False, True])
def test_relu_stays_unless_asked_for(inplace):
    model = net(nn.ReLU(inplace))
    want = model.eval()(X)
    assert 'convert(..., relu="leaky_relu")' in reason(model, "1", example=X)
    assert torch.equal(model(X), want)


def test_relu_becomes_leaky_relu_when_asked_for():
    model = net(nn.ReLU())
    before = copy.deepcopy(model)
    report = iabn.convert(model, X, relu="leaky_relu", slope=0.125)
    assert not report.exact and report.largest_difference > 1e-3
    assert "not an exact conversion" in str(report)
    before[2] = nn.LeakyReLU(0.125)
    assert_same_training(before, model, X)
    iabn.to_batchnorm(model, X)
    assert type(model[2]) is nn.LeakyReLU and model[2].negative_slope == 0.125


class Skip(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.LeakyReLU()
        self.pool = nn.Sigmoid()
        self.rule = forward

    def forward(self, x):
        return self.rule(self, x)


def _input_kept_by_another(m, x):
    y = m.conv(x)
    return m.act(m.bn(y)) + y.sigmoid()


def _input_read_twice(m, x):
    y = m.conv(x)
    return m.act(m.bn(y)) + y


def _sigmoid_before(m, x):
    return m.act(m.bn(m.pool(m.conv(x))))


def _output_read_twice_in_place(m, x):
    y = m.bn(m.conv(x))
    return F.relu_(y)


def _activation_overwritten(m, x):
    y = m.act(m.bn(m.conv(x)))
    y += 1
    return y


def _view_overwritten(m, x):
    y = m.act(m.bn(m.conv(x)))
    return y.flatten(1).mul_(2)


def _called_again_before_the_activation(m, x):
    first, second = m.bn(m.conv(x)), m.bn(m.conv(x + 1))
    return m.act(first) * m.act(second)


def _model_input(m, x):
    return m.conv(m.act(m.bn(x)))


def _input_stored(m, x):
    m.last = y = m.conv(x)
    return m.act(m.bn(y))


def _input_stored_in_a_list(m, x):
    m.features = [{"conv": m.conv(x)}]
    return m.act(m.bn(m.features[0]["conv"]))


@fx.wrap
def stochastic_depth(x):  # as torchvision's: where nothing is dropped, the input itself
    return x


def _stochastic_depth_overwritten(m, x):
    y = stochastic_depth(m.act(m.bn(m.conv(x))))
    y += x
    return y


def _with_branch(m, x):
    return m.act(m.bn(m.conv(x))) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (_input_kept_by_another, "its input is read by sigmoid() as well (skip connection)"),
        (_sigmoid_before, 'its input comes from "pool" (Sigmoid), which may need it in backward or share it'),
        (_output_read_twice_in_place, "its activation is a function call in forward (relu)"),
        (_activation_overwritten, "an addition in place (+=) overwrites its output"),
        (_view_overwritten, "mul_() overwrites its output"),
        (_called_again_before_the_activation, "it is called again before its activation is"),
        (_input_stored, 'forward stores its input as "last", where others may read it'),
        (_input_stored_in_a_list, 'forward stores its input as "features", where others may read it'),
        (_stochastic_depth_overwritten, "an addition in place (+=) overwrites its output"),
        (_model_input, "its input is the input of the model, which others may read"),
        (_with_branch, "forward of the model could not be traced: "),
    ],
)
def test_a_layer_is_left_alone_with_the_reason(rule, text):
    assert text in reason(Skip(rule), "bn")


def test_a_function_as_activation_stays_and_the_layer_is_in_place_without_one():
    model = Skip(lambda m, x: F.leaky_relu(m.bn(m.conv(x)), 0.2)).double()
    before = copy.deepcopy(model)
    report = iabn.convert(model, X)
    assert model.bn.activation == "identity" and "function call" in report.converted[0].reason
    assert_same_training(before, model, X)


def test_parts_of_a_model_that_cannot_be_traced_are_converted():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net(nn.LeakyReLU())
            self.bn = nn.BatchNorm2d(2)

        def forward(self, x):
            y = self.body(x)
            return self.bn(y) if y.sum() > -1e9 else y

    model = Branching().double()
    before = copy.deepcopy(model)
    report = iabn.convert(model, X)
    assert [row.name for row in report.converted] == ["body.1"]
    assert "could not be traced" in report.left[0].reason
    assert_same_training(before, model, X)


def test_both_modes_of_forward_count():
    def rule(m, x):
        y = m.conv(x)
        return m.act(m.bn(y)) if m.training else m.act(m.bn(y)) + y.sigmoid()

    assert "skip connection" in reason(Skip(rule), "bn")


def test_beside_a_skip_connection_the_layer_works_on_a_copy():
    model = Skip(_input_read_twice).double()
    before = copy.deepcopy(model)
    report = iabn.convert(model, X)
    assert model.bn.copy_input
    assert report.converted[0].reason == "works on a copy: an addition reads its input as well"
    assert_same_training(before, model, X)


def test_a_layer_called_twice_is_converted_where_both_calls_allow_it():
    model = Skip(lambda m, x: m.act(m.bn(m.conv(x))) + m.act(m.bn(m.conv(x * 2)))).double()
    before = copy.deepcopy(model)
    assert len(iabn.convert(model, X).converted) == 1
    assert_same_training(before, model, X)
    twice = Skip(lambda m, x: m.act(m.bn(m.conv(x))) + m.bn(m.conv(x * 2)))
    assert "called more than once, with different activations" in reason(twice, "bn")


@pytest.mark.parametrize("place", ["1", "2", "0"])
def test_hooks_are_not_lost(place):
    model = net(nn.LeakyReLU())
    model.get_submodule(place).register_forward_hook(lambda *_: None)
    assert "hook" in reason(model, "1")


def test_parameters_buffers_modes_and_frozen_layers_stay_the_same_objects():
    model = net(nn.LeakyReLU())
    model[1].eval()
    model[1].weight.requires_grad_(False)
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    modes = [module.training for module in model.modules()]
    before_model = copy.deepcopy(model)
    iabn.convert(model, X)
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert list(before) == list(after) and all(before[name] is after[name] for name in before)
    assert not model[1].weight.requires_grad and modes == [module.training for module in model.modules()]
    torch.testing.assert_close(model.eval()(X), before_model.eval()(X))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_convert_exactly_to_one_rounding(dtype):
    model = net(nn.LeakyReLU()).to(dtype)
    report = iabn.convert(model, X.to(dtype))
    assert len(report.converted) == 1
    assert report.relative_difference < 8 * torch.finfo(dtype).eps
    model(X.to(dtype)).sum().backward()


@pytest.mark.parametrize(
    ("norm", "conv", "shape"),
    [
        (nn.BatchNorm1d, nn.Linear, (5, 4)),
        (nn.BatchNorm1d, lambda a, b: nn.Conv1d(a, b, 1), (2, 4, 7)),
        (nn.BatchNorm3d, lambda a, b: nn.Conv3d(a, b, 1), (2, 4, 3, 2, 2)),
        (lambda c: nn.BatchNorm2d(c, affine=False), lambda a, b: nn.Conv2d(a, b, 1), (2, 4, 3, 3)),
        (lambda c: nn.BatchNorm2d(c, track_running_stats=False), lambda a, b: nn.Conv2d(a, b, 1), (2, 4, 3, 3)),
        (lambda c: nn.BatchNorm2d(c, momentum=None, eps=1e-3), lambda a, b: nn.Conv2d(a, b, 1), (2, 4, 3, 3)),
    ],
)
def test_every_kind_of_batchnorm_converts_and_comes_back(norm, conv, shape):
    model = randomise(nn.Sequential(conv(4, 4), norm(4), nn.ELU(), conv(4, 2))).double()
    before, x = copy.deepcopy(model), torch.randn(shape, dtype=torch.float64)
    assert len(iabn.convert(model, x).converted) == 1
    assert_same_training(before, model, x)
    iabn.to_batchnorm(model, x)
    assert repr(model) == repr(before)
    assert torch.equal(model.eval()(x), before.eval()(x))


def test_small_gammas_keep_the_layer_in_the_dtype_of_training():
    model = net(nn.LeakyReLU())
    with torch.no_grad():
        model[1].weight[1], model[1].bias[1] = 1e-3, 0.1  # ratio 100: unsafe in bfloat16, safe in float16
    assert "1 of 4 channels have a gamma too small" in reason(model, "1", dtype=torch.bfloat16)
    assert len(iabn.convert(model, dtype=torch.float16).converted) == 1


@pytest.mark.parametrize(("gamma", "kinds"), [(1e-2, ""), (1e-3, "bfloat16"), (1e-4, "bfloat16 and float16")])
def test_small_gammas_that_autocast_would_spoil_are_remarked(gamma, kinds):
    model = net(nn.LeakyReLU())
    with torch.no_grad():
        model[1].weight[1], model[1].bias[1] = gamma, 0.1
    remark = (
        f"unsafe under {kinds} autocast (1 of 4 channels have too small a gamma): convert with dtype=torch.bfloat16"
    )
    report = iabn.convert(copy.deepcopy(model))
    assert report.converted[0].reason.startswith(remark) if kinds else not report.converted[0].reason
    assert not iabn.convert(model, dtype=torch.float32).converted[0].reason


def test_unsafe_channels_counts_as_the_cpp_library():
    weight, bias = torch.tensor([0.0, 1.0, 1.0, -1e-3]), torch.tensor([0.0, 59.0, 61.0, 0.0])
    counts = {torch.bfloat16: 2, torch.float16: 1, torch.float32: 1, torch.float64: 1}
    assert {dtype: unsafe_channels(weight, bias, dtype) for dtype in counts} == counts


def test_synchronised_layers_stay_synchronised_unless_told_otherwise():
    def kind(norm, sync):
        model = net(nn.LeakyReLU(), norm=norm)
        iabn.convert(model, X, sync=sync)
        return type(model[1])

    assert kind(nn.SyncBatchNorm, None) is kind(nn.BatchNorm2d, True) is iabn.InPlaceABNSync
    assert kind(nn.SyncBatchNorm, False) is kind(nn.BatchNorm2d, None) is iabn.InPlaceABN


def test_subclasses_are_left_alone():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    assert "Own is a subclass" in reason(net(nn.LeakyReLU(), norm=Own), "1")


def test_a_wrong_conversion_is_taken_back(monkeypatch):
    model = net(nn.LeakyReLU())
    before = repr(model)
    monkeypatch.setattr("iabn.conversion._make_layer", lambda *_: nn.Identity())
    with pytest.raises(RuntimeError, match=r"convert: the outputs for the example differ by .* the model was restored"):
        iabn.convert(model, X)
    assert repr(model) == before


def test_convert_draws_no_random_numbers_and_leaves_the_example_alone():
    model, x = net(nn.LeakyReLU(), nn.Dropout()), X.clone()
    state = torch.get_rng_state()
    iabn.convert(model, x)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, X)


def test_there_and_back_restores_the_model_bit_for_bit():
    model = randomise(nn.Sequential(nn.Conv2d(4, 4, 1), Residual(nn.LeakyReLU()), net(nn.ELU()))).double().eval()
    text, state, want = repr(model), copy.deepcopy(model.state_dict()), model(X)
    assert len(iabn.convert(model, X).converted) == 3
    assert list(model.state_dict()) == list(state)
    report = iabn.to_batchnorm(model, X)
    assert len(report.converted) == 3 and repr(model) == text
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(X), want)


def test_layers_made_by_hand_become_batchnorm_and_activation():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 1),
        iabn.InPlaceABN(4, gamma="legacy"),
        nn.Conv2d(4, 4, 1),
        iabn.InPlaceABN(4, activation="identity"),
        nn.Conv2d(4, 4, 1),
        iabn.ABN(4, activation="relu"),
    ).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([-1.0, 0.5, 2.0, -0.1]))
    weight, want = model[1].weight, model.eval()(X)
    report = iabn.to_batchnorm(model, X)
    assert len(report.converted) == 3 and report.relative_difference < 1e-14
    assert 'keys are "1.0.weight" and so on now' in str(report)
    assert type(model[1][0]) is type(model[3]) is nn.BatchNorm2d and type(model[5][1]) is nn.ReLU
    assert model[1][0].weight is weight and weight.min() > 0
    torch.testing.assert_close(model(X), want)


def test_converting_twice_changes_nothing():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), Residual(nn.LeakyReLU())).double()
    iabn.convert(model, X)
    again = iabn.convert(model, X)
    assert not again.rows and "only layers of iabn" in str(again)
