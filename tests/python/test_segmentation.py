"""`iabn train` and `iabn validate` with the task "segmentation"."""

import copy
import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from image_folder import write_images
from PIL import Image
from segmentation_folder import CLASSES, IGNORE, write_pair, write_shapes

CONFIG = {
    "task": "segmentation",
    "network": {"arch": "preact_resnet8", "width": 8, "bn_mode": "inplace", "activation": "leaky_relu"},
    "optimizer": {
        "batch_size": 6,
        "learning_rate": 0.05,
        "ema_decay": 0.5,
        "accumulation_steps": 2,
        "schedule": {"type": "poly", "mode": "step", "epochs": 6},
    },
    "input": {"crop_train": 32, "color_jitter_train": True},
    "segmentation": {
        "classes": CLASSES,
        "ignore_label": IGNORE,
        "hard_pixels": 0.5,
        "head_channels": 16,
        "hidden_channels": 16,
        "dilations": [1, 2, 3],
    },
}
OPTIONS = ("--device", "cpu", "--workers", 1, "--threads", 1)


@pytest.fixture(scope="module")
def run(built_program, tmp_path_factory):
    """Runs the program; returns its standard output, or the standard error where it must fail with `code`. run.folder
    holds data/, config.json and, after training, logs/."""
    folder = tmp_path_factory.mktemp("segmentation")
    write_shapes(folder / "data", {"train": 18, "val": 7, "test": 5})
    (folder / "config.json").write_text(json.dumps(CONFIG))

    def execute(*arguments, code=0):
        command = [built_program("iabn"), *map(str, arguments)]
        process = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
        assert process.returncode == code, process.stdout + process.stderr
        return process.stdout if code == 0 else process.stderr

    execute.folder = folder
    execute.output = execute("train", "config.json", "data", "--log-dir", "logs", *OPTIONS)
    return execute


def write_config(run, name, **changes):
    """CONFIG with other keys: write_config(run, "other", network={"bn_mode": "standard"}). Returns the file's name."""
    config = copy.deepcopy(CONFIG)
    for section, keys in changes.items():
        config[section] = config.get(section, {}) | keys if isinstance(keys, dict) else keys
    (run.folder / f"{name}.json").write_text(json.dumps(config))
    return f"{name}.json"


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_learns_and_says_so(run):
    log = rows(run.folder / "logs" / "log.csv")
    assert list(log[0]) == [
        *("epoch", "train_loss", "train_miou", "train_pixel_accuracy", "val_miou", "val_pixel_accuracy"),
        *("learning_rate", "seconds"),
    ]
    assert float(log[-1]["train_loss"]) < 0.8 * float(log[0]["train_loss"])
    best = max(float(row["val_miou"]) for row in log)
    assert best > 45  # all ground: below 30
    assert f"val mIoU {float(log[-1]['val_miou']):.2f} % pixel accuracy" in run.output
    assert "best (mIoU " in run.output


def test_the_best_is_that_of_the_highest_mean_iou(run):
    log = rows(run.folder / "logs" / "log.csv")
    best = max(log, key=lambda row: float(row["val_miou"]))
    snapshot = torch.load(run.folder / "logs" / "model_best.pth.tar", weights_only=True)
    assert snapshot["epoch"] == int(best["epoch"])
    assert snapshot["best_prec1"] == pytest.approx(float(best["val_miou"]), abs=1e-4)


def test_a_snapshot_carries_what_prediction_needs(run):
    snapshot = torch.load(run.folder / "logs" / "checkpoint.pth.tar", weights_only=True)
    config = json.loads(snapshot["iabn"]["config"])
    assert config["task"] == "segmentation" and config["segmentation"]["classes"] == CLASSES
    assert len(config["segmentation"]["colors"]) == 3 and len(config["input"]["mean"]) == 3
    assert {name.split(".")[1] for name in snapshot["state_dict"]} == {"body", "head", "cls"}


