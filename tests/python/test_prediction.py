"""Prediction: the Predictor against NumPy and Pillow, pixel for pixel, with a network whose logits are known."""

import subprocess

import built
import numpy as np
import pytest
from PIL import Image

CLASSES = 5


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """Smooth and noisy areas, of sizes that nothing divides."""
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    generator = np.random.default_rng(1)
    y, x = np.mgrid[0:97, 0:131]
    smooth = np.stack([x * 1.9, y * 2.6, 255 - x - y], -1)
    noise = generator.normal(0, 40, (97, 131, 1)) * (x > 60)[..., None] + generator.normal(0, 15, (97, 131, 3))
    Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def sample(path, fusion="mean", flip=False, longest_side=0, window=0, stride=4, scales=(1,)):
    """stdout of prediction_sample, and its peak memory in bytes."""
    command = [built.program("prediction_sample"), path, fusion, int(flip), longest_side, window, stride, *scales]
    process = subprocess.run(list(map(str, command)), capture_output=True, check=True, timeout=100)
    return process.stdout, int(process.stderr) * 1024


def predict(path, *arguments, **options):
    output, _ = sample(path, *arguments, **options)
    header, output = output.split(b"\n", 1)
    height, width = map(int, header.split())
    labels = np.frombuffer(output[: height * width], np.uint8).reshape(height, width)
    return labels, np.frombuffer(output[height * width :], np.float32).reshape(height, width)


def edge(values, axis, size):
    """Linear interpolation of one axis, pixels as areas."""
    before = values.shape[axis]
    place = np.maximum((np.arange(size) + 0.5) * (before / size) - 0.5, 0)
    first = np.floor(place).astype(int)
    weight = (place - first).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    second = np.minimum(first + 1, before - 1)
    return values.take(first, axis) * (1 - weight) + values.take(second, axis) * weight


def bilinear(values, height, width):
    """[channels, h, w] to [channels, height, width]."""
    return edge(edge(values, 1, height), 2, width)


def network(view, stride):
    """The logits of prediction_sample.cpp."""
    weight = 4 * np.sin(1 + 3 * np.arange(CLASSES)[:, None] + np.arange(3))
    sample = view[:, ::stride, ::stride]
    return np.einsum("ck,khw->chw", weight, sample) + np.cos(np.arange(CLASSES))[:, None, None]


def softmax(logits):
    powers = np.exp(logits - logits.max(0))
    return powers / powers.sum(0)


def view_scores(picture, scale, mirrored, stride):
    """picture: normalised [3, H, W]."""
    height, width = picture.shape[1:]
    view = bilinear(picture, round(height * scale), round(width * scale))
    logits = network(view[:, :, ::-1], stride)[:, :, ::-1] if mirrored else network(view, stride)
    return softmax(bilinear(logits, height, width))


