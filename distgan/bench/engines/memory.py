"""What a rank holds, measured beside what the engine's way to shard lets expect.

In bytes a parameter on n ranks, all in fp32: 4 for the parameter, 4 for its gradient, 8 for Adam's two moments. Rajbhandari et al.
2020 (arXiv 1910.02054, section 3) divide the last by n at stage 1, the last two at stage 2, all at stage 3. DDP and stage 3 keep the
memory of the gradients all the time; stages 1 and 2 hold, when a step begins, the rank's own. From stage 1 on DeepSpeed has a second
copy of the parameters, sharded, which its lower precisions need. Activations, and the buckets in which gradients travel, come on top.
"""

import ctypes
import gc
import re
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from distgan.bench.engines.contestants import trainer_under
from distgan.bench.engines.report import BASELINE, Memory
from distgan.distributed import World
from distgan.metrics.traffic import Traffic
from distgan.trainer import Trainer

BATCH_SIZE = 8  # activations of so few are nothing beside the weights
WIDE = {"model": {"name": "mlp", "generator_sizes": [2048] * 3, "discriminator_sizes": [2048] * 3}, "penalty": {"name": "none"}}
NARROW = {"model": {"name": "mlp", "generator_sizes": [8], "discriminator_sizes": [8]}, "penalty": {"name": "none"}}


def measure(world: World, engine: str, directory: Path) -> Memory:
    """One engine in a process that has held no other. Collective, `bench.ranks.run_ranks` calls it."""
    small_batch = {"train": {"batch_size": BATCH_SIZE}, "data": {"num_workers": 0}}
    traffic = Traffic()
    with trainer_under(engine, NARROW | small_batch, world, directory / "narrow", traffic) as trainer:
        trainer.iterate()  # what is loaded and made at first use is no network's
    before = _resident_bytes(world)
    with trainer_under(engine, WIDE | small_batch, world, directory / "wide", traffic) as trainer:
        trainer.iterate()
        between_steps = _resident_bytes(world) - before
        before_step = _before_step(world, trainer) - before
        peak = _peak(world, trainer) - before
        networks = trainer.discriminator_engine.state().network, trainer.generator_engine.state().network
    discriminator, generator = (sum(value.numel() for value in network.values()) for network in networks)
    expected = [_expected_bytes(engine, discriminator, generator, world.size, at_step) for at_step in (False, True)]
    return Memory(
        ranks=world.size,
        engine=engine,
        parameters=(discriminator, generator),
        between_steps=between_steps / 1e6,
        expected_between_steps=expected[False] / 1e6,
        before_step=before_step / 1e6,
        expected_before_step=expected[True] / 1e6,
        peak=peak / 1e6,
    )


def _before_step(world: World, trainer: Trainer) -> int:
    """What is held when a step of the discriminator has its gradients."""
    found: list[int] = []
    engine = trainer.discriminator_engine
    step = engine.step

    def looking() -> Any:
        found.append(_resident_bytes(world))
        return step()

    engine.step = looking
    trainer.iterate()
    return found[0]


def _peak(world: World, trainer: Trainer) -> int:
    """The most that is held at any moment of an iteration."""
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        trainer.iterate()
        return torch.cuda.max_memory_allocated()
    of_files = _status_bytes("RssFile")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    trainer.iterate()
    return _status_bytes("VmHWM") - of_files


def _resident_bytes(world: World) -> int:
    """Memory of this process that is no file's; on a GPU what torch has given out there. Collective."""
    gc.collect()
    if world.device.type == "cuda":
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)
    found = _status_bytes("RssAnon")
    dist.barrier()  # nobody goes on while another looks
    return found


def _status_bytes(name: str) -> int:
    (kilobytes,) = re.findall(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    return 1024 * int(kilobytes)


def _expected_bytes(engine: str, discriminator: int, generator: int, ranks: int, at_step: bool) -> float:
    stage = -1 if engine == BASELINE else int(engine.removeprefix("ZeRO "))
    parameter = 4 / ranks if stage == 3 else 4
    second_copy = 4 / ranks if stage >= 1 else 0
    moments = 8 / ranks if stage >= 1 else 8
    gradient = 4 / ranks if stage >= 1 else 4
    with_gradient = discriminator + generator if stage in (-1, 3) else discriminator if at_step else 0
    average = 4 * generator
    return (parameter + second_copy + moments) * (discriminator + generator) + gradient * with_gradient + average
