"""The examples run as they are."""

from pathlib import Path

import pytest
from installations import run_python

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"


def run(*arguments, cwd):
    process = run_python(*arguments, cwd=cwd)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_ten_steps_bring_the_loss_down(tmp_path):
    assert run(EXAMPLES / "layer.py", cwd=tmp_path).count("loss") == 10


def test_a_converted_resnet_trains_with_less_memory(tmp_path):
    pytest.importorskip("torchvision")
    text = run(EXAMPLES / "convert_resnet.py", "--size", "64", "--batch", "4", cwd=tmp_path)
    assert text.count("loss") == 10
    standard, in_place = (
        float(word) for word in text.split("peak of a step: standard ")[1].split() if word[0].isdigit()
    )
    assert in_place < standard
