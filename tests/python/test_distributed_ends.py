"""How jobs of several processes end early, and go on: killed workers under two launchers, signals, bad pictures."""

import json
import os
import shutil
import signal
import socket
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_support import CONFIG, OPTIONS, rows, run, started, torchrun, workers
from image_folder import write_images
from segmentation_folder import CLASSES, IGNORE, shapes, write_pair

STEPS = 80  # of an epoch of "steps.json"; processes agree on stopping every 16


def config(epochs, **changes):
    changes["optimizer"] = changes.get("optimizer", {}) | {"schedule": {"epochs": epochs}}
    return CONFIG | {section: CONFIG[section] | keys for section, keys in changes.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ends")
    write_images(folder / "data", {"train": 30, "val": 11}, noise=190)
    slow = {"batch_size": 6, "learning_rate": 0.005}
    configs = {
        "long": config(15),
        "short": config(2),
        "whole": config(1, optimizer={"batch_size": 60}),
        "steps": config(2, optimizer=slow, input={"repeat_train": STEPS // 10}),
        "big": config(40, network={"width": 48}, optimizer=slow, input={"repeat_train": STEPS // 10}),
    }
    for name, content in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def arguments(name, log_dir, *options, data="data"):
    return ("train", f"{name}.json", data, "--log-dir", log_dir, *OPTIONS, *options)


def snapshot(folder, log_dir):
    return torch.load(folder / log_dir / "checkpoint.pth.tar", weights_only=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Restarts


@pytest.mark.parametrize("rank", [0, 1])
def test_two_launchers_restart_a_killed_worker(folder, built_program, rank):
    log_dir = f"agents{rank}"
    rendezvous = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}")
    options = arguments("long", log_dir, "--resume", "auto")
    command = torchrun(built_program("iabn"), 1, *options, restarts=2, rendezvous=rendezvous)
    with started(command, folder, f"{log_dir}-a") as first, started(command, folder, f"{log_dir}-b") as second:
        log = folder / log_dir / "log.csv"
        first.wait_until(lambda: log.exists() and len(rows(folder, log_dir)) >= 3)
        os.kill(workers(folder, log_dir)[rank], signal.SIGKILL)
        assert [first.end(), second.end()] == [0, 0], first.output() + second.output()
    assert "continuing after epoch" in first.output() + second.output()
    assert [int(row["epoch"]) for row in rows(folder, log_dir)] == list(range(1, 16))


# Signals


@pytest.fixture(scope="module")
def uninterrupted(folder, built_program):
    run([built_program("iabn"), *arguments("steps", "uninterrupted")], folder)
    return rows(folder, "uninterrupted")


def is_training(job):
    return "epoch 1/2 10/" in job.output()


@pytest.fixture(scope="module")
def interrupted(folder, built_program):
    """A job of two processes that SIGTERM to the second one has stopped in its first epoch."""
    command = torchrun(built_program("iabn"), 2, *arguments("steps", "interrupted", "--print-frequency", 10))
    with started(command, folder, "interrupted") as job:
        job.wait_until(lambda: is_training(job))
        os.kill(workers(folder, "interrupted")[1], signal.SIGTERM)
        assert job.end(60) != 0
    return job


def test_sigterm_to_one_process_stops_all_at_the_same_step(folder, interrupted):
    assert "the state is saved" in interrupted.output(), interrupted.output()
    assert "could not exchange data" not in interrupted.output()
    assert not workers(folder, "interrupted")
    own = snapshot(folder, "interrupted")["iabn"]
    assert 0 < own["step"] < STEPS and own["step"] % 16 == 0
    assert own["metric_images"] == 6 * own["step"]  # of all processes


@pytest.mark.parametrize("processes", [1, 3])
def test_another_number_of_processes_goes_on_with_the_same_losses(
    folder, built_program, interrupted, uninterrupted, processes
):
    log_dir = f"resumed{processes}"
    shutil.copytree(folder / "interrupted", folder / log_dir)
    options = arguments("steps", log_dir, "--resume", "auto")
    program = built_program("iabn")
    output = run(torchrun(program, processes, *options) if processes > 1 else [program, *options], folder)
    step = snapshot(folder, "interrupted")["iabn"]["step"]
    assert f"continuing after epoch 0, step {step}" in output
    for ours, theirs in zip(rows(folder, log_dir), uninterrupted, strict=True):
        for column in ("train_loss", "val_loss"):
            assert abs(float(ours[column]) - float(theirs[column])) < 2e-3, (ours, theirs)


def test_a_signal_that_comes_twice_is_one(folder, built_program):
    """A scheduler tells every process of a job, and the launcher tells its workers again."""
    command = torchrun(built_program("iabn"), 2, *arguments("steps", "twice", "--print-frequency", 10))
    with started(command, folder, "twice") as job:
        job.wait_until(lambda: is_training(job))
        own = list(workers(folder, "twice").values())
        for pid in own:
            os.kill(pid, signal.SIGSTOP)  # so that nobody is done before the second one
        for pid in [*own, job.process.pid]:
            os.kill(pid, signal.SIGTERM)
        for pid in own:
            os.kill(pid, signal.SIGCONT)
        for pid in own:
            resend(pid, signal.SIGTERM)
        assert job.end(60) != 0
    assert "the state is saved" in job.output(), job.output()
    assert not workers(folder, "twice")
    assert 0 < snapshot(folder, "twice")["iabn"]["step"] < STEPS


def resend(pid, number):
    """Once the first one has been taken: one that waits already swallows another."""

    def waits():
        (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("ShdPnd")]
        return int(line.split()[1], 16) >> (number - 1) & 1

    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        while waits():
            pass
        os.kill(pid, number)


def stopped_while_saving(job, folder, log_dir):
    """Stops rank 0 while it writes the snapshot's new file; returns its number."""
    job.wait_until(lambda: (folder / log_dir / "checkpoint.pth.tar").exists())
    first = workers(folder, log_dir)[0]

    def saving():
        return any(name.endswith(".tmp") for name in os.listdir(folder / log_dir))

    def caught():
        if not saving():
            return False
        os.kill(first, signal.SIGSTOP)
        job.wait_until(lambda: "\nState:\tT" in Path(f"/proc/{first}/status").read_text(), pause=0)
        if saving():  # the call of the system at whose end it stopped was not the renaming
            return True
        os.kill(first, signal.SIGCONT)
        return False

    job.wait_until(caught, pause=0)
    return first


def saving_job(folder, built_program, log_dir):
    options = arguments("big", log_dir, "--snapshot-minutes", 1e-6)
    return started(torchrun(built_program("iabn"), 2, *options), folder, log_dir)


def test_signals_while_saving_let_it_finish(folder, built_program):
    with saving_job(folder, built_program, "saving") as job:
        first = stopped_while_saving(job, folder, "saving")
        before = snapshot(folder, "saving")["iabn"]
        os.kill(first, signal.SIGTERM)
        os.kill(first, signal.SIGCONT)
        resend(first, signal.SIGTERM)
        assert job.end(60) != 0
    assert "the state is saved" in job.output(), job.output()
    after = snapshot(folder, "saving")["iabn"]
    assert after["metric_images"] == 6 * after["step"]
    assert after["step"] != before["step"]
    assert not [name for name in os.listdir(folder / "saving") if name.endswith(".tmp")]


def test_a_process_killed_while_saving_leaves_the_last_snapshot(folder, built_program):
    with saving_job(folder, built_program, "cut") as job:
        first = stopped_while_saving(job, folder, "cut")
        os.kill(first, signal.SIGKILL)
        assert job.end(60) != 0
    own = snapshot(folder, "cut")["iabn"]
    assert own["metric_images"] == 6 * own["step"]
    assert not workers(folder, "cut")


# Pictures that can't be decoded


def together(folder, program, name, *options):
    """Two processes without a launcher, which would end one when the other has ended: their exit codes and outputs."""
    job = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [program, *options]
    with (
        started(command, folder, f"{name}0", **job, RANK=0, LOCAL_RANK=0) as first,
        started(command, folder, f"{name}1", **job, RANK=1, LOCAL_RANK=1) as second,
    ):
        return [(one.end(60), one.output()) for one in (first, second)]


@pytest.fixture(scope="module")
def bad_pictures(folder, built_program):
    """A run of one epoch in two processes, and for each rank a training picture of its share of the second epoch."""
    run(torchrun(built_program("iabn"), 2, *arguments("short", "bad", "--epochs", 1)), folder)
    before = (folder / "bad" / "checkpoint.pth.tar").read_bytes()
    shares = {}
    for i in range(12):
        shutil.copytree(folder / "data", folder / f"bad-data{i}")
        picture = folder / f"bad-data{i}" / "train" / "dark" / f"{i}.png"
        picture.write_bytes(b"no picture")
        options = arguments("short", "bad", "--resume", "auto", data=f"bad-data{i}")
        outcomes = together(folder, built_program("iabn"), f"bad{i}-", *options)
        assert (folder / "bad" / "checkpoint.pth.tar").read_bytes() == before
        (rank,) = [rank for rank in range(2) if f"train/dark/{i}.png" in outcomes[rank][1]]
        shares[rank] = (f"bad-data{i}", f"train/dark/{i}.png", outcomes)
        if len(shares) == 2:
            return shares
    pytest.fail("one rank has all pictures")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_bad_picture_ends_the_job_and_the_last_snapshot_stays(bad_pictures, rank):
    _, picture, outcomes = bad_pictures[rank]
    assert [code for code, _ in outcomes] == [1, 1]
    own, other = outcomes[rank][1], outcomes[1 - rank][1]
    assert picture in own and "--skip-corrupt" in own and "--resume bad/checkpoint.pth.tar" in own
    assert "could not exchange data with the others" in other or f"waited in vain for rank {rank}" in other
    assert "frame #" not in other[other.index("iabn: error") :]


def test_before_its_first_snapshot_a_resumed_run_names_the_one_it_came_from(folder, built_program, bad_pictures):
    data, picture, _ = bad_pictures[0]
    options = arguments("short", "bad-again", "--resume", "bad/checkpoint.pth.tar", data=data)
    output = run(torchrun(built_program("iabn"), 2, *options), folder, code=1)
    assert picture in output and "the last snapshot stays" in output
    assert "continue with --resume bad/checkpoint.pth.tar" in output and "start again" not in output


def test_torchrun_shows_the_other_ranks_message_and_nothing_stays(folder, built_program, bad_pictures):
    data, picture, _ = bad_pictures[1]
    before = (folder / "bad" / "checkpoint.pth.tar").read_bytes()
    options = arguments("short", "bad", "--resume", "auto", data=data)
    output = run(torchrun(built_program("iabn"), 2, *options), folder, code=1)
    assert picture in output and "training stopped" in output
    assert not workers(folder, "bad")
    assert (folder / "bad" / "checkpoint.pth.tar").read_bytes() == before


def test_a_bad_picture_of_the_first_step_ends_the_job_before_the_launcher_kills(folder, built_program):
    """The other process waits in a layer's first pass, where it learns from the launcher alone that one has ended."""
    shutil.copytree(folder / "data", folder / "whole-data")
    (folder / "whole-data" / "train" / "dark" / "0.png").write_bytes(b"no picture")
    output = run(torchrun(built_program("iabn"), 2, *arguments("whole", "whole", data="whole-data")), folder, code=1)
    assert "train/dark/0.png" in output and "forcefully exiting" not in output  # torchrun's word when it kills


def test_with_skip_corrupt_the_job_goes_on_and_rank_0_names_them(folder, built_program, bad_pictures):
    data, picture, _ = bad_pictures[1]
    (folder / data / "val" / "dark" / "6.png").write_bytes(b"no picture")  # 8th of all: in rank 1's first batch
    options = arguments("short", "skipped", "--skip-corrupt", data=data)
    output = run(torchrun(built_program("iabn"), 2, *options), folder)
    assert len(rows(folder, "skipped")) == 2
    for name in (picture, "val/dark/6.png"):
        assert output.count(name) == 1, output
    assert "corrupt images skipped so far: 2" in output


# Segmentation


def test_segmentation_trains_as_one_process_where_every_pixel_counts(folder, built_program):
    """With pixels that don't count, or hard ones chosen, each process takes the mean of its own."""
    generator = np.random.default_rng(0)
    for split, count in {"train": 18, "val": 7}.items():
        for i in range(count):
            pixels, mask = shapes(generator, 36, 44)
            write_pair(folder / "shapes" / split, f"{i:02}", pixels, np.where(mask == IGNORE, 0, mask))
    content = {
        "task": "segmentation",
        "network": {key: CONFIG["network"][key] for key in ("arch", "width", "bn_mode", "activation")},
        "optimizer": {
            "batch_size": 6,
            "learning_rate": 0.05,
            "clip": 0,
            "schedule": {"type": "poly", "epochs": 2},
        },
        "input": {"crop_train": 32},
        "segmentation": {
            "classes": CLASSES,
            "ignore_label": IGNORE,
            "hard_pixels": 1,
            "scale_train": [1, 1.5],
            "head_channels": 16,
            "hidden_channels": 16,
            "dilations": [1, 2, 3],
        },
    }
    (folder / "pixels.json").write_text(json.dumps(content))
    program = built_program("iabn")
    run([program, *arguments("pixels", "pixels1", data="shapes")], folder)
    run(torchrun(program, 2, *arguments("pixels", "pixels2", data="shapes")), folder)
    for ours, theirs in zip(rows(folder, "pixels2"), rows(folder, "pixels1"), strict=True):
        assert abs(float(ours["train_loss"]) - float(theirs["train_loss"])) < 2e-3, (ours, theirs)
        for column in ("train_miou", "train_pixel_accuracy", "val_miou", "val_pixel_accuracy"):
            assert abs(float(ours[column]) - float(theirs[column])) < 0.5, (ours, theirs)
