"""Train a GAN; the same command again resumes.

torchrun --nproc_per_node 8 -m distgan.train
torchrun --nproc_per_node 2 -m distgan.train --config launch/recipes/digits-dcgan.yaml --run.dir runs/a --train.total_kimg 40
"""

import faulthandler
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

from distgan import checkpoint
from distgan.build import build_networks, built_trainer, check
from distgan.build_data import Preflight
from distgan.cli import PROGRAM, parse_command, to_yaml
from distgan.config import TrainConfig, without_overwrite
from distgan.data.streaming.stream_reader import APPROXIMATE
from distgan.distributed import World
from distgan.errors import InputError, RunError
from distgan.metrics.log import RunLog
from distgan.metrics.prometheus import Exporter
from distgan.metrics.traffic import Traffic
from distgan.ops import library
from distgan.process import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, StopRequest, die_with_agent, leave, refuse
from distgan.run_directory import RunDirectory
from distgan.trainer import Trainer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    die_with_agent()
    warnings.simplefilter("ignore", library.PlainPyTorchWarning)  # it is said here, by one rank
    local_rank = os.environ.get("LOCAL_RANK", "0")
    try:
        command = parse_command(sys.argv[1:] if arguments is None else arguments)
        config = command.config if _agent_restarts() == 0 else without_overwrite(command.config)
        world = World.from_environment()
        try:
            preflight = check(config, world.size)
            if command.dry_run:
                if world.is_main:
                    print(describe(config, world, preflight))
                return EXIT_DONE
            return train(config, world, preflight)
        except RunError as error:
            has_checkpoint = checkpoint.steps(RunDirectory(Path(config.run.dir)).checkpoints)
            way_on = " The same command goes on from the last checkpoint." if has_checkpoint else ""
            print(f"{PROGRAM}: error: {error}{way_on}", file=sys.stderr, flush=True)
            return EXIT_FAILED
    except InputError as error:
        return refuse(error, PROGRAM, int(local_rank) if local_rank.isdigit() else 0)


def train(config: TrainConfig, world: World, preflight: Preflight) -> int:
    """Train on this rank; returns the exit code."""
    directory = RunDirectory(Path(config.run.dir))
    changes = {} if config.run.overwrite else directory.changes(config)
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest().listening())
        stack.enter_context(directory.held(config) if world.is_main else nullcontext())
        engine = config.engine
        stack.enter_context(world.process_group(engine.timeout_seconds, engine.evaluation_timeout_seconds, engine.needs_process_group))
        exporter = Exporter(_restarts(world, directory))
        stack.enter_context(exporter.serving(config.metrics.host, config.metrics.port and config.metrics.port + world.local_rank))
        traffic = stack.enter_context(Traffic().counting())  # before an engine keeps references to what it wraps
        with built_trainer(config, world, preflight, exporter, traffic) as trainer:
            _announce(trainer, config, changes)
            done = trainer.fit(stop)
            what = "Done" if done else "Stopped; the same command goes on"
            trainer.reporter.say(f"{what} at {trainer.state.num_images / 1000:g} kimg. Picture: {trainer.grid_path('ema')}")
        del trainer  # its engines let go of the process group before that is taken down
    return EXIT_DONE if done else EXIT_STOPPED


def _restarts(world: World, directory: RunDirectory) -> int:
    """How often the run was begun again, by the agent or by whoever else: the same on every rank. Collective.

    The agent knows of what ended before it could log anything.
    """
    return world.broadcast_integer(max(RunLog(directory.log).num_sittings(), _agent_restarts()) if world.is_main else 0)


def _agent_restarts() -> int:
    """How often the agent has started this group of workers again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _announce(trainer: Trainer, config: TrainConfig, changes: dict[str, tuple[object, object]]) -> None:
    """Say and log whether the run begins or goes on, what has changed since, on what it runs, and which operators serve."""
    reporter, resumed, world = trainer.reporter, trainer.state.iteration > 0, trainer.world
    engine = "ddp" if config.engine.name == "ddp" else f"{config.engine.name}, ZeRO stage {config.engine.zero_stage}"
    reporter.event(
        "resume" if resumed else "start",
        num_ranks=world.size,
        num_nodes=world.num_nodes,
        engine=engine,
        precision=config.precision.dtype,
        changed={name: now for name, (_, now) in changes.items()},
    )
    if not resumed:
        reporter.say(f"Starting {trainer.samples_directory.parent}.")
    else:
        reporter.say(f"Resuming {trainer.samples_directory.parent} at {trainer.state.num_images / 1000:g} kimg.")
    for field, (before, now) in changes.items():
        reporter.say(f"Changed since the last sitting: {field} from {before!r} to {now!r}.")
    reporter.say(f"Engine: {engine}. Ranks: {world.size} on {_nodes(world.num_nodes)}. Precision: {config.precision.dtype}.")
    if config.data.mode == "stream":
        reporter.event("stream", text=APPROXIMATE)
        reporter.say(APPROXIMATE)
    reporter.say(library.describe(world.device.type))


def _nodes(number: int) -> str:
    return f"{number} nodes" if number > 1 else "one node"


def describe(config: TrainConfig, world: World, preflight: Preflight) -> str:
    """What `--dry-run` prints: the resolved configuration and what it amounts to, as YAML."""
    networks = dict(zip(("generator", "discriminator"), build_networks(config, preflight.images, preflight.num_classes), strict=True))
    per_rank = config.train.batch_size // world.size
    lines = [
        *(f"# {name}: {sum(p.numel() for p in network.parameters()):,} parameters" for name, network in networks.items()),
        f"# batch: {config.train.batch_size} = {world.size} ranks x {per_rank} (in {config.engine.accumulation_steps} micro-batches)",
        f"# data: {preflight.describe()}",
        f"# {library.describe(world.device.type)}",
    ]
    return to_yaml(config) + "\n".join(lines)


if __name__ == "__main__":
    faulthandler.enable()  # a crash in compiled code says where it happened
    leave(main())
