"""How much of NCCL's time lies under other kernels' time, from traces of `iabn train --trace-steps N`.

  torchrun --no-python --nproc-per-node=2 iabn train CONFIG DATA --log-dir RUN --trace-steps 5
  python benchmarks/trace_overlap.py RUN/trace_rank*.json

Per file: the time between the first and the last kernel, of NCCL's kernels, of all others, of both at the same time,
and the kernels that take most of the time.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path


def merged(spans):
    """Sorted intervals that don't overlap."""
    result = []
    for begin, end in sorted(spans):
        if result and begin <= result[-1][1]:
            result[-1][1] = max(result[-1][1], end)
        else:
            result.append([begin, end])
    return result


def length(spans):
    return sum(end - begin for begin, end in spans)


def common(a, b):
    """The length of what two lists of merged intervals share."""
    shared, i, j = 0.0, 0, 0
    while i < len(a) and j < len(b):
        shared += max(0.0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return shared


def report(path):
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("cat") == "kernel"]
    nccl, others, times = [], [], defaultdict(list)
    for event in events:
        (nccl if "nccl" in event["name"] else others).append((event["ts"], event["ts"] + event["dur"]))
        name = event["name"].replace("(anonymous namespace)::", "").split("(")[0].split("<")[0].removeprefix("void ")
        times[name].append(event["dur"])
    if not events:
        return print(f"{path}: no kernels; was it trained on a GPU?")
    nccl, others = merged(nccl), merged(others)
    whole = max(nccl + others, key=lambda span: span[1])[1] - min(nccl + others)[0]
    shared = common(nccl, others)
    print(
        f"{path}: {whole / 1e3:.2f} ms; NCCL {length(nccl) / 1e3:.2f} ms, of which {shared / 1e3:.2f} "
        f"({100 * shared / max(length(nccl), 1e-9):.0f} %) beside other kernels; others {length(others) / 1e3:.2f} ms"
    )
    for name, durations in sorted(times.items(), key=lambda item: -sum(item[1]))[:12]:
        print(f"  {sum(durations) / 1e3:8.3f} ms {len(durations):6d} x {name[:90]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path, nargs="+")
    for path in parser.parse_args().traces:
        report(path)


if __name__ == "__main__":
    main()
