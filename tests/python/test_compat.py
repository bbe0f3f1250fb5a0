"""The module name inplace_abn: what programs written for the original package do with it."""

import copy
import importlib
import inspect
import pickle
import sys
import warnings

import pytest
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from conftest import relative_error
from installations import COMPAT
from torch import nn

import iabn

if importlib.util.find_spec("inplace_abn") is None:
    sys.path.insert(0, str(COMPAT.parent))

import inplace_abn
from inplace_abn import ABN, InPlaceABN, InPlaceABNSync, active_group, functions, set_active_group

CLASSES = [ABN, InPlaceABN, InPlaceABNSync]
IN_PLACE = [InPlaceABN, InPlaceABNSync]
one_warning = pytest.mark.filterwarnings("ignore:inplace_abn. activation_param 0 is ReLU")
FUNCTIONS = [functions.inplace_abn, functions.inplace_abn_sync]


def randomise(layer):
    with torch.no_grad():
        layer.weight.uniform_(-1.5, 1.5)  # both signs: the modes of gamma differ
        layer.bias.uniform_(-0.5, 0.5)
        layer.running_mean.uniform_(-0.5, 0.5)
        layer.running_var.uniform_(0.5, 1.5)
    return layer.double()


def expected(layer, x, activation):
    """The original's meaning, in plain PyTorch, with new running statistics."""
    gamma = layer.weight if type(layer) is ABN else layer.weight.abs() + layer.eps
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    y = F.batch_norm(x, mean, var, gamma, layer.bias, layer.training, layer.momentum, layer.eps)
    return activation(y), mean, var


def test_this_is_iabns_inplace_abn_and_its_names_are_where_the_originals_were():
    assert inplace_abn.__distribution__ == "iabn-inplace-abn-compat"
    for name in ("ABN", "InPlaceABN", "InPlaceABNSync"):
        assert getattr(importlib.import_module("inplace_abn.abn"), name) is getattr(inplace_abn, name)
    for name in ("active_group", "set_active_group"):
        assert getattr(importlib.import_module("inplace_abn.group"), name) is getattr(inplace_abn, name)
    importlib.import_module("inplace_abn._backend")


def test_the_backend_says_where_its_functions_went():
    from inplace_abn import _backend

    assert not hasattr(_backend, "forward")
    with pytest.raises(AttributeError, match=r"has no forward.*call inplace_abn\.functions\.inplace_abn instead"):
        _backend.forward  # noqa: B018


@pytest.mark.parametrize("make", CLASSES)
def test_every_layer_is_an_abn_and_one_of_iabns(make):
    assert isinstance(make(4), ABN)
    assert isinstance(make(4), getattr(iabn, make.__name__))


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize(
    "arguments, options, activation, param, tracked",
    [
        ((), {}, "leaky_relu", 0.01, True),
        ((1e-3, 0.2, True, True, "elu", 0.5), {}, "elu", 0.5, True),
        ((1e-3, 0.2, True, False), {}, "leaky_relu", 0.01, False),
        ((1e-3, 0.2, True, "elu", 0.5), {}, "elu", 0.5, True),
        ((1e-3, 0.2, True, "elu"), {"activation_param": 0.5}, "elu", 0.5, True),
        ((1e-3, 0.2, True, "leaky_relu"), {}, "leaky_relu", 0.01, True),
        ((1e-3, 0.2, True, "none"), {}, "identity", 0.01, True),
        ((), {"activation": "none"}, "identity", 0.01, True),
        ((), {"activation": "leaky_relu", "slope": 0.1}, "leaky_relu", 0.1, True),
    ],
)
def test_three_generations_of_arguments_are_understood(make, arguments, options, activation, param, tracked):
    layer = make(4, *arguments, **options)
    assert (layer.num_features, layer.activation, layer.activation_param) == (4, activation, param)
    assert (layer.eps, layer.momentum) == ((1e-3, 0.2) if arguments else (1e-5, 0.1))
    assert layer.affine
    assert (layer.running_mean is not None) == tracked


def test_the_group_is_last_in_both_orders():
    assert InPlaceABNSync(4, 1e-5, 0.1, True, True, "elu", 1.0, "group").group == "group"
    assert InPlaceABNSync(4, 1e-5, 0.1, True, "elu", 1.0, "group").group == "group"
    old = InPlaceABNSync(4, 1e-5, 0.1, True, "elu", 0.5, None)
    assert (old.group, old.activation_param) == (None, 0.5)
    with pytest.raises(TypeError, match="group"):
        InPlaceABN(4, group="group")


def test_signatures_show_the_newest_order():
    names = ["num_features", "eps", "momentum", "affine", "track_running_stats", "activation", "activation_param"]
    for make in CLASSES:
        assert list(inspect.signature(make).parameters)[:8] == [*names, "group"]


