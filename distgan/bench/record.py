"""What every benchmark writes down of a run, and how."""

import argparse
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from distgan.bench.machine import Machine
from distgan.cli import parse_command
from distgan.config import TrainConfig, changed_fields
from distgan.errors import InputError
from distgan.files import write_atomically


class Record(BaseModel):
    """A part of a report."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")  # a NaN is no "not measured"


class BenchmarkRun(Record):
    """What ran when on what; the figures come with the class of the benchmark."""

    benchmark: str
    date: str  # ISO 8601
    device: str  # cpu or cuda
    machine: Machine

    def write(self, path: Path) -> None:
        """Write the JSON, so that a run that is killed leaves what was measured before.

        Raises:
            InputError: it cannot be written there.
        """
        try:
            write_atomically(path, (self.model_dump_json(indent=1) + "\n").encode())
        except OSError as error:
            raise InputError(f"--out is {str(path)!r}, which cannot be written ({error.strerror}); give another path.") from None

    def origin(self) -> list[str]:
        """Lines that say what ran when on what."""
        return [
            f"distgan.bench {self.benchmark}, {self.date}, commit {self.machine.commit or 'unknown'}"
            f"{' with changes' if self.machine.uncommitted_changes else ''}",
            *self.machine.lines(self.device),
        ]


def changed_settings(config: TrainConfig) -> dict[str, object]:
    """{field: value} of what was measured with other settings than the model's defaults."""
    defaults = parse_command(["--model.name", config.model.name]).config
    changed = changed_fields(defaults.model_dump(), config.model_dump())
    return {field: now for field, (_, now) in changed.items() if not field.startswith(("run.", "metrics."))}


def problems_of(options: argparse.Namespace) -> list[str]:
    """A sentence for each of the options --threads and --seconds that cannot be."""
    problems = []
    if options.threads < 1:
        problems.append(f"--threads is {options.threads}; give at least 1.")
    if not options.seconds > 0:
        problems.append(f"--seconds is {options.seconds:g}; give more than 0.")
    return problems
