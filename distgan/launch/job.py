"""What is to be started: settings of distgan.train, checked for the ranks that they are to run on before anything is."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from distgan.cli import parse_command
from distgan.config import TrainConfig, problems_between_fields
from distgan.engine import deepspeed_settings
from distgan.errors import InputError

_LARGE_BATCH = 1_000_000  # which nobody means
RANKS_WITHOUT_GPUS = 2  # on a node, or one if it has a single core


@dataclass(frozen=True)
class NodeCount:
    """How many nodes a run has: a number, or any from `least` to `most` (elastic)."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> "NodeCount":
        """Of '4' or '2:4'.

        Raises:
            InputError: it is neither.
        """
        match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
        least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= least <= most:
            raise InputError(f"--nodes is {text!r}; give the number of nodes, such as 4, or the least and the most, such as 2:4.")
        return cls(least, most)

    @property
    def is_elastic(self) -> bool:
        return self.least < self.most

    def __str__(self) -> str:
        return f"{self.least}:{self.most}" if self.is_elastic else str(self.most)


def ranks_on_this_node(text: str) -> int:
    """Of '8' or 'auto': one for each GPU; where there is none, two, or as many as there are cores if that is less.

    Raises:
        InputError: it is neither.
    """
    if text == "auto":
        return torch.cuda.device_count() or min(RANKS_WITHOUT_GPUS, os.cpu_count() or 1)
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--ranks-per-node is {text!r}; give a number of processes, or auto.")
    return int(text)


def checked(settings: Sequence[str], nodes: NodeCount, ranks_per_node: int) -> TrainConfig:
    """The configuration that these arguments of distgan.train give, fit for every number of ranks that the run may have.

    The data is not looked at: it need not lie where the run is started from.

    Raises:
        InputError: a sentence for everything that is wrong.
    """
    config = parse_command(settings).config
    problems: dict[str, None] = {}  # in order, each once
    if nodes.is_elastic:
        multiple = math.lcm(*range(nodes.least, nodes.most + 1)) * ranks_per_node * config.engine.accumulation_steps
        if config.train.batch_size % multiple:
            mend = f"set it to a multiple of {multiple}" if multiple <= _LARGE_BATCH else "give --nodes fewer to range over"
            problems[
                f"train.batch_size is {config.train.batch_size}, which does not divide by every number of ranks that {nodes.least} to "
                f"{nodes.most} nodes of {ranks_per_node} have, x engine.accumulation_steps {config.engine.accumulation_steps}; {mend}."
            ] = None
            config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": multiple})})
    for num_nodes in range(nodes.least, nodes.most + 1):
        num_ranks = num_nodes * ranks_per_node
        found = problems_between_fields(config, num_ranks) + deepspeed_settings.problems(config, num_ranks)
        problems |= dict.fromkeys(found)
    if problems:
        raise InputError(problems)
    return config


def metrics_url(config: TrainConfig, host: str) -> str | None:
    """Where rank 0 of a node will serve its metrics; None: nowhere."""
    return f"http://{host}:{config.metrics.port}/metrics" if config.metrics.port else None
