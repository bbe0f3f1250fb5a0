"""`iabn predict` as a user meets it: resuming, bad input, a full disk, interrupts, several processes."""

import copy
import os
import resource
import shutil
import signal
import subprocess
import sys

import built
import pytest
from PIL import Image
from prediction_support import SIZES, make_work, make_written, output_name, outputs, png, run
from segmentation_support import save_snapshot, small_config


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return make_work(tmp_path_factory.mktemp("predict"))


@pytest.fixture(scope="module")
def written(work, tmp_path_factory):
    return make_written(work[0], tmp_path_factory.mktemp("modes"))


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


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, resource.RLIM_INFINITY))


def test_pictures_that_the_network_refuses_are_named_and_left_out(work, tmp_path):
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    for name in ("b.png", "d.png"):
        shutil.copy(work[0] / "pictures" / "d.png", pictures / name)
    for name in ("a.png", "c.png"):  # 40000 x 40000 pixels at scale 16: 19 GB
        Image.new("RGB", (2500, 2500)).save(pictures / name)
    arguments = (work[0] / "snapshot.pth.tar", pictures, out, "--scales", 16, "--window", 0)
    errors = run(*arguments, code=3, preexec_fn=limit_memory)
    for name in ("a.png", "c.png"):
        assert f"bad picture, left out: {pictures / name}: 2500 x 2500 pixels need more memory than cpu has" in errors
    assert outputs(out) == ["b.png", "d.png"]


def test_names_that_cannot_be_written_are_bad_pictures(work, tmp_path):
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    (out / "a.png").mkdir(parents=True)
    longest = "x" * 251 + ".png"
    for name in ("a.png", "b.png", longest):
        shutil.copy(work[0] / "pictures" / "d.png", pictures / name)
    arguments = (work[0] / "snapshot.pth.tar", pictures, out, "--scales", 1)
    errors = run(*arguments, code=3)
    assert errors.count("bad picture, left out: ") == 1
    assert f"{pictures}/a.png: cannot write {out}/a.png: is not a regular file but a folder" in errors
    assert outputs(out) == ["a.png", "b.png", longest]
    errors = run(*arguments, "--output-mode", "prob", code=3)
    assert "_prob.png: File name too long" in errors
    assert outputs(out) == ["a.png", "a_prob.png", "b.png", "b_prob.png", longest]


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
