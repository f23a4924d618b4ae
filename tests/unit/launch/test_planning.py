"""The plan: its laws against simulations, closed forms and what was recorded elsewhere; its command by what it refuses and prints."""

import itertools
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distgan import checkpoint
from distgan.bench.engines.report import EnginesReport
from distgan.bench.scaling.measured import figures_of
from distgan.bench.scaling.report import ScalingReport
from distgan.launch.__main__ import main
from distgan.planning import exchanges, failures
from distgan.planning.collectives import Topology, all_reduce_seconds, double_tree_seconds, ring_seconds, sent_bytes_per_node
from distgan.planning.figures import Figures, Line, NetworkFigures, Workload
from distgan.planning.model import Cluster, checkpoint_bytes, predict, predict_iteration
from distgan.planning.stragglers import expected_largest, straggling_seconds
from tests.training import SMALL_MODELS, settings, trainer_of

DOCS = Path(__file__).parents[3] / "docs"
INVENTED = DOCS / "benchmarks" / "scaling-invented.json"
REPORT = ScalingReport.model_validate_json(INVENTED.read_text())
FIGURES = figures_of(REPORT)
NO_TIME = Topology(8, math.inf, 0.0, math.inf, 0.0, 0.0)
TOPOLOGY = Topology(8, 450e9, 0.5e-6, 50e9, 5e-6, 4.4e-6)
CLUSTER = Cluster(TOPOLOGY, node_mtbf_seconds=1e7, recovery_seconds=60.0)
WORKLOAD = Workload(
    batch_size=4096,
    discriminator_steps=1,
    penalty_every=16,
    accumulation_steps=1,
    zero_stage=None,
    num_workers=12,
    total_images=2e8,
    checkpoint_every_images=2e5,
    log_every_images=math.inf,
    samples_every_images=math.inf,
)
# Of a single rank that nothing holds up.
SMOOTH = replace(FIGURES, jitter=0.0, vote_rounds=0.0, read_seconds_per_sample=0.0)


def _simulated_ring(values: np.ndarray, chunk_seconds: float, latency: float) -> tuple[np.ndarray, float]:
    """Ranks that pass chunks on: each sends one to the next as soon as it has it and has sent the one before. -> (their sums, seconds)."""
    ranks = len(values)
    chunks = [np.array_split(value.copy(), ranks) for value in values]
    free = [0.0] * ranks  # when a rank has sent what it was sending
    there = [[0.0] * ranks for _ in range(ranks)]  # when a rank has a chunk as it is to be passed on
    for step in range(2 * (ranks - 1)):
        arrivals = []
        for rank in range(ranks):
            number = (rank - step) % ranks
            free[rank] = max(free[rank], there[rank][number]) + chunk_seconds
            arrivals.append(((rank + 1) % ranks, number, free[rank] + latency, chunks[rank][number].copy()))
        for rank, number, moment, chunk in arrivals:
            chunks[rank][number] = chunks[rank][number] + chunk if step < ranks - 1 else chunk
            there[rank][number] = moment
    return np.array([np.concatenate(of_rank) for of_rank in chunks]), max(max(of_rank) for of_rank in there)


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 16])
def test_a_ring_takes_what_its_simulation_takes(ranks: int) -> None:
    num_bytes, bandwidth, latency = 1e6, 2e9, 0.0
    values = np.random.default_rng(0).normal(size=(ranks, 8 * ranks))
    sums, seconds = _simulated_ring(values, num_bytes / ranks / bandwidth, latency)
    np.testing.assert_allclose(sums, np.tile(values.sum(axis=0), (ranks, 1)))
    assert seconds == pytest.approx(ring_seconds(num_bytes, ranks, bandwidth, latency))
    # Where a chunk is on its way for longer than it takes to send, a step lasts for both, as each waits for what it passes on.
    _, seconds = _simulated_ring(values, 1e-6, 5e-6)
    assert seconds == pytest.approx(ring_seconds(ranks * 1e-6, ranks, 1.0, 5e-6))


