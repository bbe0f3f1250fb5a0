"""Training samples of segmentation agree with Pillow and NumPy; the program segmentation_sample is built with C++."""

import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

IGNORE = 255
CAMVID_CLASSES = 11  # and 11 itself for void


class Sample(NamedTuple):
    path: Path
    box: tuple[int, int, int, int]  # of the picture: top, left, height, width
    size: tuple[int, int]  # to which the box is resized: height, width
    offset: tuple[int, int]  # where that lies in the crop, before the flip: top, left
    mirrored: bool
    image: np.ndarray  # [S, S, 3]
    labels: np.ndarray  # [S, S]


@pytest.fixture(scope="session")
def samples(built_program):
    """samples(root, split, classes, ignore_label, crop, lowest, highest, seed) -> a Sample for each picture."""
    program = built_program("segmentation_sample")

    def run(*arguments):
        output = subprocess.run([program, *map(str, arguments)], stdout=subprocess.PIPE, check=True).stdout
        crop, result = arguments[4], []
        while output:
            path, plan, output = output.split(b"\n", 2)
            top, left, height, width, out_height, out_width, window_top, window_left, mirrored = map(int, plan.split())
            pixels, output = output[: 4 * crop * crop], output[4 * crop * crop :]
            image = np.frombuffer(pixels[: 3 * crop * crop], np.uint8).reshape(crop, crop, 3)
            labels = np.frombuffer(pixels[3 * crop * crop :], np.uint8).reshape(crop, crop)
            offset = (-window_top, -window_left)
            box, size = (top, left, height, width), (out_height, out_width)
            result.append(Sample(Path(path.decode()), box, size, offset, bool(mirrored), image, labels))
        return result

    return run


def mask_path(sample):
    return (sample.path.parents[1] / "masks" / sample.path.name).with_suffix(".png")


def on_crop(sample, part, background):
    """The crop that shows the resized box [height, width, ...]."""
    (height, width), (top, left) = sample.size, sample.offset
    crop = np.full((*sample.labels.shape, *part.shape[2:]), background, int)
    crop[top : top + height, left : left + width] = part
    return crop[:, ::-1] if sample.mirrored else crop


def nearest(length, count):
    """The pixels of `length` that hold the centres of `count`; exact where a centre falls on an edge."""
    return (2 * np.arange(count) + 1) * length // (2 * count)


def check(sample, ignore_label):
    top, left, height, width = sample.box
    with Image.open(sample.path) as image:
        part = image.convert("RGB").crop((left, top, left + width, top + height))
    picture = on_crop(sample, np.asarray(part.resize(sample.size[::-1], Image.Resampling.BILINEAR)), 0)
    off = np.abs(sample.image - picture)
    # Both passes of a resize round: one value in tens of millions is off by 2.
    assert off.max() <= 2 and (off > 1).sum() <= 2, sample.path
    with Image.open(mask_path(sample)) as mask:
        rows, columns = top + nearest(height, sample.size[0]), left + nearest(width, sample.size[1])
        labels = on_crop(sample, np.asarray(mask)[np.ix_(rows, columns)], ignore_label)
    np.testing.assert_array_equal(sample.labels, labels, str(sample.path))


def test_nearest_is_pillows_but_for_centres_on_an_edge():
    # There Pillow's sums in floating point fall to either side.
    for length in range(1, 60):
        ramp = Image.fromarray(np.arange(length, dtype=np.uint8)[None])
        for count in range(1, 60):
            pillow = np.asarray(ramp.resize((count, 1), Image.Resampling.NEAREST))[0]
            on_edge = (2 * np.arange(count) + 1) * length % (2 * count) == 0
            assert (on_edge | (pillow == nearest(length, count))).all(), (length, count)


@pytest.fixture
def folder(tmp_path):
    """Pictures of 61 x 47 in several formats whose masks are indexed and grey PNGs of every kind that Pillow writes."""
    generator = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "train" / name).mkdir(parents=True)
    for name, classes, mode, suffix in [
        ("grey", 19, "L", "jpg"),
        ("bits", 2, "1", "png"),
        ("indexed1", 2, "P", "jpg"),
        ("indexed2", 4, "P", "png"),
        ("indexed4", 16, "P", "jpeg"),
        ("indexed8", 19, "P", "png"),
    ]:
        blocks = generator.integers(0, classes, (16, 12), dtype=np.uint8).repeat(4, 0).repeat(4, 1)[:61, :47]
        mask = Image.fromarray(blocks * 255 if mode == "1" else blocks).convert("1" if mode == "1" else "L")
        if mode == "P":
            palette = generator.permutation(3 * classes).astype(np.uint8).tolist()
            mask.putpalette(palette)
        mask.save(tmp_path / "train" / "masks" / f"{name}.png", **({"bits": 8} if name == "indexed8" else {}))
        picture = generator.integers(0, 256, (61, 47, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "train" / "images" / f"{name}.{suffix}")
    return tmp_path


def test_masks_are_pillows_indices(folder, samples):
    # A crop larger than the pictures, without scaling, shows them whole.
    for sample in samples(folder, "train", 19, IGNORE, 61, 1, 1, 0):
        assert sample.box == (0, 0, 61, 47) and sample.size == (61, 47)
        check(sample, IGNORE)


@pytest.mark.parametrize("crop", [24, 53, 128])
def test_scaled_crops_are_pillows(folder, samples, crop):
    for seed in range(10):
        for sample in samples(folder, "train", 19, IGNORE, crop, 0.5, 2, seed):
            check(sample, IGNORE)


@pytest.fixture(scope="session")
def camvid(shared_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("camvid")
    with tarfile.open(shared_file("camvid-480x360.tar")) as archive:
        archive.extractall(folder, filter="data")
    return folder / "camvid"


def test_camvid_is_read_whole_and_cropped_as_by_pillow(camvid, samples):
    for split, count in (("train", 367), ("val", 101), ("test", 233)):
        read = samples(camvid, split, CAMVID_CLASSES, CAMVID_CLASSES, 128, 0.5, 2, 1)
        assert [sample.path for sample in read] == sorted((camvid / split / "images").iterdir())
        assert len(read) == count
        for sample in read[::5]:
            check(sample, CAMVID_CLASSES)
