"""What `iabn predict` writes, pixel for pixel against PyTorch and Pillow."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from prediction_support import (
    SIZES,
    assert_same_classes,
    make_work,
    make_written,
    output_name,
    outputs,
    png,
    run,
    scores,
)
from segmentation_support import (
    COLORS,
    Segmenter,
    WiderBody,
    save_snapshot,
    save_vistas,
    small_config,
    small_segmenter,
    spread_classes,
)
from torch.nn import functional


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return make_work(tmp_path_factory.mktemp("predict"))


@pytest.fixture(scope="module")
def written(work, tmp_path_factory):
    return make_written(work[0], tmp_path_factory.mktemp("modes"))


@pytest.mark.parametrize("options", [[], ["--flip"], ["--scales", "[1, 2.5]", "--flip"], ["--scales", "1"]])
def test_every_picture_gets_the_classes_that_pytorch_gives(work, tmp_path, options):
    folder, network = work
    report = run(folder / "snapshot.pth.tar", folder / "pictures", tmp_path / "new" / "out", *options)
    assert f"{len(SIZES)} pictures written to" in report
    assert outputs(tmp_path / "new" / "out") == sorted(map(output_name, SIZES))
    scales = {"[1, 2.5]": (1, 2.5), "1": (1,)}.get(options[1] if len(options) > 1 else "", (0.7, 1, 1.2))
    seen = set()
    for name in SIZES:
        labels = png(tmp_path / "new" / "out" / output_name(name), "L")
        seen |= set(np.unique(labels))
        with Image.open(folder / "pictures" / name) as image:
            assert_same_classes(labels, scores(network, image, scales, "--flip" in options))
    assert len(seen) >= 3


@pytest.mark.parametrize("name", SIZES)
def test_output_modes(work, written, name):
    folder, network = work
    raw = png(written / "raw" / output_name(name), "L")
    assert np.array_equal(raw, png(written / "prob" / output_name(name), "L"))

    with Image.open(written / "palette" / output_name(name)) as image:
        assert image.mode == "P"
        assert np.array_equal(raw, np.array(image))
        assert image.getpalette() == np.ravel(COLORS).tolist()

    with Image.open(folder / "pictures" / name) as image:
        picture = image.convert("RGB")
        best = scores(network, image, (1,)).max(0) * 255
    confidence = png(written / "prob" / output_name(name).replace(".png", "_prob.png"), "L")
    whole = np.abs(best - np.round(best)) > 0.02  # elsewhere rounding down may go either way
    assert np.array_equal(confidence[whole], np.floor(best)[whole])
    assert np.abs(confidence - best).max() < 1.1

    colors = Image.fromarray(np.array(COLORS, np.uint8)[raw])
    blended = np.array(Image.blend(picture, colors, 0.5))
    assert np.array_equal(png(written / "overlay" / output_name(name), "RGB"), blended)


def test_every_kind_of_picture_is_read(work, tmp_path):
    folder, network = work
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with Image.open(folder / "pictures" / "C.JPEG") as image:
        rgb = image.convert("RGB")
    rgb.convert("L").save(pictures / "grey.png")
    rgb.quantize(16).save(pictures / "palette.png")
    rgb.convert("CMYK").save(pictures / "cmyk.jpg", quality=95)
    rgb.convert("RGBA").save(pictures / "alpha.png")
    Image.fromarray(np.array(rgb.convert("L")).astype(np.uint16) * 256).save(pictures / "sixteen.png")
    rgb.convert("L").save(pictures / "grey_jpeg.jpg", quality=95)
    rgb.save(pictures / "a png inside.jpg", format="png")
    run(folder / "snapshot.pth.tar", pictures, tmp_path / "out", "--scales", 1)
    for path in pictures.iterdir():
        with Image.open(path) as image:
            # Pillow clips 16-bit grey instead of taking the high byte.
            image = rgb.convert("L") if path.stem == "sixteen" else image.convert("RGB")
        assert_same_classes(png(tmp_path / "out" / (path.stem + ".png"), "L"), scores(network, image, (1,)))


@pytest.mark.parametrize("window", [0, 32])
def test_the_configuration_inside_decides_sizes_and_tiles(work, tmp_path, window):
    folder, network = work
    save_snapshot(tmp_path / "own.pth.tar", network, small_config(longest_side=96, window=window))
    common = (folder / "pictures", "--scales", 1, "--output-mode", "prob")
    run(tmp_path / "own.pth.tar", common[0], tmp_path / "inside", *common[1:])
    sizes = ("--longest-side", 96, "--window", window)
    run(folder / "snapshot.pth.tar", common[0], tmp_path / "asked", *common[1:], *sizes)
    run(tmp_path / "own.pth.tar", common[0], tmp_path / "other", *common[1:], "--longest-side", 0, "--window", 64)
    for name in outputs(tmp_path / "inside"):
        assert (tmp_path / "inside" / name).read_bytes() == (tmp_path / "asked" / name).read_bytes()
    assert (tmp_path / "inside" / "b_prob.png").read_bytes() != (tmp_path / "other" / "b_prob.png").read_bytes()


def test_weights_without_a_configuration_need_one(work, tmp_path):
    folder, network = work
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    (tmp_path / "config.json").write_text(json.dumps(small_config()))
    common = (folder / "pictures", tmp_path / "out", "--scales", 1)
    assert "holds no configuration" in run(tmp_path / "weights.pth", *common, code=2)
    options = ("--config", tmp_path / "config.json", "--gamma", "signed")
    run(tmp_path / "weights.pth", *common, *options)
    with Image.open(folder / "pictures" / "b.jpg") as image:
        assert_same_classes(png(tmp_path / "out" / "b.png", "L"), scores(network, image, (1,)))

    config = small_config()
    del config["task"], config["segmentation"]
    (tmp_path / "other.json").write_text(json.dumps(config))
    options = ("--config", tmp_path / "other.json")
    assert 'task: must be "segmentation"' in run(tmp_path / "weights.pth", *common, *options, code=2)
    (tmp_path / "wrong.json").write_text(json.dumps(small_config(hidden_channels=9)))
    options = ("--config", tmp_path / "wrong.json")
    assert "does not fit the network" in run(tmp_path / "weights.pth", *common, *options, code=1)


def test_a_network_of_grey_pictures(work, tmp_path):
    folder = work[0]
    network, config = small_segmenter(channels=1), small_config()
    config["input"] = {"channels": 1, "mean": [0.4], "std": [0.2]}
    save_snapshot(tmp_path / "grey.pth.tar", network, config)
    common = (tmp_path / "grey.pth.tar", folder / "pictures")
    run(*common, tmp_path / "raw")
    run(*common, tmp_path / "overlay", "--output-mode", "overlay")
    for name in SIZES:
        with Image.open(folder / "pictures" / name) as image:
            grey = image.convert("L")
        raw = png(tmp_path / "raw" / output_name(name), "L")
        assert_same_classes(raw, scores(network, grey, mean=(0.4,), std=(0.2,)))
        blended = Image.blend(grey.convert("RGB"), Image.fromarray(np.array(COLORS, np.uint8)[raw]), 0.5)
        assert np.array_equal(png(tmp_path / "overlay" / output_name(name), "RGB"), np.array(blended))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_agrees_nearly_everywhere(work, written, tmp_path, precision):
    folder = work[0]
    run(folder / "snapshot.pth.tar", folder / "pictures", tmp_path, "--scales", 1, "--precision", precision)
    same = [
        (png(tmp_path / output_name(name), "L") == png(written / "raw" / output_name(name), "L")).mean()
        for name in ("a.png", "b.jpg", "C.JPEG")
    ]
    assert min(same) > 0.97


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fusion", ["mean", "voting", "max"])
@pytest.mark.parametrize("options", [["--precision", "float32"], ["--window", 32], []])
def test_the_gpu_gives_the_cpus_classes(work, tmp_path, fusion, options):
    """Convolutions may round to TensorFloat-32 or float16: nearly everywhere."""
    folder = work[0]
    window = options if "--window" in options else []
    common = ("--fusion-mode", fusion, "--flip", "--output-mode", "prob")
    run(folder / "snapshot.pth.tar", folder / "pictures", tmp_path / "cpu", *common, *window)
    run(folder / "snapshot.pth.tar", folder / "pictures", tmp_path / "gpu", *common, *options, device="cuda")
    for name in ("a.png", "b.jpg", "C.JPEG"):
        labels, confidence = (
            [png(tmp_path / device / output_name(name).replace(".png", end), "L") for device in ("cpu", "gpu")]
            for end in (".png", "_prob.png")
        )
        same = labels[0] == labels[1]
        assert same.mean() > 0.97
        assert np.abs(confidence[0].astype(int) - confidence[1])[same].max() <= 10


def test_the_originals_snapshot_of_mapillary_vistas(tmp_path):
    """Its keys and its architecture at full size, with random weights: in-place layers of legacy gamma, its mean and
    standard deviation, its longest side and its colours."""
    network = Segmenter(WiderBody(), 4096, hidden=256, out=256, classes=65, legacy=True)
    spread_classes(network, functional.interpolate(torch.randn(1, 3, 5, 7), scale_factor=8, mode="bilinear"))
    save_vistas(tmp_path / "vistas.pth", network)
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((56, 40), Image.Resampling.BICUBIC)
    image.save(tmp_path / "in" / "street.png")
    options = ("--longest-side", 0, "--scales", 1, "--output-mode", "palette")
    report = run(tmp_path / "vistas.pth", tmp_path / "in", tmp_path / "out", *options)
    assert "legacy gamma" in report and "65 classes" in report
    mean, std = (0.41738699, 0.45732192, 0.46886091), (0.25685097, 0.26509955, 0.29067996)
    want = scores(network, image, (1,), mean=mean, std=std)
    labels = png(tmp_path / "out" / "street.png", "P")
    assert len(np.unique(labels)) >= 3
    assert_same_classes(labels, want)
    with Image.open(tmp_path / "out" / "street.png") as output:
        palette = output.getpalette()
    assert len(palette) == 65 * 3
    assert palette[:6] == [165, 42, 42, 0, 192, 0] and palette[-3:] == [120, 10, 10]
