"""A run on some number of GPUs, predicted. docs/scaling.md derives it, and says where it is wrong."""

from dataclasses import dataclass

from distgan.planning import exchanges, failures
from distgan.planning.collectives import Topology, all_reduce_seconds
from distgan.planning.figures import Figures, Line, NetworkFigures, Workload
from distgan.planning.stragglers import straggling_seconds
from distgan.randomness import BLOCK


@dataclass(frozen=True)
class Cluster:
    """What it would run on; bandwidths in bytes/s. None: as much as is needed, or as measured."""

    topology: Topology
    node_mtbf_seconds: float
    recovery_seconds: float  # from a failure until the processes start again
    host_step_seconds: float | None = None  # of one step on a ring of the processes' CPUs
    storage_bandwidth: float | None = None  # with which all nodes together can read the data,
    node_storage_bandwidth: float | None = None  # and each of them
    checkpoint_bandwidth: float | None = None  # with which rank 0 saves
    overlap: float | None = None  # the share of a gradient's exchange that a backward may hide


@dataclass(frozen=True)
class Iteration:
    """Seconds that an iteration takes, by what they go to; the parts follow each other."""

    images: float  # computing that the ranks share
    overhead: float  # computing that does not shrink with a rank's images
    noise: float  # drawn on the CPU
    exchange: float  # of gradients and parameters, as far as no backward hides it
    small_exchanges: float  # of batch statistics
    straggling: float
    reporting: float  # log lines and pictures
    votes: float  # waiting for the exchange about stopping that the iteration before began
    data: float  # waiting for images

    @property
    def seconds(self) -> float:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Prediction:
    """Of a run on `num_gpus`; bandwidths in bytes/s, on average over an iteration."""

    num_gpus: int
    num_nodes: int
    batch_size: int
    batch_per_gpu: float  # images of a step on each
    iteration: Iteration
    images_per_second: float  # between checkpoints and failures
    efficiency: float  # over as many times what one GPU does
    network_bandwidth: float  # with which each node sends to others
    storage_bandwidth: float  # with which all nodes together read the data
    epochs_per_hour: float
    checkpoint_seconds: float
    mtbf_seconds: float  # of the run
    restart_seconds: float  # after each failure
    interval_kimg: float  # the best one from checkpoint to checkpoint, for which is also what follows
    checkpoint_share: float  # of the time between failures
    lost_seconds_per_failure: float
    goodput: float  # the share of all time that moves the run ahead
    days: float  # to the end of the run
    goodput_as_set: float  # with checkpoint.every_kimg as it is


def predict(figures: Figures, workload: Workload, alone: Workload, cluster: Cluster, num_gpus: int) -> Prediction:
    """All of it; efficiency is over what `alone` gives on one GPU."""
    iteration = predict_iteration(figures, workload, cluster, num_gpus)
    images_per_second = workload.images_per_iteration / iteration.seconds
    of_one = alone.images_per_iteration / predict_iteration(figures, alone, cluster, 1).seconds
    num_nodes = cluster.topology.nodes(num_gpus)
    checkpoint = checkpoint_seconds(figures, workload, cluster, num_gpus)
    mtbf = failures.mean_time_between_failures(cluster.node_mtbf_seconds, num_nodes)
    restart = cluster.recovery_seconds + figures.start_seconds
    training_seconds = workload.total_images / images_per_second
    interval = max(min(failures.daly_interval(checkpoint, mtbf), training_seconds), iteration.seconds)
    as_set = max(workload.checkpoint_every_images / images_per_second, iteration.seconds)
    goodput = failures.goodput(interval, checkpoint, restart, mtbf)
    return Prediction(
        num_gpus=num_gpus,
        num_nodes=num_nodes,
        batch_size=workload.batch_size,
        batch_per_gpu=workload.batch_size / num_gpus,
        iteration=iteration,
        images_per_second=images_per_second,
        efficiency=images_per_second / num_gpus / of_one,
        network_bandwidth=_sent_bytes(figures, workload, cluster, num_gpus) / iteration.seconds,
        storage_bandwidth=images_per_second * figures.bytes_per_sample,
        epochs_per_hour=3600 * images_per_second / figures.num_samples,
        checkpoint_seconds=checkpoint,
        mtbf_seconds=mtbf,
        restart_seconds=restart,
        interval_kimg=interval * images_per_second / 1000,
        checkpoint_share=checkpoint / (interval + checkpoint),
        lost_seconds_per_failure=failures.lost_seconds_per_failure(interval, checkpoint, restart),
        goodput=goodput,
        days=training_seconds / goodput / 86400 if goodput else float("inf"),
        goodput_as_set=failures.goodput(as_set, checkpoint, restart, mtbf),
    )


