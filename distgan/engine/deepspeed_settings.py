"""DeepSpeed's own settings: a user's JSON, held against the run's configuration, and completed by it.

What the run decides (batch sizes, stage, optimizer, precision) comes from the run's configuration; the JSON is for everything else, such as
buckets, overlapping and offloading. Where it repeats what the run decides, it has to agree; "auto" always does.
"""

import difflib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distgan.config import TrainConfig, flatten
from distgan.engine.deepspeed import import_deepspeed

# Before it, ZeRO-2 gives wrong gradients without a word where a network runs twice in a step (DeepSpeed#8224), as a discriminator does.
OLDEST = (0, 19, 4)
# What a JSON may hold beside what the run decides (`_decided`).
_FREE = (
    *("zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "comms_logger", "flops_profiler"),
    *("steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state"),
)
# Of zero_optimization: what exchanges rounded numbers, shards in a way that is not proven here, or needs operators that are not built.
_NOT_PROVEN = (
    *("zero_quantized_weights", "zero_quantized_gradients", "zero_quantized_nontrainable_weights", "zeropp_loco_param"),
    *("mics_shard_size", "mics_hierarchical_params_gather", "zero_hpz_partition_size", "zenflow", "cpu_offload", "cpu_offload_params"),
)
# What would replace the run's own optimizer or precision.
_OPTIMIZERS = ("optimizer", "scheduler")
_PRECISIONS = ("fp16", "bf16", "bfloat16", "amp", "torch_autocast")


def problems(config: TrainConfig, world_size: int) -> list[str]:
    """A sentence for each reason why the run cannot be trained by DeepSpeed as it is set."""
    engine = config.engine
    if engine.name != "deepspeed":
        asked = {"zero_stage": engine.zero_stage != 0, "deepspeed_config": engine.deepspeed_config is not None}
        return [
            f"engine.{field} is {getattr(engine, field)!r}, but engine.name is {engine.name!r}; set that to deepspeed, or leave it out."
            for field, is_set in asked.items()
            if is_set
        ]
    found = _version_problems()
    if engine.deepspeed_config is None:
        return found
    try:
        settings = _read(engine.deepspeed_config)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return [
            *found,
            f"engine.deepspeed_config is {engine.deepspeed_config!r}, which cannot be read as a JSON object ({reason}); mend it, or give "
            "another file.",
        ]
    contradictions = _contradictions(settings, config, world_size)
    return found + contradictions + ([] if found else _unknown(settings, config, world_size))


def _version_problems() -> list[str]:
    try:
        version = importlib.metadata.version("deepspeed")
    except importlib.metadata.PackageNotFoundError:
        return [
            "engine.name is 'deepspeed', which is not installed; run: DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed, or set "
            "engine.name to ddp."
        ]
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit())
    if numbers < OLDEST:
        return [
            f"DeepSpeed {version} is installed, whose ZeRO stage 2 gives wrong gradients where a network runs twice in a step, as a "
            f"discriminator does (DeepSpeed#8224); install {'.'.join(map(str, OLDEST))} or newer, or set engine.name to ddp."
        ]
    return []


