"""What each engine exchanges of gradients and parameters in an iteration, in all-reduces of a network's gradient (docs/engines.md)."""

from dataclasses import dataclass

from distgan.planning.collectives import Topology, all_reduce_seconds, sent_bytes_per_node
from distgan.planning.figures import NetworkFigures, Workload


@dataclass(frozen=True)
class Volume:
    """Of one network in an iteration; an all-reduce is a reduce-scatter and an all-gather, so a half is one of them."""

    reduced: float  # in the buckets of a gradient
    gathered: float  # layer by layer

    @property
    def all_reduces(self) -> float:
        return self.reduced + self.gathered


def volumes(workload: Workload) -> tuple[Volume, Volume]:
    """Of the discriminator and of the generator."""
    steps, micro_batches, stage = workload.discriminator_steps, workload.accumulation_steps, workload.zero_stage
    penalties = steps * micro_batches / workload.penalty_every if workload.penalty_every else 0.0  # backwards of an iteration
    losses = steps * micro_batches
    if stage in (None, 0):
        return Volume(steps, 0), Volume(1, 0)
    if stage == 1:  # and the new parameters
        return Volume(1.5 * steps, 0), Volume(1.5, 0)
    if stage == 2:  # after each backward
        return Volume(losses + penalties + 0.5 * steps, 0), Volume(micro_batches + 0.5, 0)
    # Gathered for each of its own backwards, and whole for the other network's phase; the generator also for its average.
    return Volume(0.5 * losses, 0.5 * (losses + penalties + 1)), Volume(0.5 * micro_batches, 0.5 * (micro_batches + steps + 1))


def seconds_of(volume: Volume, network: NetworkFigures, num_gpus: int, topology: Topology) -> float:
    """Of all these exchanges, one after the other."""
    in_buckets = sum(all_reduce_seconds(num_bytes, num_gpus, topology) for num_bytes in network.bucket_bytes)
    layer_bytes = network.gradient_bytes / network.num_tensors
    by_layer = network.num_tensors * all_reduce_seconds(layer_bytes, num_gpus, topology)
    return volume.reduced * in_buckets + volume.gathered * by_layer


def sent_bytes(volume: Volume, network: NetworkFigures, num_gpus: int, topology: Topology) -> float:
    """Of each node to others."""
    return volume.all_reduces * sent_bytes_per_node(network.gradient_bytes, num_gpus, topology)


def exposed_seconds(exchange_seconds: float, hideable_share: float, backward_seconds: float) -> float:
    """What of an exchange is left when the backward that it can hide behind is over.

    A share can be hidden, as long as the backward lasts. With q equal buckets, each of which leaves when its part of the backward is done,
    this is exact for a share of 1 - 1/q.
    """
    return max((1 - hideable_share) * exchange_seconds, exchange_seconds - hideable_share * backward_seconds)
