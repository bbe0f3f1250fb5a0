"""audit_wheel.py [--release] WHEEL: checks that a wheel of iabn keeps what its file name promises, and prints a table.

--release: also that it has both CUDA libraries, each for all architectures. Fails with one line per broken promise.
auditwheel finds the oldest glibc, dev/check_symbols.sh the symbols of ATen and c10; the rest is here: what else each
library needs, paths, contents and size.
"""

import json
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parent.parent
LARGEST_MB = 60
NEWEST_GLIBC = (2, 34)  # Ubuntu 22.04 and RHEL 9
# Part of glibc, or in every process that has imported PyTorch. libgcc_s: Note [glibc 2.28] in cmake/wheel.cmake.
COMMON = {
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libtorch_cpu.so",
}
NEEDED = {
    "libiabn_ops.so": COMMON,
    "libiabn_ops_cuda.so": COMMON | {"libtorch_cuda.so"},
    "libiabn_ops_cuda12.so": COMMON | {"libtorch_cuda.so"},
}
RELEASE = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "compute_120"]
complaints: list[str] = []


def check(holds: bool, complaint: str) -> None:
    if not holds:
        complaints.append(complaint)


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def architectures(library: Path) -> list[str]:
    """sm_* of the SASS and compute_* of the PTX, from the headers in section .nv_fatbin; sm_90a counts as sm_90."""
    with library.open("rb") as file:
        data = ELFFile(file).get_section_by_name(".nv_fatbin").data()
    found = set()
    # A container begins with its magic number, version 1, the size of this header (16) and that of what follows it.
    for container in re.finditer(b"\x50\xed\x55\xba\x01\x00\x10\x00", data):
        entry = container.end() + 8
        end = entry + struct.unpack_from("<Q", data, container.end())[0]
        while entry < end:
            kind, _, header, payload = struct.unpack_from("<HHIQ", data, entry)
            number = struct.unpack_from("<I", data, entry + 28)[0]
            found.add((kind != 2, number))
            entry += header + payload
    return [f"{'compute' if is_ptx else 'sm'}_{number}" for is_ptx, number in sorted(found)]


def audit_library(path: Path, release: bool) -> None:
    with path.open("rb") as file:
        tags = list(ELFFile(file).get_section_by_name(".dynamic").iter_tags())
    needed = {tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"}
    check(
        not any(tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH") for tag in tags),
        f"{path.name} has a RPATH or RUNPATH: nothing in a wheel may point into the build machine",
    )
    known = NEEDED.get(path.name, set())
    check(bool(known), f"{path.name} is not a library of iabn")
    check(needed <= known, f"{path.name} needs {', '.join(sorted(needed - known))}, which users need not have")
    print(f"  {path.name:24}{path.stat().st_size / 1e6:6.1f} MB  {' '.join(sorted(needed - COMMON))}".rstrip())
    if "cuda" in path.name:
        found = architectures(path)
        print(f"  {'':24}{' '.join(found)}")
        check(not release or found == RELEASE, f"{path.name} is not built for {' '.join(RELEASE)}")
    symbols = run(ROOT / "dev/check_symbols.sh", path)
    check(symbols.returncode == 0, f"dev/check_symbols.sh: {symbols.stdout}{symbols.stderr}")


def audit_contents(names: set[str], wheel: Path, release: bool) -> None:
    package = ROOT / "python"
    sources = {str(file.relative_to(package)) for file in package.glob("iabn/**/*.py")} | {"iabn/py.typed"}
    expected = sources | {"iabn/lib/libiabn_ops.so"}
    if release:
        expected |= {f"iabn/lib/{name}" for name in NEEDED}
    check(not expected - names, f"missing: {', '.join(sorted(expected - names))}")
    allowed = expected | {f"iabn/lib/{name}" for name in NEEDED}
    strangers = {name for name in names - allowed if not re.match(r"iabn-[^/]+\.dist-info/", name)}
    check(not strangers, f"does not belong into the wheel: {', '.join(sorted(strangers))}")
    size = wheel.stat().st_size / 1e6
    check(size < LARGEST_MB, f"the wheel has {size:.1f} MB, {LARGEST_MB} is the limit")


def glibc(platform: str) -> tuple[int, int]:
    found = re.fullmatch(r"manylinux_(\d+)_(\d+)_\w+", platform)
    return (int(found[1]), int(found[2])) if found else (99, 99)


def audit_tag(wheel: Path) -> None:
    python, abi, platform = wheel.stem.split("-")[-3:]
    check((python, abi) == ("py3", "none"), f"the tag is {python}-{abi}, it should be py3-none")
    shown = run("auditwheel", "show", "--json", wheel)
    if shown.returncode != 0:
        check(False, f"auditwheel show: {shown.stderr}")
        return
    report = json.loads(shown.stdout)
    newest = [f"{library} {max(found, key=sort_key)}" for library, found in sorted(report["versioned_symbols"].items())]
    print(f"  newest symbols: {', '.join(newest)}; enough for {report['sym_tag']}")
    check(glibc(platform) <= NEWEST_GLIBC, f"{platform} is not manylinux_{NEWEST_GLIBC[0]}_{NEWEST_GLIBC[1]} or older")
    check(glibc(report["sym_tag"]) <= glibc(platform), f"{platform} promises too much: it is {report['sym_tag']}")
    check(not report["unsupported_isa"], "a library needs a newer instruction set than its platform has")


def sort_key(symbol_version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", symbol_version)]


def main() -> None:
    wheel, release = Path(sys.argv[-1]), "--release" in sys.argv
    print(f"{wheel.name}  {wheel.stat().st_size / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        for library in sorted(Path(folder, "iabn/lib").glob("*")):
            audit_library(library, release)
        audit_contents({name for name in archive.namelist() if not name.endswith("/")}, wheel, release)
    audit_tag(wheel)
    for complaint in complaints:
        print(f"error: {complaint}", file=sys.stderr)
    print("audit: FAILED" if complaints else "audit: passed (libraries, symbols, paths, contents, size, tag)")
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
