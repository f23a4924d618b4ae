"""What is exchanged, added up."""

import time

import pytest
import torch

from distgan.metrics.traffic import OTHER, Span, Total, Traffic, totals


def test_time_counts_once_where_exchanges_overlap() -> None:
    spans = [
        Span("discriminator", "all_reduce", 10, begin=0, end=4),
        Span("discriminator", "all_reduce", 20, begin=1, end=3),
        Span("generator", "broadcast", 5, begin=2, end=3),
        Span("discriminator", "all_reduce", 30, begin=3, end=6),
        Span("discriminator", "all_reduce", 40, begin=8, end=9),
    ]
    assert totals(spans) == {"discriminator": Total(100, 7), "generator": Total(5, 1)}


def test_what_is_in_no_phase_is_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    traffic, tensor = Traffic(), torch.empty(0)

    def exchange() -> str:
        now[0] += 2
        return "result"

    assert traffic.count("broadcast", tensor, 3.0, exchange) == "result"
    with traffic.during("generator"):
        traffic.count("broadcast", tensor, 4.0, exchange)
    traffic.count("broadcast", tensor, 5.0, exchange)
    assert [span.phase for span in traffic.flush()] == [OTHER, "generator", OTHER]
    assert traffic.flush() == [], "each is told once"
