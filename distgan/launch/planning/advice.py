"""What limits a run at its largest size, and what to change, in sentences."""

from collections.abc import Sequence

from distgan.config import TrainConfig
from distgan.planning.figures import Figures
from distgan.planning.model import Prediction

CONNECTED_RANKS = 1000  # above which gloo, that connects every process with every other one, has been seen to fail (pytorch/gloo#327)
_WORTH_SAYING = 0.01

# By the part of an iteration: what it is, and what makes it less.
_PARTS = {
    "overhead": (
        "computing that takes as long for few images as for many",
        "give each GPU more images, by a larger train.batch_size (which is another training) or fewer GPUs",
    ),
    "noise": ("drawing noise", "lower model.latent_size or train.batch_size"),
    "exchange": (
        "exchanging gradients and parameters",
        "give each GPU more images, take a faster network, or with ZeRO a lower engine.zero_stage",
    ),
    "small_exchanges": (
        "small exchanges, of batch norms' statistics, in each of which all ranks wait for each other",
        "give each GPU more images, or take a model with fewer batch norms",
    ),
    "straggling": (
        "waiting for the slowest rank",
        "find out why iterations of one rank alone vary (the jitter of --measured), and measure on a quiet machine",
    ),
    "reporting": ("log lines and pictures", "raise metrics.log_every_kimg and metrics.samples_every_kimg"),
    "votes": (
        "the exchange by which ranks agree to go on, on a ring of all processes' CPUs",
        "take fewer GPUs, or give each more images, so that it ends within an iteration",
    ),
    "data": (
        "waiting for images",
        "raise data.num_workers, or read from quicker storage (--storage-gbyte-s, --node-storage-gbyte-s)",
    ),
}


def sentences(predictions: Sequence[Prediction], figures: Figures, config: TrainConfig, weak: bool) -> list[str]:
    """On the largest number of GPUs, and on what the whole plan stands on."""
    largest = max(predictions, key=lambda one: one.num_gpus)
    return [*_limit(largest), *_checkpoints(largest, config), *_remarks(predictions, figures, weak)]


def _limit(one: Prediction) -> list[str]:
    parts = vars(one.iteration)
    name = max(_PARTS, key=lambda part: parts[part])
    share, what = parts[name] / one.iteration.seconds, _PARTS[name]
    sharing = one.iteration.images / one.iteration.seconds
    first = (
        f"On {one.num_gpus:,} GPU{'s' * (one.num_gpus > 1)}, {100 * sharing:.0f} % of the time is work that GPUs share; "
        f"the largest other part is {what[0]} ({100 * share:.0f} %)."
    )
    return [first, f"To change that: {what[1]}."]


def _checkpoints(one: Prediction, config: TrainConfig) -> list[str]:
    if one.goodput - one.goodput_as_set < _WORTH_SAYING:
        return []
    return [
        f"With checkpoint.every_kimg {config.checkpoint.every_kimg:g}, {100 * one.goodput_as_set:.1f} % of the time would move the run "
        f"ahead there; set it to {_two_digits(one.interval_kimg)} for {100 * one.goodput:.1f} %."
    ]


def _two_digits(value: float) -> str:
    """28.3 -> '28', 165032 -> '170000'."""
    return f"{float(f'{value:.2g}'):g}" if value < 100 else f"{float(f'{value:.2g}'):.0f}"


def _remarks(predictions: Sequence[Prediction], figures: Figures, weak: bool) -> list[str]:
    remarks = []
    least, most = figures.batches
    outside = [one for one in predictions if not least <= one.batch_per_gpu <= most]
    if outside:
        batches = ", ".join(f"{one.batch_per_gpu:,.0f}" for one in outside)
        remarks.append(
            f"Batches of {least} to {most} images a GPU were measured; times with {batches} are the same line drawn on, and whether they "
            "fit into memory is not known."
        )
    if weak and len(predictions) > 1:
        sizes = ", ".join(f"{one.batch_size:,}" for one in predictions)
        remarks.append(f"The batches are {sizes} images: each is another training, with other learning rates to be found.")
    largest = max(one.num_gpus for one in predictions)
    if largest > CONNECTED_RANKS:
        remarks.append(
            f"Each process is connected with each other one twice, by {2 * (largest - 1):,} sockets: raise ulimit -n, and try it out "
            "first, as gloo has been seen to fail with more than about 1,000 processes (pytorch/gloo#327)."
        )
    return remarks
