"""check_demo.py RESULT SECONDS: the demo's promises, judged from the file it wrote and the time it took."""

import json
import sys
from pathlib import Path

result = json.loads(Path(sys.argv[1]).read_text())
seconds = float(sys.argv[2])
ratio = result["held_bytes_inplace"] / result["held_bytes_standard"]
keys = {"test_accuracy", "peak_bytes_standard", "peak_bytes_inplace", "step_ms_standard", "step_ms_inplace", "device"}
checks = {
    f"keys {sorted(keys)} are there": keys <= result.keys(),
    f"test accuracy {result['test_accuracy']:.4f} >= 0.90": 0.90 <= result["test_accuracy"] <= 1.0,
    f"held bytes, in place / standard, {ratio:.3f} <= 0.55": 0 < ratio <= 0.55,
    f"{seconds:.0f} s < 300 s": seconds < 300,
}
for claim, holds in checks.items():
    print(f"{'ok    ' if holds else 'FAILED'} {claim}")
sys.exit(not all(checks.values()))
