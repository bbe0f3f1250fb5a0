"""Jobs of several processes of the program on this machine."""

import csv
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

CONFIG = {
    "network": {"arch": "preact_resnet8", "width": 8, "bn_mode": "sync", "activation": "leaky_relu", "classes": 2},
    "optimizer": {"batch_size": 12, "learning_rate": 0.05, "clip": 0, "schedule": {"epochs": 2}},
    "input": {"augmentation": "flip", "crop_train": 16, "scale_val": -1, "crop_val": 16},
}
OPTIONS = ("--device", "cpu", "--workers", 1, "--threads", 1)
LAUNCHER = "torch.distributed.run"


def torchrun(program, processes, *arguments, restarts=0, rendezvous=("--standalone",)):
    launcher = [sys.executable, "-m", LAUNCHER, "--no-python", *rendezvous]
    return [*launcher, f"--nproc-per-node={processes}", f"--max-restarts={restarts}", program, *map(str, arguments)]


def environment(**more):
    return os.environ | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in more.items()}


def run(command, folder, code=0):
    command = list(map(str, command))
    process = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
    assert (process.returncode == 0) == (code == 0), process.stdout + process.stderr
    return process.stdout + process.stderr


def rows(folder, log_dir):
    with (folder / log_dir / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Job:
    """A command at work, whose output goes to a file."""

    def __init__(self, command, folder, name, **variables):
        self.path = folder / f"{name}.out"
        with self.path.open("w") as file:
            self.process = subprocess.Popen(
                list(map(str, command)), cwd=folder, env=environment(**variables), stdout=file, stderr=file
            )

    def output(self):
        return self.path.read_text()

    def wait_until(self, condition, seconds=120, pause=0.01):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline and self.process.poll() is None, self.output()
            time.sleep(pause)

    def end(self, seconds=240):
        """Waits for it; returns its exit code."""
        return self.process.wait(timeout=seconds)


@contextmanager
def started(command, folder, name, **variables):
    """A Job, which is ended where the test fails; launchers end their workers on SIGTERM."""
    job = Job(command, folder, name, **variables)
    try:
        yield job
    finally:
        if job.process.poll() is None:
            job.process.send_signal(signal.SIGTERM)
            try:
                job.end(40)
            except subprocess.TimeoutExpired:
                job.process.kill()


def workers(folder, log_dir):
    """Processes of the program with this log directory below `folder`, without their launcher, by rank."""
    found = subprocess.run(["pgrep", "-f", "--", f"--log-dir {log_dir} "], capture_output=True, text=True, check=False)
    ranks = {}
    for pid in map(int, found.stdout.split()):
        try:
            if Path(f"/proc/{pid}/cwd").resolve() != folder.resolve():  # another run of these tests
                continue
            if LAUNCHER.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                continue
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        ranks |= {int(line[5:]): pid for line in variables if line.startswith(b"RANK=")}
    return dict(sorted(ranks.items()))