def test_one_node_is_a_ring_and_several_are_no_worse_than_one_ring() -> None:
    assert all_reduce_seconds(1e6, 1, TOPOLOGY) == 0
    assert all_reduce_seconds(1e8, 8, TOPOLOGY) == pytest.approx(4.4e-6 + ring_seconds(1e8, 8, 450e9, 0.5e-6))
    for num_gpus, num_bytes in itertools.product((16, 64, 512, 4096), (1e3, 1e6, 1e9)):
        nodes = num_gpus // 8
        one_ring = 2 * (num_gpus - 1) / num_gpus * num_bytes / 50e9 + 2 * (num_gpus - nodes) * 0.5e-6 + 2 * (nodes - 1) * 5e-6
        assert all_reduce_seconds(num_bytes, num_gpus, TOPOLOGY) <= 4.4e-6 + one_ring * (1 + 1e-9)
    # 1 GB between two nodes of 8: within each 7/8 of it twice, between them once each way.
    within, between = 2 * 7 / 8 / 450, 1 / 50
    assert all_reduce_seconds(1e9, 16, replace(TOPOLOGY, node_latency=0, network_latency=0, launch_latency=0)) == pytest.approx(
        min(within + between, 2 * 15 / 16 / 50)
    )


def test_with_many_nodes_small_exchanges_take_the_trees_and_large_ones_what_the_network_lets_through() -> None:
    small = all_reduce_seconds(1000, 4096, TOPOLOGY)
    assert small == pytest.approx(4.4e-6 + ring_seconds(1000, 8, 450e9, 0.5e-6) + double_tree_seconds(1000, 512, 50e9, 5e-6))
    assert small < ring_seconds(1000, 512, 50e9, 5e-6) / 10
    assert all_reduce_seconds(1e12, 4096, TOPOLOGY) == pytest.approx(2 * 1e12 / 50e9, rel=0.01)
    assert sent_bytes_per_node(1e9, 8, TOPOLOGY) == 0
    assert sent_bytes_per_node(1e9, 32, TOPOLOGY) == pytest.approx(1.5e9)


@pytest.mark.parametrize(("count", "expected"), [(1, 0.0), (2, math.pi**-0.5), (3, 1.5 * math.pi**-0.5), (10, 1.53875), (100, 2.50759)])
def test_the_largest_of_some_normal_numbers(count: int, expected: float) -> None:
    """Closed forms, and the tables of order statistics (Teichroew 1956)."""
    assert expected_largest(count) == pytest.approx(expected, abs=2e-5)


def test_the_largest_grows_as_the_root_of_the_logarithm() -> None:
    assert [expected_largest(count) < math.sqrt(2 * math.log(count)) for count in (2, 64, 4096)] == [True] * 3
    draws = np.random.default_rng(0).normal(size=(2000, 512)).max(axis=1)
    assert expected_largest(512) == pytest.approx(draws.mean(), abs=4 * draws.std() / 2000**0.5)


def test_ranks_that_meet_wait_for_the_slowest() -> None:
    """Simulated: an iteration of four parts, each with half of the iteration's deviation, on 16 ranks that meet after each."""
    parts = np.random.default_rng(0).normal(size=(4000, 4, 16)) * 0.03 / 2
    late = parts.max(axis=2).sum(axis=1)
    assert straggling_seconds(0.03, 4, 16) == pytest.approx(late.mean(), abs=4 * late.std() / 4000**0.5)
    assert straggling_seconds(0.03, 4, 1) == 0


@pytest.mark.parametrize("buckets", [1, 2, 8])
@pytest.mark.parametrize("exchange_seconds", [0.2, 1.0, 3.0])
def test_what_a_backward_hides_is_what_its_simulation_hides(buckets: int, exchange_seconds: float) -> None:
    """A bucket leaves when its part of the backward (1 s) is done and the one before it is exchanged."""
    end = 0.0
    for number in range(1, buckets + 1):
        end = max(end, number / buckets) + exchange_seconds / buckets
    assert exchanges.exposed_seconds(exchange_seconds, 1 - 1 / buckets, 1.0) == pytest.approx(end - 1.0)


@pytest.mark.parametrize("name", ["engines-cpu", "engines-cpu-wide"])
def test_engines_exchange_what_was_counted(name: str) -> None:
    """Against the recorded benchmark of the engines: bytes of an iteration, all but the generator's for its average, which is not in it."""
    report = EnginesReport.model_validate_json((DOCS / "benchmarks" / f"{name}.json").read_text())
    gradients = {one.network: one.least_megabytes for one in report.exchanges if one.engine == "ddp"}
    for engine, stage in {"ddp": None, "ZeRO 0": 0, "ZeRO 1": 1, "ZeRO 2": 2, "ZeRO 3": 3}.items():
        workload = replace(WORKLOAD, penalty_every=report.penalty_every, zero_stage=stage)
        discriminator, generator = exchanges.volumes(workload)
        average = 0.5 if stage == 3 else 0.0
        expected = discriminator.all_reduces * gradients["discriminator"] + (generator.all_reduces - average) * gradients["generator"]
        counted = sum(one.megabytes for one in report.exchanges if one.engine == engine)
        assert expected == pytest.approx(counted, rel=0.01), engine


