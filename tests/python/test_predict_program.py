"""`iabn predict` as a user meets it: what it writes, against PyTorch and Pillow, and what it says of bad input."""

import copy
import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import built
import numpy as np
import pytest
import torch
from PIL import Image
from segmentation_support import (
    COLORS,
    MEAN,
    STD,
    Segmenter,
    WiderBody,
    save_snapshot,
    save_vistas,
    small_config,
    small_segmenter,
    spread_classes,
)
from torch.nn import functional

SIZES = {"a.png": (48, 37), "b.jpg": (41, 60), "C.JPEG": (64, 64), "d.png": (5, 3), "e.png": (1, 1)}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """pictures/ and a snapshot, whose network is the second value."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("predict")
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


def run(*arguments, code=0, **options):
    command = [built.program("iabn"), "predict", *map(str, arguments), "--device", "cpu", "--threads", "1"]
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


@pytest.fixture(scope="module")
def written(work, tmp_path_factory):
    """The output folder of each mode."""
    folder, out = work[0], tmp_path_factory.mktemp("modes")
    for mode in ("raw", "palette", "prob", "overlay"):
        run(folder / "snapshot.pth.tar", folder / "pictures", out / mode, "--output-mode", mode, "--scales", 1)
    return out


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


def test_pictures_that_are_there_are_skipped(work, tmp_path):
    folder = work[0]
    arguments = (folder / "snapshot.pth.tar", folder / "pictures", tmp_path, "--output-mode", "prob", "--scales", 1)
    run(*arguments)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "a.png").write_bytes(b"kept")
    (tmp_path / "b_prob.png").unlink()
    report = run(*arguments)
    assert f"1 pictures written to {tmp_path}" in report
    assert f"{len(SIZES) - 1} skipped" in report
    assert (tmp_path / "a.png").read_bytes() == b"kept"
    report = run(*arguments, "--overwrite")
    assert "skipped" not in report
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("workers", [0, 1, 7])
def test_the_number_of_workers_changes_nothing(work, written, tmp_path, workers):
    folder = work[0]
    arguments = ["--workers", workers, "--output-mode", "palette", "--scales", 1]
    run(folder / "snapshot.pth.tar", folder / "pictures", tmp_path, *arguments)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (written / "palette" / path.name).read_bytes()


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


def test_bad_pictures_are_named_and_left_out(work, tmp_path):
    folder = work[0]
    pictures = tmp_path / "pictures"
    shutil.copytree(folder / "pictures", pictures)
    whole = (pictures / "a.png").read_bytes()
    bad = {"empty.png": b"", "cut.png": whole[: len(whole) // 2], "text.jpg": b"no picture at all"}
    bad["cut.jpg"] = b""  # the name of cut.png's output
    for name, content in bad.items():
        (pictures / name).write_bytes(content)
    assert "cut.jpg and cut.png would both be written to" in run(
        folder / "snapshot.pth.tar", pictures, tmp_path / "out", code=1
    )
    assert not (tmp_path / "out").exists()
    (pictures / "cut.jpg").rename(pictures / "zero.jpeg")
    errors = run(folder / "snapshot.pth.tar", pictures, tmp_path / "out", code=3)
    assert errors.count("bad picture, left out: ") == 4
    for name in ("empty.png", "cut.png", "text.jpg", "zero.jpeg"):
        assert str(pictures / name) in errors
    assert outputs(tmp_path / "out") == sorted(map(output_name, SIZES))


def test_names_that_meet_in_prob_mode_are_refused(work, tmp_path):
    folder = work[0]
    for name in ("x.png", "x_prob.jpg"):
        shutil.copy(folder / "pictures" / "a.png", tmp_path / name)
    arguments = (folder / "snapshot.pth.tar", tmp_path, tmp_path / "out", "--output-mode", "prob")
    assert "x.png and x_prob.jpg would both be written to" in run(*arguments, code=1)
    run(*arguments[:3])


def test_folders_that_cannot_work_are_refused(work, tmp_path):
    folder = work[0]
    snapshot, pictures = folder / "snapshot.pth.tar", folder / "pictures"
    (tmp_path / "link").symlink_to(pictures)
    for same in (pictures, f"{pictures}/sub/..", tmp_path / "link"):
        assert "is the folder of the pictures themselves" in run(snapshot, pictures, same, code=2)
    (tmp_path / "nothing").mkdir()
    assert "expected .png, .jpg or .jpeg files, got none" in run(snapshot, tmp_path / "nothing", tmp_path / "o", code=1)
    assert "expected a folder of pictures, got none" in run(snapshot, tmp_path / "missing", tmp_path / "o", code=1)
    assert not (tmp_path / "o").exists()
    (tmp_path / "file").write_text("")
    assert f"cannot write to {tmp_path}/file" in run(snapshot, pictures, tmp_path / "file", code=1)
    assert "cannot write" in run(snapshot, pictures, "/proc/iabn", code=1)
    assert "cannot write" in run(snapshot, pictures, "/sys", code=1)


def limit_files():
    """What a full disk does: no file may grow beyond 100 bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))


