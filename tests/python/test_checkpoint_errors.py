"""Files that must be refused: damaged, foreign, hostile. Never a crash, never an execution, always the file's name."""

import io
import os
import pickle
import zipfile

import numpy
import pytest
import torch
from checkpoint_support import convert, converted, refused
from torch import nn


class Command:
    """Runs a command where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
def test_nothing_in_a_file_is_executed(tmp_path, options):
    torch.save({"weight": torch.ones(2), "attack": Command(tmp_path / "executed")}, tmp_path / "in.pth", **options)
    message = refused(tmp_path / "in.pth", tmp_path / "out.pth")
    assert "in.pth: " in message and "posix.system" in message
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out.pth").exists()
    torch.load(tmp_path / "in.pth", weights_only=False)
    assert (tmp_path / "executed").exists()  # so it was an attack


@pytest.mark.parametrize(
    "value, name",
    [
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (numpy.float64(3.0), "numpy"),
        ({1, 2}, "set"),
        (torch.ones(2).to_sparse(), "_rebuild_sparse_tensor"),
        (torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.quint8), "_rebuild_qtensor"),
        (1 + 2j, ".complex"),
    ],
)
def test_other_classes_are_named(tmp_path, value, name):
    torch.save({"epoch": 3, "value": value}, tmp_path / "in.pth")
    assert name in refused("--list", tmp_path / "in.pth")


def test_foreign_files_are_named_for_what_they_are(tmp_path):
    path = tmp_path / "in.pth"

    def message(data):
        path.write_bytes(data)
        text = refused("--list", path)
        assert str(path) in text
        return text

    assert "the file is empty" in message(b"")
    assert "neither a file of torch.save nor" in message(b"<!DOCTYPE html><html>404</html>")
    assert "save it with torch.save, not with pickle" in message(pickle.dumps({"a": 1}, protocol=2))
    buffer = io.BytesIO()
    numpy.savez(buffer, a=numpy.ones(3))
    assert "without a data.pkl" in message(buffer.getvalue())
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.ReLU()), buffer)
    assert "TorchScript" in message(buffer.getvalue())
    assert "No such file" in refused("--list", tmp_path / "missing.pth")
    assert "cannot be read" in refused("--list", tmp_path)


def test_compressed_zip_files_are_refused(tmp_path):
    torch.save({"a": torch.ones(100)}, tmp_path / "in.pth")
    with (
        zipfile.ZipFile(tmp_path / "in.pth") as source,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert "compressed" in refused("--list", tmp_path / "packed.pth")


def test_a_wrong_checksum_is_a_warning(tmp_path):
    torch.save({"a": torch.full((100,), 1.5)}, tmp_path / "in.pth")
    data = (tmp_path / "in.pth").read_bytes()
    (tmp_path / "bad.pth").write_bytes(data.replace(b"\x00\x00\xc0\x3f", b"\x00\x00\xc0\x3e", 1))
    process = convert("--list", tmp_path / "bad.pth")
    assert process.returncode == 0
    assert "warning" in process.stderr and "data/0" in process.stderr
    assert convert("--list", tmp_path / "in.pth").stderr == ""


def test_big_endian_files_are_refused(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "in.pth")
    data = (tmp_path / "in.pth").read_bytes()
    (tmp_path / "big.pth").write_bytes(data.replace(b"little", b"bigger"))
    assert "byte order" in refused("--list", tmp_path / "big.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "old.pth").read_bytes()
    at = data.index(b"little_endian") + len(b"little_endian")
    flag = data.index(b"\x88", at)
    (tmp_path / "big.pth").write_bytes(data[:flag] + b"\x89" + data[flag + 1 :])
    assert "big-endian" in refused("--list", tmp_path / "big.pth")


def test_an_existing_file_is_replaced_only_by_force(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "in.pth")
    (tmp_path / "out.pth").write_text("mine")
    assert "out.pth exists; --force replaces it" in refused(tmp_path / "in.pth", tmp_path / "out.pth", code=2)
    assert (tmp_path / "out.pth").read_text() == "mine"
    converted(tmp_path / "in.pth", tmp_path / "out.pth", "--force")
    assert torch.equal(torch.load(tmp_path / "out.pth", weights_only=True)["a"], torch.ones(2))
    converted(tmp_path / "out.pth", tmp_path / "out.pth", "--force")  # in place


def test_a_wrong_command_line_says_what_is_missing(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "in.pth")
    assert "OUT is required" in refused(tmp_path / "in.pth", code=2)
    assert "--list excludes OUT" in refused(tmp_path / "in.pth", tmp_path / "out.pth", "--list", code=2)
    assert "--format" in refused(tmp_path / "in.pth", tmp_path / "out.dat", code=2)
    assert "--gamma" in refused(tmp_path / "in.pth", tmp_path / "out.pth", "--gamma", "wrong", code=2)
    assert "No such file" in refused(tmp_path / "in.pth", tmp_path / "missing" / "out.pth")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    assert "holds a list" in refused(tmp_path / "list.pth", tmp_path / "out.safetensors")
    converted(tmp_path / "in.pth", tmp_path / "out.dat", "--format", "safetensors")


def test_files_cut_anywhere_are_refused(tmp_path):
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save({"a": torch.arange(300)}, tmp_path / "in.pth", **options)
        data = (tmp_path / "in.pth").read_bytes()
        for length in range(0, len(data), 701):
            (tmp_path / "cut.pth").write_bytes(data[:length])
            assert "cut.pth: " in refused("--list", tmp_path / "cut.pth")
