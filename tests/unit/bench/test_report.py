"""The JSON comes back as it was, the tables say everything, the goals are judged by the figures."""

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from distgan.bench import goals, ops
from distgan.bench.machine import Machine
from distgan.bench.networks import BIGGAN, HUNDRED, LARGE, MEDIUM, SNGAN, TINY
from distgan.bench.ops import penalty_phase, spectral_norm
from distgan.bench.report import NotRun, Report, RowResult, Timing
from distgan.errors import InputError


def _timing(contestant: str, median_ms: float, **figures) -> Timing:
    values = {
        "quartiles_ms": (median_ms, median_ms * 1.5),
        "num_samples": 5,
        "calls_per_sample": 2,
        "first_call_seconds": 0.5,
        "times_baseline": 8 / median_ms,
        "bytes_moved": 3_000_000,
        "gigabytes_per_second": 12.3456,
        "share_of_copy": 0.9,
        "difference": 1e-7,
        "launches": None,
    }
    return Timing(contestant=contestant, median_ms=median_ms, **(values | figures))


def _row(group: str, subject: str, *timings: Timing, not_run: list[NotRun] | None = None) -> RowResult:
    return RowResult(group=group, subject=subject, baseline="eager", timings=list(timings), not_run=not_run or [])


def _report(*rows: RowResult, device: str = "cpu") -> Report:
    machine = Machine.find()
    return Report(benchmark="ops", date="2026-01-02T03:04:05+00:00", device=device, machine=machine, seconds_per_row=2.0, rows=list(rows))


REPORT = _report(
    _row(
        spectral_norm.FORWARD,
        str(TINY),
        _timing("eager", 8.0, difference=None),
        _timing("distgan", 0.9),
        _timing("compile", 2.7),
        not_run=[NotRun(contestant="CUDA graph", reason="needs a GPU")],
    ),
    _row(spectral_norm.FORWARD, str(MEDIUM), _timing("eager", 8.0), _timing("distgan", 4.0)),
    _row(penalty_phase.PHASE, "LeakyReLU", _timing("stock", 8.0), _timing("distgan", 8.0, bytes_moved=None, difference=1e-11)),
)


def test_the_json_holds_everything(tmp_path: Path) -> None:
    REPORT.write(tmp_path / "bench.json")
    text = (tmp_path / "bench.json").read_text()
    assert Report.model_validate_json(text) == REPORT
    with pytest.raises(ValidationError, match="extra"):
        Report.model_validate_json(text.replace('"benchmark"', '"other": 1, "benchmark"', 1))


def test_a_result_that_is_not_a_number_stays_one_and_reaches_no_goal() -> None:
    report = _report(_row(penalty_phase.PHASE, "ReLU", _timing("stock", 8.0), _timing("distgan", 4.0, difference=math.nan)))
    (row,) = Report.model_validate_json(report.model_dump_json()).rows
    difference = row.timings[1].difference
    assert difference is not None
    assert math.isnan(difference)
    assert "nan" in report.tables()
    assert "missed   penalty phase: ReLU: nan" in goals.summary(report)


def test_a_path_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--out is .*missing.*No such file or directory"):
        REPORT.write(tmp_path / "missing" / "bench.json")


def test_a_table_for_each_group_fits_the_screen_and_drops_nothing() -> None:
    tables = REPORT.tables().split("\n\n")
    assert [table.splitlines()[0] for table in tables] == [spectral_norm.FORWARD, penalty_phase.PHASE]
    assert max(len(line) for table in tables for line in table.splitlines()) <= 120
    assert max(len(line) for line in REPORT.head().splitlines()) <= 140
    (line,) = [line for line in tables[0].splitlines() if "distgan" in line and "0.900" in line]
    assert line.split() == ["distgan", "0.900", "0.900", "to", "1.35", "8.89", "12.3", "90", "1e-07"]
    assert "CUDA graph  not run: needs a GPU" in tables[0]
    assert "eager*" in tables[0]


def test_launches_have_a_column_on_a_gpu_only() -> None:
    row = _row(spectral_norm.FORWARD, str(TINY), _timing("eager", 8.0, launches=451))
    assert "launches" not in _report(row).tables()
    assert "451" in _report(row, device="cuda").tables()


def test_goals_are_reached_missed_or_not_measured() -> None:
    lines = goals.summary(REPORT).splitlines()
    assert lines[1:] == [
        f"reached  spectral_norm forward: {TINY}: 8.89, goal at least 8 x eager",
        f"missed   spectral_norm forward: {MEDIUM}: 2, goal at least 2.5 x eager",
        f"reached  spectral_norm forward: {TINY}: 3, goal at least 2 x compile",
        f"-        spectral_norm forward: {MEDIUM}: not measured, goal at least 2 x compile",
        "missed   penalty phase: LeakyReLU: 1, goal at least 1.4 x stock",
        "missed   penalty phase: LeakyReLU: 1e-11, goal at most 1e-12 from stock in float64",
        "reached  never slower than the baseline: on 3 of 3 rows (a ratio above 0.95 is a tie)",
    ]


def test_goals_of_a_gpu() -> None:
    ours = _timing("distgan", 0.016, launches=2)
    large = _row(spectral_norm.FORWARD, str(BIGGAN), _timing("distgan", 1.0, share_of_copy=0.86))
    report = _report(_row(spectral_norm.FORWARD, str(SNGAN), _timing("eager", 8.0), ours), large, device="cuda")
    assert goals.summary(report).splitlines()[1:4] == [
        f"reached  spectral_norm forward: {BIGGAN}: 86, goal at least 85 % of copy",
        f"reached  spectral_norm forward: {SNGAN}: 2, goal at most 2 launches",
        f"missed   spectral_norm forward: {SNGAN}: 16, goal at most 15 us",
    ]


def test_a_row_on_which_we_are_slower_is_named() -> None:
    report = _report(_row("ema_update", "small", _timing("eager", 8.0), _timing("distgan", 10.0)))
    assert "missed   never slower than the baseline: on 0 of 1 rows" in goals.summary(report)
    assert "slower: ema_update: small (0.80 x)" in goals.summary(report)


def test_every_goal_is_about_a_row_there_is() -> None:
    rows = list(ops.rows(torch.device("cpu")))
    for goal in (goal for of_device in goals.GOALS.values() for goal in of_device):
        assert any(row.group == goal.group and row.subject.startswith(goal.subject) for row in rows), goal


@pytest.mark.parametrize(
    ("network", "layers", "megabytes"),
    [(TINY, 41, 1.5), (SNGAN, 11, 4.2), (MEDIUM, 19, 10.6), (LARGE, 9, 63), (HUNDRED, 100, 236)],
)
def test_networks_have_the_size_they_are_named_for(network, layers: int, megabytes: float) -> None:
    assert len(network.shapes) == layers
    assert network.num_bytes / 1e6 == pytest.approx(megabytes, rel=0.05)


def test_biggan_has_as_many_weights_as_the_published_one() -> None:
    # The 128-pixel discriminator of the authors' code has 87,982,370 parameters; this one has a block of 768 channels more.
    biases = sum(shape[0] for shape in BIGGAN.shapes[:-1]) - (24 + 24 + 96 + 192) + 1
    block = 2 * 768 * 768 * 9 + 768 * 768 + 3 * 768
    weights = BIGGAN.num_bytes // 4
    assert weights + biases - block == pytest.approx(87_982_370, rel=1e-3)


def test_the_machine_knows_itself() -> None:
    machine = Machine.find()
    assert machine.torch == torch.__version__
    assert machine.threads == torch.get_num_threads()
    assert machine.cores >= 1
