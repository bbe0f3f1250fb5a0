"""The training loader (`iabn bench loader`) beside torchvision's ImageFolder and torch's DataLoader, on the same
photographs with the same transforms and number of workers: images per second, and processor time per image of all
threads and processes, which a busy machine disturbs less. The two take turns.

  python benchmarks/compare_loader.py build/release/bin/iabn ../shared/data/photos-60.tar --csv rows.csv

crop_flip: random resized crop of 224, flip, normalisation. crop_flip_jitter_lighting: torchvision's ColorJitter and the
lighting noise of the configuration's lighting_train as well.
"""

import argparse
import csv
import datetime
import io
import os
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

import torch
import torchvision
from compare_torch import git_sha, quantiles, six_digits, write_rows
from PIL import Image
from torchvision import transforms

CROP, BATCH = 224, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PASSES = {"crop_flip": [], "crop_flip_jitter_lighting": ["--jitter"]}
UNITS = {"speed": "images/s", "cpu": "ms/image"}


class Lighting:
    """Noise along the principal colours of ImageNet."""

    eigenvalues = torch.tensor([0.2175, 0.0188, 0.0045])
    eigenvectors = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

    def __call__(self, image):
        shift = self.eigenvectors @ (0.1 * torch.randn(3) * self.eigenvalues)
        return image + shift[:, None, None]


class Torchvision:
    """A DataLoader whose workers stay; round() is one epoch."""

    def __init__(self, folder, workers, colors):
        steps = [transforms.RandomResizedCrop(CROP, antialias=True), transforms.RandomHorizontalFlip()]
        steps += [transforms.ColorJitter(0.4, 0.4, 0.4)] if colors else []
        steps += [transforms.ToTensor()]
        steps += [Lighting()] if colors else []
        steps += [transforms.Normalize(MEAN, STD)]
        dataset = torchvision.datasets.ImageFolder(folder / "train", transforms.Compose(steps))
        keep = {"num_workers": workers, "persistent_workers": workers > 0}
        self.loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True, **keep)
        self.round()  # starts the workers

    def processor_time(self):
        """Of this process and the workers, in seconds."""
        seconds = time.process_time()
        for worker in getattr(self.loader._iterator, "_workers", []):
            fields = Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return seconds

    def round(self):
        cpu, start = self.processor_time(), time.perf_counter()
        images = sum(len(labels) for _, labels in self.loader)
        wall = time.perf_counter() - start
        return {"speed": images / wall, "cpu": 1e3 * (self.processor_time() - cpu) / images}


def iabn_round(program, folder, workers, options):
    """One epoch after one to warm up, in a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as rows:
        sizes = ["--crop", str(CROP), "--batch-size", str(BATCH), "--workers", str(workers), "--rounds", "1"]
        command = [program, "bench", "loader", folder, *sizes, *options, "--csv", rows.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(rows.name) as file:
            return {row["metric"]: float(row["p50"]) for row in csv.DictReader(file)}


def make_folder(root, archive, repeat, enlarge):
    """root/train/photos: every image of the archive `repeat` times, enlarged where asked for; how many there are."""
    folder = root / "train" / "photos"
    folder.mkdir(parents=True)
    count = 0
    with tarfile.open(archive) as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):
            content = tar.extractfile(member).read()
            if enlarge > 1:
                photo = Image.open(io.BytesIO(content)).convert("RGB")
                output = io.BytesIO()
                photo.resize((enlarge * photo.width, enlarge * photo.height), Image.BICUBIC).save(
                    output, "JPEG", quality=90
                )
                content = output.getvalue()
            for turn in range(repeat):
                (folder / f"{turn}-{Path(member.name).stem}.jpeg").write_bytes(content)
                count += 1
    return count


def cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(": ", 1)[1]
    return "unknown CPU"


def measure(options, folder, case, stamp):
    """Prints the medians and ratios; returns rows."""
    rows = []
    for name, flags in PASSES.items():
        theirs = Torchvision(folder, options.workers, colors=bool(flags))
        variants = {
            "iabn": lambda flags=flags: iabn_round(options.program, folder, options.workers, flags),
            "torchvision": theirs.round,
        }
        if options.enlarge > 1:
            variants["iabn scaled_decode"] = lambda flags=flags: iabn_round(
                options.program, folder, options.workers, [*flags, "--scaled"]
            )
        results = {variant: [] for variant in variants}
        for _ in range(options.rounds):
            for variant, run in variants.items():
                results[variant].append(run())
        for variant, rounds in results.items():
            line = []
            for metric, unit in UNITS.items():
                spread = quantiles([values[metric] for values in rounds])
                base = quantiles([values[metric] for values in results["torchvision"]])[1]
                ratio = spread[1] / base if metric == "speed" else base / spread[1]
                line.append(f"{spread[1]:8.3f} {unit} ({ratio:.2f} times torchvision)")
                shape = [f"{BATCH}x3x{CROP}x{CROP}", "float32", "contiguous", name]
                rows.append([case, variant, *shape, metric, *map(six_digits, spread), unit, *stamp])
            print(f"{case} {name} {variant:18} {'  '.join(line)}", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, help="the program iabn")
    parser.add_argument("photographs", type=Path, help="tar archive of JPEG files")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=10, help="copies of each photograph in an epoch")
    parser.add_argument("--enlarge", type=int, default=1, help="times the size; adds scaled_decode")
    parser.add_argument("--csv", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    device = f"{cpu_model()} ({options.workers} {'worker' if options.workers == 1 else 'workers'})"
    stamp = [device, "", torch.__version__, git_sha(), datetime.date.today().isoformat()]
    case = "loader" if options.enlarge == 1 else f"loader enlarged x{options.enlarge}"
    with tempfile.TemporaryDirectory() as temporary:
        count = make_folder(Path(temporary), options.photographs, options.repeat, options.enlarge)
        print(f"{device}, {count} images, torchvision {torchvision.__version__}, Pillow {Image.__version__}")
        rows = measure(options, Path(temporary), case, stamp)
    if options.csv:
        write_rows(options.csv, rows)


if __name__ == "__main__":
    main()
