"""python -m distgan.data index, verify and stats as processes: exit codes, and what goes to stdout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shards import encode, flip_bit, member_offsets, noise, sample_members, write_set, write_tar


def run(*arguments: object, directory: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "distgan.data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, cwd=directory)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_set(tmp_path / "shards", [3, 5, 2])
    return (tmp_path / "shards").resolve()


def test_the_life_of_a_set(directory: Path) -> None:
    """Indexed, whole, damaged without a trace in the file's time, indexed again, trained without the damaged sample."""
    path = directory / "0001.tar"
    never = run("verify", directory)
    assert (never.returncode, never.stdout) == (2, "")
    assert never.stderr.startswith("distgan.data: error: ")
    assert (run("index", directory).returncode, run("verify", directory, "--decode").returncode) == (0, 0)

    before = path.stat()
    flip_bit(path, member_offsets(path)["000004.png"][1] + 40)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run("index", directory).returncode == 0, "nothing tells it"
    damaged = run("verify", directory, "--jobs", 2)
    assert (damaged.returncode, damaged.stdout) == (1, f"{path}\t000004\tbytes differ\n")
    assert "Traceback" not in damaged.stderr

    path.touch()
    assert run("verify", directory).stdout == damaged.stdout, "nor does verify index it anew"
    anew = run("index", directory)
    assert anew.returncode == 1
    assert anew.stdout == f"{path}\t000004\tholds '000004.png', which is not a readable image; pack it again\n"
    skipping = ("--on-error", "skip", "--max-skipped-share")
    assert [run("index", directory, *skipping, share).returncode for share in ("0.05", "0.1")] == [1, 0]
    assert run("verify", directory).returncode == 0
    assert "samples   9 in 3 shards" in run("stats", directory).stdout


def test_damages_are_listed_from_processes(tmp_path: Path) -> None:
    """More bytes than are read in one process."""
    large = encode(noise(0, 2600, 2600, 3), "bmp")
    for shard in range(4):
        write_tar(
            tmp_path / f"{shard}.tar",
            [*sample_members([shard]), ("large.bmp", large), ("large.cls", b"1"), ("bad.png", b"no image"), ("bad.cls", b"1")],
        )
    assert sum(path.stat().st_size for path in tmp_path.glob("*.tar")) > 1 << 26
    indexed = run("index", tmp_path)
    assert indexed.returncode == 1
    assert [line.split("\t")[:2] for line in indexed.stdout.splitlines()] == [[f"{tmp_path}/{shard}.tar", "bad"] for shard in range(4)]
    for shard in (1, 3):
        flip_bit(tmp_path / f"{shard}.tar", member_offsets(tmp_path / f"{shard}.tar")["large.bmp"][1] + 10_000_000)
    damaged = run("verify", tmp_path)
    assert (damaged.returncode, damaged.stdout) == (1, "".join(f"{tmp_path}/{shard}.tar\tlarge\tbytes differ\n" for shard in (1, 3)))


def test_the_embedded_digits(tmp_path: Path) -> None:
    found = run("stats", "digits", "--out", "looks", directory=tmp_path)
    assert found.returncode == 0, found.stderr
    values = json.loads((tmp_path / "looks" / "stats.json").read_text())
    from sklearn.datasets import load_digits

    labels = load_digits(return_X_y=True)[1].tolist()
    assert [(one["label"], one["num_samples"]) for one in values["classes"]] == [(label, labels.count(label)) for label in range(10)]
    assert (values["num_samples"], values["num_shards"], values["pixels"]["num_images"]) == (1797, 8, 1797)
    assert (tmp_path / "looks" / "contact-sheet.png").stat().st_size > 1000
    assert run("index", "digits").returncode == run("verify", "digits").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["look", "digits"],
        ["index"],
        ["index", "digits", "--on-error", "ignore"],
        ["index", "digits", "--max-skipped-share", "much"],
        ["index", "/nowhere"],
        ["index", "s3://bucket/a.tar"],
        ["verify", "digits", "--jobs", "0"],
        ["verify", "/nowhere/{0..3}.tar"],
        ["stats", "digits", "--max-samples", "none"],
    ],
    ids=" ".join,
)
def test_bad_usage(arguments: list[str]) -> None:
    refused = run(*arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Traceback" not in refused.stderr
    assert "distgan.data" in refused.stderr


def test_no_torch_is_imported_where_none_is_needed(directory: Path) -> None:
    code = "import sys; from distgan.data.__main__ import main\nfor name in ('index', 'verify', 'stats'): main([name, sys.argv[1]])\n"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(directory)], capture_output=True, check=False).returncode == 0
