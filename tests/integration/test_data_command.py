"""`python -m distgan.data pack` as processes: every kind of source, deaths, workers, refusals."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distgan import train
from tests.packing import cifar_records, class_files, contents, idx, left_out, samples, write_files, write_mnist
from tests.processes import alive, descendants, until
from tests.shards import noise, write_set

GUARD_SECONDS = 120


def command(*arguments: str | Path | int) -> list[str]:
    return [sys.executable, "-m", "distgan.data", "pack", *map(str, arguments)]


def pack(*arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=GUARD_SECONDS)


def packed(*arguments: str | Path | int) -> str:
    """What a pack that succeeds prints; nothing goes to stderr."""
    done = pack(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


SLOW = """
import sys, time
from distgan.data.__main__ import main
from distgan.data.packing import journal, workers

workers._BATCH_SAMPLES = 4  # for many rounds
note, num_noted = journal.append, 0

def append(*arguments):
    global num_noted
    note(*arguments)
    num_noted += 1
    time.sleep(0.5 if 2 < num_noted < 7 else 0)

journal.append = append
sys.exit(main(sys.argv[1:]))
"""


def slow_command(*arguments: str | Path | int) -> list[str]:
    """The same, but from the third shard on there is time to disturb it."""
    return [sys.executable, "-c", SLOW, "pack", *map(str, arguments)]


def folder(directory: Path) -> Path:
    return write_files(directory / "photos", class_files(3))


def zipped(directory: Path) -> Path:
    return Path(shutil.make_archive(str(directory / "photos"), "zip", directory, folder(directory).name))


def gzipped(directory: Path) -> Path:
    return Path(shutil.make_archive(str(directory / "photos"), "gztar", directory, folder(directory).name))


def mnist(directory: Path) -> Path:
    write_mnist(directory / "mnist", num_train=9)
    return directory / "mnist"


def one_idx_file(directory: Path) -> Path:
    return write_files(directory / "x", {"images-idx3-ubyte": idx(np.zeros((9, 5, 5), np.uint8))}) / "images-idx3-ubyte"


def cifar(directory: Path) -> Path:
    images = np.stack([noise(number, 32, 32, 3) for number in range(9)])
    return write_files(directory / "cifar", {"data_batch_1.bin": cifar_records(images, np.arange(9))})


def npz(directory: Path) -> Path:
    np.savez_compressed(directory / "x.npz", images=np.zeros((9, 6, 6, 3), np.uint8), labels=np.arange(9))
    return directory / "x.npz"


def webdataset(directory: Path) -> Path:
    write_set(directory / "shards", [4, 5])
    return directory / "shards"


@pytest.mark.parametrize("make", [folder, zipped, gzipped, mnist, one_idx_file, cifar, npz, webdataset], ids=lambda make: make.__name__)
def test_every_kind_of_source(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    told = packed(make(tmp_path), tmp_path / "out", "--resolution", 4, "--workers", 1)
    assert f"{tmp_path / 'out'}: 9 samples" in told
    assert f"python -m distgan.train --data.url {tmp_path / 'out'}\n" in told
    assert [sample.pixels.shape[:2] for sample in samples(tmp_path / "out").values()] == [(4, 4)] * 9
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_is_packed_can_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the very command that is told at the end."""
    source = write_files(tmp_path / "photos", class_files(40))
    line = packed(source, tmp_path / "out", "--test-share", "0.34", "--workers", 1).splitlines()[-1].split()
    assert line[:3] == ["python", "-m", "distgan.train"]
    assert train.main([*line[3:], "--model.name", "mlp", "--model.conditional", "--run.dir", str(tmp_path / "run"), "--dry-run"]) == 0
    assert "78 samples" in capsys.readouterr().out


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source of 450 images, some of which cannot be read, and what one process makes of it."""
    directory = tmp_path_factory.mktemp("many")
    source = write_files(directory / "photos", {**class_files(150, side=24), "cat/broken.png": b"x", "dog/half.png": b"\x89PNG"})
    packed(source, directory / "alone", *OPTIONS, "--workers", 1)
    return source, directory / "alone"


OPTIONS = ("--resolution", 32, "--shard-bytes", "60kB")


def test_the_number_of_workers_changes_no_byte(many: tuple[Path, Path], tmp_path: Path) -> None:
    source, alone = many
    told = packed(source, tmp_path / "out", *OPTIONS, "--workers", 3)
    assert contents(tmp_path / "out") == contents(alone)
    assert len(samples(tmp_path / "out")) == 450
    assert "Left out, and listed in" in told
    assert sorted(left_out(tmp_path / "out")) == ["cat/broken.png", "dog/half.png"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_pack_that_is_stopped_goes_on_to_the_same_bytes(many: tuple[Path, Path], tmp_path: Path, number: signal.Signals) -> None:
    source, alone = many
    staging = tmp_path / ".out.packing"
    with open(tmp_path / "stderr", "w") as stderr:
        process = subprocess.Popen(slow_command(source, tmp_path / "out", *OPTIONS, "--workers", 2), stderr=stderr, start_new_session=True)
        try:
            until(lambda: len(list(staging.glob("*.tar"))) >= 3 or process.poll() is not None, "no third shard")
            below = descendants(process.pid)
            if number is signal.SIGINT:
                os.killpg(process.pid, number)  # as a terminal sends it
            else:
                process.send_signal(number)
            process.wait(GUARD_SECONDS)
        finally:
            process.kill()
    assert process.returncode == (-signal.SIGKILL if number is signal.SIGKILL else 75), (tmp_path / "stderr").read_text()
    assert not (tmp_path / "out").exists()
    assert below
    until(lambda: not any(alive(child) for child in below), "somebody is left behind")
    if number is not signal.SIGKILL:
        assert (tmp_path / "stderr").read_text() == "distgan.data: stopped; the same command goes on after the last whole shard.\n"
    noted = [json.loads(line)["name"] for line in (staging / ".packing.jsonl").read_text().splitlines()[1:]]
    kept = {name: (staging / name).stat().st_ino for name in noted}
    assert kept
    (tmp_path / "stderr").unlink()
    packed(source, tmp_path / "out", *OPTIONS)
    assert contents(tmp_path / "out") == contents(alone)
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in kept} == kept
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _kill_workers(pid: int) -> None:
    """Those that have nothing to do at the moment are no loss, and others come in their place: so, all, and again."""
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            if b"popen_loky" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal.SIGKILL)


def test_a_worker_that_is_killed_is_a_sentence(many: tuple[Path, Path], tmp_path: Path) -> None:
    """As the kernel does where memory is short."""
    source, alone = many
    process = subprocess.Popen(slow_command(source, tmp_path / "out", *OPTIONS, "--workers", 2), stderr=subprocess.PIPE, text=True)
    until(lambda: (tmp_path / ".out.packing" / "000002.tar").exists() or process.poll() is not None, "no third shard")
    until(lambda: _kill_workers(process.pid) or process.poll() is not None, "still running")
    _, stderr = process.communicate(timeout=GUARD_SECONDS)
    assert process.returncode == 2
    assert "--workers is 2, but one of these processes was killed" in stderr
    assert "Traceback" not in stderr
    packed(source, tmp_path / "out", *OPTIONS, "--workers", 1)
    assert contents(tmp_path / "out") == contents(alone)


def test_two_processes_with_one_destination(many: tuple[Path, Path], tmp_path: Path) -> None:
    source, alone = many
    first = subprocess.Popen(slow_command(source, tmp_path / "out", *OPTIONS, "--workers", 1), stdout=subprocess.DEVNULL)
    until(lambda: (tmp_path / ".out.packing" / "000002.tar").exists() or first.poll() is not None, "no third shard")
    first.send_signal(signal.SIGSTOP)
    try:
        second = pack(source, tmp_path / "out", *OPTIONS)
    finally:
        first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert "which another process packs right now" in second.stderr
    assert first.wait(GUARD_SECONDS) == 0
    assert contents(tmp_path / "out") == contents(alone)


@pytest.mark.parametrize("arguments", ["nowhere OUT", "digits OUT --resolution 0", "digits OUT --encoding gif", "digits", ""])
def test_refusals_are_sentences_and_exit_code_2(tmp_path: Path, arguments: str) -> None:
    done = pack(*arguments.replace("OUT", str(tmp_path / "out")).split())
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_torch_is_needed_to_pack(tmp_path: Path) -> None:
    """Every worker would spend its seconds and its memory."""
    program = "import sys; from distgan.data.__main__ import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    folder(tmp_path)
    assert (
        subprocess.run(
            [sys.executable, "-c", program, "pack", str(tmp_path / "photos"), str(tmp_path / "out"), "--workers", "1"]
        ).returncode
        == 0
    )


def test_the_help_shows_the_forms_of_labels() -> None:
    done = pack("--help")
    assert done.returncode == 0
    assert json.dumps("name") in done.stdout
    assert "labels.csv" in done.stdout
