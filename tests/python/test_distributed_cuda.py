"""`iabn train` with a GPU for each process: equals one GPU, survives delays, ends when a process is killed."""

import json
import os
import random
import signal
import socket
import subprocess
import time

import pytest
import torch
from distributed_support import CONFIG, rows, run, torchrun
from image_folder import write_images

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

OPTIONS = ("--device", "cuda", "--workers", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    os.environ["NCCL_NVLS_ENABLE"] = "0"
    folder = tmp_path_factory.mktemp("job")
    write_images(folder / "data", {"train": 30, "val": 11}, noise=190)
    graph = CONFIG | {"cuda_graph": True, "channels_last": True}
    long = graph | {"optimizer": CONFIG["optimizer"] | {"schedule": {"epochs": 40}}}
    for name, config in (("eager", CONFIG), ("graph", graph), ("long", long)):
        (folder / f"{name}.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def alone(folder, built_program):
    run([built_program("iabn"), "train", "eager.json", "data", "--log-dir", "alone", *map(str, OPTIONS)], folder)
    return rows(folder, "alone")


@pytest.mark.parametrize("config", ["eager", "graph"])
def test_two_gpus_train_as_one(folder, built_program, alone, config):
    command = torchrun(built_program("iabn"), 2, "train", f"{config}.json", "data", "--log-dir", config, *OPTIONS)
    run(command, folder)
    for ours, theirs in zip(rows(folder, config), alone, strict=True):
        for column in ("train_loss", "val_loss"):
            assert abs(float(ours[column]) - float(theirs[column])) < 5e-3, (ours, theirs)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder, program, log_dir, ranks=2):
    """The processes of a job without a launcher, which would end them itself."""
    port = free_port()
    processes = []
    for rank in range(ranks):
        job = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [program, "train", "long.json", "data", "--log-dir", log_dir, *map(str, OPTIONS)]
        environment = os.environ | {name: str(value) for name, value in job.items()}
        processes.append(
            subprocess.Popen(
                command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    return processes


def wait_for_epochs(folder, log_dir, count):
    path = folder / log_dir / "log.csv"
    deadline = time.monotonic() + 120
    while not path.is_file() or len(path.read_text().splitlines()) <= count:
        assert time.monotonic() < deadline, "the job does not train"
        time.sleep(0.05)


def test_two_hundred_steps_with_random_delays(folder, built_program):
    """40 epochs of 5 steps; each process is stopped for up to 0.3 s again and again."""
    processes = start(folder, built_program("iabn"), "delayed")
    wait_for_epochs(folder, "delayed", 1)
    pauses = 0
    while all(process.poll() is None for process in processes):
        victim = random.choice(processes)
        victim.send_signal(signal.SIGSTOP)
        time.sleep(random.uniform(0, 0.3))
        victim.send_signal(signal.SIGCONT)
        time.sleep(random.uniform(0, 0.05))
        pauses += 1
        assert pauses < 1000
    output = "".join(process.communicate(timeout=60)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0], output
    assert len(rows(folder, "delayed")) == 40 and pauses > 3


def test_a_killed_process_ends_the_other_with_a_message(folder, built_program):
    processes = start(folder, built_program("iabn"), "killed")
    wait_for_epochs(folder, "killed", 3)
    processes[1].kill()
    output, _ = processes[0].communicate(timeout=120)
    assert processes[0].returncode == 1, output
    assert "rank 0 of 2 could not exchange data with the others" in output
    torch.load(folder / "killed" / "checkpoint.pth.tar", weights_only=True)
