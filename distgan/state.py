"""How far a run has come. Everything scheduled (EMA, penalties, logs, data, randomness) is a function of this counter."""

from dataclasses import dataclass


@dataclass
class TrainState:
    """One iteration is `discriminator_steps` steps of the discriminator, each on a batch of its own, and one of the generator."""

    batch_size: int
    discriminator_steps: int
    iteration: int = 0
    train_seconds: float = 0.0  # over all sittings

    @property
    def images_per_iteration(self) -> int:
        return self.batch_size * self.discriminator_steps

    @property
    def num_images(self) -> int:
        """Real images shown to the discriminator, over all ranks: also the position in the data."""
        return self.iteration * self.images_per_iteration

    @property
    def discriminator_step(self) -> int:
        """Number of the next discriminator step, and of the batch it takes."""
        return self.iteration * self.discriminator_steps

    def just_crossed(self, every_images: float) -> bool:
        """Whether the last iteration passed a multiple of `every_images`."""
        before = self.num_images - self.images_per_iteration
        return self.num_images // every_images > before // every_images
