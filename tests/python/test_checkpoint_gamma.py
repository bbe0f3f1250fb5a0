"""Gamma modes: what a norm's weight means in a file, and from one meaning to the other."""

import json

import pytest
import torch
from checkpoint_support import converted, refused
from safetensors.torch import safe_open
from torch import nn

import iabn

EPS = 1e-5


def save_norms(path, weight, dtype=torch.float32, wrap=True):
    """A snapshot with one convolution and two norms of this weight."""
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3))).to(dtype)
    with torch.no_grad():
        for norm in (network[1], network[2][0]):
            norm.weight.copy_(torch.tensor(weight))
    torch.save({"state_dict": network.state_dict()} if wrap else network.state_dict(), path)
    return network.state_dict()


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_legacy_weights_become_the_gamma_that_they_stand_for(tmp_path, dtype):
    before = save_norms(tmp_path / "in.pth", [-0.5, 0.0, 2.0], dtype)
    text = converted(tmp_path / "in.pth", tmp_path / "out.pth", "--gamma", "legacy", "--to-gamma", "signed")
    assert "2 norms, 6 channels" in text
    after = load(tmp_path / "out.pth")["state_dict"]
    for key, value in before.items():
        is_norm = key in ("1.weight", "2.0.weight")
        assert torch.equal(after[key], value.abs() + EPS if is_norm else value), key


def test_a_converted_layer_computes_what_the_legacy_layer_computes(tmp_path):
    before = save_norms(tmp_path / "in.pth", [-0.5, 1e-4, 2.0])
    converted(tmp_path / "in.pth", tmp_path / "out.pth", "--gamma", "legacy", "--to-gamma", "signed", "--state-dict")
    after = load(tmp_path / "out.pth")
    x = torch.randn(4, 3, 5)
    results = []
    for state, gamma in ((before, "legacy"), (after, "signed")):
        layer = iabn.InPlaceABN(3, eps=EPS, gamma=gamma).eval()
        layer.load_state_dict({key[2:]: value for key, value in state.items() if key.startswith("1.")})
        results.append(layer(x.clone()))
    assert torch.equal(*results)


def test_signed_weights_go_to_legacy_and_back_where_they_can(tmp_path):
    before = save_norms(tmp_path / "in.pth", [1e-5, 0.37, 123.0])
    converted(tmp_path / "in.pth", tmp_path / "legacy.pth", "--gamma", "signed", "--to-gamma", "legacy")
    legacy = load(tmp_path / "legacy.pth")
    assert legacy["iabn"] == {"gamma": "legacy"}
    assert (legacy["state_dict"]["1.weight"] >= 0).all()
    converted(tmp_path / "legacy.pth", tmp_path / "signed.pth", "--to-gamma", "signed")  # the file says its mode
    signed = load(tmp_path / "signed.pth")
    assert signed["iabn"] == {"gamma": "signed"}
    assert torch.equal(signed["state_dict"]["1.weight"], before["1.weight"])


def test_gamma_below_eps_has_no_legacy_form(tmp_path):
    save_norms(tmp_path / "in.pth", [-0.5, 0.0, 2.0])
    message = refused(tmp_path / "in.pth", tmp_path / "out.pth", "--gamma", "signed", "--to-gamma", "legacy")
    assert "4 channels of 2 norms" in message
    assert "state_dict.1.weight (2 of 3), state_dict.2.0.weight (2 of 3)" in message
    assert not (tmp_path / "out.pth").exists()
    # with another eps
    save_norms(tmp_path / "small.pth", [0.5, 1e-4, 2.0])
    refused(tmp_path / "small.pth", tmp_path / "out.pth", "--gamma", "signed", "--to-gamma", "legacy", "--eps", "1e-3")


def test_weights_of_a_file_that_does_not_say_its_mode_are_not_guessed(tmp_path):
    save_norms(tmp_path / "in.pth", [1.0, 1.0, 1.0])
    message = refused(tmp_path / "in.pth", tmp_path / "out.pth", "--to-gamma", "signed", code=2)
    assert "does not say its gamma mode: give --gamma legacy" in message


@pytest.mark.parametrize("bn_mode, gamma", [("standard", "signed"), ("inplace", "legacy"), ("sync", "legacy")])
def test_the_originals_configuration_tells_the_mode(tmp_path, bn_mode, gamma):
    save_norms(tmp_path / "in.pth", [1.0, 2.0, 3.0])
    (tmp_path / "config.json").write_text(json.dumps({"network": {"bn_mode": bn_mode}}))
    text = converted("--list", tmp_path / "in.pth", "--config", tmp_path / "config.json")
    assert f"gamma: {gamma}, says --config" in text
    assert "says --gamma" in converted("--list", tmp_path / "in.pth", "--gamma", "signed")


def test_safetensors_carry_the_mode(tmp_path):
    save_norms(tmp_path / "in.pth", [1.0, 2.0, 3.0])
    converted(tmp_path / "in.pth", tmp_path / "out.safetensors", "--gamma", "legacy")
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata()["iabn.gamma"] == "legacy"
        assert torch.equal(file.get_tensor("1.weight"), torch.tensor([1.0, 2.0, 3.0]))
    text = converted(tmp_path / "out.safetensors", tmp_path / "out.pth", "--to-gamma", "signed")
    assert "gamma legacy (says the file) -> signed" in text
    assert "a bare state dict cannot say its gamma mode" in text
    assert torch.equal(load(tmp_path / "out.pth")["1.weight"], torch.tensor([1.0, 2.0, 3.0]) + EPS)


def test_weights_of_batchnorm_are_signed_weights(tmp_path):
    before = save_norms(tmp_path / "in.pth", [-1.0, 0.0, 3.0])
    text = converted(tmp_path / "in.pth", tmp_path / "out.pth", "--gamma", "signed", "--to-gamma", "signed")
    assert "the same weights" in text
    for key, value in load(tmp_path / "out.pth")["state_dict"].items():
        assert torch.equal(value, before[key])
