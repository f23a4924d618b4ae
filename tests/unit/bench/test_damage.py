"""What distgan makes of every kind of damage is what is recorded and promised; the recorded table is the documented one."""

from pathlib import Path

import pytest

from distgan.bench.damage.cases import DAMAGES, NUM_SAMPLES, Case, Damage, pixels
from distgan.bench.damage.command import measure, outcome
from distgan.bench.damage.contestants import CONTESTANTS, Line, digest, reading
from distgan.bench.damage.report import DamageReport, Outcome, Result
from distgan.bench.machine import Machine
from tests.shards import decode, read_webdataset

DOCS = Path(__file__).parents[3] / "docs"
BOUND_MEGABYTES = 60.0


@pytest.fixture(scope="module")
def recorded() -> dict[str, Result]:
    """The committed results, by name."""
    report = DamageReport.model_validate_json((DOCS / "benchmarks" / "damage.json").read_text())
    return {result.name: result for result in report.results}


def named(name: str) -> Damage:
    return next(damage for damage in DAMAGES if damage.name == name)


def comparable(found: Outcome) -> Outcome:
    """Without what another machine or version of a library changes."""
    return found.model_copy(update={"peak_megabytes": None, "said": []})


def read_here(damage: Damage, contestant: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """Plant and read it in this process."""
    case = damage.plant(directory)
    for name, value in case.environment.items():
        monkeypatch.setenv(name, value)
    lines: list[Line] = []
    reading(contestant, case, lines.append)
    return outcome(contestant, lines, str(directory), case.batch_size)


def test_the_documented_tables_are_of_the_recorded_figures() -> None:
    report = DamageReport.model_validate_json((DOCS / "benchmarks" / "damage.json").read_text())
    text = (DOCS / "damage.md").read_text()
    assert f"{report.head()}\n\n{report.tables()}\n```" in text
    assert f"{report.sentences()}\n```" in text


def test_every_damage_is_recorded(recorded: dict[str, Result]) -> None:
    assert {damage.name: (damage.group, damage.whole, damage.declined, damage.is_visible) for damage in DAMAGES} == {
        name: (result.group, result.whole, result.declined, result.is_visible) for name, result in recorded.items()
    }
    assert all(tuple(one.contestant for one in result.outcomes) == CONTESTANTS for result in recorded.values())


def test_what_is_recorded_keeps_the_promise(recorded: dict[str, Result]) -> None:
    """Whatever is whole comes out, what is not is counted, nothing runs, and nothing takes much memory."""
    for name, result in recorded.items():
        skip, fail = result.of("distgan, skip"), result.of("distgan, fail")
        expected = result.whole - result.declined
        assert skip.right == expected, name
        assert skip.wrong == fail.wrong == (0 if result.is_visible else NUM_SAMPLES - result.whole), name
        if result.is_visible and expected < NUM_SAMPLES:
            assert fail.ended == "error", name
            assert any(word in fail.said[-1] for word in ("shard.tar", "001.tar", "data.url")), fail.said
            assert skip.ended == "error" if expected == 0 else (skip.counted or 0) >= NUM_SAMPLES - expected, name
        for one in (skip, fail):
            assert not one.ran_code, name
            assert one.ended in ("read", "error"), name
            assert one.peak_megabytes is not None, name
            assert one.peak_megabytes < BOUND_MEGABYTES, name


@pytest.mark.timeout(120)
@pytest.mark.parametrize("contestant", ["distgan, fail", "distgan, skip"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_distgan_does_what_is_recorded(
    damage: Damage, contestant: str, recorded: dict[str, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_here(damage, contestant, tmp_path, monkeypatch)
    expected = recorded[damage.name].of(contestant)
    assert comparable(found) == comparable(expected)
    assert bool(found.said) == bool(expected.said)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "contestant"),
    [
        ("a header of zeros", "webdataset"),
        ("a member .pkl", "webdataset"),
        ("a flipped bit in a png", "webdataset, warn"),
        ("a png of 10,000 x 10,000", "distgan, skip"),
        ("a shard of 1 MB, gzipped, that is 1 GB", "distgan, fail"),
    ],
)
def test_in_a_process_of_its_own(name: str, contestant: str, recorded: dict[str, Result]) -> None:
    found = measure(named(name), contestant, 100)
    assert comparable(found) == comparable(recorded[name].of(contestant))
    assert found.peak_megabytes is not None
    if contestant.startswith("distgan"):
        assert found.peak_megabytes < BOUND_MEGABYTES


@pytest.mark.timeout(60)
def test_what_hangs_or_is_killed_is_told() -> None:
    hanging = Damage("", "", 20, 0, True, lambda directory: Case("", ["pipe:sleep 1000"]))
    assert measure(hanging, "webdataset", 6).ended == "hung"
    killed = Damage("", "", 20, 0, True, lambda directory: Case("", ["pipe:kill -9 $PPID; sleep 1"]))
    assert measure(killed, "webdataset", 30).ended == "killed"


def test_what_is_packed_is_what_others_read(tmp_path: Path) -> None:
    """An intact set of the benchmark, by webdataset's own reader and Pillow."""
    case = named("20 samples, batches of 21").plant(tmp_path)
    samples = read_webdataset([Path(url) for url in case.urls])
    assert [int(sample["cls"]) for sample in samples] == list(range(NUM_SAMPLES))
    assert all((decode(sample["png"]) == pixels(number)).all() for number, sample in enumerate(samples))


def test_an_outcome_is_counted_by_pixels_and_label() -> None:
    lines = [
        {"batch": [[digest(pixels(1)), 1], [digest(pixels(2)), 3]], "size": 2},  # the label of another
        {"batch": [[digest(pixels(1)), 1], [digest(pixels(99)), 4]], "size": 2},  # once more, and an image of nobody
        {"warning": "a"},
        {"error": "b /nowhere/x.tar", "counted": None},
        {"peak_bytes": 5e6},
    ]
    found = outcome("webdataset", lines, "/nowhere", batch_size=2)
    assert (found.right, found.wrong, found.doubled, found.ended) == (1, 2, 1, "error")
    assert found.said == ["a", "b x.tar"]
    assert (found.batch_sizes, found.peak_megabytes, found.ran_code) == ([2, 2], 5.0, False)


def outcome_of(**values) -> Outcome:
    defaults = {"contestant": "", "right": 20, "wrong": 0, "doubled": 0, "ended": "read", "said": [], "counted": None, "ran_code": False}
    return Outcome(**(defaults | {"batch_sizes": None, "peak_megabytes": 1.0} | values))


@pytest.mark.parametrize(
    ("found", "cell"),
    [
        (outcome_of(), "20"),
        (outcome_of(right=7), "7, silent"),
        (outcome_of(doubled=2), "20, 2 doubled, silent"),
        (outcome_of(right=19, said=["x"]), "19, warned"),
        (outcome_of(right=19, said=["x"], counted=2), "19, 2 counted"),
        (outcome_of(right=6, wrong=1, said=["x"], ended="error"), "6, 1 wrong, error"),
        (outcome_of(right=0, ended="killed", peak_megabytes=None), "0, killed"),
        (outcome_of(peak_megabytes=1234.4, ran_code=True), "20, 1,234 MB, RAN IT"),
        (outcome_of(batch_sizes=[4, 4, 1]), "20, batches of 2x4 1"),
        (outcome_of(right=0, ended="error", batch_sizes=[]), "0, error, batches of nothing"),
    ],
)
def test_cells(found: Outcome, cell: str) -> None:
    assert found.cell() == cell


def test_the_report_comes_back_as_it_was(tmp_path: Path) -> None:
    report = DamageReport(
        benchmark="damage",
        date="2026-01-02T03:04:05+00:00",
        device="cpu",
        machine=Machine.find(),
        webdataset="1.0",
        pillow="12.0",
        results=[
            Result(
                group="tar",
                name="a cut",
                whole=12,
                declined=0,
                is_visible=True,
                outcomes=[outcome_of(contestant="x", right=12, said=["why"])],
            )
        ],
    )
    report.write(tmp_path / "damage.json")
    assert DamageReport.model_validate_json((tmp_path / "damage.json").read_text()) == report
    assert "a cut  12     12, warned" in report.tables()
    assert report.sentences() == "a cut\n    x: why"