def test_micro_batches_and_more_steps_exchange_more_where_each_backward_does() -> None:
    two = replace(WORKLOAD, accumulation_steps=2, discriminator_steps=3, penalty_every=None)
    assert [one.all_reduces for one in exchanges.volumes(two)] == [3, 1]
    assert [one.all_reduces for one in exchanges.volumes(replace(two, zero_stage=1))] == [4.5, 1.5]
    assert [one.all_reduces for one in exchanges.volumes(replace(two, zero_stage=2))] == [3 * 2 + 1.5, 2.5]


@pytest.mark.parametrize(
    ("points", "fixed", "each"),
    [
        ([(8, 5 + 8 * 0.5), (16, 5 + 16 * 0.5), (64, 5 + 64 * 0.5)], 5, 0.5),
        ([(1, 1.0), (2, 2.0), (4, 4.5)], 0, None),  # a line would begin below zero
        ([(1, 2.0), (2, 1.9), (4, 1.8)], None, 0),  # and one would fall
    ],
)
def test_a_line_through_points(points: list[tuple[float, float]], fixed: float | None, each: float | None) -> None:
    line = Line.fit(points)
    if fixed is not None:
        assert line.fixed == pytest.approx(fixed, abs=1e-9)
    if each is not None:
        assert line.each == pytest.approx(each, abs=1e-9)
    assert all(line(number) == pytest.approx(seconds, rel=0.1) for number, seconds in points)


def test_a_point_counts_by_its_relative_error() -> None:
    """Thousands of times as many bytes must not drown the few that tell the latency."""
    line = Line.fit([(4, 1e-4), (1024, 1e-4 + 1e-7), (2**26, 1.05 * 2**26 * 1e-9)])
    assert line.fixed == pytest.approx(1e-4, rel=0.02)


def _simulated_goodput(interval: float, checkpoint: float, restart: float, mtbf: float, intervals: int) -> float:
    """Work in intervals, each made safe by a checkpoint, under failures that strike at any time, restarts included."""
    draw, clock, done, failure = random.Random(0), 0.0, 0, 0.0
    failure = draw.expovariate(1 / mtbf)
    recovering = False
    while done < intervals:
        needed = restart if recovering else interval + checkpoint
        if clock + needed > failure:
            clock, recovering = failure, True
            failure = clock + draw.expovariate(1 / mtbf)
            continue
        clock += needed
        done += not recovering
        recovering = False
    return intervals * interval / clock


@pytest.mark.parametrize(
    ("interval", "checkpoint", "restart", "mtbf"), [(100.0, 5.0, 20.0, 1000.0), (50.0, 10.0, 60.0, 200.0), (1000.0, 1.0, 0.0, 500.0)]
)
def test_goodput_is_what_a_simulation_gives(interval: float, checkpoint: float, restart: float, mtbf: float) -> None:
    simulated = _simulated_goodput(interval, checkpoint, restart, mtbf, 40_000)
    assert failures.goodput(interval, checkpoint, restart, mtbf) == pytest.approx(simulated, rel=0.02)


@pytest.mark.parametrize(("checkpoint", "mtbf"), [(1.0, 1e5), (10.0, 1e3), (100.0, 500.0), (60.0, 40.0)])
def test_the_best_interval_is_best(checkpoint: float, mtbf: float) -> None:
    best = max(failures.goodput(float(interval), checkpoint, 30.0, mtbf) for interval in np.geomspace(0.1, 100 * mtbf, 4000))
    ours = failures.goodput(failures.daly_interval(checkpoint, mtbf), checkpoint, 30.0, mtbf)
    assert ours == pytest.approx(best, rel=1e-2 if checkpoint > mtbf / 10 else 1e-4)
    assert failures.daly_interval(1.0, 1e6) == pytest.approx(failures.young_interval(1.0, 1e6), rel=1e-3)


