"""Which engines take part, and a trainer under each."""

import contextlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distgan.bench.engines.report import BASELINE
from distgan.build import built_trainer, check
from distgan.cli import validate
from distgan.distributed import World
from distgan.metrics.prometheus import Exporter
from distgan.metrics.traffic import Traffic
from distgan.trainer import Trainer

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"name": "ddp", "zero_stage": 0},
    **{f"ZeRO {stage}": {"name": "deepspeed", "zero_stage": stage} for stage in range(4)},
}
_ALL_SHARDED = '{"zero_optimization": {"stage3_param_persistence_threshold": 0}}'


def engine_options(engine: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of distgan.train's section engine; DeepSpeed's own file is for DeepSpeed."""
    options = settings.get("engine", {}) | ENGINES[engine]
    return options | ({"deepspeed_config": None} if options["name"] == BASELINE else {})


@contextmanager
def trainer_under(engine: str, settings: dict[str, Any], world: World, directory: Path, traffic: Traffic) -> Iterator[Trainer]:
    """A new run of these settings (nested, as of distgan.train) in `directory`. Collective."""
    options = engine_options(engine, settings)
    directory.mkdir(parents=True, exist_ok=True)
    if options["name"] == "deepspeed" and options.get("deepspeed_config") is None:
        file = directory / f"deepspeed-{world.rank}.json"
        file.write_text(_ALL_SHARDED)
        options["deepspeed_config"] = str(file)
    run = {"dir": str(directory / engine), "seed": settings.get("run", {}).get("seed", 0)}
    config = validate(settings | {"engine": options, "run": run, "metrics": {"port": 0, "num_sample_images": 1}})
    preflight = check(config, world.size)
    Path(config.run.dir, "samples").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.redirect_stderr(io.StringIO()):  # no progress bar of a run
            trainer = stack.enter_context(built_trainer(config, world, preflight, Exporter(restarts=0), traffic))
        yield trainer
