"""`iabn train` and `iabn validate` as a user of Python meets them: snapshots in torch.load, figures in TensorBoard."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time

import pytest
import torch
from image_folder import write_images

CONFIG = {
    "network": {
        "arch": "preact_resnet8",
        "width": 8,
        "bn_mode": "inplace",
        "activation": "leaky_relu",
        "classes": 2,
    },
    "optimizer": {"batch_size": 8, "learning_rate": 0.05, "classifier_lr": 0.1, "schedule": {"epochs": 2}},
    "input": {"augmentation": "flip", "crop_train": 16, "scale_val": -1, "crop_val": 16},
}


@pytest.fixture(scope="module")
def run(built_program, tmp_path_factory):
    """Runs the program; returns its standard output. run.folder holds data/, config.json and, after training, logs/."""
    folder = tmp_path_factory.mktemp("program")
    write_images(folder / "data", {"train": 16, "val": 7}, noise=140)
    (folder / "config.json").write_text(json.dumps(CONFIG))

    def execute(*arguments, code=0):
        command = [built_program("iabn"), *map(str, arguments)]
        process = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
        assert process.returncode == code, process.stderr
        return process.stdout if code == 0 else process.stderr

    execute.folder = folder
    options = ("--log-dir", "logs", "--device", "cpu", "--weight-histograms", "--print-frequency", 2)
    execute.output = execute("train", "config.json", "data", *options)
    return execute


@pytest.fixture
def snapshot(run):
    return torch.load(run.folder / "logs" / "checkpoint.pth.tar", weights_only=True)


def test_a_snapshot_has_the_originals_layout(snapshot):
    assert {"epoch", "arch", "state_dict", "best_prec1", "optimizer"} <= set(snapshot)
    assert snapshot["epoch"] == 2 and snapshot["arch"] == "preact_resnet8"
    assert next(iter(snapshot["state_dict"])) == "module.mod1.conv1.weight"
    assert (
        json.loads(snapshot["iabn"]["config"])["network"] | CONFIG["network"]
        == json.loads(snapshot["iabn"]["config"])["network"]
    )


def test_its_optimizer_continues_in_torch_optim(snapshot):
    parameters = [w for name, w in snapshot["state_dict"].items() if not name.endswith(("mean", "var", "tracked"))]
    body, classifier = ([parameters[i] for i in group["params"]] for group in snapshot["optimizer"]["param_groups"])
    assert len(body) + len(classifier) == len(parameters) and len(classifier) == 2
    optimizer = torch.optim.SGD([{"params": body}, {"params": classifier}], lr=1, momentum=0.5)
    optimizer.load_state_dict(snapshot["optimizer"])
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.1]
    assert all(optimizer.state[p]["momentum_buffer"].shape == p.shape for p in body + classifier)


def test_tensorboard_shows_the_run(run):
    if "IABN_BIN" not in os.environ:
        pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run.folder / "logs"))
    accumulator.Reload()
    tags = accumulator.Tags()
    metrics = {f"{split}/{name}" for split in ("train", "val") for name in ("loss", "top1", "top5")}
    assert metrics | {"train/lr"} <= set(tags["scalars"])
    assert "weights/mod1.conv1.weight" in tags["histograms"]
    assert [event.step for event in accumulator.Scalars("val/top1")] == [4, 8]
    assert (run.folder / "logs" / "rank0.log").read_text().count("epoch ") >= 2


def test_validate_repeats_the_last_evaluation(run, snapshot):
    rows = (run.folder / "logs" / "log.csv").read_text().splitlines()
    top1 = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))["val_top1"]
    output = run("validate", "config.json", "logs/checkpoint.pth.tar", "data", "--device", "cpu")
    assert f"top1 {float(top1):.2f} %" in output and "(14 images)" in output
    assert "signed gamma (as the file says)" in output


def test_validate_writes_its_result_as_json(run):
    output = run(
        "validate", "config.json", "logs/checkpoint.pth.tar", "data", "--device", "cpu", "--json", "result.json"
    )
    result = json.loads((run.folder / "result.json").read_text())
    assert list(result) == ["images", "loss", "top1", "top5"] and result["images"] == 14
    assert f"loss {result['loss']:.4f} top1 {result['top1']:.2f} % top5 {result['top5']:.2f} %" in output


def test_validate_takes_ten_crops_other_modes_and_safetensors(run):
    run("convert", "logs/checkpoint.pth.tar", "weights.safetensors")
    standard = json.loads(json.dumps(CONFIG))
    standard["network"]["bn_mode"] = "standard"
    (run.folder / "standard.json").write_text(json.dumps(standard))
    outputs = [
        run("validate", config, "weights.safetensors", "data", "--device", "cpu", "--ten-crops", "--crop", 12)
        for config in ("config.json", "standard.json")
    ]
    lines = [output.splitlines()[-1] for output in outputs]
    assert lines[0] == lines[1] and "(14 images)" in lines[0]
    assert "ten crops" in outputs[0]


def test_weights_that_do_not_fit_are_listed(run, tmp_path):
    state = torch.load(run.folder / "logs" / "checkpoint.pth.tar", weights_only=True)["state_dict"]
    state["module.mod1.conv1.wieght"] = state.pop("module.mod1.conv1.weight")
    state["module.classifier.fc.weight"] = torch.zeros(3, 32)
    torch.save(state, tmp_path / "other.pth")
    text = run("validate", "config.json", tmp_path / "other.pth", "data", "--device", "cpu", code=1)
    assert "missing in the file (1)" in text and 'did you mean "mod1.conv1.wieght"?' in text
    assert "unknown to the network (1)" in text
    assert "classifier.fc.weight is [3, 32] in the file, [2, 32] in the network" in text


def test_weights_of_other_libraries_are_told_from_those_that_nearly_fit(run, tmp_path):
    torch.save({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(2)}, tmp_path / "resnet.pth")
    text = run("validate", "config.json", tmp_path / "resnet.pth", "data", "--device", "cpu", code=1)
    assert "Names must be those of the networks of iabn models" in text


def renamed(run, name, **classes):
    """A copy of the data in which classes have other names."""
    shutil.copytree(run.folder / "data", run.folder / name)
    for split in ("train", "val"):
        for old, new in classes.items():
            (run.folder / name / split / old).rename(run.folder / name / split / new)
    return name


def test_a_snapshot_names_its_classes_and_other_ones_are_refused(run, snapshot):
    assert json.loads(snapshot["iabn"]["classes"]) == ["dark", "light"]
    run("convert", "logs/checkpoint.pth.tar", "named.safetensors")
    data = renamed(run, "swapped", dark="night")  # its labels are those of light, dark
    text = 'trained with other classes: label 0 is "dark" there, "light" here; label 1 is "light" there, "night" here'
    for file in ("logs/checkpoint.pth.tar", "named.safetensors"):
        arguments = ("validate", "config.json", file, data, "--device", "cpu")
        assert text in run(*arguments, code=1)
        output = run(*arguments, "--any-classes")
        assert "(14 images)" in output and 'label 0 is "dark" there' in output
    arguments = ("train", "config.json", data, "--resume", "logs/checkpoint.pth.tar", "--device", "cpu", "--epochs", 3)
    assert text in run(*arguments, "--log-dir", "swapped-logs", code=1)
    assert 'label 0 is "dark" there' in run(*arguments, "--log-dir", "any-logs", "--any-config")


def test_names_of_classes_need_not_be_text_of_utf_8(run):
    data = renamed(run, "bytes", dark=os.fsdecode(b"d\xe4mmrig"))
    run("train", "config.json", data, "--log-dir", "bytes-logs", "--device", "cpu", "--epochs", 1)
    snapshot = torch.load(run.folder / "bytes-logs" / "checkpoint.pth.tar", weights_only=True)
    assert json.loads(snapshot["iabn"]["classes"]) == ["d\ufffdmmrig", "light"]
    run("validate", "config.json", "bytes-logs/checkpoint.pth.tar", data, "--device", "cpu")


def test_snapshots_without_names_of_classes_are_read(run, snapshot):
    del snapshot["iabn"]["classes"]
    torch.save(snapshot, run.folder / "nameless.pth")
    run("validate", "config.json", "nameless.pth", "data", "--device", "cpu")
    arguments = ("--log-dir", "nameless-logs", "--resume", "nameless.pth", "--device", "cpu", "--epochs", 3)
    assert "epoch 3/3" in run("train", "config.json", "data", *arguments)


DEEP = 200_000 * "[" + 200_000 * "]"
NO_NAMES = {"deep": DEEP, "open": DEEP[:200_000], "number": '["dark", 1]', "object": '{"dark": 0}', "text": "no JSON"}


@pytest.mark.parametrize("names", NO_NAMES.values(), ids=NO_NAMES)
def test_names_of_classes_that_are_no_list_of_texts_are_refused(run, snapshot, names):
    snapshot["iabn"]["classes"] = names
    torch.save(snapshot, run.folder / "names.pth")
    text = "names.pth: was trained with other classes: the names there cannot be read: expected a list of texts"
    assert text in run("validate", "config.json", "names.pth", "data", "--device", "cpu", code=1)
    arguments = ("--log-dir", "names-logs", "--resume", "names.pth", "--device", "cpu", "--epochs", 3)
    assert text in run("train", "config.json", "data", *arguments, code=1)


def test_deeply_nested_configurations_are_refused(run, snapshot):
    deep = '{"network": ' + DEEP + "}"
    text = "lists and objects are nested more than 64 deep"
    (run.folder / "deep.json").write_text(deep)
    torch.save(torch.nn.BatchNorm2d(2).state_dict(), run.folder / "norm.pth")
    for command in (
        ("train", "deep.json", "data"),
        ("convert", "norm.pth", "norm.safetensors", "--to-gamma", "signed", "--config", "deep.json"),
    ):
        assert f"deep.json: {text}" in run(*command, code=2)
    assert "deep.json: " in run("bench", "network", "config.json", "--result", "deep.json", "--device", "cpu", code=1)
    snapshot["iabn"]["config"] = deep
    torch.save(snapshot, run.folder / "deep.pth")
    arguments = ("config.json", "data", "--log-dir", "deep-logs", "--device", "cpu", "--epochs", 3)
    assert f"cannot read: {text}" in run("train", *arguments, "--resume", "deep.pth", code=1)
    assert f"cannot be read: {text}" in run("predict", "deep.pth", "data/val/dark", "out", "--device", "cpu", code=2)
    output = run("validate", "config.json", "deep.pth", "data", "--device", "cpu")
    assert f"the snapshot's configuration cannot be read: {text}" in output


def test_validate_says_where_the_configuration_is_not_the_snapshots(run):
    other = json.loads(json.dumps(CONFIG))
    other["network"] |= {"activation": "elu", "bn_mode": "standard"}
    other["optimizer"]["learning_rate"] = 1
    other["input"] |= {"mean": [0.485, 0.5, 0.406], "augmentation": "none"}
    (run.folder / "other.json").write_text(json.dumps(other))
    arguments = ("logs/checkpoint.pth.tar", "data", "--device", "cpu")
    note = "another configuration than the snapshot's: "
    line = next(line for line in run("validate", "other.json", *arguments).splitlines() if line.startswith(note))
    assert line == note + (
        'network.activation is "leaky_relu" there, "elu" here; input.mean.1 is 0.456 there, 0.5 here'
    )
    assert note not in run("validate", "config.json", *arguments, "--crop", 12)


def test_files_that_are_passed_over_are_named(run):
    data = renamed(run, "mixed")
    folder = run.folder / data / "val" / "light"
    (folder / "2.png").rename(folder / "2.bmp")
    for output in (
        run("train", "config.json", data, "--log-dir", "mixed-logs", "--device", "cpu", "--epochs", 1),
        run("validate", "config.json", "logs/checkpoint.pth.tar", data, "--device", "cpu"),
    ):
        assert output.count("passed over") == 1 and "mixed/val: passed over light/2.bmp: only .jpg" in output


def test_a_trace_of_some_steps_can_be_written(run):
    run("train", "config.json", "data", "--log-dir", "traced", "--device", "cpu", "--epochs", 3, "--trace-steps", 2)
    events = json.loads((run.folder / "traced" / "trace_rank0.json").read_text())["traceEvents"]
    layers = 7
    assert sum(event.get("name") == "iabn::abn_backward" for event in events) == 2 * layers


def test_interrupted_before_the_first_step_a_run_saves_nothing(run, built_program):
    """So that a repaired configuration can use its folder."""
    command = [built_program("iabn"), "train", "config.json", "data", "--log-dir", "early", "--device", "cpu"]
    reader, writer = os.pipe()
    os.write(writer, b" " * fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ))  # it waits at its first line
    with subprocess.Popen(command, cwd=run.folder, stdout=writer, stderr=subprocess.PIPE, text=True) as process:
        os.close(writer)
        while not (run.folder / "early" / "log.csv").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        with os.fdopen(reader, "rb") as output:
            output.read()
        text = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert "interrupted before the first step: nothing is saved" in text and "--resume" not in text
    assert not (run.folder / "early" / "checkpoint.pth.tar").exists()
    other = json.loads(json.dumps(CONFIG))
    other["optimizer"]["learning_rate"] = 0.01
    (run.folder / "repaired.json").write_text(json.dumps(other))
    run("train", "repaired.json", "data", "--log-dir", "early", "--device", "cpu", "--epochs", 1)
