"""check_demo.py COMMAND...: runs the demo and judges its promises from the file it writes and the time it takes."""

import json
import resource
import subprocess
import sys
from pathlib import Path

CORES = 2

if subprocess.run(sys.argv[1:], check=False).returncode != 0:
    sys.exit("the demo failed: see above")
result = json.loads(Path("build/demo/result.json").read_text())
used = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = (used.ru_utime + used.ru_stime) / CORES  # not the clock's: the machine may have other work
ratio = result["held_bytes_inplace"] / result["held_bytes_standard"]
keys = {"test_accuracy", "peak_bytes_standard", "peak_bytes_inplace", "step_ms_standard", "step_ms_inplace", "device"}
checks = {
    f"keys {sorted(keys)} are there": keys <= result.keys(),
    f"test accuracy {result['test_accuracy']:.4f} >= 0.90": 0.90 <= result["test_accuracy"] <= 1.0,
    f"held bytes, in place / standard, {ratio:.3f} <= 0.55": 0 < ratio <= 0.55,
    f"{seconds:.0f} s of {CORES} cores < 300 s": seconds < 300,
}
for claim, holds in checks.items():
    print(f"{'ok    ' if holds else 'FAILED'} {claim}")
sys.exit(not all(checks.values()))
