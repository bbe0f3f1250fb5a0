"""ResNet-50 training by `iabn train` on one and on several GPUs, beside PyTorch's DistributedDataParallel.

Local layers ("inplace"), and synchronised ones that exchange their sums through the GPUs' memory ("sync") or through
NCCL ("sync, collectives").

Real JPEG files (drawn here, smooth, 256 x 256) through the loader, bf16, channels-last, the step as one CUDA graph;
images/s are those that the second epoch reports, without evaluation and snapshots. PyTorch trains
the same network (torchvision's with leaky ReLU), eager, on data that lies on the GPU: its loader does not count.

  python benchmarks/train_scaling.py build/cuda/bin/iabn --processes 2 --csv rows.csv --traces FOLDER

--traces: what happens in five steps of the first epoch, for trace_overlap.py.
"""

import argparse
import csv
import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from compare_torch import COLUMNS, driver_version, quantiles
from train_torch import resnet50

CLASSES = 10
DRAWN = 64  # different pictures; the others are links to them


def draw_folder(root, train_images):
    """root/train/CLASS/*.jpg and root/val/CLASS/*.jpg"""
    generator = np.random.default_rng(0)
    pictures = []
    for i in range(DRAWN):
        spots = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        pictures.append(root / f"{i}.jpg")
        spots.resize((256, 256), Image.Resampling.BICUBIC).save(pictures[-1], quality=85)
    for split, count in (("train", train_images), ("val", 2 * CLASSES)):
        for i in range(count):
            folder = root / split / f"class{i % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            os.link(pictures[i % DRAWN], folder / f"{i}.jpg")


def program_speed(program, root, mode, processes, options):
    """Images/s between the lines of the second half of the second epoch."""
    config = {
        "network": {
            "arch": "resnet50",
            "activation": "leaky_relu",
            "classes": CLASSES,
            "bn_mode": mode.split(",")[0],
            "sync_exchange": "collectives" if mode.endswith("collectives") else "auto",
        },
        "optimizer": {
            "batch_size": options.batch * processes,
            "learning_rate": 0.01,
            "clip": 0,
            "schedule": {"epochs": 2},
        },
        "channels_last": True,
        "precision": "bf16",
        "cuda_graph": True,
    }
    name = f"{mode.replace(', ', '-')}-{processes}"
    path, log_dir = root / f"{name}.json", root / f"run-{name}"
    path.write_text(json.dumps(config))
    launcher = (
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--no-python",
            "--nproc-per-node",
            str(processes),
        ]
        if processes > 1
        else []
    )
    command = [program, "train", path, root, "--log-dir", log_dir, "--device", "cuda", "--workers", options.workers]
    command += ["--print-frequency", 20, *(["--trace-steps", 5] if options.traces else [])]
    result = subprocess.run(
        [*launcher, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(f"{name}: exit code {result.returncode}\n{result.stdout[-3000:]}")
    if options.traces:
        options.traces.mkdir(parents=True, exist_ok=True)
        for trace in log_dir.glob("trace_rank*.json"):
            shutil.copy(trace, options.traces / f"{name}-{trace.name}")
    # "epoch 2/2 300/500 | 5012 images/s | 0:12 left | data 1 % | ...", the mean since the epoch's begin, rank 0's clock
    found = re.findall(r"epoch 2/2 (\d+)/\d+ \| (\d+) images/s .*? data (\d+) %", result.stdout)
    images = [int(step) * options.batch * processes for step, _, _ in found]
    seconds = [count / float(speed) for count, (_, speed, _) in zip(images, found, strict=True)]
    half = range(max(len(found) // 2, 1), len(found))
    speeds = [(images[i] - images[i - 1]) / (seconds[i] - seconds[i - 1]) for i in half]
    print(f"{name}: waited for data {found[-1][2]} % of the time")
    return speeds


def torch_process(rank, processes, batch, synchronised, folder):
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    torch.cuda.set_device(rank)
    torch.backends.cudnn.benchmark = True
    model = resnet50()
    if synchronised:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.cuda().to(memory_format=torch.channels_last)
    if processes > 1:
        device = torch.device("cuda", rank)
        dist.init_process_group(
            "nccl", init_method=f"file://{folder}/store", rank=rank, world_size=processes, device_id=device
        )
        model = torch.nn.parallel.DistributedDataParallel(model, [rank], gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4, fused=True)
    x = torch.randn(batch, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
    target = torch.randint(CLASSES, (batch,), device="cuda")

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(x).float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    speeds = []
    for turn in range(8):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            step()
        torch.cuda.synchronize()
        if turn >= 2:
            speeds.append(10 * batch * processes / (time.perf_counter() - start))
    if rank == 0:
        Path(folder, "speeds.json").write_text(json.dumps(speeds))
    if processes > 1:
        dist.destroy_process_group()


def torch_speed(processes, batch, synchronised):
    with tempfile.TemporaryDirectory() as folder:
        arguments = (processes, batch, synchronised, folder)
        mp.start_processes(torch_process, arguments, nprocs=processes, start_method="spawn")
        return json.loads(Path(folder, "speeds.json").read_text())


def write_rows(figures, options, stamp):
    """What has been measured so far, so that a run which is cut off is not lost."""
    rows = []
    for (name, processes), speeds in figures.items():
        at = [
            "resnet50",
            f"{name}, {processes} GPUs",
            f"{options.batch}x3x224x224 per GPU",
            "bfloat16",
            "channels_last",
        ]
        rows.append(
            [*at, "epoch" if name.startswith("iabn") else "step", "speed", *quantiles(speeds), "images/s", *stamp]
        )
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--processes", type=int, default=torch.cuda.device_count())
    parser.add_argument("--batch", type=int, default=128, help="per GPU")
    parser.add_argument("--images", type=int, default=64000, help="of an epoch")
    parser.add_argument("--workers", type=int, default=14, help="per process")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--traces", type=Path)
    options = parser.parse_args()
    stamp = [torch.cuda.get_device_name(), driver_version(), torch.__version__]
    sha = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    stamp += [sha.strip(), datetime.date.today()]
    several = options.processes
    figures = {}
    if not options.no_torch:
        for name, processes in (("DDP", 1), ("DDP", several), ("DDP, SyncBatchNorm", several)):
            figures[f"torch {name}", processes] = torch_speed(processes, options.batch, "Sync" in name)
            print(name, processes, round(statistics.median(figures[f"torch {name}", processes])), flush=True)
            write_rows(figures, options, stamp)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_folder(root, options.images)
        for mode, processes in (("inplace", 1), *((m, several) for m in ("inplace", "sync", "sync, collectives"))):
            figures[f"iabn {mode}", processes] = program_speed(
                options.program.resolve(), root, mode, processes, options
            )
            print(mode, processes, round(statistics.median(figures[f"iabn {mode}", processes])), flush=True)
            write_rows(figures, options, stamp)
    for (name, processes), speeds in figures.items():
        first = next(iter(v for (other, p), v in figures.items() if p == 1 and other[:4] == name[:4]))
        ratio = statistics.median(speeds) / statistics.median(first)
        print(f"{name:26s} {processes} GPUs {statistics.median(speeds):7.0f} images/s  {ratio:.2f} times one GPU")


if __name__ == "__main__":
    main()