def tiles(size, window):
    starts = [0]
    while starts[-1] + window < size:
        starts.append(min(starts[-1] + window // 2, size - window))
    return starts


def tiled_scores(picture, window, *view):
    height, width = picture.shape[1:]
    total, count = np.zeros((CLASSES, height, width)), np.zeros((height, width))
    for top in tiles(height, window):
        for left in tiles(width, window):
            part = np.s_[:, top : top + window, left : left + window]
            total[part] += view_scores(picture[part], *view)
            count[part[1:]] += 1
    return total / count


def fused(scores, fusion):
    """scores: [views, classes, H, W]. Labels, confidence, and how far the decision is from another one."""
    if fusion == "mean":
        mean = scores.mean(0)
        ordered = np.sort(mean, 0)
        return mean.argmax(0), mean.max(0), ordered[-1] - ordered[-2]
    if fusion == "max":
        best = scores.max((0, 1))
        view = scores.max(1).argmax(0)
        chosen = np.take_along_axis(scores, view[None, None], 0)[0]
        flat = np.sort(scores.max(0), 0)  # a class's best score over the views
        return chosen.argmax(0), best, flat[-1] - flat[-2]
    votes = (scores.argmax(1)[:, None] == np.arange(CLASSES)[None, :, None, None]).sum(0)
    labels = votes.argmax(0)  # the lowest class on ties
    ordered = np.sort(scores, 1)
    certain = (ordered[:, -1] - ordered[:, -2]).min(0)  # of each view's own vote
    return labels, np.take_along_axis(scores.mean(0), labels[None], 0)[0], certain


def expected(pixels, fusion, scales, flip, stride, window=0):
    normalised = (pixels.transpose(2, 0, 1) / 255 - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape(
        [0.229, 0.224, 0.225], (3, 1, 1)
    )
    side = window or max(pixels.shape)
    views = [(scale, mirrored, stride) for scale in scales for mirrored in ([False, True] if flip else [False])]
    return fused(np.stack([tiled_scores(normalised, side, *view) for view in views]), fusion)


def assert_agrees(got, want):
    """Every pixel, but those whose decision float32's rounding may turn."""
    labels, confidence = got
    want_labels, want_confidence, margin = want
    sure = margin > 1e-4
    assert sure.mean() > 0.99
    assert np.array_equal(labels[sure], want_labels[sure])
    assert np.abs(confidence - want_confidence)[sure].max() < 2e-5
    assert len(np.unique(labels)) >= 3  # it was worth comparing


@pytest.mark.parametrize("fusion", ["mean", "voting", "max"])
@pytest.mark.parametrize(("scales", "flip"), [((1,), False), ((1,), True), ((0.7, 1, 1.2), False), ((0.5, 1.75), True)])
def test_views_and_their_fusion_agree_with_numpy(picture, fusion, scales, flip):
    want = expected(np.asarray(Image.open(picture)), fusion, scales, flip, stride=4)
    assert_agrees(predict(picture, fusion, flip, scales=scales), want)


def test_the_ways_of_fusion_differ(picture):
    labels = [predict(picture, fusion, True, scales=(0.5, 1, 1.75))[0] for fusion in ("mean", "voting", "max")]
    assert all(0.001 < (labels[i] != labels[j]).mean() < 0.5 for i, j in [(0, 1), (0, 2), (1, 2)])


def test_a_tied_vote_goes_to_the_lowest_class(picture):
    pixels = np.asarray(Image.open(picture))
    _, _, certain = want = expected(pixels, "voting", (1,), True, stride=4)
    one, two = (expected(pixels, "mean", (1,), False, 4)[0], want[0])
    labels, _ = predict(picture, "voting", True)
    tied = (one != two) & (certain > 1e-4)  # two views: where they differ the vote is tied
    assert tied.any()
    assert np.array_equal(labels[tied], two[tied])
    assert (two[tied] < one[tied]).all()


@pytest.mark.parametrize("longest_side", [64, 200])
def test_a_scaled_picture_comes_back_by_nearest_neighbour(picture, longest_side):
    with Image.open(picture) as image:
        size = (longest_side, image.height * longest_side // image.width)
        close = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        whole = image.size
    # What test_images.py compares with Pillow over many pictures: its values, to 1.
    line = f"3 0 0 0 0 {size[1]} {size[0]} 0 {picture}\n"
    resized = subprocess.run([built.program("image_sample")], input=line.encode(), capture_output=True, check=True)
    pixels = np.frombuffer(resized.stdout.split(b"\n", 1)[1], np.uint8).reshape(close.shape)
    assert np.abs(pixels.astype(int) - close).max() <= 1
    labels, confidence, margin = expected(pixels, "mean", (1,), False, stride=1)
    back = [np.asarray(Image.fromarray(map).resize(whole, Image.Resampling.NEAREST)) for map in (
        labels.astype(np.uint8), confidence.astype(np.float32), margin.astype(np.float32))]  # fmt: skip
    assert_agrees(predict(picture, longest_side=longest_side, stride=1), back)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (300, 2), (33, 64)])
@pytest.mark.parametrize("longest_side", [0, 50, 31])
def test_nearest_neighbour_and_sizes_truncated_to_whole_pixels(tmp_path, size, longest_side):
    """Each column has its own colour, none in between: what a picture of few pixels becomes is exact."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "black.png")
    labels, confidence = predict(tmp_path / "black.png", longest_side=longest_side, stride=1, scales=(0.3, 1))
    assert labels.shape == confidence.shape == (height, width)
    want = expected(np.zeros((1, 1, 3), np.uint8), "mean", (1,), False, 1)
    assert (labels == want[0]).all()
    assert np.abs(confidence - want[1]).max() < 1e-5


@pytest.mark.parametrize("window", [32, 40, 96, 128])
@pytest.mark.parametrize("fusion", ["mean", "voting", "max"])
def test_tiles_agree_with_numpy(picture, window, fusion):
    pixels = np.asarray(Image.open(picture))
    want = expected(pixels, fusion, (1, 1.5), True, stride=4, window=window)
    assert_agrees(predict(picture, fusion, True, window=window, scales=(1, 1.5)), want)


@pytest.mark.parametrize("window", [32, 63, 131])
def test_tiles_are_as_the_whole_where_a_network_sees_single_pixels(picture, window):
    whole, tiled = (predict(picture, "mean", True, window=side, stride=1) for side in (0, window))
    assert np.array_equal(whole[0], tiled[0])
    assert np.abs(whole[1] - tiled[1]).max() < 1e-6


def test_huge_pictures_are_tiled_by_themselves(tmp_path):
    """3000 x 3000 pixels, more than 2^23: tiles of 2880 give what the same window given by hand gives."""
    generator = np.random.default_rng(2)
    small = Image.fromarray(generator.integers(0, 256, (60, 60, 3), dtype=np.uint8))
    small.resize((3000, 3000), Image.Resampling.BICUBIC).save(tmp_path / "huge.png", compress_level=1)
    automatic, by_hand, whole = (predict(tmp_path / "huge.png", window=w, stride=8) for w in (-1, 2880, 0))
    assert np.array_equal(automatic[0], by_hand[0])
    assert not np.array_equal(automatic[1], whole[1])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "large.png"
    small = Image.fromarray(np.random.default_rng(4).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    small.resize((3000, 2000), Image.Resampling.NEAREST).save(path, compress_level=1)
    return path


@pytest.mark.parametrize("fusion", ["mean", "voting", "max"])
def test_memory_does_not_grow_with_the_number_of_views(large, fusion):
    """Scores at the picture's size would be 120 MB for each of the ten further views; their logits are 2."""
    few, many = (sample(large, fusion, True, stride=8, scales=(1,) * count)[1] for count in (1, 6))
    assert many - few < 60e6


def test_tiles_bound_the_memory(large):
    """float32 values of the whole picture and its mirror image are 144 MB; of a tile less than 2."""
    whole, tiled = (sample(large, "mean", True, stride=8, window=window)[1] for window in (0, 256))
    assert whole - tiled > 100e6


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scales": ()}, "scales must have at least one number"),
        ({"scales": (0,)}, "scales must be above 0"),
        ({"scales": (1, -2)}, "got -2"),
        ({"window": 5}, "window must be 0 or at least 32, got 5"),
        ({"longest_side": -3}, "longest_side must be 0 or more, got -3"),
        ({"fusion": "mode"}, 'fusion must be mean, voting or max, got "mode"'),
    ],
)
def test_options_that_cannot_work_are_refused(picture, options, text):
    options = {"fusion": "mean", "longest_side": 0, "window": 0, "scales": (1,)} | options
    command = [picture, options["fusion"], 0, options["longest_side"], options["window"], 4, *options["scales"]]
    command = [built.program("prediction_sample"), *command]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert process.returncode == 1
    assert text in process.stderr
