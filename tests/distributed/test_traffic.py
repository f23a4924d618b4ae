"""The count of what ranks exchange, against exchanges whose size and time are known."""

import itertools
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from distgan.distributed import World
from distgan.metrics.traffic import Span, Traffic, totals
from tests.ranks import run_ranks
from tests.training import SMALL_MODELS, settings, trainer_of

PAUSE = 0.3  # seconds by which one rank comes late


def _exchanges(world: World) -> list[Span]:
    size, traffic = world.size, Traffic()
    with traffic.counting():
        with traffic.during("sync"):
            dist.all_reduce(torch.zeros(1000))
            dist.broadcast(tensor=torch.zeros(1000), src=0)
            dist.reduce(torch.zeros(1000), 0)
            dist.all_gather([torch.zeros(1000) for _ in range(size)], torch.zeros(1000))
            dist.all_gather_into_tensor(torch.zeros(1000 * size), torch.zeros(1000))
            dist.reduce_scatter_tensor(torch.zeros(1000), torch.zeros(1000 * size))
        dist.barrier()
        with traffic.during("late"):
            if world.rank == 1:
                time.sleep(PAUSE)
            dist.all_reduce(torch.zeros(1))
        with traffic.during("handle"):
            if world.rank == 1:
                time.sleep(PAUSE)
            work = dist.all_reduce(torch.zeros(10), async_op=True)
        assert work is not None
        work.wait()
        while not traffic._ended:  # its callback runs in a thread of its own
            time.sleep(0.01)
        dist.barrier()
    dist.all_reduce(torch.zeros(1000))  # nobody counts
    return traffic.flush()


@pytest.mark.parametrize("size", [2, 3])
def test_bytes_and_seconds_are_those_of_the_exchanges(size: int) -> None:
    share = 4 * (size - 1) / size
    for rank, spans in enumerate(run_ranks(size, _exchanges)):
        sync = [span for span in spans if span.phase == "sync"]
        assert [span.operation for span in sync] == [
            *("all_reduce", "broadcast", "reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor")
        ]
        expected = [2000, 1000, 1000, 1000 * size, 1000 * size, 1000 * size]
        assert [span.sent_bytes for span in sync] == pytest.approx([share * number for number in expected])
        seconds = {phase: total.seconds for phase, total in totals(spans).items()}
        assert sum(span.phase in ("late", "handle") for span in spans) == 2
        assert rank == 1 or min(seconds["late"], seconds["handle"]) > 0.5 * PAUSE, "the others wait for the late one"


def _steps(world: World, directory: Path) -> dict[tuple[str, int, int, str], tuple[float, int]]:
    """For engine, stage and accumulation: bytes sent for a network's step, and the number of its parameters."""
    found = {}
    for (engine, stage), accumulation in itertools.product((("ddp", 0), ("deepspeed", 0), ("deepspeed", 1)), (1, 2)):
        sections = {
            "model": SMALL_MODELS["mlp"],
            "penalty": {"name": "r1", "every": 1},
            "engine": {"name": engine, "zero_stage": stage, "accumulation_steps": accumulation},
        }
        with trainer_of(settings(directory / f"{engine}{stage}{accumulation}", **sections), world) as trainer:
            trainer.iterate()
            traffic = trainer.reporter._traffic
            traffic.flush()
            trainer.iterate()
            dist.barrier()
            sent = totals(traffic.flush())
        for phase in (trainer.discriminator_phase, trainer.generator_phase):
            network = "discriminator" if phase is trainer.discriminator_phase else "generator"
            parameters = sum(parameter.numel() for parameter in phase.network.parameters())
            found[engine, stage, accumulation, network] = sent[network].sent_bytes, parameters
    return found


@pytest.mark.parametrize("size", [2, 3])
def test_a_step_sends_each_gradient_once(size: int, tmp_path: Path) -> None:
    """Whatever the number of parts and micro-batches: the least that an average can be had for. ZeRO 1 sends new parameters, too."""
    for results in run_ranks(size, _steps, tmp_path):
        for (engine, stage, accumulation, network), (sent_bytes, parameters) in results.items():
            least = 2 * (size - 1) / size * 4 * parameters
            factor = {0: 1.0, 1: 1.5}[stage]
            # ZeRO pads its shards to whole vectors.
            assert sent_bytes == pytest.approx(factor * least, rel=1e-9 if stage == 0 else 0.01), (engine, stage, accumulation, network)
