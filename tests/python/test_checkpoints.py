"""Checkpoints of every kind that torch.save and safetensors write, through `iabn convert` and back."""

import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from built import ROOT
from checkpoint_support import assert_same, bits, converted
from safetensors.torch import load_file, safe_open, save_file
from torch import nn

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip
FORMATS = pytest.mark.parametrize("kind", ["zip", "protocol 5", "before 1.6", "before 1.6, protocol 4"])


def save(tree, path, kind):
    options = {"_use_new_zipfile_serialization": False} if kind.startswith("before") else {}
    if "protocol" in kind:
        options["pickle_protocol"] = int(kind[-1])
    torch.save(tree, path, **options)


def through(tree, tmp_path, kind, *options):
    """`tree` after a way through a file, the program and a file."""
    save(tree, tmp_path / "in.pth", kind)
    converted(tmp_path / "in.pth", tmp_path / "out.pth", "--force", *options)
    return torch.load(tmp_path / "out.pth", weights_only=True)


def random(dtype, *shape):
    return (torch.randn(shape) * 3).to(dtype)


def small_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4), nn.Linear(4, 2)))


@FORMATS
def test_every_dtype_and_shape(tmp_path, kind):
    tree = {}
    for dtype in DTYPES:
        for shape in [(), (0,), (1,), (7,), (3, 0, 2), (2, 3, 5), (1, 1, 1, 1, 1, 2)]:
            tree[f"{dtype} {shape}"] = random(dtype, *shape)
    tree["special"] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45])
    assert_same(through(tree, tmp_path, kind), tree)


@FORMATS
def test_every_plain_type(tmp_path, kind):
    tree = {
        "none": None, "bools": [True, False], "floats": [0.0, -0.0, 1.5, float("nan"), float("inf"), 1e-308],
        "ints": [0, 1, -1, 255, 256, 65536, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63), 2**64 - 1, -(2**100)],
        "texts": ["", "ascii", "Bulò \U0001f600", "line\nbreak", "x" * 1000], "bytes": b"\x00\x7f\x80\xff",
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, [4])), "empty": [[], {}, OrderedDict()],
        7: "an integer key", -(2**40): "a large one", "size": torch.Size([2, 3]), "dtype": torch.bfloat16,
        "devices": [torch.device("cpu"), torch.device("cuda", 1)], "deep": {"a": {"b": [{"c": (None, {"d": 1})}]}},
    }  # fmt: skip
    assert_same(through(tree, tmp_path, kind), tree)


