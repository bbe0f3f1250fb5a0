"""What the layer refuses, and what the error says."""

import pytest
import torch
from conftest import relative_error
from iabn.functional import inplace_abn
from test_layer import reference
from torch import nn

import iabn


def test_leaf_that_requires_grad():
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
def test_views_that_autograd_does_not_allow(make, text):
    x = make()
    before = x.detach().clone()
    layer = iabn.InPlaceABN(2)
    with pytest.raises(RuntimeError, match=rf"{text}.*copy_input"):
        layer(x)
    assert torch.equal(x, before) and layer.num_batches_tracked == 0
    assert torch.isfinite(iabn.InPlaceABN(2, copy_input=True)(x)).all()


def test_backward_hook_and_forward_mode():
    layer = iabn.InPlaceABN(2)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode"):
        layer(torch.randn(4, 2, 3))
    hooked = iabn.InPlaceABN(2)
    hooked.register_full_backward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="BackwardHookFunctionBackward"):
        hooked(torch.randn(4, 2, 3, requires_grad=True) * 1)
    assert layer.num_batches_tracked == hooked.num_batches_tracked == 0


def test_arguments_are_checked_alike():
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


def test_inference_tensor():
    with torch.inference_mode():
        x = torch.randn(4, 2, 3, 3)
        iabn.InPlaceABN(2).eval()(x)
    with pytest.raises(RuntimeError, match=r"inference tensor.*clone"):
        iabn.InPlaceABN(2)(x)


def test_a_view_has_right_gradients():
    layer = iabn.InPlaceABN(2)
    data = torch.randn(4, 4, 3, 3)
    x = data.clone().requires_grad_()
    y = x * 1
    (layer(y[:, :2]).square().sum() + y[:, 2:].sum()).backward()
    want = data.clone().requires_grad_()
    (reference(layer).float()(want[:, :2]).square().sum() + want[:, 2:].sum()).backward()
    assert relative_error(x.grad, want.grad) < 1e-4


@pytest.mark.parametrize("function", [torch.exp, torch.sigmoid, torch.relu, torch.tanh])
def test_producer_that_needs_its_result(function):
    x = function(torch.randn(4, 2, 3, 3, requires_grad=True))
    before = x.detach().clone()
    with pytest.raises(RuntimeError, match=r"result of \w+Backward0, which needs it.*clone"):
        iabn.InPlaceABN(2)(x)
    assert torch.equal(x, before)


def test_input_or_output_used_again():
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


def test_double_backward():
    x = torch.randn(4, 2, 3, 3, requires_grad=True)
    z = iabn.InPlaceABN(2)(x * 1).square().sum()
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(z, x, create_graph=True)


def test_functorch():
    with pytest.raises(RuntimeError, match=r"torch\.func.*ABN"):
        torch.func.grad(lambda x: inplace_abn(x * 1, None, None, None, None).sum())(torch.randn(4, 2, 3))


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"activation": "gelu"}, ValueError, "leaky_relu"),
        ({"activation": nn.LeakyReLU(0.1)}, TypeError, r'as a string, .*"leaky_relu".*, got a LeakyReLU'),
        ({"activation_param": "0.1"}, TypeError, "must be a number"),
        ({"momentum": 2.0}, ValueError, "between 0 and 1"),
        ({"gamma": "abs"}, ValueError, "signed"),
    ],
)
def test_bad_arguments(options, error, match):
    with pytest.raises(error, match=match):
        iabn.InPlaceABN(4, **options)
    with pytest.raises(ValueError, match="signed"):
        inplace_abn(torch.randn(4, 4, 2), None, None, None, None, gamma="abs")
    with pytest.raises(ValueError, match="positive"):
        iabn.InPlaceABN(0)


def test_activation_that_cannot_be_inverted():
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


def test_wrong_shapes_and_types():
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


def test_an_activation_that_was_misspelt_after_construction():
    for layer in (iabn.ABN(4), iabn.InPlaceABN(4)):
        layer.activation = "silu"
        with pytest.raises(ValueError, match=r'activation must be one of .* got "silu"'):
            layer(torch.randn(2, 4))
