"""Which part of each global batch a rank holds, and what a batch carries."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class BatchLayout:
    """How a global batch is cut: first into micro-batches, then each of those into the ranks' slices.

    So a micro-batch is the same set of samples on any number of ranks, and with it everything computed over it.
    """

    batch_size: int
    accumulation_steps: int
    world_size: int
    rank: int

    def __post_init__(self) -> None:
        assert self.batch_size % (self.world_size * self.accumulation_steps) == 0, "the configuration is checked for this"

    @property
    def slice_size(self) -> int:
        """Samples of one micro-batch on one rank."""
        return self.batch_size // (self.world_size * self.accumulation_steps)

    def positions(self, micro_batch: int) -> slice:
        """The positions in the global batch of this rank's slice of a micro-batch (0 to accumulation_steps - 1)."""
        start = (micro_batch * self.world_size + self.rank) * self.slice_size
        return slice(start, start + self.slice_size)

    def numbers(self, slice_number: int) -> np.ndarray:
        """The numbers in the run, [slice_size] int64, of the samples of this rank's slice `slice_number`, counted over all batches."""
        batch, micro_batch = divmod(slice_number, self.accumulation_steps)
        positions = self.positions(micro_batch)
        return batch * self.batch_size + np.arange(positions.start, positions.stop)


@dataclass(frozen=True)
class Batch:
    """One rank's slice of one micro-batch, on the device; n = `BatchLayout.slice_size`.

    Labels are None where the model is unconditional; `fake_images` is None until the discriminator's phase has made them.
    """

    real_images: torch.Tensor  # [n, C, H, W] fp32 in [-1, 1]
    real_labels: torch.Tensor | None  # [n] int64
    latents: torch.Tensor  # [n, latent_size] fp32
    fake_labels: torch.Tensor | None  # [n] int64
    penalty_seed: int  # of what a penalty draws, the same on every rank
    first_position: int  # of this slice in the global batch
    fake_images: torch.Tensor | None = None  # [n, C, H, W], without a graph
