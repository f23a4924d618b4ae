"""What a rank measures of itself on a GPU: time as the device has it, operations, memory; and that nothing waits between intervals."""

import time
from pathlib import Path

import pytest
import torch

from distgan.bench.ranks import run_ranks
from distgan.data.reading.samples import ReadStatistics
from distgan.distributed import World
from distgan.metrics.prometheus import Exporter
from distgan.metrics.reporter import Reporter
from distgan.metrics.stopwatch import Stopwatch
from distgan.metrics.traffic import Traffic
from distgan.state import TrainState
from tests.training import settings, trainer_of
from tests.unit.test_flops import FORWARDS, needed, sections

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

DEVICE = torch.device("cuda", 0)
CYCLES = 300_000_000  # 0.15 to 0.3 s


def test_a_phase_is_as_long_as_the_device_works() -> None:
    stopwatch = Stopwatch(DEVICE)
    torch.cuda._sleep(1000)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    with stopwatch.during("generator"):
        torch.cuda._sleep(CYCLES)
    told = time.perf_counter() - begin
    torch.cuda.synchronize()
    worked = time.perf_counter() - begin
    time.sleep(worked)  # the device has nothing to do
    with stopwatch.during("average"):
        pass
    assert told < worked / 2, "nobody waited for it"
    assert stopwatch.flush() == {"generator": pytest.approx(worked, rel=0.05), "average": pytest.approx(0, abs=0.05 * worked)}


def test_nothing_waits_for_the_device_between_intervals(tmp_path: Path) -> None:
    exporter, state = Exporter(restarts=0), TrainState(batch_size=8, discriminator_steps=1)
    reporter = Reporter(World(0, 1, 0, DEVICE), exporter, tmp_path / "log.jsonl", state, 1000, Traffic(), 1e15)
    factor, loss = torch.ones(64, 64, device=DEVICE), torch.ones((), device=DEVICE)
    factor @ factor  # what is made at first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            with reporter.iterating(), reporter.phase("generator"), reporter.call("product"):
                factor @ factor
            reporter.add({"generator_loss": loss})
            state.iteration += 1
            reporter.iteration(0.1, ReadStatistics())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    reporter.interval()
    value = exporter.registry.get_sample_value
    assert value("distgan_generator_loss") == 1
    assert value("distgan_model_flops_total") == 2 * 2 * 64**3
    assert 0 < (value("distgan_mfu_ratio") or 0) < 1
    for kind, held in (
        ("device_allocated", torch.cuda.memory_allocated(DEVICE)),
        ("device_reserved", torch.cuda.memory_reserved(DEVICE)),
        ("device_peak", torch.cuda.max_memory_allocated(DEVICE)),
    ):
        assert value("distgan_memory_bytes", {"kind": kind}) == held


def _total(world: World, directory: Path, model: str) -> int:
    assert world.device.type == "cuda"
    with trainer_of(settings(directory / model, **sections(model)), world) as trainer:
        trainer.iterate()
        return trainer.reporter._flops.total


@pytest.mark.parametrize("model", FORWARDS)
def test_operations_are_those_of_the_layers(model: str, tmp_path: Path) -> None:
    """The backward runs in a thread of its own there."""
    (total,) = run_ranks(1, _total, tmp_path, model)
    assert total == sum(needed(model).values())
