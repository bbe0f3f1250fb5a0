"""What is installed, what is missing, and whether the layer computes what it should: `python -m iabn doctor`."""

import ctypes
import importlib.metadata
import importlib.util
import platform
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

import iabn
from iabn import _library
from iabn.functional import inplace_abn

COMPAT = "iabn-inplace-abn-compat"
ORIGINAL = "inplace-abn"
INSTALL_COMPAT = "pip install --no-deps ./python/compat in iabn's repository"
# float64 with about a thousand values per channel: 1e3 roundings of 1e-16, relative to values of size 1 to 10.
TOLERANCE = 1e-10


class Report:
    """Prints facts as they come; advice, one line per problem, at the end."""

    def __init__(self):
        self.advice: list[str] = []
        self.broken = False

    def fact(self, name: str, value: object) -> None:
        print(f"{name:<22} {value}")

    def breaks(self, name: str, text: str, advice: str) -> None:
        self.fact(name, f"BROKEN: {text}")
        self.advise(advice)
        self.broken = True

    def advise(self, text: str) -> None:
        self.advice.append(text)

    def finish(self) -> int:
        for line in self.advice:
            print(f"-> {line}")
        print("Something is broken: see above." if self.broken else "All is well.")
        return int(self.broken)


def _distribution(name: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def report_package(report: Report) -> None:
    """Where iabn comes from, and whether that is the installed one."""
    folder = Path(iabn.__file__).parent
    report.fact("iabn", f"{iabn.__version__}, {folder}")
    distribution = _distribution("iabn")
    if distribution is None:
        report.advise(
            "iabn is not installed, only found as a folder: make wheel in its repository, pip install dist/iabn-*.whl, "
            "and run from another folder"
        )
        return
    installed = Path(str(distribution.locate_file("iabn/__init__.py")))
    # An editable installation has no such file.
    if installed.is_file() and not installed.samefile(iabn.__file__):
        report.breaks(
            "  shadowed",
            f"the installed package is {installed.parent}",
            f"the folder {folder} comes before the installed package on Python's path: start Python elsewhere, or "
            f"remove {folder.parent} from PYTHONPATH",
        )


def report_namesakes(report: Report) -> None:
    """Folders named iabn without __init__.py, such as the C++ sources: Python ignores them while iabn is installed."""
    for entry in sys.path:
        candidate = Path(entry or ".").resolve() / "iabn"
        if candidate.is_dir() and not (candidate / "__init__.py").exists():
            report.fact("  ignored", f"{candidate} (a folder that is no Python package)")


def report_libraries(report: Report, gpu: bool) -> None:
    """The compiled operators: found and loaded, or why not."""
    report.fact("PyTorch", f"{torch.__version__}, {Path(torch.__file__).parent}")
    report.fact("Python", f"{platform.python_version()}, {sys.executable}")
    loaded = {path.name for path in _library.loaded}
    for name in ("libiabn_ops.so", _library._cuda_library()):
        if not name:
            continue
        path = _library.FOLDER / name
        state = "loaded" if name in loaded else "found, not loaded" if path.is_file() else "missing"
        report.fact(f"  {name}", f"{state}, {path}")
    for problem in _library.problems:
        text, _, advice = problem.rpartition(": ")
        if loaded and not gpu:  # only the CUDA operators are missing, and there is no use for them
            report.advise(f"no CUDA operators ({text}); this machine has no GPU, so nothing is lost")
        else:
            report.breaks("operators", text, f"{advice}; until then iabn evaluates but does not train{_where(loaded)}")


def _where(loaded: set[str]) -> str:
    return " on the GPU" if loaded else ""


@dataclass
class Driver:
    """The NVIDIA driver, asked without PyTorch, which may be a build without CUDA."""

    loaded: bool = False
    problem: str = ""
    version: str = "unknown"
    cuda: int = 0  # 13000 is CUDA 13.0
    devices: list[str] = field(default_factory=list)


def query_driver() -> Driver:
    """Never raises."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Driver(problem="no NVIDIA driver (libcuda.so.1 is missing)")
    driver = Driver(loaded=True)
    status = library.cuInit(0)
    if status != 0:
        driver.problem = f"the NVIDIA driver is there but does not start (cuInit returned {status})"
        return driver
    number, count = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    library.cuDeviceGetCount(ctypes.byref(count))
    driver.cuda = number.value
    version = Path("/proc/driver/nvidia/version")
    if version.is_file() and (match := re.search(r"\d+\.\d+(\.\d+)?", version.read_text())):
        driver.version = match.group()
    for ordinal in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
        library.cuDeviceGet(ctypes.byref(device), ordinal)
        library.cuDeviceGetName(name, len(name), device)
        driver.devices.append(name.value.decode(errors="replace"))
    if not driver.devices:
        driver.problem = "the NVIDIA driver sees no device"
    return driver


def cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def report_cuda(report: Report, driver: Driver) -> None:
    """What stands between the GPUs of this machine and the layer, from the driver upwards."""
    wanted = torch.version.cuda
    report.fact("CUDA of PyTorch", wanted or "none (a build for the CPU)")
    if not driver.devices:
        report.fact("CUDA driver", f"none: {driver.problem}")
        if driver.loaded:
            report.advise(
                "if this machine has a GPU: see whether nvidia-smi lists it (else install the driver again, or restart "
                "after its update), that CUDA_VISIBLE_DEVICES does not hide it, and that a container was started with "
                "its GPUs (docker run --gpus all)"
            )
        return
    report.fact("CUDA driver", f"{driver.version}, up to CUDA {cuda_version(driver.cuda)}")
    for name in driver.devices:
        report.fact("  device", name)
    if wanted is None:
        report.advise("this PyTorch is a build for the CPU: install one with CUDA to use the GPU")
    elif not torch.cuda.is_available():
        old = driver.cuda // 1000 < int(wanted.split(".")[0])
        report.breaks(
            "CUDA",
            "PyTorch cannot use the GPU",
            f"the driver is older than PyTorch's CUDA {wanted}: update the driver, or install a PyTorch for CUDA "
            f"{cuda_version(driver.cuda)}"
            if old
            else "check CUDA_VISIBLE_DEVICES, and that torch.cuda.init() succeeds",
        )


def report_drop_in(report: Report) -> None:
    """Which inplace_abn a program would import. Looked at, not imported: the original's may not load."""
    installed = {name: _distribution(name) for name in (COMPAT, ORIGINAL)}
    spec = importlib.util.find_spec("inplace_abn")
    if spec is None:
        report.fact("inplace_abn", f"none ({INSTALL_COMPAT}, for programs that import it)")
        return
    if spec.origin is None:
        report.fact("inplace_abn", f"a folder that is no Python package: {next(iter(spec.submodule_search_locations))}")
        return
    file = Path(spec.origin)
    ours = file.is_file() and f'"{COMPAT}"' in file.read_text(errors="replace")
    report.fact("inplace_abn", f"{'ours' if ours else 'the original or another one'}, {file.parent}")
    if all(installed.values()):
        report.breaks(
            "  distributions",
            f"{COMPAT} and {ORIGINAL} are both installed and overwrite each other's files",
            f"pip uninstall {COMPAT} {ORIGINAL}, then {INSTALL_COMPAT}, or pip install {ORIGINAL}",
        )
    elif installed[COMPAT] is not None and not ours:
        report.breaks(
            "  shadowed",
            f"{COMPAT} is installed, but another inplace_abn comes before it",
            f"remove {file.parent.parent} from PYTHONPATH, or rename {file.parent}",
        )
    if None not in (installed[COMPAT], _distribution("iabn")) and installed[COMPAT].version != iabn.__version__:
        report.breaks(
            "  version",
            f"{COMPAT} is {installed[COMPAT].version}, iabn is {iabn.__version__}",
            f"install the one of iabn {iabn.__version__}: {INSTALL_COMPAT}",
        )


def _outcome(ours: bool, values: list[torch.Tensor], d_z: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradients of x, weight and bias, running statistics."""
    leaves = [value.clone().requires_grad_() for value in values]
    x, weight, bias = leaves[0].clone(), *leaves[1:]
    mean, var = torch.zeros_like(weight.detach()), torch.ones_like(weight.detach())
    if ours:
        z = inplace_abn(x, weight, bias, mean, var, training=True, activation="leaky_relu", activation_param=0.01)
    else:
        z = F.leaky_relu(F.batch_norm(x, mean, var, weight, bias, training=True), 0.01)
    return [z.detach(), *torch.autograd.grad(z, leaves, d_z), mean, var]


def self_test(device: torch.device) -> float:
    """Largest relative difference to BatchNorm + leaky ReLU over a forward and backward pass in float64."""
    channels, worst = 19, 0.0  # no multiple of a vector
    random = torch.Generator().manual_seed(0)
    for layout in (torch.contiguous_format, torch.channels_last):
        shapes = [(8, channels, 13, 11)] * 2 + [(channels,)] * 2
        x, d_z, weight, bias = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes)
        weight = torch.where(weight < 0, weight - 0.5, weight + 0.5)
        x = x * 2 + 1
        values = [value.to(device) for value in (x.contiguous(memory_format=layout), weight, bias)]
        d_z = d_z.to(device).contiguous(memory_format=layout)
        for got, expected in zip(_outcome(True, values, d_z), _outcome(False, values, d_z), strict=True):
            error = (got - expected).abs().max() / expected.abs().max().clamp(min=1)
            worst = max(worst, float("inf") if error.isnan() else error.item())
    return worst


def report_self_test(report: Report, device: torch.device) -> None:
    name = f"self-test {device}"
    advice = f"the layer is wrong on {device}: reinstall iabn; if that does not help, report the lines above"
    try:
        _library.require(device)
        error = self_test(device)
    except RuntimeError as failure:
        report.breaks(name, str(failure).splitlines()[0], advice)
        return
    text = f"largest relative error {error:.1e}, allowed {TOLERANCE:.0e}"
    if error <= TOLERANCE:
        report.fact(name, f"passed ({text})")
    else:
        report.breaks(name, text, advice)


def run() -> int:
    """Prints the report; 0 when all is well, else 1."""
    report = Report()
    driver = query_driver()
    report_package(report)
    report_namesakes(report)
    report_libraries(report, gpu=bool(driver.devices))
    report_drop_in(report)
    report.fact(
        "CPU", f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    )
    report_cuda(report, driver)
    if not _library.loaded:
        report.fact("self-test", "not run: no operators")
        return report.finish()
    report_self_test(report, torch.device("cpu"))
    if torch.cuda.is_available() and len(_library.loaded) > 1:
        for ordinal in range(torch.cuda.device_count()):
            report_self_test(report, torch.device("cuda", ordinal))
    return report.finish()
