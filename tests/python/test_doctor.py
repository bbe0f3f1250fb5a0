"""`python -m iabn doctor`: facts, one line of advice per problem, and the exit code."""

import pytest
import torch
from installations import COMPAT, copy_package, install_metadata, run_python

from iabn import _library, doctor

NO_GPU = doctor.Driver(problem="no NVIDIA driver (libcuda.so.1 is missing)")
GPU = doctor.Driver(loaded=True, version="570.1", cuda=13000, devices=["NVIDIA H100"])


def call(monkeypatch, capsys, driver=None):
    """Exit code and output of the doctor in this process, on a machine with this driver."""
    if driver is not None:
        monkeypatch.setattr(doctor, "query_driver", lambda: driver)
    code = doctor.run()
    return code, capsys.readouterr().out


def healthy(monkeypatch):
    """As if everything that this PyTorch can use were loaded."""
    monkeypatch.setattr(_library, "problems", [])
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)


def test_all_is_well_where_all_is_well(monkeypatch, capsys):
    healthy(monkeypatch)
    code, text = call(monkeypatch, capsys)
    assert code == 0, text
    for fact in (f"PyTorch                {torch.__version__}", "libiabn_ops.so", "CUDA of PyTorch", "CUDA driver"):
        assert fact in text
    assert "self-test cpu          passed (largest relative error " in text
    assert "none (pip install --no-deps ./python/compat in iabn's repository" in text
    assert text.endswith("All is well.\n")


def test_the_self_test_measures_an_error_and_reports_a_wrong_layer(monkeypatch, capsys):
    assert 0 < doctor.self_test(torch.device("cpu")) < 1e-12
    healthy(monkeypatch)
    right = doctor.inplace_abn
    monkeypatch.setattr(doctor, "inplace_abn", lambda *a, **o: right(*a, **{**o, "activation_param": 0.0100001}))
    code, text = call(monkeypatch, capsys)
    assert code == 1
    assert "self-test cpu          BROKEN: largest relative error" in text
    assert "-> the layer is wrong on cpu: reinstall iabn" in text