def predict_iteration(figures: Figures, workload: Workload, cluster: Cluster, num_gpus: int) -> Iteration:
    """Seconds of one, on average over those with and without a penalty, a log line or pictures."""
    images_per_rank = workload.batch_size / num_gpus
    lines = _lines(figures, workload)
    overhead = sum(times * line.fixed for times, line in lines) + figures.average_seconds
    images = images_per_rank * sum(times * line.each for times, line in lines)
    slice_size = images_per_rank / workload.accumulation_steps
    in_vain = workload.accumulation_steps * min(workload.batch_size - slice_size, BLOCK - 1)  # at most, before each slice
    noise = workload.num_steps * (images_per_rank + in_vain) * figures.draw_seconds_per_image
    if not figures.on_cpu:  # a GPU computes what it was given while the CPU draws
        noise = max(0.0, noise - overhead - images)
    small, meetings = _small_exchanges(figures, workload, cluster, num_gpus)
    exchange = _exposed_exchanges(figures, workload, cluster, num_gpus)
    straggling = straggling_seconds(figures.jitter * (overhead + images), meetings, num_gpus)
    reporting = _reporting(figures, workload, cluster, num_gpus)
    busy = overhead + images + noise + small + exchange + straggling + reporting
    votes = max(0.0, figures.vote_rounds * _round_seconds(figures, cluster, num_gpus) - busy)
    data = _data_seconds(figures, workload, cluster, num_gpus)
    if workload.num_workers > 0:  # which read ahead while the ranks compute
        data = max(0.0, data - busy - votes)
    return Iteration(images, overhead, noise, exchange, small, straggling, reporting, votes, data)


def _lines(figures: Figures, workload: Workload) -> list[tuple[float, Line]]:
    """What an iteration computes, and how often, with `workload`'s steps; of a line, the fixed part comes once for each micro-batch."""
    micro_batches, steps = workload.accumulation_steps, workload.discriminator_steps
    lines: list[tuple[float, Line]] = [
        (steps, figures.discriminator_seconds),
        (1, figures.generator_seconds),
        (workload.num_steps, figures.feed_seconds),
    ]
    if workload.penalty_every is not None and figures.penalty_seconds is not None:
        lines.append((steps / workload.penalty_every, figures.penalty_seconds))
    return [(times, Line(micro_batches * line.fixed, line.each)) for times, line in lines]


def checkpoint_seconds(figures: Figures, workload: Workload, cluster: Cluster, num_gpus: int) -> float:
    """To gather what ZeRO shards, and to write all of it by rank 0, for which the others wait."""
    written = figures.checkpoint_seconds
    if cluster.checkpoint_bandwidth is not None:
        written = figures.checkpoint_bytes / cluster.checkpoint_bandwidth
    if not workload.zero_stage:
        return written
    networks = (figures.discriminator, figures.generator)
    sizes = [(network.num_tensors, network.gradient_bytes / network.num_tensors) for network in networks]
    # Both moments of Adam, tensor by tensor, which DeepSpeed sums over the ranks.
    return written + 2 * sum(count * all_reduce_seconds(size, num_gpus, cluster.topology) for count, size in sizes)