def test_tensorboard_shows_figures_and_pictures(run):
    if "IABN_BIN" not in os.environ:
        pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run.folder / "logs"))
    accumulator.Reload()
    tags = accumulator.Tags()
    figures = {"train/loss", "train/miou", "train/pixel_accuracy", "train/lr", "val/miou", "val/pixel_accuracy"}
    assert figures | {f"val/iou/{name}" for name in CLASSES} <= set(tags["scalars"])
    assert set(tags["images"]) == {f"val/picture/{i}" for i in range(3)}
    picture = accumulator.Images("val/picture/0")[-1]
    assert (picture.height, picture.width) == (36, 3 * 44)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_resumed_run_equals_the_uninterrupted_one(run, precision):
    # A poly schedule depends on the run's length.
    schedule = {"schedule": {"type": "constant", "epochs": 3, "warmup_epochs": 1.5}}
    config = write_config(run, precision, precision=precision, optimizer=schedule)
    straight, parts = f"straight-{precision}", f"parts-{precision}"
    run("train", config, "data", "--log-dir", straight, *OPTIONS)
    run("train", config, "data", "--log-dir", parts, "--epochs", 1, *OPTIONS)
    run("train", config, "data", "--log-dir", parts, "--resume", f"{parts}/checkpoint.pth.tar", *OPTIONS)
    a, b = (torch.load(run.folder / name / "checkpoint.pth.tar", weights_only=True) for name in (straight, parts))
    for section in ("state_dict", "averages"):
        ours, theirs = (file.get(section, file["iabn"].get(section)) for file in (a, b))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    logs = [rows(run.folder / name / "log.csv") for name in (straight, parts)]
    for row in logs[0] + logs[1]:
        del row["seconds"]
    assert logs[0] == logs[1]


def test_validate_repeats_the_last_evaluation_and_writes_json(run):
    log = rows(run.folder / "logs" / "log.csv")
    output = run(
        "validate", "config.json", "logs/checkpoint.pth.tar", "data", "--device", "cpu", "--json", "result.json"
    )
    result = json.loads((run.folder / "result.json").read_text())
    assert result["miou"] == pytest.approx(float(log[-1]["val_miou"]), abs=1e-3)
    assert result["pixel_accuracy"] == pytest.approx(float(log[-1]["val_pixel_accuracy"]), abs=1e-3)
    assert result["images"] == 7
    assert [entry["name"] for entry in result["classes"]] == CLASSES
    masks = [np.array(Image.open(path)) for path in sorted((run.folder / "data/val/masks").iterdir())]
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=256)
    assert [entry["pixels"] for entry in result["classes"]] == counts[:3].tolist()
    present = [entry["iou"] for entry in result["classes"] if entry["iou"] is not None]
    assert result["miou"] == pytest.approx(np.mean(present))
    for entry in result["classes"]:
        assert f"{entry['name']}" in output
    assert f"mIoU {result['miou']:.2f} %" in output.splitlines()[-1] and "(7 images)" in output


def test_validates_figures_are_those_of_its_predictions(run):
    """The JSON against NumPy, from the masks and from what `predict` writes."""
    snapshot = "logs/checkpoint.pth.tar"
    run("validate", "config.json", snapshot, "data", "--device", "cpu", "--split", "test", "--json", "test.json")
    run("predict", snapshot, "data/test/images", "predicted", "--scales", "1", "--device", "cpu")
    confusion = np.zeros((3, 3), int)
    for path in sorted((run.folder / "data/test/masks").iterdir()):
        truth, answer = np.array(Image.open(path)), np.array(Image.open(run.folder / "predicted" / path.name))
        counted = truth != IGNORE
        np.add.at(confusion, (truth[counted], answer[counted]), 1)
    hits = confusion.diagonal()
    iou = 100 * hits / (confusion.sum(0) + confusion.sum(1) - hits)
    result = json.loads((run.folder / "test.json").read_text())
    assert [entry["iou"] for entry in result["classes"]] == pytest.approx(iou)
    assert [entry["pixels"] for entry in result["classes"]] == confusion.sum(1).tolist()
    assert result["miou"] == pytest.approx(iou.mean())
    assert result["pixel_accuracy"] == pytest.approx(100 * hits.sum() / confusion.sum())


