"""Trains configs/cifar10/preact_resnet20_{inplace,standard}.json with several seeds and collects accuracies as rows.

  python benchmarks/train_cifar10.py build/cuda/bin/iabn CIFAR10_FOLDER --csv benchmarks/results/cifar10_h100.csv

CIFAR10_FOLDER has train/CLASS/ and val/CLASS/ with image files. Prints mean and standard error of the last epoch's
validation accuracy of both, and their difference.
"""

import argparse
import csv
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from compare_torch import COLUMNS, driver_version

ROOT = Path(__file__).resolve().parents[1]
MODES = ("standard", "inplace")


def train(program, data, mode, seed, logs, workers):
    config = json.loads((ROOT / "configs" / "cifar10" / f"preact_resnet20_{mode}.json").read_text())
    path = logs / f"{mode}_{seed}.json"
    path.write_text(json.dumps(config | {"seed": seed}))
    command = [program, "train", path, data, "--log-dir", logs / f"{mode}_{seed}", "--workers", str(workers)]
    subprocess.run(command, check=True)


def rows_of(logs, seeds, machine):
    """A row per mode, seed and epoch, from the runs' log.csv."""
    at = ["256x3x32x32", "bfloat16", "channels_last"]
    for mode in MODES:
        for seed in seeds:
            with (logs / f"{mode}_{seed}" / "log.csv").open(newline="") as file:
                for epoch in csv.DictReader(file):
                    for metric, unit in (("train_loss", "1"), ("val_loss", "1"), ("val_top1", "%"), ("seconds", "s")):
                        where = ["cifar10", f"{mode} seed {seed}", *at, f"epoch {epoch['epoch']}", metric]
                        yield [*where, *[epoch[metric]] * 3, unit, *machine]


def summarise(rows):
    last = {}
    for row in rows:
        if row[6] == "val_top1":
            last[row[1]] = float(row[8])  # rows are in the order of epochs
    of_mode = {mode: [value for name, value in last.items() if name.startswith(mode)] for mode in MODES}
    errors = []
    for mode, values in of_mode.items():
        errors.append(statistics.stdev(values) / len(values) ** 0.5)
        print(f"{mode:9s} {statistics.mean(values):.2f} % +- {errors[-1]:.2f} (standard error, {len(values)} seeds)")
    difference = statistics.mean(of_mode["inplace"]) - statistics.mean(of_mode["standard"])
    print(f"in-place minus standard: {difference:+.2f} points +- {(errors[0] ** 2 + errors[1] ** 2) ** 0.5:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    sha = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    stamp = [driver_version(), torch.__version__, sha.strip(), datetime.date.today()]
    machine = [torch.cuda.get_device_name(), *stamp]
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for mode in MODES:
                train(options.program.resolve(), options.data, mode, seed, Path(folder), options.workers)
        rows = list(rows_of(Path(folder), options.seeds, machine))
    summarise(rows)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