def test_missing_cuda_operators_matter_only_where_there_is_a_gpu(monkeypatch, capsys):
    healthy(monkeypatch)
    monkeypatch.setattr(_library, "loaded", _library.loaded[:1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    missing = "libiabn_ops_cuda.so is not part of this installation: install a wheel of iabn that has it"
    monkeypatch.setattr(_library, "problems", [missing])
    code, text = call(monkeypatch, capsys, NO_GPU)
    assert code == 0
    assert "-> no CUDA operators (libiabn_ops_cuda.so is not part of this installation)" in text
    code, text = call(monkeypatch, capsys, GPU)
    assert code == 1
    assert "-> install a wheel of iabn that has it; until then iabn evaluates but does not train on the GPU" in text


@pytest.mark.parametrize(
    "driver, wanted, code, advice",
    [
        (
            doctor.Driver(True, "", "535.1", 12020, ["GPU"]),
            "13.0",
            1,
            "older than PyTorch's CUDA 13.0: update the driver",
        ),
        (GPU, "13.0", 1, "check CUDA_VISIBLE_DEVICES"),
        (GPU, None, 0, "this PyTorch is a build for the CPU"),
        (doctor.Driver(True, "the NVIDIA driver sees no device"), "13.0", 0, "see whether nvidia-smi lists it"),
        (NO_GPU, "13.0", 0, None),
    ],
)
def test_the_driver_is_held_against_what_pytorch_needs(monkeypatch, capsys, driver, wanted, code, advice):
    healthy(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", wanted)
    got, text = call(monkeypatch, capsys, driver)
    assert got == code, text
    lines = [line for line in text.splitlines() if line.startswith("-> ") and "not installed" not in line]
    assert len(lines) == (advice is not None)
    assert advice is None or advice in lines[0]


def test_a_missing_library_is_said_with_advice(tmp_path):
    site = copy_package(tmp_path, libraries=False)
    install_metadata(site, "iabn", "9.9")
    process = run_python("-m", "iabn", "doctor", path=[site], cwd=tmp_path)
    assert process.returncode == 1, process.stderr
    assert f"iabn                   9.9, {site / 'iabn'}" in process.stdout
    assert f"libiabn_ops.so       missing, {site / 'iabn' / 'lib' / 'libiabn_ops.so'}" in process.stdout
    assert "operators              BROKEN: libiabn_ops.so is not part of this installation" in process.stdout
    assert "-> install a wheel of iabn that has it; until then iabn evaluates but does not train" in process.stdout
    assert "self-test              not run: no operators" in process.stdout
    assert process.stdout.endswith("Something is broken: see above.\n")


def test_a_broken_library_a_shadowing_folder_and_the_original_in_front_are_told_apart(tmp_path):
    # The installed packages, behind a copy with a broken library and a module of the original's name.
    site, front = tmp_path / "site", tmp_path / "front"
    for name, package in (("iabn", "iabn"), ("iabn-inplace-abn-compat", "inplace_abn")):
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").write_text("")
        install_metadata(site, name, "9.9")
    copy_package(front, libraries=False)
    (front / "iabn" / "lib").mkdir()
    (front / "iabn" / "lib" / "libiabn_ops.so").write_bytes(b"not a library")
    (front / "inplace_abn").mkdir()
    (front / "inplace_abn" / "__init__.py").write_text("raise ImportError('the original, not built')\n")
    (tmp_path / "iabn").mkdir()
    process = run_python("-m", "iabn", "doctor", path=[front, site], cwd=tmp_path)
    assert process.returncode == 1, process.stderr
    lines = process.stdout.splitlines()
    facts = [line for line in lines if not line.startswith("-> ")]
    advice = [line for line in lines if line.startswith("-> ")]
    assert any(line.startswith("operators") and "libiabn_ops.so could not be loaded" in line for line in facts)
    assert f"  shadowed             BROKEN: the installed package is {site / 'iabn'}" in facts
    assert f"  ignored              {tmp_path / 'iabn'} (a folder that is no Python package)" in facts
    assert f"inplace_abn            the original or another one, {front / 'inplace_abn'}" in facts
    assert (
        "  shadowed             BROKEN: iabn-inplace-abn-compat is installed, but another inplace_abn comes before it"
        in facts
    )
    assert len(advice) == 3
    assert f"remove {front} from PYTHONPATH" in advice[0]
    assert "reinstall iabn, or use another PyTorch" in advice[1]
    assert f"remove {front} from PYTHONPATH" in advice[2]


def drop_in(monkeypatch, capsys, folder):
    """The doctor's lines about inplace_abn with `folder` first on the path."""
    monkeypatch.syspath_prepend(folder)
    report = doctor.Report()
    doctor.report_drop_in(report)
    return report, capsys.readouterr().out


def test_our_drop_in_is_recognised(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_distribution", lambda name: None)
    monkeypatch.delitem(doctor.sys.modules, "inplace_abn", raising=False)
    report, text = drop_in(monkeypatch, capsys, COMPAT.parent)
    assert text == f"inplace_abn            ours, {COMPAT}\n"
    assert not report.advice


@pytest.mark.parametrize(
    "installed, ours, advice",
    [
        ({"inplace-abn": "1.1.0"}, False, None),
        ({"iabn-inplace-abn-compat": "same"}, True, None),
        ({"iabn-inplace-abn-compat": "0.0.1"}, True, "pip install --no-deps ./python/compat in iabn's repository"),
        ({"iabn-inplace-abn-compat": "same", "inplace-abn": "1.1.0"}, True, "pip uninstall iabn-inplace-abn-compat"),
        ({"iabn-inplace-abn-compat": "same"}, False, "from PYTHONPATH"),
    ],
)
def test_both_distributions_or_an_old_one_are_problems(monkeypatch, capsys, tmp_path, installed, ours, advice):
    (tmp_path / "inplace_abn").mkdir()
    text = 'name = "iabn-inplace-abn-compat"' if ours else ""
    (tmp_path / "inplace_abn" / "__init__.py").write_text(text)
    for name, version in installed.items():
        install_metadata(tmp_path, name, doctor.iabn.__version__ if version == "same" else version)
    monkeypatch.delitem(doctor.sys.modules, "inplace_abn", raising=False)
    searched = doctor.importlib.metadata.distributions
    install_metadata(tmp_path, "iabn", doctor.iabn.__version__)
    found = {d.metadata["Name"]: d for d in searched(path=[str(tmp_path)])}
    monkeypatch.setattr(doctor, "_distribution", found.get)
    report, text = drop_in(monkeypatch, capsys, tmp_path)
    assert ("ours" if ours else "the original or another one") in text
    assert report.broken == (advice is not None)
    assert len(report.advice) == report.broken
    assert advice is None or advice in report.advice[0]
