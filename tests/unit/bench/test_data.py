"""The report of the benchmark of data: what it prints, and that the documentation prints what was recorded."""

import re
from pathlib import Path

import pytest

from distgan.bench.data.report import DataReport, Throughput, Waiting
from distgan.bench.data.sets import image_sets
from distgan.bench.data.speed import _summary
from distgan.bench.machine import Machine

DOCS = Path(__file__).parents[3] / "docs"


def _report(throughputs: list[Throughput], waiting: Waiting | None = None) -> DataReport:
    return DataReport(
        benchmark="data",
        date="2026-01-02T03:04:05+00:00",
        device="cpu",
        machine=Machine.find(),
        webdataset="1.0.2",
        num_workers=2,
        batch_size=64,
        seconds=1.0,
        throughputs=throughputs,
        waiting=waiting,
    )


def test_ratios_are_of_the_medians(tmp_path: Path) -> None:
    images = image_sets(tmp_path)[0]
    rates = {"distgan": [300.0, 310.0, 900.0], "webdataset": [100.0, 1.0, 400.0]}
    found = _summary(images, "here", rates, {"distgan": [1e-6, 2e-6, 9e-6], "webdataset": [5e-6, 4e-6, 6e-6]})
    assert [(one.contestant, one.samples_per_second, one.times_webdataset, one.num_turns) for one in found] == [
        ("distgan", 310.0, 3.1, 3),
        ("webdataset", 100.0, 1.0, 3),
    ]
    assert [one.cpu_microseconds for one in found] == pytest.approx([2.0, 5.0])


def test_a_table_for_each_source(tmp_path: Path) -> None:
    images = image_sets(tmp_path)
    rates, costs = {"webdataset": [10.0, 10.0], "distgan": [25.0, 25.0]}, {"webdataset": [1.0, 1.0], "distgan": [0.5, 0.5]}
    throughputs = [one for source in ("here", "there") for each in images for one in _summary(each, source, rates, costs)]
    text = _report(throughputs, Waiting(ranks=2, images_per_second=640.0, share=0.00123)).tables()
    assert len(re.findall(r"^(here|there)$", text, re.MULTILINE)) == 2
    assert len(re.findall(r"distgan +25 +25 to 25 +2\.50 +500000$", text, re.MULTILINE)) == 6
    assert text.endswith("training with the default recipe on 2 ranks: 640 images/s, 0.12 % of the time waiting for images")


def test_the_documented_tables_are_of_the_recorded_figures() -> None:
    report = DataReport.model_validate_json((DOCS / "benchmarks" / "data-cpu.json").read_text())
    assert f"{report.head()}\n\n{report.tables()}\n```" in (DOCS / "data.md").read_text()
    readme = (DOCS.parent / "README.md").read_text()
    late = "over HTTP, 20 ms late"
    rows = {
        "files": ("local files", "files"),
        "distgan": ("local files", "distgan"),
        f"distgan {late}": (late, "distgan"),
        "the same, a first pass, start included": (f"{late}: a first pass, start included, nothing cached", "distgan"),
    }
    for name, of_row in rows.items():
        times = [f"{one.times_webdataset:.2f}" for one in report.throughputs if (one.source, one.contestant) == of_row]
        assert f"| {' | '.join([name, *times])} |" in readme
    assert report.waiting is not None
    assert f"waits for images in {100 * report.waiting.share:.2f} % of the time" in readme
