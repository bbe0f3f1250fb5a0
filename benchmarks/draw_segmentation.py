"""Draws docs/images/segmentation.png: scenes, their truth, and what a network trained on such scenes makes of them.

  python benchmarks/draw_segmentation.py build/release/bin/iabn

The scenes are drawn here, with noise, shadows and overlaps, so that no picture of anybody's is needed. A small in-place
network learns 300 of them on the CPU (some minutes); the picture shows the first of the unseen ones: input, truth,
prediction (`iabn predict --output-mode palette`) and overlay.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 192, 144
CLASSES = {
    "sky": (128, 170, 220),
    "building": (150, 60, 50),
    "tree": (60, 130, 50),
    "road": (128, 96, 140),
    "pavement": (220, 190, 130),
    "car": (40, 60, 190),
}
SKY, BUILDING, TREE, ROAD, PAVEMENT, CAR = range(len(CLASSES))
SHOWN = 3


def between(generator, low, high):
    return int(generator.integers(low, high))


class Scene:
    def __init__(self, generator):
        self.generator = generator
        self.image = Image.new("RGB", (WIDTH, HEIGHT), tuple(generator.integers(150, 255, 3).tolist()))
        self.mask = Image.new("L", (WIDTH, HEIGHT), SKY)
        self.draw, self.label = ImageDraw.Draw(self.image), ImageDraw.Draw(self.mask)
        horizon = between(generator, 50, 80)
        for _ in range(between(generator, 2, 6)):
            self.building(horizon)
        vanishing = between(generator, 60, WIDTH - 60)
        self.shape("polygon", PAVEMENT, [(0, HEIGHT), (0, horizon), (WIDTH, horizon), (WIDTH, HEIGHT)], (120, 200))
        self.shape("polygon", ROAD, [(-20, HEIGHT), (vanishing, horizon), (WIDTH + 20, HEIGHT)], (60, 110))
        for _ in range(between(generator, 0, 4)):
            self.tree(horizon)
        for _ in range(between(generator, 1, 4)):
            self.car(horizon)

    def color(self, values):
        grey = self.generator.integers(*values)
        return tuple(np.clip(grey + self.generator.integers(-25, 25, 3), 0, 255).tolist())

    def shape(self, kind, number, points, values):
        getattr(self.draw, kind)(points, fill=self.color(values))
        getattr(self.label, kind)(points, fill=number)

    def building(self, horizon):
        g = self.generator
        left, top = between(g, -20, WIDTH - 10), between(g, 5, horizon - 15)
        right = left + between(g, 25, 80)
        self.shape("rectangle", BUILDING, [left, top, right, horizon], (90, 210))
        window = self.color((20, 120))
        for x in range(left + 5, right - 6, 11):
            for y in range(top + 5, horizon - 8, 13):
                self.draw.rectangle([x, y, x + 5, y + 7], fill=window)

    def tree(self, horizon):
        g = self.generator
        x, size, foot = between(g, 0, WIDTH), between(g, 10, 24), horizon + between(g, 0, 12)
        self.shape("rectangle", TREE, [x - 2, foot - 2 * size, x + 2, foot], (40, 80))
        for _ in range(9):
            cx, cy, r = x + between(g, -size, size), foot - 2 * size + between(g, -size, size), between(g, 4, size)
            green = (between(g, 20, 90), between(g, 90, 160), between(g, 10, 70))
            self.draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=green)
            self.label.ellipse([cx - r, cy - r, cx + r, cy + r], fill=TREE)

    def car(self, horizon):
        g = self.generator
        foot = between(g, horizon + 8, HEIGHT - 4)
        size = 4 + (foot - horizon) // 3
        x = between(g, 10, WIDTH - 10)
        self.draw.ellipse([x - size, foot - 3, x + size, foot + 3], fill=(30, 30, 35))  # its shadow is road
        paint = tuple(g.integers(10, 255, 3).tolist())
        for box in ([x - size, foot - size, x + size, foot - 2], [x - size // 2, foot - 2 * size, x + size // 2, foot]):
            self.draw.rectangle(box, fill=paint)
            self.label.rectangle(box, fill=CAR)
        self.draw.rectangle([x - size // 3, foot - 2 * size + 2, x + size // 3, foot - size - 1], fill=(60, 80, 100))

    def save(self, root, number):
        light = np.linspace(*self.generator.uniform(0.6, 1.2, 2), WIDTH)[None, :, None]
        pixels = np.array(self.image.filter(ImageFilter.GaussianBlur(0.7)), float) * light
        pixels += self.generator.normal(0, 12, pixels.shape)
        for name, picture in (
            ("images", Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))),
            ("masks", self.mask),
        ):
            (root / name).mkdir(parents=True, exist_ok=True)
            picture.save(root / name / f"{number:03}.png")


def train(program, folder, epochs):
    config = {
        "task": "segmentation",
        "network": {"arch": "preact_resnet8", "width": 16, "bn_mode": "inplace", "activation": "leaky_relu"},
        "optimizer": {
            "batch_size": 10,
            "learning_rate": 0.1,
            "nesterov": True,
            "clip": 0,
            "schedule": {"type": "poly", "mode": "step", "epochs": epochs},
        },
        "input": {"crop_train": 96, "color_jitter_train": True},
        "segmentation": {
            "classes": list(CLASSES),
            "colors": list(CLASSES.values()),
            "head_channels": 48,
            "hidden_channels": 32,
            "dilations": [2, 4, 8],
        },
        "channels_last": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    options = ["--log-dir", folder / "run", "--device", "cpu", "--workers", "1"]
    subprocess.run([program, "train", folder / "config.json", folder / "data", *options], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "segmentation.png")
    options = parser.parse_args()
    program = options.program.resolve()
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, count in (("train", 300), ("val", 30)):
            for number in range(count):
                Scene(generator).save(folder / "data" / split, number)
        train(program, folder, options.epochs)
        unseen = folder / "data" / "val" / "images"
        snapshot = folder / "run" / "model_best.pth.tar"
        for mode in ("palette", "overlay"):
            command = [program, "predict", snapshot, unseen, folder / mode, "--scales", "1", "--output-mode", mode]
            subprocess.run([*command, "--device", "cpu"], check=True)
        palette = np.array(list(CLASSES.values()), np.uint8)
        sheet = Image.new("RGB", (4 * WIDTH + 12, SHOWN * HEIGHT + 4 * (SHOWN - 1)), "white")
        for row in range(SHOWN):
            truth = palette[np.array(Image.open(folder / "data" / "val" / "masks" / f"{row:03}.png"))]
            pictures = [unseen, None, folder / "palette", folder / "overlay"]
            for column, source in enumerate(pictures):
                picture = Image.fromarray(truth) if source is None else Image.open(source / f"{row:03}.png")
                sheet.paste(picture.convert("RGB"), (column * (WIDTH + 4), row * (HEIGHT + 4)))
        sheet.quantize(256).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
