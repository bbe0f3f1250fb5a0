"""fold(): the same outputs without normalisation layers, and a reason where that is not possible."""

import copy

import pytest
import torch
from conversion_support import Residual, randomise
from torch import nn

import iabn

X = torch.randn(3, 4, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), (2, 4, 5, 5)),
        (nn.Conv2d(4, 6, 3, groups=2), iabn.InPlaceABN(6), (2, 4, 5, 5)),
        (nn.Conv2d(4, 6, 3), iabn.InPlaceABN(6, activation="elu", gamma="legacy"), (2, 4, 5, 5)),
        (nn.Conv2d(4, 6, 3), iabn.ABN(6, activation="relu"), (2, 4, 5, 5)),
        (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (2, 4, 5)),
        (nn.Conv3d(4, 6, 1), nn.BatchNorm3d(6, affine=False), (2, 4, 2, 2, 2)),
        (nn.ConvTranspose2d(4, 6, 2, 2), nn.BatchNorm2d(6), (2, 4, 5, 5)),
        (nn.Linear(4, 6), nn.BatchNorm1d(6), (7, 4)),
    ],
)
def test_folding_keeps_the_outputs(layer, norm, shape):
    layer, norm = copy.deepcopy((layer, norm))
    model = randomise(nn.Sequential(layer, norm)).double().eval()
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        if norm.weight is not None:
            norm.weight.uniform_(-1, 1)
    x = torch.randn(shape, dtype=torch.float64)
    want = model(x)
    report = iabn.fold(model, x)
    assert len(report.converted) == 1 and 'in "0" now' in str(report)
    assert not any(isinstance(m, (nn.modules.batchnorm._BatchNorm, iabn.ABN)) for m in model.modules())
    torch.testing.assert_close(model(x), want)


def test_a_converted_residual_block_folds_to_plain_pytorch():
    model = randomise(Residual(nn.LeakyReLU())).double().eval()
    want = model(X)
    iabn.convert(model, X)
    assert len(iabn.fold(model, X).converted) == 2
    assert type(model.act) is nn.LeakyReLU
    torch.testing.assert_close(model(X), want)


def test_subclasses_of_convolutions_fold_where_they_compute_nothing_else():
    class Named(nn.Conv2d):
        pass

    class Doubled(nn.Conv2d):
        def _conv_forward(self, x, weight, bias):
            return 2 * super()._conv_forward(x, weight, bias)

    def folded(kind):
        model = randomise(nn.Sequential(kind(4, 4, 1), nn.BatchNorm2d(4))).double().eval()
        return len(iabn.fold(model, X).converted)

    assert folded(Named) == 1 and folded(Doubled) == 0


def reason(model, **options):
    report = iabn.fold(model.eval(), **options)
    assert len(report.left) == 1 and not report.converted
    return report.left[0].reason


def test_layers_that_cannot_be_folded_say_why():
    assert "its input is not the output of one" in reason(nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(4)))
    assert "only for [N, C]" in reason(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    model = nn.Sequential(nn.ConvTranspose2d(4, 4, 2, groups=2), nn.BatchNorm2d(4))
    assert "transposed convolution with groups" in reason(model)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert "no running statistics" in reason(model)
    shared = nn.Conv2d(4, 4, 1)
    assert "called at other places" in reason(nn.Sequential(shared, nn.ReLU(), shared, nn.BatchNorm2d(4)))
    tied = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    tied[0].weight = tied[1].weight
    assert "shares its weights" in reason(tied)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r'fold: "1" is in training mode: call model.eval\(\) first'):
        iabn.fold(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))


def test_a_wrong_fold_is_taken_back():
    model = randomise(nn.Sequential(nn.Conv2d(4, 4, 1), iabn.InPlaceABN(4, gamma="legacy"))).double().eval()
    with torch.no_grad():
        model[1].weight.fill_(-1)
    text, state = repr(model), copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match=r"fold: .* the model was restored"):
        iabn.fold(model, X, tolerance=0.0)
    assert repr(model) == text
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
