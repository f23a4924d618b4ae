"""`python -m distgan.launch plan`: how fast a run would be on more GPUs, what it would ask of network and storage, and what holds it back.

It starts from what `python -m distgan.bench scaling --out FILE` measured on one device with the settings of the run; docs/scaling.md says
how. Other settings of distgan.train change what is planned, as far as they need not be measured again: batch, engine, schedules.

python -m distgan.launch plan --measured FILE --gpus 8 64 512 --train.batch_size 4096
python -m distgan.launch plan --measured FILE --gpus 8 64 512 --weak --engine.name deepspeed --engine.zero_stage 1
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from distgan.arguments import number
from distgan.bench.scaling.measured import figures_of, read
from distgan.bench.scaling.report import ScalingReport
from distgan.cli import parse_command, validate
from distgan.config import TrainConfig, changed_fields, problems_between_fields
from distgan.engine import deepspeed_settings
from distgan.errors import InputError
from distgan.files import write_atomically
from distgan.launch.planning import advice, table
from distgan.planning.collectives import Topology
from distgan.planning.figures import Figures, Workload
from distgan.planning.model import Cluster, Prediction, predict
from distgan.process import EXIT_DONE

# What the measured times depend on: with another value of it they are no longer right.
MEASURED = (
    *("model", "penalty.name", "penalty.formulation", "precision", "data.url", "data.mode"),
    *("data.resolution", "data.channels", "data.augment"),
)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The command's line among others'; what it does not know are settings of distgan.train, in `settings`."""
    parser = subparsers.add_parser(
        "plan",
        help="how fast it would be on more GPUs, and what would hold it back",
        description=__doc__,
    )
    parser.add_argument("--measured", type=Path, required=True, metavar="FILE", help="JSON of python -m distgan.bench scaling --out FILE")
    parser.add_argument("--gpus", type=number, nargs="+", required=True, metavar="N", help="numbers of GPUs to plan for")
    parser.add_argument(
        "--weak",
        action="store_true",
        help="train.batch_size is the batch of each GPU, so that the whole batch grows with them (default: it is the whole batch)",
    )
    parser.add_argument("--samples", type=int, metavar="N", help="samples that the data will have (default: as measured)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all predictions to this file")
    _add_cluster(parser.add_argument_group("the cluster"))
    parser.set_defaults(run=run, settings=[])