def test_views_are_averaged_and_any_split_is_evaluated(run):
    arguments = ("validate", "config.json", "logs/model_best.pth.tar", "data", "--device", "cpu", "--split", "test")
    results = []
    for name, options in {"plain": (), "views": ("--scales", "0.75,1,1.5", "--flip")}.items():
        output = run(*arguments, *options, "--json", f"{name}.json")
        results.append(json.loads((run.folder / f"{name}.json").read_text()))
        assert results[-1]["images"] == 5 and results[-1]["miou"] > 40
        assert ("scales 0.75 1 1.5, mirrored too" in output) == (name == "views")
    assert results[0]["miou"] != results[1]["miou"]


def test_tiles_give_nearly_what_whole_images_give(run):
    config = write_config(run, "tiles", segmentation={"window": 32})
    output = run(
        "validate", config, "logs/model_best.pth.tar", "data", "--device", "cpu", "--json", "tiles_result.json"
    )
    assert "window 32" in output
    whole = max(float(row["val_miou"]) for row in rows(run.folder / "logs" / "log.csv"))
    assert json.loads((run.folder / "tiles_result.json").read_text())["miou"] == pytest.approx(whole, abs=25)


CLASSIFIER = {
    "network": CONFIG["network"] | {"classes": 2},
    "optimizer": {"batch_size": 8, "learning_rate": 0.05, "schedule": {"epochs": 1}},
    "input": {"augmentation": "flip", "crop_train": 16, "scale_val": -1, "crop_val": 16},
}


@pytest.fixture(scope="module")
def classifier(run):
    write_images(run.folder / "classes", {"train": 8, "val": 4}, noise=140)
    (run.folder / "classifier.json").write_text(json.dumps(CLASSIFIER))
    run("train", "classifier.json", "classes", "--log-dir", "classifier", *OPTIONS)
    return run.folder / "classifier" / "checkpoint.pth.tar"


def frozen(run, name, **network):
    """A configuration that changes no weight, so that a run's snapshot shows those it began with."""
    rates = {"learning_rate": 0, "ema_decay": 0, "weight_decay": 0, "schedule": {"epochs": 1}}
    return write_config(run, name, optimizer=rates, network=network)


@pytest.mark.parametrize("bn_mode", ["inplace", "standard"])
def test_a_body_begins_with_the_weights_of_a_classifier(run, classifier, bn_mode):
    config = frozen(run, f"body-{bn_mode}", bn_mode=bn_mode)
    output = run("train", config, "data", "--log-dir", f"body-{bn_mode}", "--body", classifier, *OPTIONS)
    assert "left out of" in output and "classifier.fc.weight, classifier.fc.bias" in output
    theirs = torch.load(classifier, weights_only=True)["state_dict"]
    ours = torch.load(run.folder / f"body-{bn_mode}" / "checkpoint.pth.tar", weights_only=True)["state_dict"]
    for name, weight in theirs.items():
        if "classifier" not in name and "running" not in name and "tracked" not in name:
            assert torch.equal(ours[name.replace("module.", "module.body.")], weight), name


def test_a_body_may_be_any_state_dict_of_pytorch(run, classifier):
    state = torch.load(classifier, weights_only=True)["state_dict"]
    torch.save({name.removeprefix("module."): weight for name, weight in state.items()}, run.folder / "plain.pth")
    config = frozen(run, "plain")
    run("train", config, "data", "--log-dir", "plain", "--body", "plain.pth", "--body-gamma", "signed", *OPTIONS)
    ours = torch.load(run.folder / "plain" / "checkpoint.pth.tar", weights_only=True)["state_dict"]
    assert torch.equal(ours["module.body.mod1.conv1.weight"], state["module.mod1.conv1.weight"])