@pytest.mark.parametrize("make", CLASSES)
def test_a_subclass_may_pass_its_arguments_by_position(make):
    class Layer(make):
        def __init__(self, channels, activation="elu"):
            super().__init__(channels, 1e-5, 0.1, True, True, activation, 0.5)

    assert Layer(4)(torch.randn(2, 4, 3, 3)).shape == (2, 4, 3, 3)
    assert isinstance(Layer(4), ABN)


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(16, 4), (3, 4, 5), (2, 4, 3, 3), (2, 4, 2, 3, 3)])
def test_outputs_gradients_and_statistics_are_the_originals(make, training, shape):
    layer = randomise(make(4)).train(training)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    z, mean, var = expected(layer, x, lambda y: F.leaky_relu(y, 0.01))
    d_z = torch.randn_like(z)
    leaves = (x, layer.weight, layer.bias)
    wanted = torch.autograd.grad(z, leaves, d_z)
    got = layer(x.clone())
    assert relative_error(got, z) < 1e-12
    assert all(relative_error(a, b) < 1e-11 for a, b in zip(torch.autograd.grad(got, leaves, d_z), wanted, strict=True))
    assert relative_error(layer.running_mean, mean) < 1e-12
    assert relative_error(layer.running_var, var) < 1e-12
    assert layer.num_batches_tracked == int(training)


@pytest.mark.parametrize("make", IN_PLACE)
def test_the_input_is_overwritten_and_abn_leaves_it(make):
    x = torch.randn(2, 4, 3, 3)
    before = x.clone()
    ABN(4)(x)
    assert torch.equal(x, before)
    assert make(4)(x).data_ptr() == x.data_ptr()
    assert not torch.equal(x, before)


@pytest.mark.parametrize("make", IN_PLACE)
def test_gamma_can_be_signed_on_request(make):
    assert make(4).gamma == "legacy"
    assert make(4, gamma="signed").gamma == "signed"


def test_attributes_can_be_set_after_construction():
    layer = randomise(InPlaceABN(4))
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    layer.activation = "none"
    assert layer.activation == "identity"
    assert relative_error(layer(x.clone()), expected(layer, x, lambda y: y)[0]) < 1e-12
    layer.activation, layer.activation_param = "elu", 0.7
    assert relative_error(layer(x.clone()), expected(layer, x, lambda y: F.elu(y, 0.7))[0]) < 1e-12
    layer.activation = "swish"
    with pytest.raises(ValueError, match='got "swish"'):
        layer(x)


def test_a_checkpoint_trained_in_place_evaluates_with_abn_where_gamma_is_positive():
    layer = randomise(InPlaceABN(4))
    with torch.no_grad():
        layer.weight.abs_().add_(0.1)
    evaluated = ABN(4).double()
    evaluated.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    assert relative_error(layer.eval()(x.clone()), evaluated.eval()(x)) < 1e-3  # |gamma| + eps against gamma


@pytest.mark.parametrize("make", CLASSES)
def test_a_state_dict_without_the_counter_loads(make):
    layer = randomise(make(4))
    state = layer.state_dict()
    assert list(state) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    del state["num_batches_tracked"]
    other = nn.Sequential(make(4).double())
    other.load_state_dict({f"0.{key}": value for key, value in state.items()}, strict=True)
    assert torch.equal(other[0].weight, layer.weight)
    assert other[0].num_batches_tracked == 0


@pytest.mark.parametrize("make", CLASSES)
def test_layers_can_be_copied_and_pickled(make):
    layer = randomise(make(4, activation="none"))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is make
        assert (other.activation, str(other)) == ("identity", str(layer))
        assert torch.equal(other.weight, layer.weight)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_function_takes_ten_positional_arguments_and_weights_that_are_no_leaves(function):
    layer = randomise(InPlaceABN(4, activation="elu", activation_param=0.9))
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    z, mean, var = expected(layer, x, lambda y: F.elu(y, 0.9))
    leaves = (x, layer.weight, layer.bias)
    wanted = torch.autograd.grad(z.square().sum(), leaves)
    weight, bias = (layer.weight * 2) / 2, layer.bias + 0  # results of operations
    statistics = (layer.running_mean, layer.running_var)
    got = function(x.clone(), weight, bias, *statistics, True, 0.1, 1e-5, "elu", 0.9)
    assert isinstance(got, torch.Tensor)
    gradients = torch.autograd.grad(got.square().sum(), leaves)
    assert all(relative_error(a, b) < 1e-11 for a, b in zip(gradients, wanted, strict=True))
    assert relative_error(layer.running_mean, mean) < 1e-12
    assert relative_error(layer.running_var, var) < 1e-12


