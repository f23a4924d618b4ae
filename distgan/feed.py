"""What the phases are fed: this rank's slices of real images, noise and labels, on its device."""

from dataclasses import replace

import torch

from distgan.batch import Batch, BatchLayout
from distgan.data.reader import Reader
from distgan.images import to_float
from distgan.randomness import Randomness


class Feed:
    """Batches of the discriminator's steps, in order, and of the generator's from the same real images.

    Args:
        reader: stands at the batch of the next discriminator step.
        latent_size: length of the noise vector.
        num_classes: None if the model is unconditional.
    """

    def __init__(
        self,
        reader: Reader,
        randomness: Randomness,
        layout: BatchLayout,
        latent_size: int,
        num_classes: int | None,
        device: torch.device,
    ) -> None:
        self._reader, self._randomness, self._layout = reader, randomness, layout
        self._latent_size, self._num_classes, self._device = latent_size, num_classes, device

    @property
    def wait_seconds(self) -> float:
        """Total time that training was kept waiting for data."""
        return self._reader.wait_seconds

    def for_discriminator(self, step: int) -> list[Batch]:
        """The micro-batches of discriminator step `step`; the fakes are still to be made."""
        return [self._real(step, micro_batch) for micro_batch in range(self._layout.accumulation_steps)]

    def for_generator(self, iteration: int, batches: list[Batch]) -> list[Batch]:
        """The micro-batches of the generator's step: new noise beside the real images of `batches`."""
        fed = []
        for micro_batch, batch in enumerate(batches):
            latents, labels = self._noise("generator", iteration, micro_batch)
            fed.append(replace(batch, latents=latents, fake_labels=labels, fake_images=None))
        return fed

    def _real(self, step: int, micro_batch: int) -> Batch:
        real = next(self._reader)
        images = to_float(real.images.to(self._device, non_blocking=True))
        labels = None if self._num_classes is None else real.labels.to(self._device, non_blocking=True)
        shares = self._randomness.uniform("interpolation", step, self._layout.batch_size)[self._layout.positions(micro_batch)]
        return Batch(images, labels, *self._noise("discriminator", step, micro_batch), shares.to(self._device))

    def _noise(self, phase: str, index: int, micro_batch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Latents and labels for fakes: drawn for the global batch, of which this rank keeps its slice."""
        positions, size = self._layout.positions(micro_batch), self._layout.batch_size
        latents = self._randomness.normal(f"{phase}.latents", index, size, self._latent_size)[positions].to(self._device)
        if self._num_classes is None:
            return latents, None
        return latents, self._randomness.integers(f"{phase}.labels", index, size, self._num_classes)[positions].to(self._device)