def _read(path: str) -> dict[str, Any]:
    settings = json.loads(Path(path).read_text(), object_pairs_hook=_without_doubles)
    if not isinstance(settings, dict):
        raise ValueError(f"it holds a {type(settings).__name__}")
    if not isinstance(zero := settings.get("zero_optimization", {}), dict):
        raise ValueError(f"its zero_optimization is {zero!r}")
    return settings


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets the last one win, without a word."""
    names = [name for name, _ in pairs]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the key {doubles[0]!r} stands twice")
    return dict(pairs)


def _unknown(settings: dict[str, Any], config: TrainConfig, world_size: int) -> list[str]:
    """A sentence for each setting that DeepSpeed does not know, cannot take, or would take without what was learnt staying the same."""
    zero_config = import_deepspeed().runtime.zero.config.DeepSpeedZeroConfig
    where = f"in engine.deepspeed_config {config.engine.deepspeed_config!r}"
    known = {*_FREE, *_OPTIMIZERS, *_PRECISIONS, *(field for field in _decided(config, world_size) if "." not in field)}
    found = [f"{name} {where} is nothing that it can set; {_mend(name, _FREE)}" for name in settings if name not in known]
    if not isinstance(steps := settings.get("steps_per_print"), int | None) or isinstance(steps, bool):
        found.append(f"steps_per_print is {steps!r} {where}; give a whole number, or leave it out.")
    zero = {name: value for name, value in settings.get("zero_optimization", {}).items() if value != "auto"}
    for name in [name for name in zero if name in _NOT_PROVEN]:
        found.append(f"zero_optimization.{name} is set {where}, of which is not known that a run learns the same; leave it out.")
        del zero[name]
    for name in ("offload_optimizer", "offload_param"):
        section = zero.get(name) or {}
        device = section.get("device") if isinstance(section, dict) else section
        if name == "offload_param" and section and config.engine.zero_stage != 3:
            found.append(f"zero_optimization.{name} is set {where}, but engine.zero_stage is {config.engine.zero_stage}; it needs stage 3.")
        elif device == "nvme":
            found.append(
                f"zero_optimization.{name}.device is 'nvme' {where}, which needs operators that are not built here; set it to cpu."
            )
            del zero[name]
    try:
        zero_config(**zero)
    except ValidationError as error:
        for details in error.errors():
            name = ".".join(str(part) for part in details["loc"])
            if details["type"] == "extra_forbidden":
                mend = _mend(name, list(zero_config.model_fields))
                found.append(f"zero_optimization.{name} {where} is nothing that DeepSpeed knows; {mend}")
            else:
                found.append(f"zero_optimization.{name} is {details['input']!r} {where}; {details['msg'][0].lower()}{details['msg'][1:]}.")
    return found


def _mend(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else "leave it out."


def _limits(config: TrainConfig) -> tuple[float, float]:
    """The gradient norms to which the generator's and the discriminator's gradients are limited, 0 for none, as DeepSpeed has it."""
    return config.generator_optimizer.max_gradient_norm or 0.0, config.discriminator_optimizer.max_gradient_norm or 0.0


def _decided(config: TrainConfig, world_size: int) -> dict[str, tuple[object, str]]:
    """{DeepSpeed's field: (what the run makes it, by which of its settings)}."""
    return {
        "train_batch_size": (config.train.batch_size, "train.batch_size"),
        "gradient_accumulation_steps": (config.engine.accumulation_steps, "engine.accumulation_steps"),
        "train_micro_batch_size_per_gpu": (
            _micro_batch_size(config, world_size),
            "train.batch_size, the ranks and engine.accumulation_steps",
        ),
        "gradient_clipping": (
            _limits(config)[1],
            "generator_optimizer.max_gradient_norm and discriminator_optimizer.max_gradient_norm",
        ),
        "zero_optimization.stage": (config.engine.zero_stage, "engine.zero_stage"),
        "managed_gradient_accumulation": (True, "engine.name"),
    }


def _micro_batch_size(config: TrainConfig, world_size: int) -> int:
    return config.train.batch_size // (world_size * config.engine.accumulation_steps)


def _contradictions(settings: dict[str, Any], config: TrainConfig, world_size: int) -> list[str]:
    where = f"in engine.deepspeed_config {config.engine.deepspeed_config!r}"
    found = []
    flat = flatten(settings)
    for field, (ours, decided_by) in _decided(config, world_size).items():
        theirs = flat.get(field, "auto")
        agrees = theirs in ("auto", ours) and not (field == "gradient_clipping" and theirs != "auto" and len(set(_limits(config))) > 1)
        if not agrees:
            found.append(f"{field} is {theirs!r} {where}, but by {decided_by} it is {ours!r}; change one of them or leave it out there.")
    if flat.get("zero_optimization.memory_efficient_linear", "auto") not in ("auto", False):
        found.append(
            f"zero_optimization.memory_efficient_linear is {flat['zero_optimization.memory_efficient_linear']!r} {where}, which replaces "
            "torch's linear function for the whole process by one that has no forward derivative; leave it out there."
        )
    for section in _OPTIMIZERS:
        if section in settings:
            found.append(f"{section} is set {where}; leave it out there, it comes from generator_optimizer and discriminator_optimizer.")
    for section in _PRECISIONS:
        if isinstance(options := settings.get(section), dict) and options.get("enabled", True) not in (False, "auto"):
            found.append(f"{section} is enabled {where}; leave it out there, parameters and gradients are fp32 under every engine.")
    return found


def complete(config: TrainConfig, world_size: int, max_gradient_norm: float | None, bucket_numel: int) -> dict[str, Any]:
    """What `deepspeed.initialize` is given for one network."""
    settings = {} if config.engine.deepspeed_config is None else _read(config.engine.deepspeed_config)
    zero = settings.get("zero_optimization", {})
    decided = {"stage": config.engine.zero_stage}
    if config.engine.zero_stage == 3:
        decided["memory_efficient_linear"] = False
    return {
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,  # torch's own Adam,
        "zero_force_ds_cpu_optimizer": False,  # also where its state is offloaded
        **{key: value for key, value in settings.items() if value != "auto" and key not in (*_PRECISIONS, "train_batch_size")},
        "train_micro_batch_size_per_gpu": _micro_batch_size(config, world_size),
        "gradient_accumulation_steps": 1,  # a penalty is a backward of its own, so the engine says itself which one is the last
        "gradient_clipping": max_gradient_norm or 0.0 if config.engine.zero_stage else 0.0,  # at stage 0 the engine does it itself
        "zero_optimization": {
            "reduce_bucket_size": bucket_numel,
            **{key: value for key, value in zero.items() if value != "auto"},
            **decided,
        },
    }
