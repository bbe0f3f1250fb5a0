"""Layers made on the device "meta": they get values before they compute, or they say that they have none."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import iabn


def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), iabn.InPlaceABN(8), nn.Conv2d(8, 2, 1))


def test_an_older_checkpoint_without_counter_is_assigned():
    want = net()
    older = {name: value for name, value in want.state_dict().items() if "num_batches" not in name}
    with torch.device("meta"):
        model = net()
    model.load_state_dict(older, assign=True)
    assert model[1].num_batches_tracked.device.type == "cpu"
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(x), want(x))
    assert model[1].num_batches_tracked == 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("names", [["weight", "bias", "running_mean", "running_var"], ["weight"], ["running_var"]])
def test_a_tensor_left_on_meta_is_an_error_and_not_the_identity(training, names):
    layer = iabn.InPlaceABN(4).train(training)
    for name in names:
        tensors = layer._parameters if name in layer._parameters else layer._buffers
        tensors[name] = tensors[name].to("meta")
    with pytest.raises(RuntimeError, match=r"x is on cpu, but a parameter or buffer of the layer is on meta.*assign"):
        layer(torch.randn(2, 4))


def test_a_counter_left_on_meta_is_an_error():
    layer = iabn.InPlaceABN(4)
    layer.num_batches_tracked = layer.num_batches_tracked.to("meta")
    with pytest.raises(RuntimeError, match="is on meta"):
        layer(torch.randn(2, 4))


def test_fake_tensors_go_through():
    with FakeTensorMode():
        layer = iabn.InPlaceABN(4)
        z = layer(torch.randn(2, 4, requires_grad=True).clone())
        z.sum().backward()
    assert z.shape == (2, 4) and layer.weight.grad.shape == (4,)