def _add_cluster(group: argparse._ArgumentGroup) -> None:
    def add(name: str, default: float | None, text: str) -> None:
        group.add_argument(f"--{name}", type=float, default=default, metavar="X", help=text)

    group.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="(default: 8)")
    add("network-gbit", 400.0, "Gbit/s of a node to others, one way, all adapters together (default: 400, one of NDR InfiniBand)")
    add("network-latency-us", 5.0, "microseconds of a step between nodes (default: 5, as NCCL has it for trees, src/graph/tuning.cc)")
    add("node-gbyte-s", 450.0, "GB/s of a GPU to others of its node, one way (default: 450, half of the 900 of an H100's NVLink)")
    add("node-latency-us", 0.5, "microseconds of a step within a node (default: 0.5, NCCL's for NVLink, as above)")
    add("launch-us", 4.4, "microseconds of an exchange, however small (default: 4.4, NCCL's, as above)")
    add("host-latency-us", None, "microseconds of a step between processes' CPUs (default: as measured, within a machine)")
    add("storage-gbyte-s", None, "GB/s with which all nodes together can read the data (default: as much as is needed)")
    add("node-storage-gbyte-s", None, "GB/s with which one node can (default: as much as is needed)")
    add("checkpoint-gbyte-s", None, "GB/s with which rank 0 saves (default: as measured)")
    add(
        "mtbf-hours",
        6300.0,
        "hours between two failures of a node, on average (default: 6300: 419 in 54 days of 2,048 nodes; Llama 3, arXiv 2407.21783)",
    )
    add(
        "recovery-seconds",
        None,
        "from a failure until processes start again (default: engine.timeout_seconds, which is how long ranks wait for a lost one at most)",
    )
    add(
        "overlap",
        None,
        "share of a gradient's exchange that a backward can hide (default: all but the last bucket with ddp, nothing with deepspeed)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        InputError: with a sentence for everything that is wrong.
    """
    report = read(options.measured)
    problems = _option_problems(options)
    config = _config(report, options, problems)
    if config is None or problems:
        raise InputError(problems)
    figures = _figures(report, options)
    problems += _problems(config, options, figures)
    if problems:
        raise InputError(dict.fromkeys(problems))
    cluster = _cluster(options, config)
    predictions = [_predict(figures, config, cluster, num_gpus, options.weak) for num_gpus in options.gpus]
    if options.json is not None:
        _write(options.json, options, config, figures, cluster, predictions)
    print(_head(report, config, options), "", table.text(predictions), "", sep="\n")
    print(*advice.sentences(predictions, figures, config, options.weak), sep="\n")
    return EXIT_DONE


def _option_problems(options: argparse.Namespace) -> list[str]:
    problems = []
    if min(options.gpus) < 1:
        problems.append(f"--gpus is {' '.join(map(str, options.gpus))}; give numbers from 1.")
    if options.gpus_per_node < 1:
        problems.append(f"--gpus-per-node is {options.gpus_per_node}; give at least 1.")
    else:
        problems += [
            f"--gpus is {number}, which does not fill nodes of {options.gpus_per_node} GPUs; give a multiple of it, or --gpus-per-node."
            for number in options.gpus
            if number > options.gpus_per_node and number % options.gpus_per_node
        ]
    if options.samples is not None and options.samples < 1:
        problems.append(f"--samples is {options.samples}; give at least 1.")
    positive = ("network_gbit", "node_gbyte_s", "storage_gbyte_s", "node_storage_gbyte_s", "checkpoint_gbyte_s", "mtbf_hours")
    for names, holds, mend in (
        (positive, lambda value: 0 < value < float("inf"), "more than 0"),
        (
            ("network_latency_us", "node_latency_us", "launch_us", "host_latency_us", "recovery_seconds"),
            lambda value: 0 <= value < float("inf"),
            "0 or more",
        ),
        (("overlap",), lambda value: 0 <= value <= 1, "a share from 0 to 1"),
    ):
        for name in names:
            value = getattr(options, name)
            if value is not None and not holds(value):
                problems.append(f"--{name.replace('_', '-')} is {value:g}; give {mend}.")
    return problems


def _config(report: ScalingReport, options: argparse.Namespace, problems: list[str]) -> TrainConfig | None:
    """The measured settings with those of the command laid over them; None: they cannot be, which `problems` says then."""
    try:
        measured = validate(report.settings)
    except InputError as error:
        problems.append(f"--measured is {str(options.measured)!r}, of a run that cannot be any more: {error.problems[0]} Measure again.")
        return None
    if (model := _model_asked(options.settings)) not in (None, measured.model.name):
        problems.append(_measured_otherwise("model.name", model, measured.model.name, options))
        return None
    with tempfile.TemporaryDirectory(prefix="distgan-plan-") as folder:
        file = Path(folder, "measured.yaml")
        file.write_text(yaml.safe_dump(report.settings))
        try:
            config = parse_command(["--config", str(file), *options.settings]).config
        except InputError as error:
            problems += error.problems
            return None
    changed = changed_fields(measured.model_dump(), config.model_dump())
    problems += [
        _measured_otherwise(field, now, before, options)
        for field, (before, now) in changed.items()
        if any(field == name or field.startswith(f"{name}.") for name in MEASURED)
    ]
    return config


def _model_asked(settings: Sequence[str]) -> str | None:
    """The model.name among these arguments: its settings are other ones, and the measured model's would be refused beside it."""
    with suppress(InputError):  # which will be told with the measured settings under these
        model = parse_command(settings).config.model
        return model.name if "name" in model.model_fields_set else None
    return None


def _measured_otherwise(field: str, now: object, before: object, options: argparse.Namespace) -> str:
    return f"{field} is {now!r}, but {options.measured} was measured with {before!r}; measure again with it, or leave it out."


def _figures(report: ScalingReport, options: argparse.Namespace) -> Figures:
    figures = figures_of(report)
    return figures if options.samples is None else replace(figures, num_samples=options.samples)


def _problems(config: TrainConfig, options: argparse.Namespace, figures: Figures) -> list[str]:
    """What no run could be started with."""
    problems = []
    for num_gpus in options.gpus:
        of_number = _scaled(config, num_gpus, options.weak)
        problems += problems_between_fields(of_number, num_gpus) + deepspeed_settings.problems(of_number, num_gpus)
        if of_number.train.batch_size > figures.num_samples:
            problems.append(
                f"train.batch_size would be {of_number.train.batch_size} on {num_gpus} GPUs, but the data has {figures.num_samples} "
                "samples; lower it, or give with --samples how many there will be."
            )
    return problems


def _scaled(config: TrainConfig, num_gpus: int, weak: bool) -> TrainConfig:
    batch_size = config.train.batch_size * (num_gpus if weak else 1)
    return config.model_copy(update={"train": config.train.model_copy(update={"batch_size": batch_size})})


def _workload(config: TrainConfig) -> Workload:
    return Workload(
        batch_size=config.train.batch_size,
        discriminator_steps=config.train.discriminator_steps,
        penalty_every=None if config.penalty.name == "none" else config.penalty.every,
        accumulation_steps=config.engine.accumulation_steps,
        zero_stage=None if config.engine.name == "ddp" else config.engine.zero_stage,
        num_workers=config.data.num_workers,
        total_images=1000 * config.train.total_kimg,
        checkpoint_every_images=1000 * config.checkpoint.every_kimg,
        log_every_images=1000 * config.metrics.log_every_kimg,
        samples_every_images=1000 * config.metrics.samples_every_kimg,
    )


def _cluster(options: argparse.Namespace, config: TrainConfig) -> Cluster:
    def scaled(value: float | None, by: float) -> float | None:
        return None if value is None else value * by

    return Cluster(
        topology=Topology(
            gpus_per_node=options.gpus_per_node,
            node_bandwidth=options.node_gbyte_s * 1e9,
            node_latency=options.node_latency_us * 1e-6,
            network_bandwidth=options.network_gbit * 1e9 / 8,
            network_latency=options.network_latency_us * 1e-6,
            launch_latency=options.launch_us * 1e-6,
        ),
        node_mtbf_seconds=3600 * options.mtbf_hours,
        recovery_seconds=config.engine.timeout_seconds if options.recovery_seconds is None else options.recovery_seconds,
        host_step_seconds=scaled(options.host_latency_us, 1e-6),
        storage_bandwidth=scaled(options.storage_gbyte_s, 1e9),
        node_storage_bandwidth=scaled(options.node_storage_gbyte_s, 1e9),
        checkpoint_bandwidth=scaled(options.checkpoint_gbyte_s, 1e9),
        overlap=options.overlap,
    )


def _predict(figures: Figures, config: TrainConfig, cluster: Cluster, num_gpus: int, weak: bool) -> Prediction:
    return predict(figures, _workload(_scaled(config, num_gpus, weak)), _workload(config), cluster, num_gpus)


def _head(report: ScalingReport, config: TrainConfig, options: argparse.Namespace) -> str:
    engine = "ddp" if config.engine.name == "ddp" else f"ZeRO {config.engine.zero_stage}"
    batch = f"{config.train.batch_size} images a step on each GPU" if options.weak else f"{config.train.batch_size} images a step in all"
    device = report.machine.gpu if report.device == "cuda" else f"{report.machine.cpu or 'unknown CPU'}, {report.machine.threads} threads"
    return "\n".join(
        [
            f"From what {device} took on {report.date[:10]} ({options.measured}): {engine}, {batch}.",
            f"Nodes of {options.gpus_per_node} GPUs at {options.node_gbyte_s:g} GB/s, {options.network_gbit:g} Gbit/s between them; a node "
            f"fails every {options.mtbf_hours:g} hours.",
        ]
    )


def _write(
    path: Path,
    options: argparse.Namespace,
    config: TrainConfig,
    figures: Figures,
    cluster: Cluster,
    predictions: Sequence[Prediction],
) -> None:
    values = {
        "measured": str(options.measured),
        "weak": options.weak,
        "settings": config.model_dump(),
        "figures": asdict(figures),
        "cluster": asdict(cluster),
        "predictions": [asdict(one) for one in predictions],
    }
    try:
        write_atomically(path, (json.dumps(values, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(f"--json is {str(path)!r}, which cannot be written ({error.strerror}); give another path.") from None
