"""Trains configs/camvid/resnet18_{inplace,standard}.json with several seeds and collects mean IoU as rows.

  python benchmarks/train_camvid.py build/cuda/bin/iabn CAMVID --gpus 0 1 --together 3 --csv rows.csv --pictures FOLDER

CAMVID has {train,val,test}/{images,masks}. The runs are dealt out to the GPUs in turn, `together` of them at a time on
each. The test images are evaluated with the weights of the best validation, as they are and with test-time augmentation
(scales 0.75, 1, 1.25, mirrored). Prints mean and standard error of both modes, and the classes' IoU. --pictures: some
test images, their truth, and prediction and overlay by the first in-place run. Where a run fails, those that have not
begun are left out; the rows are of what has finished, and the exit code is 1.
"""

import argparse
import csv
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from compare_torch import COLUMNS, driver_version

ROOT = Path(__file__).resolve().parents[1]
MODES = ("inplace", "standard")
VIEWS = {"test": [], "test, scales and flip": ["--scales", "0.75,1,1.25", "--flip"]}
SHOWN = (20, 110, 200)  # places of test images in the order of their names


class Experiment:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.program = options.program.resolve()

    def run(self, gpu, *command):
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": str(gpu)}
        result = subprocess.run(
            [self.program, *map(str, command)],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if result.returncode != 0:
            raise RuntimeError(f"{command}: exit code {result.returncode}\n{result.stdout[-2000:]}")
        return result.stdout

    def name(self, mode, seed):
        return f"{mode}_{seed}"

    def train_and_test(self, gpu, mode, seed):
        """{view: result of iabn validate}"""
        name = self.name(mode, seed)
        config = json.loads((ROOT / "configs" / "camvid" / f"resnet18_{mode}.json").read_text()) | {"seed": seed}
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(config))
        epochs = ["--epochs", self.options.epochs] if self.options.epochs else []
        workers = ["--workers", self.options.workers]
        data = self.options.data
        self.run(gpu, "train", path, data, "--log-dir", self.folder / name, *workers, *epochs)
        results = {}
        for view, arguments in VIEWS.items():
            result = self.folder / f"{name}.result.json"
            best = self.folder / name / "model_best.pth.tar"
            self.run(gpu, "validate", path, best, data, "--split", "test", *arguments, "--json", result, *workers)
            results[view] = json.loads(result.read_text())
        print(name, *(f"{view}: {result['miou']:.2f} %" for view, result in results.items()), sep="  ", flush=True)
        return results

    def log(self, mode, seed):
        with (self.folder / self.name(mode, seed) / "log.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def draw_pictures(self, target):
        """target/N_{image,truth,prediction,overlay}.png"""
        target.mkdir(parents=True, exist_ok=True)
        images = sorted((self.options.data / "test" / "images").iterdir())
        snapshot = self.folder / self.name("inplace", self.options.seeds[0]) / "model_best.pth.tar"
        chosen = self.folder / "shown"
        chosen.mkdir()
        colors = json.loads((ROOT / "configs" / "camvid" / "resnet18_inplace.json").read_text())["segmentation"][
            "colors"
        ]
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(colors)] = colors
        for number, place in enumerate(SHOWN):
            image = Image.open(images[place]).convert("RGB")
            image.save(chosen / f"{number}.png")
            image.save(target / f"{number}_image.png")
            mask = np.array(Image.open(self.options.data / "test" / "masks" / f"{images[place].stem}.png"))
            Image.fromarray(palette[mask]).save(target / f"{number}_truth.png")
        for mode, kind in (("palette", "prediction"), ("overlay", "overlay")):
            out = self.folder / mode
            self.run(self.options.gpus[0], "predict", snapshot, chosen, out, "--scales", 1, "--output-mode", mode)
            for number in range(len(SHOWN)):
                Image.open(out / f"{number}.png").convert("RGB").save(target / f"{number}_{kind}.png")


def rows_of(experiment, results, machine):
    """Curves, and per run and view the mean IoU, pixel accuracy and the classes' IoU on the test images."""
    config = json.loads((ROOT / "configs" / "camvid" / "resnet18_inplace.json").read_text())
    crop, batch = config["input"]["crop_train"], config["optimizer"]["batch_size"]
    at = [f"{batch}x3x{crop}x{crop}", "bfloat16", "channels_last"]
    for (mode, seed), views in results.items():
        for epoch in experiment.log(mode, seed):
            for metric, unit in (("train_loss", "1"), ("val_miou", "%"), ("seconds", "s")):
                where = ["camvid", f"{mode} seed {seed}", *at, f"epoch {epoch['epoch']}", metric]
                yield [*where, *[epoch[metric]] * 3, unit, *machine]
        for view, result in views.items():
            figures = {"miou": result["miou"], "pixel_accuracy": result["pixel_accuracy"]}
            figures |= {f"iou {one['name']}": one["iou"] for one in result["classes"]}
            for metric, value in figures.items():
                yield ["camvid", f"{mode} seed {seed}", *at, view, metric, *[value] * 3, "%", *machine]


def summarise(results):
    for view in VIEWS:
        for mode in MODES:
            values = [views[view]["miou"] for (of, _), views in results.items() if of == mode]
            if not values:
                continue
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            print(f"{view:24s} {mode:9s} mIoU {statistics.mean(values):.2f} % +- {error:.2f} ({len(values)} seeds)")


def collect(futures):
    """{run: result} of what has finished, in the order of `futures`, and {run: text} of what went wrong."""
    runs = {future: run for run, future in futures.items()}
    results, errors = {}, {}
    for future in as_completed(runs):
        if future.cancelled():
            continue
        if (error := future.exception()) is None:
            results[runs[future]] = future.result()
            continue
        errors[runs[future]] = error
        print(*runs[future], "failed:", error, flush=True)
        for other in runs:
            other.cancel()
    return {run: results[run] for run in futures if run in results}, errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, help="instead of the configurations'")
    parser.add_argument("--gpus", type=int, nargs="+", default=[0])
    parser.add_argument("--together", type=int, default=1, help="runs at a time on each GPU")
    parser.add_argument("--workers", type=int, default=8, help="of each run")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    sha = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    stamp = [driver_version(), torch.__version__, sha.strip(), datetime.date.today()]
    machine = [torch.cuda.get_device_name(), *stamp]
    runs = [(mode, seed) for seed in options.seeds for mode in MODES]
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(options, Path(folder))
        pools = [ThreadPoolExecutor(options.together) for _ in options.gpus]
        futures = {}
        for number, (mode, seed) in enumerate(runs):
            place = (number + number // len(MODES)) % len(pools)  # the modes take turns: one is faster
            futures[mode, seed] = pools[place].submit(experiment.train_and_test, options.gpus[place], mode, seed)
        results, errors = collect(futures)
        rows = list(rows_of(experiment, results, machine))
        summarise(results)
        if options.csv:
            with options.csv.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
        if options.pictures and not errors:
            experiment.draw_pictures(options.pictures)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
