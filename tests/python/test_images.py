"""Decoding and resizing agree with Pillow, on real photographs. The program image_sample is part of the C++ build."""

import subprocess
import tarfile

import numpy as np
import pytest
from PIL import Image

EXIF_ORIENTATION = 0x0112


@pytest.fixture(scope="session")
def photographs(shared_file, tmp_path_factory):
    """The photographs' paths."""
    folder = tmp_path_factory.mktemp("photographs")
    with tarfile.open(shared_file("photos-60.tar")) as archive:
        archive.extractall(folder, filter="data")
    paths = sorted(folder.rglob("*.JPEG"))
    assert len(paths) == 60
    return paths


@pytest.fixture(scope="session")
def load(built_program):
    """load(jobs) -> arrays [height, width, channels]; a job is a path and what it differs in from the whole image."""
    program = built_program("image_sample")

    def run(jobs):
        lines = [line(**job) for job in jobs]
        output = subprocess.run([program], input="".join(lines).encode(), stdout=subprocess.PIPE, check=True).stdout
        images = []
        for job in jobs:
            header, output = output.split(b"\n", 1)
            shape = (*map(int, header.split()), job.get("channels", 3))
            images.append(np.frombuffer(output[: np.prod(shape)], np.uint8).reshape(shape))
            output = output[np.prod(shape) :]
        assert not output
        return images

    return run


def line(path, channels=3, box=(0, 0, 0, 0), size=(0, 0), scaled=False):
    """box: top, left, height, width; size: height, width."""
    return f"{channels} {' '.join(map(str, (*box, *size)))} {int(scaled)} {path}\n"


def pillow(path, mode="RGB"):
    with Image.open(path) as image:
        return image.convert(mode)


def differences(got, want):
    want = np.asarray(want)
    want = want[..., None] if want.ndim == 2 else want  # grey
    assert got.shape == want.shape
    return np.abs(got.astype(int) - want)


def random_boxes(paths):
    """A random resized crop for each: top, left, height, width."""
    random = np.random.default_rng(0)
    for path in paths:
        with Image.open(path) as image:
            width, height = image.size
        box_height, box_width = (int(side * random.uniform(0.3, 1)) for side in (height, width))
        yield random.integers(height - box_height + 1), random.integers(width - box_width + 1), box_height, box_width


def pillow_resized(path, box, size):
    top, left, height, width = box
    crop = pillow(path).crop((left, top, left + width, top + height))
    return crop.resize(size[::-1], Image.Resampling.BILINEAR)


def test_photographs_decode_to_pillows_pixels(photographs, load):
    for channels, mode in ((3, "RGB"), (1, "L")):
        images = load([{"path": path, "channels": channels} for path in photographs])
        for path, image in zip(photographs, images, strict=True):
            assert differences(image, pillow(path, mode)).max() == 0, path


def test_crops_of_photographs_resize_to_within_one_of_pillows_values(photographs, load):
    size = (224, 224)
    boxes = list(random_boxes(photographs))
    crops = load([{"path": p, "box": box, "size": size} for p, box in zip(photographs, boxes, strict=True)])
    for path, box, crop in zip(photographs, boxes, crops, strict=True):
        assert differences(crop, pillow_resized(path, box, size)).max() <= 1, path


def test_whole_photographs_resize_to_within_one_of_pillows_values(photographs, load):
    for size in ((256, 341), (600, 800)):
        for path, image in zip(photographs, load([{"path": p, "size": size} for p in photographs]), strict=True):
            want = pillow(path).resize(size[::-1], Image.Resampling.BILINEAR)
            assert differences(image, want).max() <= 1, path


@pytest.fixture
def variants(photographs, tmp_path):
    """One photograph in every form that training data comes in."""
    photo = pillow(photographs[7])
    alpha = photo.convert("L").point(lambda value: 255 - value)
    with_alpha = photo.copy()
    with_alpha.putalpha(alpha)
    images = {f"{name}_{s}.jpg": (photo, options | {"subsampling": s}) for s in range(3) for name, options in JPEGS}
    images |= {
        "grey.jpg": (photo.convert("L"), {}),
        "grey_progressive.jpg": (photo.convert("L"), {"progressive": True}),
        "cmyk.jpg": (photo.convert("CMYK"), {}),
        "cmyk_progressive.jpg": (photo.convert("CMYK"), {"progressive": True}),
        "rgb.png": (photo, {}),
        "grey.png": (photo.convert("L"), {}),
        "black_and_white.png": (photo.convert("1"), {}),
        "alpha.png": (with_alpha, {}),
        "grey_alpha.png": (with_alpha.convert("LA"), {}),
        "palette.png": (photo.quantize(200), {}),
        "palette_4_bits.png": (photo.quantize(13), {}),
        "palette_alpha.png": (photo.quantize(64), {"transparency": bytes(range(64))}),
    }
    for name, (image, options) in images.items():
        image.save(tmp_path / name, **options)
    return [tmp_path / name for name in images]


JPEGS = [("baseline", {}), ("progressive", {"progressive": True}), ("optimised", {"optimize": True, "quality": 40})]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L")])
def test_every_form_of_a_photograph_decodes_to_pillows_pixels(variants, load, channels, mode):
    images = load([{"path": path, "channels": channels} for path in variants])
    for path, image in zip(variants, images, strict=True):
        # By way of RGB, as loaders do: Pillow turns transparent palettes into RGBA otherwise.
        assert differences(image, pillow(path).convert(mode)).max() == 0, path.name


def test_exif_orientation_is_left_alone_as_by_pillow(photographs, load, tmp_path):
    photo = pillow(photographs[3])
    paths = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        for suffix in ("jpg", "png"):
            paths.append(tmp_path / f"{orientation}.{suffix}")
            photo.save(paths[-1], exif=exif)
    for path, image in zip(paths, load([{"path": path} for path in paths]), strict=True):
        assert image.shape[:2] == (photo.height, photo.width)
        with Image.open(path) as stored:
            assert stored.getexif()[EXIF_ORIENTATION] == int(path.stem)
        assert differences(image, pillow(path)).max() == 0, path.name


@pytest.mark.parametrize(("grid", "mean", "most"), [(8, 2, 12), (1, 4, 30)])
def test_scaled_decoding_stays_near_the_exact_pixels(photographs, load, grid, mean, most):
    # What docs/configuration.md states: boxes on a grid of 8 pixels lose nothing by rounding, others move by up to half
    # a pixel of the scaled picture. Crops of 48 pixels make scales of 1/2 to 1/8 of photographs this size.
    boxes = [[int(side) // grid * grid for side in box] for box in random_boxes(photographs)]
    jobs = [{"path": p, "box": box, "size": (48, 48)} for p, box in zip(photographs, boxes, strict=True)]
    exact, scaled = (np.stack(load([job | {"scaled": flag} for job in jobs])) for flag in (False, True))
    off = differences(scaled, exact)
    assert 0.5 < off.mean() < mean
    assert np.quantile(off, 0.99) <= most
