"""A folder of pictures, the program on it, and what PyTorch makes of a picture."""

import shutil
import subprocess

import built
import numpy as np
import torch
from PIL import Image
from segmentation_support import MEAN, STD, save_snapshot, small_config, small_segmenter
from torch.nn import functional

SIZES = {"a.png": (48, 37), "b.jpg": (41, 60), "C.JPEG": (64, 64), "d.png": (5, 3), "e.png": (1, 1)}


def make_work(folder):
    """pictures/ and snapshot.pth.tar; returns the folder and the snapshot's network."""
    torch.manual_seed(3)
    (folder / "pictures" / "sub").mkdir(parents=True)
    generator = np.random.default_rng(3)
    for name, (width, height) in SIZES.items():
        coarse = Image.fromarray(generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / "pictures" / name)
    shutil.copy(folder / "pictures" / "a.png", folder / "pictures" / "sub" / "deeper.png")
    (folder / "pictures" / "notes.txt").write_text("no picture")
    shutil.copy(folder / "pictures" / "a.png", folder / "pictures" / ".hidden.png")
    network = small_segmenter()
    save_snapshot(folder / "snapshot.pth.tar", network, small_config())
    return folder, network


def run(*arguments, code=0, device="cpu", **options):
    command = [built.program("iabn"), "predict", *map(str, arguments), "--device", device, "--threads", "1"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert process.returncode == code, process.stdout + process.stderr
    return process.stdout if code == 0 else process.stderr


@torch.no_grad()
def scores(network, image, scales=(0.7, 1, 1.2), flip=False, mean=MEAN, std=STD):
    """Mean softmax scores of a Pillow picture: [classes, H, W]."""
    mode = "RGB" if len(mean) == 3 else "L"
    pixels = torch.from_numpy(np.atleast_3d(np.array(image.convert(mode)))).permute(2, 0, 1)
    x = (pixels.double() / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    x, results = x.float()[None], []
    for scale in scales:
        size = [max(1, round(side * scale)) for side in x.shape[2:]]
        view = functional.interpolate(x, size, mode="bilinear", align_corners=False)
        for mirrored in [False, True] if flip else [False]:
            logits = network(view.flip(3)).flip(3) if mirrored else network(view)
            logits = functional.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)
            results.append(logits.softmax(1)[0])
    return torch.stack(results).mean(0).numpy()


def png(path, mode):
    with Image.open(path) as image:
        assert image.mode == mode
        return np.array(image)


def outputs(folder):
    return sorted(path.name for path in folder.iterdir())


def output_name(name):
    return name.rsplit(".", 1)[0] + ".png"


def assert_same_classes(labels, want):
    """want: scores. All pixels, but those whose two best scores the last digits of float32 may swap."""
    assert labels.shape == want.shape[1:]
    ordered = np.sort(want, 0)
    sure = ordered[-1] - ordered[-2] > 1e-4
    assert sure.mean() > 0.97
    assert np.array_equal(labels[sure], want.argmax(0)[sure])


def make_written(folder, out):
    """The output folder of each mode, out/MODE."""
    for mode in ("raw", "palette", "prob", "overlay"):
        run(folder / "snapshot.pth.tar", folder / "pictures", out / mode, "--output-mode", mode, "--scales", 1)
    return out
