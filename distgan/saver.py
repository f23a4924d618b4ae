"""Everything of a run that moves -> a checkpoint, and back, on any number of ranks and under any engine."""

import torch

import distgan
from distgan import checkpoint
from distgan.checkpoint import Checkpoint
from distgan.distributed import World
from distgan.ema import Ema
from distgan.engine.base import Engine, EngineState
from distgan.metrics.prometheus import Exporter
from distgan.run_directory import RunDirectory
from distgan.state import TrainState


class Saver:
    """Saves to and restores from the checkpoints of a run.

    Args:
        engines: by the name of the network that each trains.
        facts: what the run never changes but a reader of the checkpoint must know (JSON values).
        keep: number of newest checkpoints that stay.
    """

    def __init__(
        self,
        world: World,
        state: TrainState,
        engines: dict[str, Engine],
        ema: Ema,
        facts: dict[str, object],
        directory: RunDirectory,
        keep: int,
        exporter: Exporter,
    ) -> None:
        self._world, self._state, self._engines, self._ema, self._facts = world, state, engines, ema, facts
        self._directory, self._keep, self._exporter = directory, keep, exporter
        self._saved_iteration: int | None = None  # of the newest checkpoint

    def save(self) -> None:
        """Save on rank 0; nothing is done if this iteration is saved already. Collective.

        Raises:
            OSError: it could not be written; older checkpoints are untouched.
        """
        states = {name: engine.state() for name, engine in self._engines.items()}
        if not self._world.is_main or self._state.iteration == self._saved_iteration:
            return
        tensors = {"ema": self._ema.network.state_dict()}
        for name, state in states.items():
            tensors |= {name: state.network, f"{name}_optimizer": state.optimizer}
            tensors |= {f"{name}_loss_scale": state.loss_scale} if state.loss_scale else {}
        position = {
            "iteration": self._state.iteration,
            "num_images": self._state.num_images,
            "data_position": self._state.discriminator_step * self._state.batch_size,
            "train_seconds": self._state.train_seconds,
        }
        versions = {"distgan": distgan.__version__, "torch": torch.__version__}
        saved = Checkpoint(tensors, position | self._facts | {"num_ranks": self._world.size, "versions": versions})
        try:
            with self._exporter.checkpoint_seconds.time():
                checkpoint.save(self._directory.checkpoints, self._state.iteration, saved, self._keep)
        except OSError:
            self._exporter.checkpoint_failures.inc()
            raise
        self._exporter.last_checkpoint.set_to_current_time()
        self._saved_iteration = self._state.iteration

    def restore(self, saved: Checkpoint) -> None:
        """Put back what `save` wrote; the state has been set to it already. Collective."""
        for name, engine in self._engines.items():
            others = (saved.tensors.get(f"{name}_{part}", {}) for part in ("optimizer", "loss_scale"))
            engine.load_state(EngineState(saved.tensors[name], *others))
        self._ema.network.load_state_dict(saved.tensors["ema"])
        self._saved_iteration = self._state.iteration
