"""The real command: it measures, writes and judges; how fast anything was is nothing to test."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distgan.bench.__main__ import main
from distgan.bench.report import Report

QUICK = ["--device", "cpu", "--threads", "1", "--seconds", "0.02"]


def test_the_command_measures_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    arguments = ["ops", *QUICK, "--only", "tiny", "--only", "distgan", "--out", str(out)]
    result = subprocess.run([sys.executable, "-m", "distgan.bench", *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = Report.model_validate_json(out.read_text())
    assert (report.benchmark, report.device, report.machine.threads) == ("ops", "cpu", 1)
    assert [row.group for row in report.rows] == [
        "spectral_norm forward",
        "spectral_norm phase of two forwards",
        "spectral_norm forward + backward",
    ]
    for row in report.rows:
        assert [timing.contestant for timing in row.timings] == ["eager", "distgan", "copy"]
        assert row.not_run == []
        ours = row.timings[1]
        assert ours.difference is not None
        assert ours.difference < 1e-5
        assert f"{row.group}\n" in result.stdout
    assert "Goals, set for two CPU threads:" in result.stdout
    assert "Operators on cpu:" in result.stdout or "operators on cpu:" in result.stdout


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_torch_compile_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--only", "gradient_penalty forward, [64, 1", "--only", "compile", "--out", str(out)]
    assert main(["ops", *QUICK, *arguments]) == 0
    (row,) = Report.model_validate_json(out.read_text()).rows
    compiled = row.timing("compile")
    assert compiled is not None, row.not_run
    assert compiled.difference is not None
    assert compiled.difference < 1e-5
    assert "compile" in capsys.readouterr().out


def test_no_contestant_is_dropped_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", *QUICK, "--only", "spectral_norm forward, 41 tiny", "--only", "graph"]) == 0
    assert "CUDA graph  not run: needs a GPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "no such row"], "--only is 'no such row', which no row contains; give part of a group (spectral_norm forward; "),
        (["--threads", "0"], "--threads is 0; give at least 1."),
        (["--seconds", "-1"], "--seconds is -1; give more than 0."),
        (["--seconds", "nan"], "--seconds is nan; give more than 0."),
        (
            ["--only", "tiny", "--out", "no/such/folder/bench.json"],
            "--out is 'no/such/folder/bench.json', which cannot be written (No such",
        ),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", *QUICK, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"distgan.bench: error: {sentence}")
    assert len(captured.err.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--device", "cuda"]) == 2
    assert "--device is 'cuda', but torch finds no GPU here; leave it out or give cpu." in capsys.readouterr().err


def test_without_a_benchmark_the_command_says_which_there_are() -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