def checkpoint_bytes(generator: NetworkFigures, discriminator: NetworkFigures) -> int:
    """Of a checkpoint's tensors: both networks, the generator's average, both moments of Adam and its step counters, all fp32."""
    trained = [4 * (3 * network.num_parameters + network.num_tensors) + network.buffer_bytes for network in (generator, discriminator)]
    return sum(trained) + 4 * generator.num_parameters + generator.buffer_bytes


def _small_exchanges(figures: Figures, workload: Workload, cluster: Cluster, num_gpus: int) -> tuple[float, float]:
    """Seconds of the small exchanges of an iteration, and how often ranks meet in it, these and the gradients' together."""
    if num_gpus == 1:
        return 0.0, 0.0
    seconds = meetings = 0.0
    for steps, network in ((workload.discriminator_steps, figures.discriminator), (1, figures.generator)):
        count = steps * workload.accumulation_steps * network.num_small_exchanges
        seconds += count * all_reduce_seconds(network.small_bytes, num_gpus, cluster.topology)
        meetings += count + steps
    return seconds, meetings


def _exposed_exchanges(figures: Figures, workload: Workload, cluster: Cluster, num_gpus: int) -> float:
    """DeepSpeed is taken to hide nothing, as long as `overlap` does not say otherwise."""
    of_discriminator, of_generator = exchanges.volumes(workload)
    images_per_micro_batch = workload.batch_size / num_gpus / workload.accumulation_steps
    exposed = 0.0
    for volume, network, line, steps in (
        (of_discriminator, figures.discriminator, figures.discriminator_seconds, workload.discriminator_steps),
        (of_generator, figures.generator, figures.generator_seconds, 1),
    ):
        default = network.hideable_share if workload.zero_stage is None else 0.0
        hideable = default if cluster.overlap is None else cluster.overlap
        backward = steps * network.backward_share * line(images_per_micro_batch)
        exposed += exchanges.exposed_seconds(exchanges.seconds_of(volume, network, num_gpus, cluster.topology), hideable, backward)
    return exposed


def _sent_bytes(figures: Figures, workload: Workload, cluster: Cluster, num_gpus: int) -> float:
    """Of each node to others in an iteration; batch statistics are next to nothing."""
    networks = (figures.discriminator, figures.generator)
    volumes = exchanges.volumes(workload)
    return sum(exchanges.sent_bytes(volume, network, num_gpus, cluster.topology) for volume, network in zip(volumes, networks, strict=True))


def _round_seconds(figures: Figures, cluster: Cluster, num_gpus: int) -> float:
    """Once around the ring on which gloo exchanges what the processes' CPUs hold."""
    step = figures.host_step_seconds if cluster.host_step_seconds is None else cluster.host_step_seconds
    return (num_gpus - 1) * step


def _reporting(figures: Figures, workload: Workload, cluster: Cluster, num_gpus: int) -> float:
    more_seconds = _round_seconds(figures, cluster, num_gpus) - figures.host_step_seconds  # it was measured with two ranks
    log_line = max(0.0, figures.log_line_seconds + figures.log_line_rounds * more_seconds)
    return (
        workload.events_per_iteration(workload.log_every_images) * log_line
        + workload.events_per_iteration(workload.samples_every_images) * figures.grid_seconds
    )


def _data_seconds(figures: Figures, workload: Workload, cluster: Cluster, num_gpus: int) -> float:
    """The least in which the images of an iteration can be read and decoded."""
    num_images = workload.images_per_iteration
    seconds = [num_images / num_gpus * figures.read_seconds_per_sample / max(workload.num_workers, 1)]
    num_bytes = num_images * figures.bytes_per_sample
    if cluster.storage_bandwidth is not None:
        seconds.append(num_bytes / cluster.storage_bandwidth)
    if cluster.node_storage_bandwidth is not None:
        seconds.append(num_bytes / cluster.topology.nodes(num_gpus) / cluster.node_storage_bandwidth)
    return max(seconds)
