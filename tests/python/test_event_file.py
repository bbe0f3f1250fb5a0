"""TensorBoard reads what iabn/io/tensorboard.h writes. The program event_file_sample is part of the C++ build."""

import itertools
import os
import subprocess

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def run(built_program, tmp_path):
    """TensorBoard's view of the folder that event_file_sample has written, and the picture."""
    program = built_program("event_file_sample")
    if "IABN_BIN" not in os.environ:
        pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator

    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    logs = tmp_path / "logs"
    subprocess.run([program, logs, tmp_path / "picture.png"], check=True)
    assert len(list(logs.iterdir())) == 2
    accumulator = event_accumulator.EventAccumulator(str(logs), size_guidance=dict.fromkeys(KINDS, 0))
    accumulator.Reload()
    return accumulator


KINDS = ["scalars", "tensors", "histograms", "images"]


def test_scalars_come_back_and_a_resumed_run_replaces_what_it_repeats(run):
    assert sorted(run.Tags()["scalars"]) == ["train/loss", "val/top1"]
    loss = run.Scalars("train/loss")
    assert [event.step for event in loss] == [0, 1, 2, 3, 4]
    assert [event.wall_time for event in loss] == [1000, 1001, 1002, 1003, 2001]
    assert [event.value for event in loss] == [np.float32(1 / (step + 1)) for step in range(4)] + [10]
    (top1,) = run.Scalars("val/top1")
    assert (top1.step, top1.value) == (1 << 40, 99.5)


def test_histograms_come_back_with_every_value_counted(run):
    (event,) = run.Histograms("weights")
    histogram = event.histogram_value
    values = (np.arange(1000, dtype=np.float32) - 300) / np.float32(100)
    assert (event.step, histogram.num) == (2, 1000)
    assert (histogram.min, histogram.max) == (values.min(), values.max())
    assert histogram.sum == pytest.approx(values.astype(np.float64).sum())
    assert histogram.sum_squares == pytest.approx((values.astype(np.float64) ** 2).sum())
    assert histogram.bucket_limit[-1] == np.finfo(np.float64).max
    wide = values.astype(np.float64)
    bounds = itertools.pairwise([-np.inf, *histogram.bucket_limit])
    assert histogram.bucket == [np.count_nonzero((wide >= low) & (wide < high)) for low, high in bounds]
    (event,) = run.Histograms("counts")
    assert event.histogram_value.bucket == [1, 1, 2]
    assert event.histogram_value.bucket_limit == [1, 2, 4]


def test_an_image_comes_back_with_its_size(run, tmp_path):
    (event,) = run.Images("picture")
    assert (event.step, event.height, event.width) == (3, 5, 7)
    assert event.encoded_image_string == (tmp_path / "picture.png").read_bytes()
