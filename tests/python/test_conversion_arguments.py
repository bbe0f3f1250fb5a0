"""Arguments that convert() and its neighbours refuse, and models in which there is nothing to do."""

import pytest
import torch
from torch import nn

import iabn

X = torch.randn(3, 4, 6, 5)


def net():
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.Conv2d(4, 2, 1))


def test_skip_names_layers_to_leave_alone():
    for skip in (["1"], ("1",), "1"):
        assert iabn.convert(net(), skip=skip).left[0].reason == "named in skip"
    assert iabn.convert(nn.Sequential(net(), nn.Identity()), skip=["0"]).left[0].reason == "named in skip"


def test_attributes_of_any_kind_are_borne():
    model = net()
    model.settings = {"table": [[i] for i in range(50_000)]}
    model.settings["self"] = model.settings
    assert len(iabn.convert(model, X).converted) == 1


@pytest.mark.parametrize(
    ("skip", "text"),
    [(["1.bn"], r'"1.bn" is no module.* is "1"'), (["14"], "no module"), ("14", "no module"), (["0"], "holds no norm")],
)
def test_skip_refuses_names_of_nothing(skip, text):
    model = net()
    with pytest.raises(ValueError, match=f"^skip: .*{text}"):
        iabn.convert(model, X, skip=skip)
    assert type(model[1]) is nn.BatchNorm2d


def test_the_report_says_why_there_is_nothing_to_convert():
    class FrozenBatchNorm2d(nn.Identity):
        pass

    scripted = torch.jit.script(net())
    assert "no BatchNorm found; torch.jit's modules cannot be changed" in str(iabn.convert(scripted))
    frozen = nn.Sequential(nn.Conv2d(4, 4, 1), FrozenBatchNorm2d())
    assert 'no BatchNorm found: "1" (FrozenBatchNorm2d) is none of PyTorch\'s' in str(iabn.convert(frozen))
    assert str(iabn.convert(nn.Conv2d(4, 4, 1))) == "convert: no BatchNorm found"
    assert str(iabn.to_batchnorm(nn.Conv2d(4, 4, 1))) == "to_batchnorm: no ABN or InPlaceABN found"


@pytest.mark.parametrize(
    "function", [iabn.convert, iabn.to_batchnorm, iabn.fold, iabn.memory_report, iabn.find_overwrites]
)
def test_what_is_no_module_is_refused(function):
    with pytest.raises(TypeError, match=f"{function.__name__}: model must be a torch.nn.Module, got OrderedDict"):
        function(net().state_dict(), X)


@pytest.mark.parametrize("options", [{"relu": "exact"}, {"slope": 0}, {"dtype": torch.int8}, {"dtype": "bfloat16"}])
def test_bad_arguments_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        iabn.convert(net(), **options)
