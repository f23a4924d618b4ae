"""What two ranks exchange in an iteration and a log line, counted while the real trainer runs, and how long this machine takes to exchange
bytes."""

import contextlib
import dataclasses
import io
import math
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from distgan.batch import Batch
from distgan.bench.engines.contestants import trainer_under
from distgan.bench.engines.report import BASELINE
from distgan.bench.ranks import meet
from distgan.bench.scaling.report import AllReduce, Network
from distgan.bench.scaling.timing import period_of
from distgan.distributed import World
from distgan.metrics.traffic import Span, Traffic
from distgan.phases import Statistics
from distgan.trainer import Trainer

NETWORKS: tuple[Network, ...] = ("discriminator", "generator")
SIZES = [4 * 2**power for power in range(0, 25, 3)]  # bytes: 4 to 67 million
_ROUNDS = {"all_reduce": 2}  # on a ring; 1 of what only gathers or only gives
_SAMPLES = 15
_LOG_LINES = 5


@dataclass(frozen=True)
class Exchanged:
    """Of one network in a step of it: sizes in bytes of the tensors."""

    bucket_bytes: list[float]
    small_exchanges: int
    small_bytes: float


@dataclass(frozen=True)
class Counted:
    """What was counted on two ranks."""

    networks: dict[Network, Exchanged]
    vote_rounds: float
    log_line_rounds: float
    log_line_seconds: float


class _KeptTraffic(Traffic):
    """Keeps also what the trainer's own log lines have flushed."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Span] = []

    def flush(self) -> list[Span]:
        spans = super().flush()
        self._kept += spans
        return spans

    def take(self) -> list[Span]:
        """Everything since it was last taken, by its begin."""
        self.flush()
        kept, self._kept = self._kept, []
        return sorted(kept, key=lambda span: span.begin)


def measure(world: World, settings: dict[str, Any], directory: Path, counting: bool) -> tuple[Counted | None, list[AllReduce]]:
    """Both, or the second alone. Collective."""
    return count(world, settings, directory) if counting else None, all_reduces(world)


def count(world: World, settings: dict[str, Any], directory: Path) -> Counted:
    """What is exchanged, by the functions of torch.distributed. Collective."""
    tqdm.set_lock(threading.RLock())  # the one it makes for itself is a semaphore of the system, which nobody would take away
    traffic = _KeptTraffic()
    with traffic.counting(), trainer_under(BASELINE, settings, world, directory, traffic) as trainer:
        for _ in range(2):  # DDP orders its buckets anew after the first
            trainer.iterate()
        vote_rounds, log_line_rounds = _of_loop(world, trainer, traffic)
        log_line_seconds = _log_line_seconds(world, trainer)
        networks = _of_steps(world, trainer, traffic)
    return Counted(networks, vote_rounds, log_line_rounds, log_line_seconds)


def _of_loop(world: World, trainer: Trainer, traffic: _KeptTraffic) -> tuple[float, float]:
    """Exchanges beside the networks' own, in rounds on a ring: of an iteration, and of a log line; by runs that differ in just that."""
    state = trainer.state

    def rounds(iterations: int, log_every_images: float) -> int:
        trainer.schedule = dataclasses.replace(
            trainer.schedule,
            total_images=state.num_images + iterations * state.images_per_iteration,
            log_every_images=log_every_images,
            samples_every_images=math.inf,
            checkpoint_every_images=math.inf,
        )
        traffic.take()
        with contextlib.redirect_stderr(io.StringIO()):  # a run's lines for people
            trainer.fit(lambda: False)
        return sum(_ROUNDS.get(span.operation, 1) for span in _spans(world, traffic) if span.phase not in NETWORKS)

    ending = rounds(1, math.inf)  # and one iteration
    of_vote = (rounds(5, math.inf) - ending) / 4
    # A line after every other iteration, but not after the last one, where the run's end would find nothing to add.
    iterations = 5 - state.iteration % 2
    logged = rounds(iterations, 2 * state.images_per_iteration)
    return of_vote, (logged - ending - of_vote * (iterations - 1)) / 2


