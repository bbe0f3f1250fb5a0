"""The layer in eager mode: values, gradients, statistics, memory, and everything around it that PyTorch offers."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error
from iabn.functional import inplace_abn
from torch import nn
from torch.utils.checkpoint import checkpoint

import iabn

ACTIVATIONS = [("leaky_relu", 0.01), ("leaky_relu", 0.2), ("elu", 1.0), ("identity", 0.0)]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def reference(layer):
    """BatchNorm + activation in float64 with the layer's parameters."""
    abn = iabn.ABN(
        layer.num_features,
        layer.eps,
        layer.momentum,
        activation=layer.activation,
        activation_param=layer.activation_param,
    ).to(layer.weight.device, torch.float64)
    abn.load_state_dict(layer.state_dict())
    return abn.train(layer.training)


def randomise(layer):
    with torch.no_grad():
        layer.weight.uniform_(0.5, 1.5)
        layer.bias.uniform_(-0.5, 0.5)
    return layer


def tensor(shape, dtype, device, layout=torch.contiguous_format):
    return torch.randn(shape, dtype=torch.float32, device=device).to(dtype).to(memory_format=layout)


@pytest.mark.parametrize("activation, param", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_training_is_batch_norm_and_activation(device, activation, param, dtype, layout):
    layer = randomise(iabn.InPlaceABN(8, activation=activation, activation_param=param)).to(device)
    if dtype == torch.float64:
        layer.double()
    other = reference(layer)
    data = tensor((16, 8, 12, 12), dtype, device, layout)
    d_z = tensor((16, 8, 12, 12), dtype, device, layout)
    x = data.clone().requires_grad_()
    z = layer(x.clone())
    z.backward(d_z)
    want_x = data.double().requires_grad_()
    want = other(want_x)
    want.backward(d_z.double())
    tolerance = 16 * torch.finfo(dtype).eps
    assert z.dtype == dtype and z.is_contiguous(memory_format=layout)
    assert relative_error(z, want) < tolerance
    assert relative_error(x.grad, want_x.grad) < tolerance
    for name, parameter in layer.named_parameters():
        assert parameter.grad.dtype == parameter.dtype
        assert relative_error(parameter.grad, other.get_parameter(name).grad) < tolerance, name
    for name, buffer in layer.named_buffers():
        assert relative_error(buffer, other.get_buffer(name)) < 1e-5, name


@pytest.mark.parametrize("shape", [(64, 5), (9, 5, 7), (4, 5, 3, 3), (2, 5, 3, 4, 5)])
def test_any_number_of_trailing_dimensions(device, shape):
    layer = randomise(iabn.InPlaceABN(5)).to(device)
    other = reference(layer)
    data = torch.randn(shape, device=device)
    assert relative_error(layer(data.clone()), other(data.double())) < 1e-5


def test_evaluation_with_and_without_gradients(device):
    layer = randomise(iabn.InPlaceABN(8)).to(device)
    layer(torch.randn(16, 8, 6, 6, device=device) * 2 + 1)
    layer.eval()
    other = reference(layer)
    data = torch.randn(4, 8, 6, 6, device=device)
    with torch.no_grad():
        x = data.clone()
        z = layer(x)
        assert z.data_ptr() == x.data_ptr()
    want_x = data.double().requires_grad_()
    want = other(want_x)
    assert relative_error(z, want) < 1e-5
    x = data.clone().requires_grad_()
    layer(x.clone()).square().sum().backward()
    want.square().sum().backward()
    assert relative_error(x.grad, want_x.grad) < 1e-5
    assert relative_error(layer.weight.grad, other.weight.grad) < 1e-5
    relu = iabn.InPlaceABN(8, activation="relu").to(device).eval()
    assert (relu(data.clone()) >= 0).all()


def test_the_output_is_all_that_is_kept():
    layer = iabn.InPlaceABN(8)
    x = torch.randn(4, 8, 16, 16, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        y = x * 2
        storage = y.untyped_storage().data_ptr()
        z = layer(y)
    assert z.untyped_storage().data_ptr() == storage
    large = {t.untyped_storage().data_ptr() for t in kept if t.numel() >= x.numel()}
    assert large == {storage}


def test_legacy_gamma_is_the_absolute_value(device):
    layer = iabn.InPlaceABN(4, gamma="legacy").to(device)
    signed = iabn.InPlaceABN(4).to(device)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -2.0, 0.5, -0.5]))
        signed.weight.copy_(layer.weight.abs() + layer.eps)
    data = torch.randn(8, 4, 5, 5, device=device)
    z = layer(data.clone())
    assert torch.equal(z, signed(data.clone()))
    z.square().sum().backward()
    assert "gamma=legacy" in repr(layer)
    for mode in (layer, signed):
        mode.eval()
    assert torch.equal(layer(data.clone()), signed(data.clone()))


