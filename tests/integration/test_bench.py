"""The real command: it measures, writes and judges; how fast anything was is nothing to test."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distgan.bench.__main__ import main
from distgan.bench.data.report import DataReport
from distgan.bench.engines import memory
from distgan.bench.engines.report import EnginesReport
from distgan.bench.ranks import run_ranks
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


def test_the_engines_are_measured(tmp_path: Path) -> None:
    """A tiny network on 1 and 2 ranks: every engine has a figure of each kind."""
    out = tmp_path / "engines.json"
    settings = [
        "--model.generator_channels",
        "2",
        "--model.discriminator_channels",
        "2",
        "--train.batch_size",
        "16",
        "--penalty.every",
        "1",
    ]
    command = [sys.executable, "-m", "distgan.bench", "engines", "--seconds", "0.1", "--memory-ranks", "0", "--out", str(out), *settings]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stderr
    report = EnginesReport.model_validate_json(out.read_text())
    engines = ["ddp", "ZeRO 0", "ZeRO 1", "ZeRO 2", "ZeRO 3"]
    assert [(speed.ranks, speed.engine) for speed in report.speeds] == [(ranks, engine) for ranks in (1, 2) for engine in engines]
    factors = {(one.engine, one.network): one.megabytes / one.least_megabytes for one in report.exchanges}
    assert len(factors) == 2 * len(engines)
    assert 1 <= factors["ddp", "generator"] < 1.5, "the gradient, and the statistics of batch norms"
    assert factors["ZeRO 2", "discriminator"] > 2, "the penalty's gradient is exchanged by itself, and new parameters are"
    assert {overlap.network for overlap in report.overlaps} == {"discriminator", "generator"}
    assert report.tables() in result.stdout


def test_the_data_is_measured(tmp_path: Path) -> None:
    """Every contestant gives the set's images with their labels, which the benchmark checks itself."""
    out = tmp_path / "data.json"
    command = [sys.executable, "-m", "distgan.bench", "data", "--seconds", "0.1", "--scale", "0.01", "--ranks", "2", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stderr
    report = DataReport.model_validate_json(out.read_text())
    contestants = ["webdataset", "webdataset, its own decoder", "files", "distgan"]
    assert [(one.images, one.contestant) for one in report.throughputs] == [
        (images, contestant) for images in ("32x32 png", "256x256 jpeg", "32x32 raw") for contestant in contestants
    ]
    assert all(one.samples_per_second > 0 and one.cpu_microseconds > 0 for one in report.throughputs)
    assert report.waiting is not None
    assert 0 < report.waiting.share < 1
    assert report.tables() in result.stdout


def test_bad_data_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--workers", "-1", "--seconds", "0"]) == 2
    assert "--workers is -1; give at least 0." in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="two ranks would need two GPUs, and what is expected is a CPU's")
@pytest.mark.parametrize("engine", ["ddp", "ZeRO 2", "ZeRO 3"])
def test_a_rank_holds_what_its_engine_lets_expect(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "100000")
    found = run_ranks(2, memory.measure, engine, tmp_path)[0]
    assert found.between_steps == pytest.approx(found.expected_between_steps, rel=0.1)
    assert found.before_step == pytest.approx(found.expected_before_step, rel=0.15)
    assert found.peak > found.before_step


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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ranks", "0", "2"], "--ranks is 0 2; give different numbers from 1."),
        (["--seconds", "0", "--threads", "0"], "--threads is 0; give at least 1."),
        (["--ranks", "1", "--train.batch_size", "0"], "train.batch_size is '0'"),
        (["--ranks", "3"], "train.batch_size is 64, which does not divide by 3 ranks"),
        (["--precision.dtype", "fp16"], "precision.dtype is 'fp16', in which DeepSpeed cannot take part; set it to bf16 or fp32."),
        (["--engine.name", "deepspeed"], "engine.name or engine.zero_stage is given, but every engine takes part; leave them out."),
        (["--rank", "2"], "rank is not a setting"),
        (["--memory-ranks", "3"], "--memory-ranks is 3, by which the batch of 8 does not divide; give 0, 1, 2, 4 or 8."),
        (["--out", "no/such/folder/bench.json"], "--out is 'no/such/folder/bench.json', which cannot be written (No such"),
    ],
)
def test_bad_engine_arguments_are_refused_before_anything_starts(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engines", *arguments]) == 2
    assert f"distgan.bench: error: {sentence}" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--device", "cuda"]) == 2
    assert "--device is 'cuda', but torch finds no GPU here; leave it out or give cpu." in capsys.readouterr().err


def test_without_a_benchmark_the_command_says_where_they_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    words = "The command line cannot be read: the following arguments are required: BENCHMARK; see distgan.bench --help."
    assert capsys.readouterr().err == f"distgan.bench: error: {words}\n"