def test_a_body_that_fits_nothing_is_refused(run, classifier):
    state = torch.load(classifier, weights_only=True)["state_dict"]
    state["module.mod1.conv1.wieght"] = state.pop("module.mod1.conv1.weight")
    torch.save(state, run.folder / "typo.pth")
    text = run("train", "config.json", "data", "--log-dir", "refused", "--body", "typo.pth", *OPTIONS, code=1)
    assert "missing in the file (1)" in text and 'did you mean "mod1.conv1.wieght"?' in text
    text = run("train", "classifier.json", "classes", "--log-dir", "refused", "--body", classifier, *OPTIONS, code=2)
    assert "only segmentation has a body" in text
    assert not (run.folder / "refused" / "checkpoint.pth.tar").exists()


def test_a_body_and_a_snapshot_exclude_each_other(run, classifier):
    arguments = ("train", "config.json", "data", "--log-dir", "logs", "--body", classifier, *OPTIONS)
    text = run(*arguments, "--resume", "logs/checkpoint.pth.tar", code=2)
    assert "--body" in text and "leave out one" in text
    assert "left out of" not in run(*arguments, "--resume", "auto")  # continues: the snapshot's weights


def broken_data(run, name, pixels, mask):
    folder = run.folder / name
    write_shapes(folder, {"train": 6, "val": 1})
    write_pair(folder / "train", "zz", pixels, mask)
    return name


BLACK = np.zeros((36, 44, 3), np.uint8)


def test_a_mask_of_another_size_names_both_files(run):
    data = broken_data(run, "size", BLACK, np.zeros((36, 40), np.uint8))
    text = run("train", "config.json", data, "--log-dir", "size-logs", *OPTIONS, code=1)
    assert "images/zz.png" in text and "masks/zz.png" in text and "--skip-corrupt" in text


def test_a_mask_value_outside_the_classes_is_named(run):
    mask = np.zeros((36, 44), np.uint8)
    mask[5, 7] = 3
    data = broken_data(run, "value", BLACK, mask)
    text = run("train", "config.json", data, "--log-dir", "value-logs", *OPTIONS, code=1)
    assert "masks/zz.png" in text and "3" in text
    output = run("train", "config.json", data, "--log-dir", "skip-logs", "--skip-corrupt", *OPTIONS)
    assert "skipped" in output and "masks/zz.png" in output


def test_too_few_classes_leave_no_snapshot_in_the_way_of_the_repaired_configuration(run):
    few = write_config(run, "few", segmentation={"classes": CLASSES[:1]})
    text = run("train", few, "data", "--log-dir", "few-logs", *OPTIONS, code=1)
    assert "no step is saved yet" in text and "--resume" not in text
    run("train", "config.json", "data", "--log-dir", "few-logs", "--epochs", 1, *OPTIONS)


def test_a_bad_picture_stops_the_evaluation_or_is_left_out(run):
    write_shapes(run.folder / "bad", {"train": 6, "val": 3})
    (run.folder / "bad" / "val" / "images" / "01.png").write_bytes(b"")
    arguments = ("validate", "config.json", "logs/checkpoint.pth.tar", "bad", "--device", "cpu")
    assert "val/images/01.png" in run(*arguments, code=1)
    output = run(*arguments, "--skip-corrupt")
    assert "skipped" in output and "(2 images)" in output
    for path in (run.folder / "bad" / "val" / "images").iterdir():
        path.write_bytes(b"")
    assert "no image can be decoded" in run(*arguments, "--skip-corrupt", code=1)


def test_scores_that_are_no_numbers_are_an_error(run):
    snapshot = torch.load(run.folder / "logs" / "checkpoint.pth.tar", weights_only=True)
    for weights in (snapshot["state_dict"], snapshot["iabn"]["averages"]):
        weights["module.cls.bias"][1] = float("nan")
    torch.save(snapshot, run.folder / "nan.pth")
    arguments = ("config.json", "data", "--log-dir", "nan", "--evaluate", "--resume", "nan.pth", *OPTIONS)
    assert "scores of 7 validation images are no numbers" in run("train", *arguments, code=1)
    text = run("validate", "config.json", "nan.pth", "data", "--device", "cpu", "--json", "nan.json", code=1)
    assert "no numbers in 7 of 7 images" in text and "bf16" in text
    assert not (run.folder / "nan.json").exists()


