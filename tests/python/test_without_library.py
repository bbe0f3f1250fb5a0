"""The package without its compiled libraries: it imports, evaluates in plain PyTorch, and says what training needs."""

from installations import copy_package, run_python

PROGRAM = """
import copy
import warnings

warnings.simplefilter("error")
import torch
import torch.nn.functional as F

import iabn

assert not iabn._library.loaded
torch.manual_seed(0)
x = torch.randn(2, 4, 5, 5)
activations = {
    "leaky_relu": lambda y: F.leaky_relu(y, 0.1),
    "elu": lambda y: F.elu(y, 0.1),
    "relu": F.relu,
    "identity": lambda y: y,
}
for activation, act in activations.items():
    for gamma in ("signed", "legacy"):
        layer = iabn.InPlaceABNSync(4, activation=activation, activation_param=0.1, gamma=gamma).eval()
        with torch.no_grad():
            for tensor in (layer.weight, layer.bias, layer.running_mean):
                tensor.normal_()
            layer.running_var.uniform_(0.5, 1.5)
        weight = layer.weight if gamma == "signed" else layer.weight.abs() + layer.eps
        leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        want = act(F.batch_norm(other, layer.running_mean, layer.running_var, weight, layer.bias))
        got = layer(leaf)
        assert torch.equal(got, want)
        got.sum().backward()
        want.sum().backward()
        assert torch.equal(leaf.grad, other.grad)
        assert torch.equal(copy.deepcopy(layer)(x.clone()), want)

iabn.ABN(4)(x).sum().backward()  # plain PyTorch: trains

warnings.resetwarnings()  # the compiler has some of its own
layer = iabn.InPlaceABN(4)
for train in (layer, torch.compile(layer, backend="eager")):
    try:
        train(x)
    except RuntimeError as error:
        print(error)
    else:
        raise AssertionError("training ran")
"""


def test_it_imports_and_evaluates_and_training_raises_the_advice(tmp_path):
    site = copy_package(tmp_path, libraries=False)
    process = run_python("-c", PROGRAM, path=[site], cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("iabn: the compiled operators for cpu are not available") == 2
    assert process.stdout.count("libiabn_ops.so is not part of this installation: install a wheel of iabn") == 2
    assert process.stdout.count("`python -m iabn doctor` tells more; evaluation works without them") == 2
