"""The real benchmark of scaling on a tiny network, and the plan from what it wrote. How fast anything was is nothing to test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distgan.bench.__main__ import main as bench
from distgan.bench.scaling.measured import figures_of
from distgan.bench.scaling.report import ScalingReport
from distgan.build import build_networks
from distgan.cli import validate
from distgan.launch.__main__ import main as launch
from distgan.models.base import ImageShape
from distgan.models.layers import BatchNorm2d
from distgan.planning.figures import NetworkFigures
from distgan.planning.model import checkpoint_bytes

SETTINGS = [
    *("--model.generator_channels", "2", "--model.discriminator_channels", "2"),
    *("--train.batch_size", "8", "--train.discriminator_steps", "2", "--penalty.every", "2", "--data.num_workers", "0"),
]


@pytest.mark.timeout(600)
@pytest.mark.skipif(torch.cuda.is_available(), reason="two ranks would need two GPUs, and what is expected is a CPU's")
def test_one_device_is_measured_and_many_are_planned(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    command = [sys.executable, "-m", "distgan.bench", "scaling", "--seconds", "0.1", "--out", str(out), *SETTINGS]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=580)
    assert result.returncode == 0, result.stderr
    report = ScalingReport.model_validate_json(out.read_text())
    assert report.tables() in result.stdout
    assert [point.batch for point in report.points] == [1, 2, 4, 8]
    assert [(speed.ranks, speed.batch) for speed in report.speeds] == [(1, 8), (2, 8), (2, 16)]
    assert [(check.ranks, check.batch) for check in report.checks] == [(2, 8), (2, 16)]
    assert all(check.predicted_ms > 0 for check in report.checks)

    config = validate(report.settings)
    generator, discriminator = build_networks(config, ImageShape(1, 32), None)
    norms = [module.running_mean for module in generator.modules() if isinstance(module, BatchNorm2d)]
    statistics_bytes = sum(2 * 8 * mean.numel() for mean in norms) / len(norms)  # two numbers a channel, in float64
    for network, module, exchanges in (("discriminator", discriminator, len(norms)), ("generator", generator, 2 * len(norms))):
        (counted,) = [one for one in report.networks if one.network == network]
        assert (counted.small_exchanges, counted.small_bytes) == (exchanges, statistics_bytes)
        assert sum(counted.bucket_bytes) == 4 * counted.parameters == 4 * sum(one.numel() for one in module.parameters())
    # A sum over the ranks of whether one is to stop; the networks' sums, the means of the statistics, the skipped samples.
    assert (report.costs.vote_rounds, report.costs.log_line_rounds) == (2, 1 + 2 + 1)
    assert report.costs.samples == 1797

    figures = figures_of(report)
    assert report.costs.checkpoint_tensor_bytes == checkpoint_bytes(figures.generator, figures.discriminator)
    headers = report.costs.checkpoint_bytes - report.costs.checkpoint_tensor_bytes
    assert 0 < headers < 20_000
    _planned(out, tmp_path / "plan.json", figures.generator)


def _planned(measured: Path, out: Path, generator: NetworkFigures) -> None:
    arguments = ["plan", "--measured", str(measured), "--gpus", "1", "2", "64", "--weak", "--samples", "100000", "--json", str(out)]
    assert launch(arguments) == 0
    written = json.loads(out.read_text())
    assert [one["batch_size"] for one in written["predictions"]] == [8, 16, 512]
    assert written["figures"]["generator"]["num_parameters"] == generator.num_parameters
    assert [one["efficiency"] <= 1 for one in written["predictions"]] == [True] * 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ranks", "2"], "--ranks is 2; give different numbers from 1, and 1 among them."),
        (["--ranks", "1", "1"], "--ranks is 1 1; give different numbers from 1, and 1 among them."),
        (["--seconds", "0"], "--seconds is 0; give more than 0."),
        (["--ranks", "1", "3"], "train.batch_size is 64, which does not divide by 3 ranks"),
        (["--train.batch_size", "1"], "train.batch_size is 1, with which one rank has no two different batches of an image or more;"),
        (["--batches", "0", "4"], "--batches is 0 4, with which one rank has no two different batches of an image or more; give others."),
        (["--engine.name", "deepspeed"], "engine.name is given, but the engine is DDP, from which the plan derives the others; leave it"),
        (["--data.mode", "stream", "--data.resolution", "32"], "data.mode is 'stream', of which nobody knows how large its samples are;"),
        (["--batch", "4"], "batch is not a setting"),
        (["--out", "no/such/folder/scaling.json"], "--out is 'no/such/folder/scaling.json', which cannot be written (No such"),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(["scaling", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"distgan.bench: error: {sentence}")