def test_another_number_of_repetitions_goes_on_with_the_same_folder(run):
    config = write_config(run, "twice", input={"repeat_train": 2})
    run("train", config, "data", "--log-dir", "twice", "--epochs", 1, *OPTIONS)
    arguments = ("train", "config.json", "data", "--log-dir", "twice", "--resume", "auto", "--epochs", 2, *OPTIONS)
    assert "input.repeat_train" in run(*arguments, code=1)
    output = run(*arguments, "--any-config")
    assert "input.repeat_train" in output and "18 training" in output
    assert len(rows(run.folder / "twice" / "log.csv")) == 2


def test_a_folder_without_pairs_is_refused(run):
    (run.folder / "empty" / "train" / "images").mkdir(parents=True)
    (run.folder / "empty" / "train" / "masks").mkdir()
    assert "empty" in run("train", "config.json", "empty", "--log-dir", "empty-logs", *OPTIONS, code=1)


def test_a_network_is_measured_with_its_pixels(run):
    config = write_config(run, "bench", optimizer={"batch_size": 2, "accumulation_steps": 1})
    run("bench", "network", config, "--device", "cpu", "--steps", 1, "--threads", 1, "--result", "bench_result.json")
    figures = json.loads((run.folder / "bench_result.json").read_text())
    assert figures["held_bytes_inplace"] < figures["held_bytes_standard"]


def test_options_of_the_other_task_are_refused(run, classifier):
    snapshot = "logs/checkpoint.pth.tar"
    for option in (["--ten-crops"], ["--batch-size", 2]):
        assert "ten crops" in run("validate", "config.json", snapshot, "data", "--device", "cpu", *option, code=2)
    text = run("validate", "classifier.json", classifier, "classes", "--device", "cpu", "--flip", code=2)
    assert "segmentation" in text


@pytest.fixture(scope="module")
def together(run, built_program):
    """Runs the program in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def execute(*arguments):
        command = [*launcher, built_program("iabn"), *map(str, arguments)]
        process = subprocess.run(
            command, cwd=run.folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    return execute


def test_two_processes_count_every_image_once(run, together):
    options = ("logs/checkpoint.pth.tar", "data", "--device", "cpu", "--json")
    run("validate", "config.json", *options, "alone.json")
    output = together("validate", "config.json", *options, "together.json")
    assert output.count("(7 images)") == 1
    assert (run.folder / "alone.json").read_text() == (run.folder / "together.json").read_text()


def test_two_processes_train_as_one_where_every_pixel_counts(run, together):
    write_shapes(run.folder / "full", {"train": 18, "val": 4})
    for path in (run.folder / "full" / "train" / "masks").iterdir():
        mask = np.array(Image.open(path))
        mask[mask == IGNORE] = 0
        Image.fromarray(mask).save(path)
    (run.folder / "full" / "val" / "images" / "01.png").write_bytes(b"")  # rank 1's
    config = write_config(
        run,
        "job",
        network={"bn_mode": "sync"},
        optimizer={"batch_size": 12, "accumulation_steps": 1},
        input={"repeat_train": 2},
        segmentation={"hard_pixels": 1, "scale_train": [1, 2]},  # no picture is smaller than the crop
    )
    arguments = ("train", config, "full", "--epochs", 2, "--skip-corrupt", *OPTIONS)
    for output in (together(*arguments, "--log-dir", "job"), run(*arguments, "--log-dir", "job-alone")):
        assert "corrupt images skipped so far: 1" in output
    # Six steps in float32, whose sums have another order.
    logs = [rows(run.folder / name / "log.csv") for name in ("job", "job-alone")]
    for ours, theirs in zip(*logs, strict=True):
        assert float(ours["train_loss"]) == pytest.approx(float(theirs["train_loss"]), rel=1e-4)
    ours, theirs = (
        torch.load(run.folder / name / "checkpoint.pth.tar", weights_only=True)["state_dict"]
        for name in ("job", "job-alone")
    )
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=1e-4)
