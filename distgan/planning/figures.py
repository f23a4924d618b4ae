"""What the model starts from: figures of one device, and what a run is set to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Line:
    """Seconds that grow with a number (of images, of bytes): fixed + each * n."""

    fixed: float
    each: float

    def __call__(self, count: float) -> float:
        return self.fixed + self.each * count

    @classmethod
    def fit(cls, points: Sequence[tuple[float, float]]) -> "Line":
        """Through (number, seconds), two different numbers at least: least squares of the relative errors, neither term below 0."""
        numbers, seconds = np.array(points, dtype=np.float64).T
        terms = np.stack([1 / seconds, numbers / seconds], axis=1)  # relative to what they have to give, which is 1
        fixed, each = np.linalg.lstsq(terms, np.ones(len(points)))[0]
        if fixed < 0 or each < 0:  # the best with one of them 0
            alone = [terms[:, column].sum() / (terms[:, column] ** 2).sum() for column in range(2)]
            errors = [((alone[column] * terms[:, column] - 1) ** 2).sum() for column in range(2)]
            fixed, each = (alone[0], 0.0) if errors[0] < errors[1] else (0.0, alone[1])
        return cls(float(fixed), float(each))


@dataclass(frozen=True)
class NetworkFigures:
    """Of the generator or the discriminator, in one step of it."""

    num_parameters: int
    num_tensors: int  # of parameters
    buffer_bytes: int
    bucket_bytes: tuple[float, ...]  # of the gradient, as DDP exchanges it, in that order
    num_small_exchanges: float  # beside the gradient's: batch statistics
    small_bytes: float  # of each, on average
    backward_share: float  # of the step: from the first gradient of its last backward to the last

    @property
    def gradient_bytes(self) -> float:
        return 4.0 * self.num_parameters

    @property
    def hideable_share(self) -> float:
        """Of the gradient's bytes, what is under way before the backward ends: all but the last bucket."""
        return 1 - self.bucket_bytes[-1] / sum(self.bucket_bytes)


@dataclass(frozen=True)
class Figures:
    """Measured on one device where it does not say otherwise. Times of a network are of one step of it."""

    on_cpu: bool
    batches: tuple[int, int]  # images per rank, the least and the most that were measured
    discriminator_seconds: Line  # the making of its fakes included, the penalty not
    penalty_seconds: Line | None
    generator_seconds: Line
    average_seconds: float  # of an iteration
    feed_seconds: Line  # between the phases, for each step of either network, without drawing noise
    draw_seconds_per_image: float  # of its noise, for each step of either network, on the CPU
    jitter: float  # standard deviation of an iteration's time, as a share of it
    discriminator: NetworkFigures
    generator: NetworkFigures
    checkpoint_bytes: float
    checkpoint_seconds: float
    start_seconds: float  # from the start of a process to the end of its first iteration, with a checkpoint to read
    grid_seconds: float  # of the pictures that rank 0 draws while the others wait
    log_line_seconds: float  # with two ranks
    log_line_rounds: float  # on a ring of the processes' CPUs
    vote_rounds: float  # the same in each iteration, about stopping; nobody waits for it before the next one
    host_step_seconds: float  # of one step on that ring
    bytes_per_sample: float
    read_seconds_per_sample: float  # of one worker process, reading and decoding
    num_samples: int


@dataclass(frozen=True)
class Workload:
    """What a run is set to, as far as it costs something."""

    batch_size: int  # of a step, over all ranks
    discriminator_steps: int
    penalty_every: int | None
    accumulation_steps: int
    zero_stage: int | None  # None: DDP
    num_workers: int  # per rank
    total_images: float
    checkpoint_every_images: float
    log_every_images: float
    samples_every_images: float

    @property
    def images_per_iteration(self) -> int:
        return self.batch_size * self.discriminator_steps

    @property
    def num_steps(self) -> int:
        """Of both networks in an iteration."""
        return self.discriminator_steps + 1

    def events_per_iteration(self, every_images: float) -> float:
        """How often an iteration ends with what is due every so many images: at most once."""
        return min(1.0, self.images_per_iteration / every_images)
