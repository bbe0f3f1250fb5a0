"""`iabn train` and `iabn validate` under torchrun: several processes over Gloo give what one process gives."""

import json
import os
import random
import signal
from contextlib import contextmanager

import pytest
import torch
from distributed_support import CONFIG, OPTIONS, rows, run, started, torchrun, workers
from image_folder import write_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    write_images(folder / "data", {"train": 30, "val": 11}, noise=190)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def alone(folder, built_program):
    """A run in one process."""
    run([built_program("iabn"), "train", "config.json", "data", "--log-dir", "alone", *map(str, OPTIONS)], folder)
    return rows(folder, "alone")


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_train_as_one(folder, built_program, alone, processes):
    log_dir = f"together{processes}"
    run(
        torchrun(built_program("iabn"), processes, "train", "config.json", "data", "--log-dir", log_dir, *OPTIONS),
        folder,
    )
    for ours, theirs in zip(rows(folder, log_dir), alone, strict=True):
        # Ten steps in float32, whose sums have another order.
        for column in ("train_loss", "val_loss"):
            assert abs(float(ours[column]) - float(theirs[column])) < 2e-3, (ours, theirs)
    assert sorted(path.name for path in (folder / log_dir).glob("rank*.log")) == [
        f"rank{rank}.log" for rank in range(processes)
    ]
    weights = [
        torch.load(folder / name / "checkpoint.pth.tar", weights_only=True)["state_dict"] for name in (log_dir, "alone")
    ]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=2e-2, atol=2e-3)


def test_every_validation_image_counts_once(folder, built_program, alone):
    checkpoint = "alone/checkpoint.pth.tar"
    output = run(
        torchrun(built_program("iabn"), 3, "validate", "config.json", checkpoint, "data", "--device", "cpu"), folder
    )
    assert output.count("(22 images)") == 1
    assert f"top1 {float(alone[-1]['val_top1']):.2f} %" in output


def test_a_batch_that_cannot_be_shared_is_refused(folder, built_program):
    command = torchrun(built_program("iabn"), 5, "train", "config.json", "data", "--log-dir", "refused", *OPTIONS)
    assert "cannot be shared equally by 5 processes" in run(command, folder, code=1)


@contextmanager
def long_job(program, folder, log_dir, processes, restarts):
    """A job of many epochs that has saved three, and the numbers of its processes."""
    config = json.loads(json.dumps(CONFIG))
    config["optimizer"]["schedule"]["epochs"] = 40
    (folder / "long.json").write_text(json.dumps(config))
    options = ("--log-dir", log_dir, "--resume", "auto", *OPTIONS)
    command = torchrun(program, processes, "train", "long.json", "data", *options, restarts=restarts)
    with started(command, folder, log_dir) as job:
        job.wait_until(lambda: (folder / log_dir / "log.csv").exists() and len(rows(folder, log_dir)) > 3)
        yield job, list(workers(folder, log_dir).values())


def test_a_killed_process_ends_the_job_and_a_restart_resumes_it(folder, built_program):
    with long_job(built_program("iabn"), folder, "killed", processes=2, restarts=2) as (job, own):
        os.kill(own[-1], signal.SIGKILL)
        assert job.end() == 0, job.output()
    assert "continuing after epoch" in job.output()
    assert [int(row["epoch"]) for row in rows(folder, "killed")] == list(range(1, 41))


def test_without_restarts_all_four_end_with_a_message_and_the_snapshot_is_whole(folder, built_program):
    with long_job(built_program("iabn"), folder, "ended", processes=4, restarts=0) as (job, own):
        assert len(own) == 4
        os.kill(random.choice(own), signal.SIGKILL)
        assert job.end() != 0
    assert "could not exchange data with the others" in job.output()
    assert not workers(folder, "ended")
    snapshot = torch.load(folder / "ended" / "checkpoint.pth.tar", weights_only=True)
    assert snapshot["epoch"] >= 3 and len(rows(folder, "ended")) >= snapshot["epoch"]
