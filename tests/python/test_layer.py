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
