"""The directory of a run: what is in it, who may write to it, and whether this command may go on with it."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distgan import checkpoint
from distgan.cli import read_yaml, to_yaml, validate
from distgan.config import TrainConfig, changed_fields, resume_may_change
from distgan.errors import InputError
from distgan.files import locked, write_atomically

LOCK_SECONDS = 30  # a run that is being stopped needs about that long to save


class RunDirectory:
    """Paths below `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.log = path / "log.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self._lock = path / ".lock"

    def problems(self, config: TrainConfig, manifest_hash: str | None) -> list[str]:
        """A sentence for each reason why `config` cannot start or go on here; None: the data could not be read."""
        existing = next(parent for parent in (self.path, *self.path.absolute().parents) if parent.exists())
        if not existing.is_dir():
            return [f"run.dir is {str(self.path)!r}, but {existing} is a file; set run.dir to a directory."]
        if not os.access(existing, os.W_OK | os.X_OK):
            return [f"run.dir is {str(self.path)!r}, but {existing} cannot be written; set run.dir to a directory that can."]
        if config.run.overwrite:
            if self.path.exists() and any(self.path.iterdir()) and not self.config.exists():
                return [f"run.overwrite is true, but {self.path} holds something that is not a run; set run.dir to another directory."]
            return []
        return self._resume_problems(config, manifest_hash)

    def changes(self, config: TrainConfig) -> dict[str, tuple[object, object]]:
        """{field: (value in this run, value now)} of the settings that differ; none if the run is new."""
        if not self.config.exists():
            return {}
        changed = changed_fields(validate(read_yaml(self.config)).model_dump(), config.model_dump())
        return {field: values for field, values in changed.items() if field not in ("run.dir", "run.overwrite")}

    def _resume_problems(self, config: TrainConfig, manifest_hash: str | None) -> list[str]:
        way_out = "set it back, set run.dir to another directory, or pass --run.overwrite to move the old run aside"
        try:
            changes = self.changes(config)
        except InputError as error:
            return [f"{self.config} of the run that is to go on cannot be used: {problem}" for problem in error.problems]
        if not checkpoint.steps(self.checkpoints):
            return []  # it begins anew
        if manifest_hash:
            changes.pop("data.url", None)  # the same shards may lie elsewhere by now: their content decides
        problems = [
            f"{field} is {now!r}, but the run in {self.path} has {before!r}; {way_out}."
            for field, (before, now) in changes.items()
            if not resume_may_change(field) and (field == "model.name" or "model.name" not in changes or not field.startswith("model."))
        ]
        trained_on = checkpoint.newest_readable_state(self.checkpoints).get("manifest_hash", manifest_hash)
        if manifest_hash and not problems and trained_on != manifest_hash:
            problems.append(
                f"data.url is {config.data.url!r}, whose content has changed since the run in {self.path} (manifest {trained_on[:12]} "
                f"then, {manifest_hash[:12]} now); bring the old shards back, or set run.dir to another directory."
            )
        return problems

    @contextmanager
    def held(self, config: TrainConfig) -> Iterator[None]:
        """Make the directory (moving an old run aside if asked), hold it against other runs, and write config.yaml.

        Raises:
            InputError: another process keeps it for longer than LOCK_SECONDS, or it cannot be written.
        """
        if config.run.overwrite and self.config.exists():
            with self._locked():  # not from under a run that still writes
                self.path.rename(self.path.with_name(f"{self.path.name}.until-{time.strftime('%Y%m%d-%H%M%S')}"))
        self._make()
        with self._locked():
            write_atomically(self.config, to_yaml(config).encode())
            yield

    def _locked(self) -> ExitStack:
        """The lock, taken; leaving the stack lets go. Only taking it is translated: a run has time-outs of its own."""
        waiting = f"{self.path} is held by another run; waiting up to {LOCK_SECONDS} s for it to end."
        stack = ExitStack()
        try:
            stack.enter_context(locked(self._lock, LOCK_SECONDS, waiting))
        except TimeoutError:
            raise InputError(
                f"run.dir is {str(self.path)!r}, which another run holds; wait for it to end or set run.dir to another directory."
            ) from None
        return stack

    def _make(self) -> None:
        try:
            self.samples.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"run.dir is {str(self.path)!r}, which cannot be made ({error.strerror}); set run.dir to another directory."
            ) from None