def test_failures_cost_half_an_interval_each_to_first_order() -> None:
    interval, checkpoint, restart, mtbf = 100.0, 1.0, 20.0, 1e6
    lost = failures.lost_seconds_per_failure(interval, checkpoint, restart) / mtbf
    expected = interval / (interval + checkpoint) * (1 - lost)
    assert failures.goodput(interval, checkpoint, restart, mtbf) == pytest.approx(expected, rel=1e-6)
    assert failures.goodput(1e6, 1.0, 0.0, 100.0) == 0, "an interval that never ends"
    assert failures.mean_time_between_failures(1e6, 500) == 2000


@pytest.mark.parametrize("model", list(SMALL_MODELS))
def test_a_checkpoint_has_as_many_bytes_as_the_closed_form(model: str, tmp_path: Path) -> None:
    with trainer_of(settings(tmp_path, model=SMALL_MODELS[model], train={"batch_size": 4})) as trainer:
        trainer.iterate()
        trainer.saver.save()
        networks = [trainer.generator_phase.network, trainer.discriminator_phase.network]
        saved = checkpoint.load(tmp_path / "checkpoints", 1)
    sizes = [
        NetworkFigures(
            num_parameters=sum(one.numel() for one in network.parameters()),
            num_tensors=len(list(network.parameters())),
            buffer_bytes=sum(buffer.nbytes for buffer in network.buffers()),
            bucket_bytes=(1.0,),
            num_small_exchanges=0,
            small_bytes=0,
            backward_share=0,
        )
        for network in networks
    ]
    assert sum(value.nbytes for group in saved.tensors.values() for value in group.values()) == checkpoint_bytes(*sizes)
    assert checkpoint_bytes(FIGURES.generator, FIGURES.discriminator) == REPORT.costs.checkpoint_tensor_bytes


def test_on_one_gpu_an_iteration_is_what_was_measured() -> None:
    for point in REPORT.points:
        one = predict_iteration(SMOOTH, replace(WORKLOAD, batch_size=point.batch), CLUSTER, 1)
        assert one.seconds == pytest.approx(point.iteration, rel=1e-4)


def test_without_exchanges_only_what_is_shared_gets_shorter() -> None:
    """Amdahl's law: the rest stays."""
    cluster = Cluster(NO_TIME, node_mtbf_seconds=1e7, recovery_seconds=0.0)
    alone = predict_iteration(SMOOTH, WORKLOAD, cluster, 1)
    for num_gpus in (8, 64, 4096):
        one = predict_iteration(SMOOTH, WORKLOAD, cluster, num_gpus)
        assert one.seconds == pytest.approx(alone.overhead + alone.images / num_gpus)


def test_on_a_cpu_noise_comes_on_top_and_beside_a_gpu_only_beyond_its_work() -> None:
    """Of 64 images that a rank holds, and of at most 255 before them in their block."""
    on_cpu = predict_iteration(replace(SMOOTH, on_cpu=True, draw_seconds_per_image=1e-5), WORKLOAD, CLUSTER, 64)
    assert on_cpu.noise == pytest.approx(2 * (64 + 255) * 1e-5)
    beside = predict_iteration(replace(SMOOTH, draw_seconds_per_image=1e-5), WORKLOAD, CLUSTER, 64)
    assert beside.noise == 0
    assert beside.images + beside.overhead > on_cpu.noise
    slow = predict_iteration(replace(SMOOTH, draw_seconds_per_image=1e-3), WORKLOAD, CLUSTER, 64)
    assert slow.noise + slow.images + slow.overhead == pytest.approx(2 * (64 + 255) * 1e-3)


def test_data_can_be_read_no_faster_than_storage_gives_it() -> None:
    cluster = replace(CLUSTER, storage_bandwidth=1e8)
    one = predict(SMOOTH, WORKLOAD, WORKLOAD, cluster, 64)
    assert one.images_per_second == pytest.approx(1e8 / SMOOTH.bytes_per_sample)
    assert one.storage_bandwidth == pytest.approx(1e8)
    one = predict(SMOOTH, WORKLOAD, WORKLOAD, replace(CLUSTER, node_storage_bandwidth=1e7), 64)
    assert one.images_per_second == pytest.approx(8 * 1e7 / SMOOTH.bytes_per_sample)
    slow = replace(SMOOTH, read_seconds_per_sample=1.0)
    one = predict(slow, WORKLOAD, WORKLOAD, CLUSTER, 64)
    assert one.images_per_second == pytest.approx(64 * WORKLOAD.num_workers)
    without = predict_iteration(slow, replace(WORKLOAD, num_workers=0), CLUSTER, 64)
    assert without.data == pytest.approx(4096 / 64), "the rank reads by itself, and computes after"


