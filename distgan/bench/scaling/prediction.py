"""The plan's model, held against this machine: what it predicts for several ranks from what one rank and all-reduces alone took."""

import math
from dataclasses import replace

from distgan.bench.scaling.measured import figures_of, topology_here
from distgan.bench.scaling.report import Check, ScalingReport, Speed
from distgan.planning.figures import Figures, Line, Workload
from distgan.planning.model import Cluster, predict_iteration


def checks(report: ScalingReport) -> list[Check]:
    """One for each of the report's speeds on several ranks."""
    return [_check(report, speed) for speed in report.speeds if speed.ranks > 1]


def _check(report: ScalingReport, speed: Speed) -> Check:
    figures = replace(figures_of(report), vote_rounds=0)  # the iterations were timed outside of the training loop
    beside = None if report.beside is None else 1000 * _seconds(report, _slower(figures, report.beside), speed)
    return Check(
        ranks=speed.ranks,
        batch=speed.batch,
        measured_ms=speed.median_ms,
        predicted_ms=1000 * _seconds(report, figures, speed),
        predicted_beside_ms=beside,
    )


def _seconds(report: ScalingReport, figures: Figures, speed: Speed) -> float:
    settings, penalty = report.settings, report.settings["penalty"]
    workload = Workload(
        batch_size=speed.batch,
        discriminator_steps=settings["train"]["discriminator_steps"],
        penalty_every=None if penalty["name"] == "none" else penalty["every"],
        accumulation_steps=1,
        zero_stage=None,
        num_workers=settings["data"]["num_workers"],
        total_images=math.inf,
        checkpoint_every_images=math.inf,
        log_every_images=math.inf,
        samples_every_images=math.inf,
    )
    cluster = Cluster(topology_here(report, speed.ranks), node_mtbf_seconds=math.inf, recovery_seconds=0.0)
    return predict_iteration(figures, workload, cluster, speed.ranks).seconds


def _slower(figures: Figures, times: float) -> Figures:
    """All computing takes so many times as long."""

    def slower(line: Line) -> Line:
        return Line(times * line.fixed, times * line.each)

    return replace(
        figures,
        discriminator_seconds=slower(figures.discriminator_seconds),
        penalty_seconds=None if figures.penalty_seconds is None else slower(figures.penalty_seconds),
        generator_seconds=slower(figures.generator_seconds),
        average_seconds=times * figures.average_seconds,
        feed_seconds=slower(figures.feed_seconds),
        draw_seconds_per_image=times * figures.draw_seconds_per_image,
    )
