"""The report of the engines' benchmark: what it adds up, and what it prints."""

from pathlib import Path

import pytest

from distgan.bench.engines.memory import _expected_bytes
from distgan.bench.engines.report import EnginesReport, Exchange, Memory, Overlap, Speed
from distgan.bench.machine import Machine
from distgan.errors import InputError


def _speed(ranks: int, engine: str, median_ms: float, times_one_rank: float | None) -> Speed:
    return Speed(
        ranks=ranks,
        engine=engine,
        median_ms=median_ms,
        quartiles_ms=(median_ms - 1, median_ms + 1),
        num_samples=5,
        images_per_second=64000 / median_ms,
        times_ddp=100 / median_ms,
        times_one_rank=times_one_rank,
    )


OVERLAP = Overlap(
    ranks=2, engine="ddp", network="generator", last_gradient_ms=30.0, exchanges=[(1.5, 10.0, 20.0), (0.5, 25.0, 35.0), (0.25, 40.0, 60.0)]
)
REPORT = EnginesReport(
    benchmark="engines",
    date="2026-01-02T03:04:05+00:00",
    machine=Machine.find(),
    device="cpu",
    settings={"train.batch_size": 32},
    batch_size=32,
    penalty_every=4,
    seconds=2.0,
    speeds=[_speed(1, "ddp", 100.0, None), _speed(2, "ddp", 80.0, 1.25), _speed(2, "ZeRO 3", 160.0, 0.75)],
    exchanges=[Exchange(ranks=2, engine="ZeRO 1", network="discriminator", megabytes=3.0, least_megabytes=2.0, milliseconds=7.0)],
    overlaps=[OVERLAP],
    memory=[
        Memory(
            ranks=4,
            engine="ZeRO 2",
            parameters=(1000, 2000),
            between_steps=10.4,
            expected_between_steps=9.6,
            before_step=20.0,
            expected_before_step=19.0,
            peak=30.0,
        )
    ],
)


def test_what_overlaps_is_what_was_exchanged_before_the_last_gradient() -> None:
    assert OVERLAP.share == pytest.approx((10 + 5 + 0) / (10 + 10 + 20))


def test_the_json_comes_back_as_it_was(tmp_path: Path) -> None:
    REPORT.write(tmp_path / "report.json")
    assert EnginesReport.model_validate_json((tmp_path / "report.json").read_text()) == REPORT
    with pytest.raises(InputError, match=r"--out is .* which cannot be written"):
        REPORT.write(tmp_path / "no" / "report.json")


def test_the_tables_say_everything() -> None:
    text = f"{REPORT.head()}\n{REPORT.tables()}"
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "settings: train.batch_size 32; global batch 32, a penalty in every 4. step" in lines
    for line in (
        "1 ddp 100.0 99.0 to 101.0 640 1.00 -",
        "2 ZeRO 3 160.0 159.0 to 161.0 400 0.62 0.75",
        "2 discriminator ZeRO 1 3.000 2.000 1.50 7.0",
        "generator's backward under ddp on 2 ranks: 38 % of the exchange while gradients were computed",
        "ZeRO 2 10 10 20 19 30",
        "MB of a rank of 4, discriminator and generator with 1,000 and 2,000 parameters",
    ):
        assert line in lines, text
    (bar,) = [line for line in text.splitlines() if line.startswith("1.500 MB")]
    assert bar.count("#") == 10, "a sixth of 60 characters"
    assert bar.split()[-2:] == ["10.0", "20.0"]


def test_what_a_rank_is_expected_to_hold() -> None:
    """In bytes, for 100 parameters in each network: section 3 of the ZeRO paper without its half precisions, and the average."""
    at_step = {engine: _expected_bytes(engine, 100, 100, 4, True) - 400 for engine in ("ddp", "ZeRO 0", "ZeRO 2", "ZeRO 3")}
    assert at_step == {
        "ddp": 16 * 200,
        "ZeRO 0": 12 * 200 + 4 * 100,
        "ZeRO 2": (4 + (4 + 8) / 4) * 200 + 100,
        "ZeRO 3": (4 + 4 + 4 + 8) / 4 * 200,
    }
    assert _expected_bytes("ZeRO 2", 100, 100, 4, False) - 400 == (4 + 12 / 4) * 200


@pytest.mark.parametrize("name", ["engines-cpu", "engines-cpu-wide"])
def test_the_documented_tables_are_of_the_recorded_figures(name: str) -> None:
    docs = Path(__file__).parents[3] / "docs"
    report = EnginesReport.model_validate_json((docs / "benchmarks" / f"{name}.json").read_text())
    assert f"{report.head()}\n\n{report.tables()}\n```" in (docs / "engines.md").read_text()