def test_what_is_due_every_so_many_images_is_due_at_most_once_an_iteration() -> None:
    at_images = {every: replace(WORKLOAD, samples_every_images=every) for every in (4096 * 10, 4096, 1)}
    seconds = [predict_iteration(SMOOTH, workload, CLUSTER, 8).reporting for workload in at_images.values()]
    assert seconds == pytest.approx([SMOOTH.grid_seconds / 10, SMOOTH.grid_seconds, SMOOTH.grid_seconds])


def test_the_vote_is_waited_for_only_if_it_takes_longer_than_an_iteration() -> None:
    few, many = (predict_iteration(replace(SMOOTH, vote_rounds=2.0), WORKLOAD, CLUSTER, number) for number in (8, 4096))
    assert few.votes == 0
    assert many.seconds == pytest.approx(2 * 4095 * SMOOTH.host_step_seconds)


def test_checkpoints_under_zero_are_gathered_first() -> None:
    ddp, zero = (predict(FIGURES, replace(WORKLOAD, zero_stage=stage), WORKLOAD, CLUSTER, 64) for stage in (None, 2))
    layers = [(network.num_tensors, network.gradient_bytes / network.num_tensors) for network in (FIGURES.discriminator, FIGURES.generator)]
    gathering = 2 * sum(count * all_reduce_seconds(size, 64, TOPOLOGY) for count, size in layers)
    assert ddp.checkpoint_seconds == FIGURES.checkpoint_seconds
    assert zero.checkpoint_seconds == pytest.approx(FIGURES.checkpoint_seconds + gathering)


def test_a_plan_says_what_failures_leave() -> None:
    one = predict(FIGURES, WORKLOAD, WORKLOAD, CLUSTER, 512)
    assert (one.num_nodes, one.mtbf_seconds) == (64, 1e7 / 64)
    assert one.restart_seconds == 60 + FIGURES.start_seconds
    interval = 1000 * one.interval_kimg / one.images_per_second
    assert interval == pytest.approx(failures.daly_interval(one.checkpoint_seconds, one.mtbf_seconds))
    assert one.days * 86400 == pytest.approx(WORKLOAD.total_images / one.images_per_second / one.goodput)
    assert one.goodput_as_set < one.goodput
    assert one.epochs_per_hour == pytest.approx(3600 * one.images_per_second / FIGURES.num_samples)


def test_weak_scaling_is_beside_one_gpu_with_the_same_batch() -> None:
    of_one = replace(WORKLOAD, batch_size=64)
    one = predict(SMOOTH, WORKLOAD, of_one, CLUSTER, 64)
    seconds = [predict_iteration(SMOOTH, of_one, CLUSTER, 1).seconds, one.iteration.seconds]
    assert one.efficiency == pytest.approx(seconds[0] / seconds[1])
    assert 0 < one.efficiency < 1


def _figures_that_are_not_measured() -> list[Figures]:
    return [FIGURES, replace(FIGURES, penalty_seconds=None), replace(FIGURES, on_cpu=True)]


@pytest.mark.parametrize("figures", _figures_that_are_not_measured())
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_every_part_is_a_time(figures: Figures, stage: int | None) -> None:
    workload = replace(WORKLOAD, zero_stage=stage, accumulation_steps=1, log_every_images=1000.0, samples_every_images=1e4)
    for num_gpus in (1, 2, 8, 64, 4096):
        parts = vars(predict_iteration(figures, workload, CLUSTER, num_gpus))
        assert all(0 <= seconds < 1e3 for seconds in parts.values()), parts


def _plan(*arguments: str, measured: Path | str = INVENTED) -> int:
    return main(["plan", "--measured", str(measured), "--gpus", *arguments])


