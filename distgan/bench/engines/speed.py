"""Time and traffic of an iteration, engine beside engine."""

import math
import random
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distgan.bench.engines.contestants import ENGINES, trainer_under
from distgan.bench.engines.report import BASELINE, Exchange, Network, Overlap, Speed
from distgan.bench.gradients import gradient_moments
from distgan.bench.measure import MIN_ROUNDS
from distgan.bench.ranks import meet
from distgan.distributed import World
from distgan.engine.base import Engine
from distgan.metrics.traffic import Traffic, totals
from distgan.phases import Phase
from distgan.trainer import Trainer

Results = tuple[list[Speed], list[Exchange], list[Overlap]]


def measure(world: World, settings: dict[str, Any], directory: Path, seconds: float) -> Results:
    """All engines on this world's ranks, for `seconds` altogether at least. Collective, `bench.ranks.run_ranks` calls it."""
    traffic = Traffic()
    with ExitStack() as stack:
        stack.enter_context(traffic.counting())
        trainers = {name: stack.enter_context(trainer_under(name, settings, world, directory, traffic)) for name in ENGINES}
        speeds = _speeds(world, trainers, seconds)
        if world.size == 1:
            return speeds, [], []
        exchanges = [one for name, trainer in trainers.items() for one in _exchanges(world, name, trainer, traffic)]
        exchanges.sort(key=lambda one: _NETWORKS.index(one.network))
        return speeds, exchanges, [_overlap(world, BASELINE, trainers[BASELINE], network, traffic) for network in _NETWORKS]


_NETWORKS: tuple[Network, ...] = ("discriminator", "generator")


def _iterations(trainer: Trainer) -> int:
    """As many as there is one lazy penalty in."""
    penalty = trainer.discriminator_phase.gradient_penalty
    return 1 if penalty is None else penalty.every


def _seconds(world: World, trainer: Trainer) -> float:
    """Of one iteration, from when all ranks are there to when all have done with it, on average over `_iterations`."""
    meet(world)
    begin = time.perf_counter()
    for _ in range(_iterations(trainer)):
        trainer.iterate()
    meet(world)
    return (time.perf_counter() - begin) / _iterations(trainer)


def _speeds(world: World, trainers: dict[str, Trainer], seconds: float) -> list[Speed]:
    for trainer in trainers.values():
        _seconds(world, trainer)  # what is made at first use
    spent = sum(_seconds(world, trainer) * _iterations(trainer) for trainer in trainers.values())
    rounds = world.broadcast_integer(max(MIN_ROUNDS, math.ceil(seconds / spent)))
    samples: dict[str, list[float]] = {name: [] for name in trainers}
    order, shuffle = list(trainers), random.Random(0).shuffle  # noqa: S311 - an order of measuring, the same on every rank
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            samples[name].append(_seconds(world, trainers[name]))
    medians = {name: statistics.median(of_one) for name, of_one in samples.items()}
    found = []
    for name, of_one in samples.items():
        lower, _, upper = statistics.quantiles(of_one, n=4, method="inclusive")
        found.append(
            Speed(
                ranks=world.size,
                engine=name,
                median_ms=1000 * medians[name],
                quartiles_ms=(1000 * lower, 1000 * upper),
                num_samples=rounds,
                images_per_second=trainers[name].state.images_per_iteration / medians[name],
                times_ddp=medians[BASELINE] / medians[name],
                times_one_rank=None,
            )
        )
    return found


def _exchanges(world: World, engine: str, trainer: Trainer, traffic: Traffic) -> list[Exchange]:
    traffic.flush()
    _seconds(world, trainer)
    sent, number = totals(traffic.flush()), _iterations(trainer)
    steps = {"discriminator": trainer.state.discriminator_steps, "generator": 1}
    return [
        Exchange(
            ranks=world.size,
            engine=engine,
            network=network,
            megabytes=sent[network].sent_bytes / number / 1e6,
            least_megabytes=steps[network] * 2 * (world.size - 1) / world.size * 4 * _num_parameters(trainer, network) / 1e6,
            milliseconds=1000 * sent[network].seconds / number,
        )
        for network in _NETWORKS
    ]


def _trained(trainer: Trainer, network: Network) -> tuple[Phase, Engine]:
    if network == "discriminator":
        return trainer.discriminator_phase, trainer.discriminator_engine
    return trainer.generator_phase, trainer.generator_engine


def _num_parameters(trainer: Trainer, network: Network) -> int:
    phase, engine = _trained(trainer, network)
    with engine.whole():
        return sum(parameter.numel() for parameter in phase.network.parameters())


def _overlap(world: World, name: str, trainer: Trainer, network: Network, traffic: Traffic) -> Overlap:
    """Of the last backward of a step, in which the ranks meet: when its gradients were there and when they were exchanged."""
    phase, engine = _trained(trainer, network)
    with gradient_moments(phase, engine) as moments:
        meet(world)
        traffic.flush()
        trainer.iterate()
        meet(world)
    gradients = [one.seconds() for one in moments]
    first = min(gradients)
    # What is exchanged before is of batch norms in the forward; within, theirs are but a few bytes.
    spans = [span for span in traffic.flush() if span.phase == network and span.begin >= first]
    largest = max(span.sent_bytes for span in spans)
    spans = [span for span in spans if span.sent_bytes > largest / 100]
    return Overlap(
        ranks=world.size,
        engine=name,
        network=network,
        last_gradient_ms=1000 * (max(gradients) - first),
        exchanges=[(span.sent_bytes / 1e6, 1000 * (span.begin - first), 1000 * (span.end - first)) for span in spans],
    )