def test_cumulative_average_and_no_statistics(device):
    layer = iabn.InPlaceABN(3, momentum=None).to(device)
    want = nn.BatchNorm2d(3, momentum=None).to(device)
    for _ in range(3):
        data = torch.randn(4, 3, 5, 5, device=device)
        layer(data.clone())
        want(data)
    assert relative_error(layer.running_var, want.running_var) < 1e-5
    assert layer.num_batches_tracked == 3
    without = iabn.InPlaceABN(3, track_running_stats=False, affine=False).to(device)
    assert not without.state_dict()
    data = torch.randn(4, 3, 5, 5, device=device)
    assert torch.equal(without(data.clone()), without.eval()(data.clone()))


def test_state_dict_moves_freely_from_and_to_batch_norm():
    norm = nn.BatchNorm2d(6)
    norm(torch.randn(4, 6, 3, 3))
    for kind in (iabn.ABN, iabn.InPlaceABN, iabn.InPlaceABNSync):
        layer = kind(6)
        layer.load_state_dict(norm.state_dict())
        nn.BatchNorm2d(6).load_state_dict(layer.state_dict())
        old = {k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"}
        layer.load_state_dict(old)
        assert isinstance(layer, iabn.ABN)


def test_copies_and_pickles():
    layer = randomise(iabn.InPlaceABN(4, activation="elu", activation_param=0.5))
    data = torch.randn(4, 4, 3, 3)
    z = layer.eval()(data.clone())
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(buffer, weights_only=False)]
    for other in copies:
        assert torch.equal(other(data.clone()), z)
        assert repr(other) == repr(layer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_float32_parameters(device, dtype):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), iabn.InPlaceABN(8), nn.Conv2d(8, 4, 1)).to(device)
    scaler = torch.amp.GradScaler(device.type, init_scale=16.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with torch.autocast(device.type, dtype):
        y = model(torch.randn(4, 3, 8, 8, device=device))
        loss = y.float().square().mean()
    assert y.dtype == dtype
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert model[1].weight.dtype == torch.float32 and torch.isfinite(model[1].weight).all()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_updates_the_statistics_once(device, reentrant):
    def block(layer):
        conv = nn.Conv2d(3, 8, 3, device=device)
        with torch.no_grad():
            conv.weight.copy_(torch.linspace(-1, 1, conv.weight.numel()).view_as(conv.weight))
            conv.bias.zero_()
        return nn.Sequential(conv, layer, nn.Conv2d(8, 2, 1, device=device))

    data = torch.randn(4, 3, 8, 8, device=device)
    results = []
    for use in (False, True):
        torch.manual_seed(3)
        model = block(iabn.InPlaceABN(8).to(device))
        x = data.clone().requires_grad_()
        y = checkpoint(model, x, use_reentrant=reentrant) if use else model(x)
        y.square().sum().backward()
        results.append((model[1].running_mean, model[1].running_var, model[1].num_batches_tracked, x.grad))
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


def test_gradcheck():
    def function(x, weight, bias):
        return inplace_abn(x.clone(), weight, bias, None, None, activation_param=0.1)

    inputs = (
        torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True),
        torch.rand(2, dtype=torch.float64).add_(0.5).requires_grad_(),
        torch.rand(2, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(function, inputs)


def test_a_copied_input_stays_and_only_the_output_is_kept():
    layer = iabn.InPlaceABN(4, copy_input=True)
    data = torch.randn(4, 4, 5, 5, requires_grad=True)
    x = data * 1
    before = x.detach().clone()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        z = layer(x)
    assert torch.equal(x, before)
    assert {t.data_ptr() for t in kept if t.numel() == x.numel()} == {z.data_ptr()}
    want = data.detach().clone().requires_grad_()
    (reference(layer).float()(want * 1) + want).square().sum().backward()
    (z + x).square().sum().backward()
    assert relative_error(data.grad, want.grad) < 1e-5
    assert "copy_input=True" in repr(layer)


class TestBadInput:
    def test_leaf_that_requires_grad(self):
        x = torch.randn(4, 2, 3, 3, requires_grad=True)
        before = x.detach().clone()
        with pytest.raises(RuntimeError, match=r"leaf tensor that requires grad.*clone"):
            iabn.InPlaceABN(2)(x)
        assert torch.equal(x, before)

    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda: torch.randn(8, 3, requires_grad=True).view(4, 2, 3), "view of a leaf tensor"),
            (lambda: torch.randn(8, 2, 3)[:4], "view of a tensor without gradient"),
            (lambda: (torch.randn(4, 4, 3, requires_grad=True) * 1).chunk(2, 1)[0], "result of SplitBackward0"),
        ],
    )
    def test_views_that_autograd_does_not_allow(self, make, text):
        x = make()
        before = x.detach().clone()
        layer = iabn.InPlaceABN(2)
        with pytest.raises(RuntimeError, match=rf"{text}.*copy_input"):
            layer(x)
        assert torch.equal(x, before) and layer.num_batches_tracked == 0
        assert torch.isfinite(iabn.InPlaceABN(2, copy_input=True)(x)).all()

    def test_backward_hook_and_forward_mode(self):
        layer = iabn.InPlaceABN(2)
        with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode"):
            layer(torch.randn(4, 2, 3))
        hooked = iabn.InPlaceABN(2)
        hooked.register_full_backward_hook(lambda *_: None)
        with pytest.raises(RuntimeError, match="BackwardHookFunctionBackward"):
            hooked(torch.randn(4, 2, 3, requires_grad=True) * 1)
        assert layer.num_batches_tracked == hooked.num_batches_tracked == 0

    def test_arguments_are_checked_alike(self):
        x = torch.randn(4, 2, 3)
        running = (torch.zeros(2), torch.ones(2))
        for function in (inplace_abn, iabn.functional.inplace_abn_sync):
            for options in ({"momentum": 7.0}, {"momentum": None}):
                with pytest.raises(ValueError, match="momentum"):
                    function(x.clone(), None, None, *running, **options)
            with pytest.raises(ValueError, match="together"):
                function(x.clone(), None, None, running[0], None)
        weight = torch.ones(2, requires_grad=True)
        with pytest.raises(ValueError, match="no gradients"):
            inplace_abn(x, weight, None, *running, training=False, activation="elu", activation_param=0.0)

    def test_inference_tensor(self):
        with torch.inference_mode():
            x = torch.randn(4, 2, 3, 3)
            iabn.InPlaceABN(2).eval()(x)
        with pytest.raises(RuntimeError, match=r"inference tensor.*clone"):
            iabn.InPlaceABN(2)(x)

    def test_a_view_has_right_gradients(self):
        layer = iabn.InPlaceABN(2)
        data = torch.randn(4, 4, 3, 3)
        x = data.clone().requires_grad_()
        y = x * 1
        (layer(y[:, :2]).square().sum() + y[:, 2:].sum()).backward()
        want = data.clone().requires_grad_()
        (reference(layer).float()(want[:, :2]).square().sum() + want[:, 2:].sum()).backward()
        assert relative_error(x.grad, want.grad) < 1e-4

    @pytest.mark.parametrize("function", [torch.exp, torch.sigmoid, torch.relu, torch.tanh])
    def test_producer_that_needs_its_result(self, function):
        x = function(torch.randn(4, 2, 3, 3, requires_grad=True))
        before = x.detach().clone()
        with pytest.raises(RuntimeError, match=r"result of \w+Backward0, which needs it.*clone"):
            iabn.InPlaceABN(2)(x)
        assert torch.equal(x, before)

    def test_input_or_output_used_again(self):
        x = torch.randn(4, 2, 3, 3, requires_grad=True)
        y = x * 1
        squares = y.square()
        z = iabn.InPlaceABN(2)(y)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            (z.sum() + squares.sum()).backward()
        z = iabn.InPlaceABN(2)(x * 1)
        z += 1
        with pytest.raises(RuntimeError, match=r"modified by an inplace operation.*InPlaceABNBackward"):
            z.sum().backward()

    def test_double_backward(self):
        x = torch.randn(4, 2, 3, 3, requires_grad=True)
        z = iabn.InPlaceABN(2)(x * 1).square().sum()
        with pytest.raises(RuntimeError, match="double backward"):
            torch.autograd.grad(z, x, create_graph=True)

    def test_functorch(self):
        with pytest.raises(RuntimeError, match=r"torch\.func.*ABN"):
            torch.func.grad(lambda x: inplace_abn(x * 1, None, None, None, None).sum())(torch.randn(4, 2, 3))

    @pytest.mark.parametrize(
        "options, error, match",
        [
            ({"activation": "gelu"}, ValueError, "leaky_relu"),
            ({"activation_param": "0.1"}, TypeError, "must be a number"),
            ({"momentum": 2.0}, ValueError, "between 0 and 1"),
            ({"gamma": "abs"}, ValueError, "signed"),
        ],
    )
    def test_bad_arguments(self, options, error, match):
        with pytest.raises(error, match=match):
            iabn.InPlaceABN(4, **options)
        with pytest.raises(ValueError, match="signed"):
            inplace_abn(torch.randn(4, 4, 2), None, None, None, None, gamma="abs")
        with pytest.raises(ValueError, match="positive"):
            iabn.InPlaceABN(0)

    def test_activation_that_cannot_be_inverted(self):
        for options in (
            {"activation": "relu"},
            {"activation_param": 0.0},
            {"activation": "elu", "activation_param": -1},
        ):
            x = torch.randn(4, 2, 3, 3)
            before = x.clone()
            with pytest.raises(ValueError, match="can be inverted"):
                iabn.InPlaceABN(2, **options)(x)
            assert torch.equal(x, before)

    def test_wrong_shapes_and_types(self):
        layer = iabn.InPlaceABN(4)
        for shape in ((4,), (4, 3, 2)):
            with pytest.raises(ValueError, match=r"shape \[N, 4, \.\.\.\]"):
                layer(torch.randn(shape))
        with pytest.raises(RuntimeError, match="float"):
            layer(torch.ones(4, 4, 2, dtype=torch.int32))
        with pytest.raises(RuntimeError, match="more than"):
            layer(torch.randn(1, 4, 1, 1))
        with pytest.raises(RuntimeError, match=r"expand|overlap"), torch.no_grad():
            layer(torch.randn(1, 4, 1).expand(5, 4, 3))
        with pytest.raises(ValueError, match="running_mean"):
            inplace_abn(torch.randn(4, 4, 2), None, None, None, None, training=False)
        with pytest.raises(RuntimeError, match="device meta"):
            layer(torch.randn(4, 4, 2, device="meta"))


def test_overhead_of_a_tiny_tensor():
    """Forward + backward at most 1.3 times BatchNorm2d + leaky_relu_, the surroundings subtracted from both."""
    import time

    x = torch.randn(2, 4, 2, 2, requires_grad=True)
    d_z = torch.ones(2, 4, 2, 2)
    norm, layer = nn.BatchNorm2d(4), iabn.InPlaceABN(4)

    def microseconds(function, calls=10):  # few: shorter than a turn of the scheduler
        start = time.thread_time()
        for _ in range(calls):
            function(x.clone()).backward(d_z)
        return (time.thread_time() - start) / calls * 1e6

    variants = [lambda y: y, lambda y: F.leaky_relu_(norm(y), 0.01), layer]
    best = [float("inf")] * 3
    for _ in range(360):
        for i, variant in enumerate(variants):
            best[i] = min(best[i], microseconds(variant))
    nothing, standard, ours = best
    assert ours - nothing < 1.3 * (standard - nothing), best
