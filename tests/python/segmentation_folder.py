"""Folders of pictures with masks."""

import numpy as np
from PIL import Image

CLASSES = ["ground", "square", "disc"]
IGNORE = 255


def shapes(generator, height, width):
    """A square and a disc of noisy colours on noise, and its mask; a frame of two pixels has no class."""
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    for number in (1, 2):
        radius = generator.integers(5, 9)
        y, x = generator.integers(4, height - 4), generator.integers(4, width - 4)
        away = (abs(rows - y), abs(columns - x))
        mask[(np.maximum(*away) if number == 1 else np.hypot(*away)) <= radius] = number
    colors = np.array([[60, 60, 60], [200, 60, 60], [60, 60, 200]])
    pixels = colors[mask] + generator.integers(-50, 50, (height, width, 3))
    mask[:2] = mask[-2:] = IGNORE
    mask[:, :2] = mask[:, -2:] = IGNORE
    return pixels.clip(0, 255).astype(np.uint8), mask


def write_pair(folder, name, pixels, mask):
    for kind, array in (("images", pixels), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / kind / f"{name}.png")


def write_shapes(folder, counts):
    """folder/SPLIT/images/N.png and masks/N.png, of several sizes."""
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        for i in range(count):
            write_pair(folder / split, f"{i:02}", *shapes(generator, 36 + i % 3, 44 - i % 4))
