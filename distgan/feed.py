"""What the phases are fed: this rank's slices of real images, noise and labels, on its device."""

from dataclasses import replace

import torch

from distgan.batch import Batch, BatchLayout
from distgan.data.augment import Augmentation
from distgan.data.reading.reader import RealImages
from distgan.data.reading.upload import Upload
from distgan.images import to_float
from distgan.randomness import Randomness


class Feed:
    """Batches of the discriminator's steps, in order, and of the generator's from the same real images.

    Args:
        reader: stands at the batch of the next discriminator step.
        augmentation: of the real images.
        latent_size: length of the noise vector.
        num_classes: None if the model is unconditional.
    """

    def __init__(
        self,
        reader: RealImages,
        augmentation: Augmentation,
        randomness: Randomness,
        layout: BatchLayout,
        latent_size: int,
        num_classes: int | None,
        device: torch.device,
    ) -> None:
        self.reader, self._augmentation, self._randomness, self._layout = reader, augmentation, randomness, layout
        self._upload = Upload(reader, device)
        self._latent_size, self._num_classes, self._device = latent_size, num_classes, device

    def for_discriminator(self, step: int) -> list[Batch]:
        """The micro-batches of discriminator step `step`; the fakes are still to be made."""
        penalty_seed = self._randomness.operator_seed("penalty", step)
        return [
            Batch(
                *self._real(),
                *self._noise("discriminator", step, micro_batch),
                penalty_seed,
                self._layout.positions(micro_batch).start,
            )
            for micro_batch in range(self._layout.accumulation_steps)
        ]

    def for_generator(self, iteration: int, batches: list[Batch]) -> list[Batch]:
        """The micro-batches of the generator's step: new noise beside the real images of `batches`."""
        noise = (self._noise("generator", iteration, micro_batch) for micro_batch in range(len(batches)))
        return [
            replace(batch, latents=latents, fake_labels=labels, fake_images=None)
            for batch, (latents, labels) in zip(batches, noise, strict=True)
        ]

    def _real(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The next slice of real images and, if the model is conditional, of their labels."""
        real = next(self._upload)
        images = self._augmentation(to_float(real.images), real.numbers)
        return images, None if self._num_classes is None else real.labels

    def _noise(self, phase: str, index: int, micro_batch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Latents and labels for the fakes of this rank's slice."""
        positions = self._layout.positions(micro_batch)
        first, count = positions.start, self._layout.slice_size
        latents = self._randomness.normal(f"{phase}.latents", index, count, self._latent_size, first).to(self._device)
        if self._num_classes is None:
            return latents, None
        return latents, self._randomness.integers(f"{phase}.labels", index, count, self._num_classes, first).to(self._device)
