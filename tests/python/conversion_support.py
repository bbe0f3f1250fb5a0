"""Small networks and comparisons for the tests of convert, to_batchnorm and fold."""

import copy

import torch
from torch import nn

NORMS = (nn.modules.batchnorm._BatchNorm,)


def randomise(model, seed=0):
    """Statistics, gamma and beta away from 0 and 1, so that a mix-up shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, NORMS):
            with torch.no_grad():
                for tensor, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -1, 1),
                    (module.running_mean, -1, 1),
                    (module.running_var, 0.5, 2),
                ):
                    if tensor is not None:
                        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model


def step(model, x):
    """Output and all gradients of one training pass, with the running statistics after it."""
    model = copy.deepcopy(model).train()
    x = x.clone().requires_grad_()
    output = model(x)
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "x": x.grad, **gradients, **{f"buffer {n}": b for n, b in model.named_buffers()}}


def assert_same_training(before, after, x, tolerance=1e-10):
    """Both models give the same outputs, gradients and statistics."""
    want, got = step(before, x), step(after, x)
    assert list(want) == list(got)
    # A convolution's bias in front of a norm has gradient 0: such are compared at the scale of the others.
    floor = 1e-3 * max(value.double().norm() for value in want.values())
    for name in want:
        error = (want[name].double() - got[name].double()).norm() / want[name].double().norm().clamp_min(floor)
        assert error < tolerance, (name, float(error))


class Residual(nn.Module):
    """Two convolutions around one activation module, with an addition in `add`'s way."""

    def __init__(self, activation, add="out"):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.act = activation
        self.add = add

    def forward(self, x):
        y = self.act(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.add == "in place":
            y += x
        else:
            y = y + x
        return self.act(y)