def test_the_command_prints_a_line_for_each_number_and_what_limits_the_largest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.json"
    assert _plan("8", "64", "4096", "--train.batch_size", "4096", "--json", str(out)) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    rows = [line.split() for line in lines if line.strip().startswith(("8 ", "64 ", "4,096 "))]
    assert [row[:3] for row in rows] == [["8", "1", "512"], ["64", "8", "64"], ["4,096", "512", "1"]]
    table = lines[lines.index(next(line for line in lines if line.startswith("==="))) - 1 : -1]
    assert max(len(line) for line in table if "%" in line and line[0] == " ") <= 140
    assert "the largest other part is log lines and pictures" in text
    assert "To change that: raise metrics.log_every_kimg and metrics.samples_every_kimg." in lines
    written = json.loads(out.read_text())
    assert [one["num_gpus"] for one in written["predictions"]] == [8, 64, 4096]
    assert written["predictions"][1]["images_per_second"] == pytest.approx(float(rows[1][9].replace(",", "")), rel=1e-3)
    assert written["settings"]["train"]["batch_size"] == 4096


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["0"], "--gpus is 0; give numbers from 1."),
        (["12"], "--gpus is 12, which does not fill nodes of 8 GPUs; give a multiple of it, or --gpus-per-node."),
        (["128"], "train.batch_size is 64, which does not divide by 128 ranks x engine.accumulation_steps 1; set train.batch_size to a"),
        (["8", "--engine.zero_stage", "2"], "engine.zero_stage is 2, but engine.name is 'ddp'; set that to deepspeed, or leave it out."),
        (["8", "--gpus-per-node", "0"], "--gpus-per-node is 0; give at least 1."),
        (["8", "--network-gbit", "0"], "--network-gbit is 0; give more than 0."),
        (["8", "--mtbf-hours", "nan"], "--mtbf-hours is nan; give more than 0."),
        (["8", "--overlap", "1.5"], "--overlap is 1.5; give a share from 0 to 1."),
        (["8", "--recovery-seconds", "-1"], "--recovery-seconds is -1; give 0 or more."),
        (["8", "--samples", "0"], "--samples is 0; give at least 1."),
        (["8", "--samples", "10"], "train.batch_size would be 64 on 8 GPUs, but the data has 10 samples; lower it, or give with --samples"),
        (["8", "--weak", "--samples", "100"], "train.batch_size would be 512 on 8 GPUs, but the data has 100 samples;"),
        (
            ["8", "--model.latent_size", "3"],
            f"model.latent_size is 3, but {INVENTED} was measured with 128; measure again with it, or leave",
        ),
        (["8", "--precision.dtype", "fp32"], f"precision.dtype is 'fp32', but {INVENTED} was measured with 'bf16';"),
        (["8", "--trian.batch_size", "64"], "trian.batch_size is not a setting; did you mean train.batch_size?"),
        (["8", "--json", "no/such/folder/plan.json"], "--json is 'no/such/folder/plan.json', which cannot be written (No such file"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _plan(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"distgan.launch: error: {sentence}")
    assert len(captured.err.splitlines()) == 1


def _without(field: str) -> str:
    values = json.loads(INVENTED.read_text())
    del values[field]
    return json.dumps(values)


def _with_settings(section: str, values: dict[str, object]) -> str:
    report = json.loads(INVENTED.read_text())
    report["settings"][section] |= values
    return json.dumps(report)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "which cannot be read (No such file or directory); make one with python -m distgan.bench scaling --out FILE."),
        ("{", "which is no whole report of that benchmark (the file: invalid JSON"),
        ((DOCS / "benchmarks" / "engines-cpu.json").read_text(), "which is no whole report of that benchmark ("),
        (_without("points"), "which is no whole report of that benchmark (points: field required); make one"),
        (_with_settings("train", {"no_such": 1}), "of a run that cannot be any more: train.no_such is not a setting;"),
    ],
)
def test_a_file_that_is_no_report_is_refused(
    content: str | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "measured.json"
    if content is not None:
        path.write_text(content)
    assert _plan("8", measured=path) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"distgan.launch: error: --measured is {str(path)!r}, {sentence}")
    assert len(captured.err.splitlines()) == 1


def test_the_documented_example_is_what_the_command_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DOCS.parent)
    text = (DOCS / "scaling.md").read_text()
    commands = [
        line.removeprefix("python -m distgan.launch ") for line in text.splitlines() if line.startswith("python -m distgan.launch plan")
    ]
    examples = [command.split() for command in commands if "scaling-invented.json" in command]
    assert len(examples) >= 2
    for example in examples:
        assert main(example) == 0
        assert f"```\n{capsys.readouterr().out}```" in text