def _log_line_seconds(world: World, trainer: Trainer) -> float:
    """What the loop does at a log line: compare the networks, average the statistics, tell of damaged samples."""
    seconds = []
    for _ in range(_LOG_LINES):
        trainer.iterate()
        meet(world)
        begin = time.perf_counter()
        networks = (trainer.discriminator_phase.network, trainer.generator_phase.network)
        tensors = {f"{number}: {key}": value for number, network in enumerate(networks) for key, value in network.state_dict().items()}
        world.disagreements(tensors)
        with contextlib.redirect_stderr(io.StringIO()):
            trainer.reporter.interval()
        trainer.skips.exchange(trainer.feed.reader.take_skips())
        meet(world)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _of_steps(world: World, trainer: Trainer, traffic: _KeptTraffic) -> dict[Network, Exchanged]:
    """What goes on in a step beside the gradient's exchange: all that does in one in which the ranks are kept from exchanging that.

    After it the ranks hold different networks.
    """
    period = period_of(trainer)
    with_gradient = _of_iterations(world, trainer, traffic, period)
    for engine in (trainer.discriminator_engine, trainer.generator_engine):
        backward = engine.backward

        def alone(part: str, batch: Batch, *, last: bool, backward: Any = backward) -> Statistics:
            return backward(part, batch, last=False)

        engine.backward = alone
    without = _of_iterations(world, trainer, traffic, period)
    steps = {"discriminator": period * trainer.state.discriminator_steps, "generator": period}
    return {network: _exchanged(with_gradient[network], without[network], steps[network], world.size) for network in NETWORKS}


def _of_iterations(world: World, trainer: Trainer, traffic: _KeptTraffic, number: int) -> dict[Network, list[Span]]:
    traffic.take()
    for _ in range(number):
        trainer.iterate()
    spans = _spans(world, traffic)
    return {network: [span for span in spans if span.phase == network] for network in NETWORKS}


def _spans(world: World, traffic: _KeptTraffic) -> list[Span]:
    """All that have ended when every rank has done with what it does now; what the meeting itself exchanges is not counted."""
    meet(world)
    time.sleep(0.05)  # a handle's callback runs in a thread of its own
    return traffic.take()


def _exchanged(spans: Sequence[Span], small: Sequence[Span], steps: int, num_ranks: int) -> Exchanged:
    """`spans` of so many steps, `small` of as many without the gradient's exchange."""
    per_byte = 2 * (num_ranks - 1) / num_ranks  # all of them are all-reduces
    assert len(spans) % steps == len(small) % steps == 0, "each step exchanges alike"
    of_step, small_of_step = spans[: len(spans) // steps], small[: len(small) // steps]
    left = Counter(span.sent_bytes for span in small_of_step)
    buckets = []
    for span in of_step:
        if left[span.sent_bytes] > 0:
            left[span.sent_bytes] -= 1
        else:
            buckets.append(span.sent_bytes / per_byte)
    small_bytes = sum(span.sent_bytes for span in small_of_step) / per_byte
    return Exchanged(buckets, len(small_of_step), small_bytes / len(small_of_step) if small else 0.0)


def all_reduces(world: World) -> list[AllReduce]:
    """How long they take here, by size, of tensors on this rank's device and on the CPU. Collective."""
    found = []
    for device in dict.fromkeys(("cpu", world.device.type)):
        where = world.device if device == world.device.type else torch.device("cpu")
        tensors = {size: torch.zeros(size // 4, device=where) for size in SIZES}
        samples: dict[int, list[float]] = {size: [] for size in SIZES}
        for number in range(_SAMPLES + 1):
            for size, tensor in tensors.items():
                meet(world)
                begin = time.perf_counter()
                dist.all_reduce(tensor)
                if device == "cuda":
                    torch.cuda.synchronize()
                if number > 0:  # the first one makes connections
                    samples[size].append(time.perf_counter() - begin)
        found += [
            AllReduce(ranks=world.size, device=device, bytes=size, seconds=statistics.median(of_size)) for size, of_size in samples.items()
        ]
    return found