def test_a_full_disk_leaves_no_half_picture_and_a_rerun_goes_on(work, tmp_path):
    folder = work[0]
    arguments = (folder / "snapshot.pth.tar", folder / "pictures", tmp_path, "--scales", 1, "--output-mode", "overlay")
    errors = run(*arguments, code=1, preexec_fn=limit_files, restore_signals=False)
    assert "cannot write" in errors
    assert "File too large" in errors
    left = outputs(tmp_path)
    assert len(left) < len(SIZES)
    for name in left:
        png(tmp_path / name, "RGB")
    report = run(*arguments)
    assert outputs(tmp_path) == sorted(map(output_name, SIZES))
    assert not left or f"{len(left)} skipped" in report


def test_an_interrupt_ends_between_two_pictures(work, tmp_path):
    folder = work[0]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with Image.open(folder / "pictures" / "C.JPEG") as image:
        for i in range(200):
            image.resize((320, 320)).save(pictures / f"{i}.png", compress_level=1)
    command = [built.program("iabn"), "predict", folder / "snapshot.pth.tar", pictures, tmp_path / "out"]
    command = [*map(str, command), "--device", "cpu", "--threads", "1", "--scales", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list((tmp_path / "out").glob("*.png")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command goes on" in errors
    done = outputs(tmp_path / "out")
    assert 0 < len(done) < 200
    assert all(png(tmp_path / "out" / name, "L").shape == (320, 320) for name in done)


def test_several_processes_share_a_folder(work, written, tmp_path):
    folder = work[0]
    pictures = tmp_path / "pictures"
    shutil.copytree(folder / "pictures", pictures)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone", "--nproc-per-node=3"]
    command = [built.program("iabn"), "predict", folder / "snapshot.pth.tar", pictures, tmp_path / "out"]
    command = [*launcher, *map(str, command), "--device", "cpu", "--threads", "1", "--scales", "1"]

    def together():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        return process.returncode, process.stdout + process.stderr

    code, text = together()
    assert code == 0, text
    assert text.count(f"{len(SIZES)} pictures written to") == 1
    for path in (written / "raw").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()

    # A bad picture of one process ends none of the others early.
    (pictures / "0.png").write_bytes(b"")
    (tmp_path / "out" / "d.png").unlink()
    code, text = together()
    assert code != 0
    assert "1 pictures written" in text and "4 skipped" in text and "1 bad ones left out" in text
    assert (tmp_path / "out" / "d.png").exists()


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


def test_wrong_options_are_refused(work, tmp_path):
    folder = work[0]
    common = (folder / "snapshot.pth.tar", folder / "pictures", tmp_path / "out")
    assert "--scales must be numbers" in run(*common, "--scales", "1,x", code=2)
    assert "scales must be above 0" in run(*common, "--scales", "0", code=2)
    assert "--fusion-mode" in run(*common, "--fusion-mode", "median", code=2)
    assert "--output-mode" in run(*common, "--output-mode", "jpeg", code=2)
    assert "window must be 0 or at least 32" in run(*common, "--window", 8, code=2)
    text = run("--help")
    for word in ("--scales", "--longest-side", "--overwrite", "3 bad pictures"):
        assert word in text


def test_scores_that_are_no_numbers_make_no_answer(work, tmp_path):
    folder, network = work
    broken = copy.deepcopy(network)
    broken.cls.bias.data[1] = float("nan")
    save_snapshot(tmp_path / "broken.pth.tar", broken, small_config())
    for fusion in ("mean", "voting", "max"):
        arguments = (tmp_path / "broken.pth.tar", folder / "pictures", tmp_path / "out", "--fusion-mode", fusion)
        errors = run(*arguments, code=3)
        assert errors.count("the network's scores are no numbers; try --precision bf16 or float32") == len(SIZES)
    assert not outputs(tmp_path / "out")


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
