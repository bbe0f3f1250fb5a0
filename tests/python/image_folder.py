"""Folders of pictures to train on."""

import numpy as np
from PIL import Image


def write_images(folder, counts, noise):
    """Two classes, dark and light, of 18x20 RGB pictures whose values spread over `noise`: folder/SPLIT/CLASS/N.png."""
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        for label, name in enumerate(("dark", "light")):
            (folder / split / name).mkdir(parents=True)
            low = (250 - noise) * label
            for i in range(count):
                pixels = generator.integers(low, low + noise, (18, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