@pytest.mark.parametrize("activation", ["leaky_relu", "elu"])
@pytest.mark.parametrize("make", [*IN_PLACE, functions.inplace_abn])
def test_slope_zero_trains_as_batch_norm_and_relu_with_one_warning(monkeypatch, activation, make):
    monkeypatch.setattr(functions, "_warned", False)
    layer = randomise((InPlaceABN if make is functions.inplace_abn else make)(4, activation=activation, slope=0.0))
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    z, mean, var = expected(layer, x, torch.relu)
    leaves = (x, layer.weight, layer.bias)
    wanted = torch.autograd.grad(z.square().sum(), leaves)
    statistics = (layer.running_mean, layer.running_var)
    with pytest.warns(UserWarning, match=r"activation_param 0 is ReLU.*Use a slope above 0"):
        if make is functions.inplace_abn:
            got = make(x, layer.weight, layer.bias, *statistics, True, 0.1, 1e-5, activation, 0.0)
        else:
            got = layer(x)
            assert layer.num_batches_tracked == 1
    assert got.data_ptr() != x.data_ptr()
    gradients = torch.autograd.grad(got.square().sum(), leaves)
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(gradients, wanted, strict=True))
    assert relative_error(layer.running_mean, mean) < 1e-12
    assert relative_error(layer.running_var, var) < 1e-12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)


@one_warning
def test_slope_zero_set_later_and_a_cumulative_average_work():
    layer = randomise(InPlaceABN(4, momentum=None))
    layer.activation_param = 0.0
    batches = [torch.randn(8, 4, dtype=torch.float64) for _ in range(3)]
    for x in batches:
        layer(x)
    assert relative_error(layer.running_mean, torch.stack(batches).mean((0, 1))) < 1e-12


def test_slope_zero_evaluates_without_a_warning(monkeypatch):
    monkeypatch.setattr(functions, "_warned", False)
    layer = randomise(InPlaceABN(4, activation_param=0.0)).eval()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    z, *_ = expected(layer, x, torch.relu)
    leaves = (x, layer.weight, layer.bias)
    wanted = torch.autograd.grad(z.square().sum(), leaves)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = layer(x.clone())
    gradients = torch.autograd.grad(got.square().sum(), leaves)
    assert all(relative_error(a, b) < 1e-11 for a, b in zip(gradients, wanted, strict=True))


@one_warning
@pytest.mark.parametrize("slope", [0.0, 0.01])
def test_compiled_training_is_eager_training(monkeypatch, slope):
    monkeypatch.setattr(functions, "_warned", False)
    layer = randomise(InPlaceABN(4, activation_param=slope))
    compiled = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    gradients = []
    for model, inner in ((compiled, compiled._orig_mod), (layer, layer)):
        model(x.clone()).square().sum().backward()
        gradients.append(inner.weight.grad)
    assert relative_error(gradients[0], gradients[1]) < 1e-11
    assert relative_error(compiled._orig_mod.running_var, layer.running_var) < 1e-12


def test_set_active_group_reaches_every_synchronised_layer():
    model = nn.Sequential(InPlaceABNSync(4), nn.Sequential(nn.Conv2d(4, 4, 1), InPlaceABNSync(4)), InPlaceABN(4))
    set_active_group(model, "group")
    assert model[0].group == model[1][1].group == "group"
    assert not hasattr(model[2], "group")


def test_active_group_is_none_without_a_process_group():
    assert active_group(None, True) is None


def _process(rank, file):
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    everyone = active_group(None, True)
    assert everyone is distributed.group.WORLD
    assert active_group(None, False) is None
    first = active_group(None, rank == 0)
    assert active_group(None, rank == 0) is first
    statistics = [torch.zeros(4), torch.ones(4)]
    arguments = [torch.ones(4), torch.zeros(4), *statistics]
    if rank == 0:
        assert distributed.get_process_group_ranks(first) == [0]
        assert functions.inplace_abn_sync(torch.randn(8, 4), *arguments, group=first).shape == (8, 4)
        layer = InPlaceABNSync(4)
        set_active_group(layer, first)
        layer(torch.randn(8, 4))
    with pytest.raises(NotImplementedError, match="not synchronised over 2 processes"):
        InPlaceABNSync(4, activation_param=0.0)(torch.randn(8, 4))
    with pytest.raises(NotImplementedError, match="not synchronised over 2 processes"):
        functions.inplace_abn_sync(torch.randn(8, 4), *arguments, activation_param=0.0)
    torch.manual_seed(0)
    whole = torch.randn(8, 4)
    mine = whole[4 * rank : 4 * rank + 4]
    want = functions.inplace_abn(whole.clone(), *(t.clone() for t in arguments))[4 * rank : 4 * rank + 4]
    torch.testing.assert_close(functions.inplace_abn_sync(mine.clone(), *arguments), want)
    torch.testing.assert_close(InPlaceABNSync(4)(mine.clone()), want)
    assert InPlaceABNSync(4).eval()(torch.randn(8, 4)).shape == (8, 4)
    distributed.destroy_process_group()


def test_two_processes_agree_on_the_active_group_and_none_skips_synchronisation_silently(tmp_path):
    multiprocessing.spawn(_process, (tmp_path / "store",), nprocs=2)
