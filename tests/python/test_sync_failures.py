"""A process that dies or stays away: the others end with a message that says so, within the group's timeout."""

import datetime
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist

import iabn

WORLD = 4
TIMEOUT = 15  # seconds, of the group
TOLD = 3  # exit status of a process whose layer raised


def process(rank, folder, seed, how):
    """Layers of random shapes until `victim` dies, or goes to sleep, at a random step."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    dist.barrier()  # the layers' timeout is not for the time that processes take to start
    group = dist.new_group(timeout=datetime.timedelta(seconds=TIMEOUT))
    alike, own = random.Random(seed), random.Random(seed + 1 + rank)
    victim, last = alike.randrange(WORLD), alike.randrange(20)
    layers = [iabn.InPlaceABNSync(channels, group=group) for channels in (1, 7, 40)]
    for step in range(1000):
        layer = alike.choice(layers)
        if rank == victim and step == last:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(10 * TIMEOUT)
        shape = (own.randrange(5), layer.num_features, own.randrange(1, 9), own.randrange(1, 9))
        x = torch.randn(shape, requires_grad=True)
        try:
            layer(x * 1).sum().backward()
        except RuntimeError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(TOLD)


@pytest.mark.parametrize("how, seed", [("killed", 1), ("killed", 2), ("absent", 3)])
def test_the_others_end_with_a_message(tmp_path, how, seed):
    victim = random.Random(seed).randrange(WORLD)
    outputs = [open(tmp_path / f"{rank}.txt", "w+") for rank in range(WORLD)]  # noqa: SIM115
    arguments = [sys.executable, __file__, str(tmp_path), str(seed), how]
    running = [subprocess.Popen([*arguments, str(r)], stdout=outputs[r], stderr=outputs[r]) for r in range(WORLD)]
    try:
        for rank in range(WORLD):
            if rank != victim:
                status = running[rank].wait(timeout=6 * TIMEOUT)
                text = (tmp_path / f"{rank}.txt").read_text()
                assert status == TOLD, text
                assert re.search(rf"abn.*rank {rank} of the group of {WORLD} could not exchange", text, re.I), text
    finally:
        for one in running:
            one.kill()
            one.wait()
        for output in outputs:
            output.close()


if __name__ == "__main__":
    process(int(sys.argv[4]), sys.argv[1], int(sys.argv[2]), sys.argv[3])
