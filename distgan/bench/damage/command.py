"""What `python -m distgan.bench damage` does: every damage, read by every contestant in a process of its own."""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from distgan.bench import damage
from distgan.bench.damage import damages, hostile, sets  # noqa: F401 - they register what they plant
from distgan.bench.damage.cases import DAMAGES, NUM_SAMPLES, Damage, pixels
from distgan.bench.damage.contestants import CONTESTANTS, Line, digest
from distgan.bench.damage.report import DamageReport, Outcome, Result
from distgan.bench.machine import Machine
from distgan.errors import InputError

MAX_SAID = 3  # warnings of each that are written down
MAX_CHARACTERS = 300


def add_parser(benchmarks: argparse._SubParsersAction) -> None:
    """The benchmark's line among others'."""
    parser = benchmarks.add_parser(
        "damage", help="what webdataset and distgan make of damaged and hostile shards", description=damage.__doc__
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only the damages that have this in their names or groups")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="after which a reader is taken for hung (default: 60)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all outcomes to this JSON file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and print all of it.

    Raises:
        InputError: an option cannot be.
    """
    report = _measured(options)
    print(report.head(), "", report.tables(), "", report.sentences(), sep="\n")


def _measured(options: argparse.Namespace) -> DamageReport:
    chosen = [each for each in DAMAGES if options.only in f"{each.group}: {each.name}"]
    problems = []
    if not chosen:
        names = "; ".join(each.name for each in DAMAGES)
        problems.append(f"--only is {options.only!r}, which is in no damage; give a part of one: {names}.")
    if not options.seconds > 0:
        problems.append(f"--seconds is {options.seconds:g}; give more than 0.")
    if problems:
        raise InputError(problems)
    found = DamageReport(
        benchmark="damage",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        device="cpu",
        machine=Machine.find(),
        webdataset=version("webdataset"),
        pillow=version("pillow"),
        results=[],
    )
    if options.out:
        found.write(options.out)  # now, so that a path that cannot be written is refused before anything is measured
    for planted in chosen:
        print(f"{planted.group}: {planted.name}", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:  # which wait for processes
            outcomes = list(threads.map(lambda contestant: measure(planted, contestant, options.seconds), CONTESTANTS))  # noqa: B023
        found.results.append(
            Result(
                group=planted.group,
                name=planted.name,
                whole=planted.whole,
                declined=planted.declined,
                is_visible=planted.is_visible,
                outcomes=outcomes,
            )
        )
    if options.out:
        found.write(options.out)
    return found


def measure(damage: Damage, contestant: str, timeout_seconds: float) -> Outcome:
    """Plant a damage anew and have it read in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="distgan-bench-"))
    try:
        directory = folder / "data"
        directory.mkdir()
        case = damage.plant(directory)
        (folder / "case.json").write_text(json.dumps(asdict(case)))
        command = [sys.executable, "-m", "distgan.bench.damage.contestants", contestant, str(folder / "case.json"), str(folder / "out")]
        environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")} | case.environment
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            try:
                process.wait(timeout_seconds)
                ended = None
            except subprocess.TimeoutExpired:
                ended = "hung"
            finally:
                _kill_group(process)
        lines = [json.loads(line) for line in (folder / "out").read_text().splitlines()] if (folder / "out").exists() else []
        if ended is None and not any("peak_bytes" in line for line in lines):
            ended = "killed"
        return outcome(contestant, lines, str(directory), case.batch_size, ended)
    finally:
        shutil.rmtree(folder)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Its workers, too, if it left any."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outcome(contestant: str, lines: Iterable[Line], directory: str, batch_size: int, ended: str | None = None) -> Outcome:
    """What the lines of `contestants.reading` amount to."""
    lines = list(lines)
    known = {digest(pixels(number)): number for number in range(NUM_SAMPLES)}
    batches = [line["batch"] for line in lines if "batch" in line]
    came = [(known.get(name), label) for batch in batches for name, label in batch]
    right = [number for number, label in came if number is not None and number == label]
    end = next((line for line in lines if "error" in line), {"error": None, "counted": None})
    said = list(dict.fromkeys(line["warning"] for line in lines if "warning" in line))[:MAX_SAID]
    said += [] if end["error"] is None else [end["error"]]
    peaks = [line["peak_bytes"] / 1e6 for line in lines if "peak_bytes" in line]
    return Outcome(
        contestant=contestant,
        right=len(set(right)),
        wrong=len(came) - len(right),
        doubled=len(right) - len(set(right)),
        ended=ended or ("read" if end["error"] is None else "error"),
        said=[_shortened(text, directory) for text in said],
        counted=end["counted"],
        ran_code=Path(directory, "canary").exists(),
        batch_sizes=[line["size"] for line in lines if "batch" in line] if batch_size > 1 else None,
        peak_megabytes=peaks[0] if peaks else None,
    )


def _shortened(text: str, directory: str) -> str:
    """In a line, without the names of this run's own directories and ports."""
    text = text.replace(f"{directory}/", "").replace(directory, ".").replace(f"{tempfile.gettempdir()}/", "")
    text = re.sub(r"\btmp\w{8}\b", "a temporary file", re.sub(r"(127\.0\.0\.1):\d+", r"\1", text))
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} ..."