@FORMATS
def test_views_and_shared_storage(tmp_path, kind):
    base = torch.arange(60.0)
    matrix = base.view(3, 4, 5)
    tree = {
        "base": base, "again": base, "transposed": matrix.transpose(0, 2), "part": matrix[1:, ::2, 3], "row": base[7:9],
        "overlapping": base.as_strided((5, 4), (2, 1), 3), "expanded": base[3].expand(6, 2), "empty part": base[60:],
        "channels last": random(torch.float16, 2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    }  # fmt: skip
    got = through(tree, tmp_path, kind)
    assert_same(got, tree)
    pointers = {key: value.untyped_storage().data_ptr() for key, value in got.items()}
    shared = [key for key in tree if key not in ("channels last", "empty part")]
    assert len({pointers[key] for key in shared}) == 1
    assert (tmp_path / "out.pth").stat().st_size < 4000  # written once
    got["base"][7] = 100
    assert got["row"][0] == 100


@FORMATS
def test_parameters_and_gradients(tmp_path, kind):
    weight = torch.randn(3, requires_grad=True)
    tree = [nn.Parameter(torch.randn(2)), nn.Parameter(torch.arange(3), requires_grad=False), weight, weight * 2]
    got = through(tree, tmp_path, kind)
    tree[3] = tree[3].detach().requires_grad_()
    assert_same(got, tree)


@FORMATS
def test_a_training_snapshot(tmp_path, kind):
    network = nn.DataParallel(small_network())
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    tree = {
        "epoch": 3, "arch": "small", "state_dict": network.state_dict(), "best_prec1": 71.25,
        "optimizer": optimizer.state_dict(),
    }  # fmt: skip
    got = through(tree, tmp_path, kind)
    assert_same(got, tree)
    optimizer.load_state_dict(got["optimizer"])
    bare = through(tree, tmp_path, kind, "--state-dict")
    assert type(bare) is OrderedDict
    small_network().load_state_dict(bare)
    for key, value in network.module.state_dict().items():
        assert torch.equal(bare[key], value)


@FORMATS
def test_the_segmentation_models_nested_state_dict(tmp_path, kind):
    body, head, cls = (nn.DataParallel(small_network()).state_dict() for _ in range(3))
    tree = {"state_dict": {"body": body, "head": head, "cls": cls}, "config": {"a": 1}}
    assert_same(through(tree, tmp_path, kind), tree)
    converted(tmp_path / "in.pth", tmp_path / "out.safetensors")
    got = load_file(tmp_path / "out.safetensors")
    assert torch.equal(got["head.2.0.running_var"], head["module.2.0.running_var"])
    assert len(got) == 3 * len(body)


def test_a_reader_of_an_own_network_finds_the_same_keys(tmp_path):
    network = small_network()
    got = through(network.state_dict(), tmp_path, "zip")
    assert_same(got, network.state_dict())
    assert got._metadata == network.state_dict()._metadata


def test_the_same_input_gives_the_same_bytes(tmp_path):
    torch.save(small_network().state_dict(), tmp_path / "in.pth")
    for extension in ("pth", "safetensors"):
        for name in ("a", "b"):
            converted(tmp_path / "in.pth", tmp_path / f"{name}.{extension}")
        assert (tmp_path / f"a.{extension}").read_bytes() == (tmp_path / f"b.{extension}").read_bytes()


def test_safetensors_there_and_back(tmp_path):
    tree = {f"{dtype}".replace("torch.", ""): random(dtype, 3, 5) for dtype in DTYPES if dtype != torch.complex128}
    tree |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "one": torch.ones(1, dtype=torch.bool)}
    tree['Bulò "quoted" \\ \n'] = torch.ones(2)
    torch.save(tree, tmp_path / "in.pth")
    converted(tmp_path / "in.pth", tmp_path / "ours.safetensors")
    assert_same(dict(sorted(load_file(tmp_path / "ours.safetensors").items())), dict(sorted(tree.items())))
    save_file(tree, tmp_path / "theirs.safetensors", metadata={"format": "pt", "author": "me"})
    for name in ("ours", "theirs"):
        converted(tmp_path / f"{name}.safetensors", tmp_path / f"{name}.pth")
        got = torch.load(tmp_path / f"{name}.pth", weights_only=True)
        assert_same(dict(sorted(got.items())), dict(sorted(tree.items())))
    converted(tmp_path / "theirs.safetensors", tmp_path / "again.safetensors")
    with safe_open(tmp_path / "again.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "author": "me"}


def test_views_become_contiguous_in_safetensors(tmp_path):
    base = torch.arange(24.0).view(2, 3, 4)
    tree = {"a": base, "b": base.permute(2, 0, 1), "c": base[:, 1], "d": torch.ones(1).expand(3, 3)}
    torch.save(tree, tmp_path / "in.pth")
    converted(tmp_path / "in.pth", tmp_path / "out.safetensors")
    got = load_file(tmp_path / "out.safetensors")
    for key, value in tree.items():
        assert bits(got[key]) == bits(value)


def test_a_real_file_of_the_old_format(tmp_path):
    path = ROOT.parent / "shared" / "data" / "resnet20-12fca82f.th"
    if not path.is_file() and not os.environ.get("IABN_REQUIRE_SHARED"):
        pytest.skip(f"{path} is not here")
    tree = torch.load(path, map_location="cpu", weights_only=True)
    converted(path, tmp_path / "out.pth")
    assert_same(torch.load(tmp_path / "out.pth", weights_only=True), tree)
    converted(path, tmp_path / "out.safetensors")
    got = load_file(tmp_path / "out.safetensors")
    assert {f"module.{key}" for key in got} == set(tree["state_dict"])
    for key, value in got.items():
        assert bits(value) == bits(tree["state_dict"][f"module.{key}"])
    assert "26 negative" in converted("--list", path)


def test_the_listing_shows_values_shapes_and_checks(tmp_path):
    base = torch.ones(6)
    tree = {
        "epoch": 3,
        "weights": base.view(2, 3),
        "again": base[2:],
        "bad": torch.tensor([float("nan"), float("inf")]),
    }
    torch.save(tree, tmp_path / "in.pth")
    lines = {line.split()[0]: line for line in converted("--list", tmp_path / "in.pth").splitlines()}
    assert lines["epoch"].split() == ["epoch", "int", "3"]
    assert lines["weights"].endswith("float32   [2, 3]")
    assert lines["again"].endswith("[4], shares the storage of weights")
    assert lines["bad"].endswith("[2], 1 NaN, 1 infinite")
    assert "3, 12 elements, 48 bytes; 1 NaN, 1 infinite" in lines["tensors:"]


def test_the_documentation_names_what_the_program_takes():
    text = Path(ROOT / "docs" / "checkpoints.md").read_text()
    for word in ("--gamma", "--to-gamma", "--state-dict", "--list", "--force", "--config", "--eps"):
        assert word in text and word in converted("--help")
