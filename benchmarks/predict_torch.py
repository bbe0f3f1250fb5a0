"""`iabn predict` beside the same network in eager PyTorch: pictures/s and memory of segmenting a folder.

wider_resnet38_a2 with DeepLabV3 and 65 classes, random weights, 2048 pixels on the longest side, the picture and its
mirror image, fp16, channels-last. Both read JPEG files ahead in `--workers` threads or processes and write PNG files
behind; the time runs from the first file to the last, without start and loading. Memory is what nvidia-smi shows for
the first GPU at most, less what it showed before: each side runs alone in a process of its own, in turns.
--whole-average: PyTorch's head averages over the whole map, because windows take it longer than its network.

  python benchmarks/predict_torch.py build/cuda/bin/iabn PICTURES --csv rows.csv
"""

import argparse
import csv
import datetime
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "python"))
from compare_torch import COLUMNS, driver_version, quantiles
from segmentation_support import Head, NormAct, Segmenter, WiderBody, save_vistas

SIDE = 2048
MEAN, STD = (0.41738699, 0.45732192, 0.46886091), (0.25685097, 0.26509955, 0.29067996)


def network():
    torch.manual_seed(0)
    return Segmenter(WiderBody(), 4096, hidden=256, out=256, classes=65)


class Pictures(torch.utils.data.Dataset):
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with Image.open(self.paths[index]) as image:
            size = image.size
            scale = SIDE / max(size)
            image = image.convert("RGB").resize([int(scale * side) for side in size], Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)), size, self.paths[index].stem


def head_with_window(self, x):
    """As in the original package: the average of a window of 84 x 84 pixels, repeated at the borders."""
    y = self.red_conv(self.map_bn(torch.cat([branch(x) for branch in self.map_convs], 1)))
    height, width = min(84, x.shape[2]), min(84, x.shape[3])
    pool = functional.avg_pool2d(x, (height, width), stride=1)
    borders = ((width - 1) // 2, width // 2, (height - 1) // 2, height // 2)
    pool = self.global_pooling_conv(functional.pad(pool, borders, mode="replicate"))
    return self.red_bn(y + self.pool_red_conv(self.global_pooling_bn(pool)))


def norm_act_in_place(self, x):
    y = functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)
    return functional.leaky_relu_(y, self.slope)


@torch.inference_mode()
def predict_in_torch(weights, pictures, out, workers, windows):
    NormAct.forward = norm_act_in_place
    if windows:
        Head.forward = head_with_window
    model = network()
    parts = torch.load(weights, weights_only=True)["state_dict"]
    for name, part in parts.items():
        getattr(model, name).load_state_dict(part)
    model = model.cuda().half().to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(v, device="cuda").view(1, 3, 1, 1) for v in (MEAN, STD))
    data = Pictures(sorted(pictures.iterdir()))
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=workers, pin_memory=True)
    written = []
    with ThreadPoolExecutor(workers) as writers:

        def write(labels, size, stem):
            Image.fromarray(labels).resize(size, Image.Resampling.NEAREST).save(out / f"{stem}.png")

        for pixels, size, stem in loader:
            x = pixels.cuda(non_blocking=True).permute(2, 0, 1)[None].float().div_(255).sub_(mean).div_(std)
            x = x.half().contiguous(memory_format=torch.channels_last)
            total = 0
            for mirrored in (False, True):
                logits = model(x.flip(3) if mirrored else x).float()
                scores = functional.interpolate(logits, x.shape[2:], mode="bilinear").softmax(1)
                total = total + (scores.flip(3) if mirrored else scores)
            labels = total.argmax(1)[0].byte().cpu().numpy()
            written.append(writers.submit(write, labels, size, stem))
    for future in written:
        future.result()


class Memory:
    """The most that nvidia-smi shows while it is entered, less what it showed before, in GiB."""

    @staticmethod
    def now():
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={gpu}"]
        return float(subprocess.run(query, capture_output=True, text=True, check=True).stdout) / 1024

    def __enter__(self):
        self.before = self.peak = self.now()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.over.wait(0.1):
            self.peak = max(self.peak, self.now())

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    @property
    def used(self):
        return self.peak - self.before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("pictures", type=Path, help="folder of JPEG files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--whole-average", action="store_true")
    parser.add_argument("--torch", nargs=2, type=Path, metavar=("WEIGHTS", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.torch:
        weights, out = options.torch
        return predict_in_torch(weights, options.pictures, out, options.workers, not options.whole_average)
    expected = sorted(f"{path.stem}.png" for path in options.pictures.iterdir())
    count = len(expected)
    whole = ["--whole-average"] if options.whole_average else []
    eager = "torch eager, average of the whole map" if whole else "torch eager"
    speeds, memory = {eager: [], "iabn predict": []}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_vistas(folder / "weights.pth", network())
        for turn in range(options.rounds):
            outs = [folder / f"{side}{turn}" for side in ("torch", "iabn")]
            for out in outs:
                out.mkdir()
            weights, workers = folder / "weights.pth", ["--workers", options.workers]
            arguments = [options.program, options.pictures, *workers, *whole, "--torch", weights, outs[0]]
            ours = ["predict", weights, options.pictures, outs[1], "--scales", 1, "--flip", *workers]
            commands = {
                eager: [sys.executable, __file__, *arguments],
                "iabn predict": [options.program, *ours],
            }
            for (side, command), out in zip(commands.items(), outs, strict=True):
                with Memory() as used:
                    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
                if result.returncode != 0:
                    raise RuntimeError(f"{side}: exit code {result.returncode}\n{result.stdout}{result.stderr}")
                names = sorted(path.name for path in out.iterdir())
                if names != expected:
                    raise RuntimeError(f"{side}: {len(names)} files instead of {count}")
                times = sorted(path.stat().st_mtime for path in out.iterdir())
                speeds[side].append((count - 1) / (times[-1] - times[0]))
                memory[side] = max(memory.get(side, 0), used.used)
    sha = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    stamp = [torch.cuda.get_device_name(), driver_version(), torch.__version__, sha.strip(), datetime.date.today()]
    rows = []
    for side, values in speeds.items():
        middle = quantiles(values)[1]
        print(f"{side:14s} {middle:6.2f} pictures/s  {memory[side]:.2f} GiB", flush=True)
        at = ["wider_resnet38_a2 + DeepLabV3", side, f"{SIDE} longest side, flip", "float16", "channels_last", "folder"]
        rows.append([*at, "speed", *quantiles(values), "pictures/s", *stamp])
        rows.append([*at, "memory", *[memory[side]] * 3, "GiB", *stamp])
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
