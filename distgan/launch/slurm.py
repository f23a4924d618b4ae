"""`python -m distgan.launch slurm`: train under SLURM, by launch/slurm.sbatch.

python -m distgan.launch slurm submit --nodes 4 --time 12:00:00 --config my.yaml       hand it to sbatch; again, after a stop, to go on
python -m distgan.launch slurm render --nodes 4 --config my.yaml > my.sbatch           print it, with all that in it, to keep and edit

What is not given is as it stands there: 2 nodes with 8 GPUs each, 24 hours, told to save and end 300 s before they are over. What has no
option is an environment variable of sbatch (SBATCH_QOS), or a line for the rendered script. What is no option is a setting of
distgan.train; paths in them are relative to the directory that the job is submitted from.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from distgan.arguments import ON_SETTINGS
from distgan.errors import InputError, RunError
from distgan.launch.job import NodeCount, checked
from distgan.launch.say import say
from distgan.launch.shipped import shipped
from distgan.process import EXIT_DONE

SCRIPT = "launch/slurm.sbatch"
CPUS_PER_RANK = 8
_SIGNAL = "TERM@"  # of --signal, before the seconds
_DIRECTIVE = re.compile(r"^#SBATCH --([a-z-]+)=(.*)$", re.MULTILINE)
_UNREACHABLE = re.compile(r"contact slurm controller|establish a configuration source|connect failure|connection refused", re.IGNORECASE)
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")


@dataclass(frozen=True)
class Job:
    """What is asked for.

    Args:
        directives: the options of sbatch that were given, instead of those in the script.
        arguments: of the script.
        environment: of the script, likewise.
        name: the job's, by option or script.
        log: the file that the job writes to; %j stands for its number.
    """

    directives: dict[str, str]
    arguments: list[str]
    environment: dict[str, str]
    name: str
    log: Path


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The command's line among others', with those of its own commands below it."""
    parser = subparsers.add_parser("slurm", help="on a SLURM cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    defaults = _directives(shipped(SCRIPT).read_text())
    _add(commands, "render", _render, "print the script; SLURM is not needed for it", defaults)
    submit = _add(commands, "submit", _submit, "submit a job, which is requeued until the run is done", defaults)
    submit.add_argument("--dry-run", action="store_true", help="check the settings and print the command of sbatch, and do no more")


def _add(
    commands: argparse._SubParsersAction, name: str, run: Callable[[argparse.Namespace], int], text: str, defaults: Mapping[str, str]
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=ON_SETTINGS)
    parser.add_argument("--nodes", metavar="N", help=f"how many (default: {defaults['nodes']})")
    parser.add_argument(
        "--gpus-per-node", metavar="N", help=f"as many ranks train on each node (default: {defaults['gpus-per-node']}); 0: on CPUs"
    )
    parser.add_argument("--ranks-per-node", metavar="N", help="with --gpus-per-node 0: how many ranks")
    parser.add_argument("--cpus-per-task", metavar="N", help=f"of each node, for all of its ranks (default: {CPUS_PER_RANK} for each)")
    parser.add_argument(
        "--time",
        metavar="T",
        help=f"of a sitting: days-hours:minutes:seconds, hours:minutes:seconds or minutes (default: {defaults['time']})",
    )
    parser.add_argument(
        "--stop-before",
        metavar="S",
        help=f"how many seconds before its end the ranks are told to save and end (default: {defaults['signal'].removeprefix(_SIGNAL)})",
    )
    parser.add_argument("--partition", metavar="P", help="where to run (default: the cluster's)")
    parser.add_argument("--account", metavar="A", help="who pays (default: yours)")
    parser.add_argument("--name", metavar="N", help=f"of the job, and the beginning of its log's (default: {defaults['job-name']})")
    parser.set_defaults(run=run, settings=[])
    return parser


def _render(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    script = shipped(SCRIPT).read_text()
    job = _checked(options, _directives(script))
    sys.stdout.write(rendered(script, job))
    return EXIT_DONE


def _submit(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    script = shipped(SCRIPT)
    job = _checked(options, _directives(script.read_text()))
    sbatch = ["sbatch", "--parsable", *(f"--{key}={value}" for key, value in job.directives.items()), str(script), *job.arguments]
    environment = {"PYTHON": os.environ.get("PYTHON", sys.executable), **job.environment}
    if options.dry_run:
        print(shlex.join(["env", *(f"{key}={value}" for key, value in environment.items()), *sbatch]))
        return EXIT_DONE
    if shutil.which("sbatch") is None:
        raise InputError("sbatch is not installed here; submit on a login node of the cluster, or take there what `slurm render` prints.")
    done = subprocess.run(sbatch, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode != 0:
        why = _one_line(done.stderr)
        if _UNREACHABLE.search(why):
            raise RunError(f"sbatch cannot reach SLURM's controller: {why}; see with sinfo whether it is up, and known to this machine.")
        raise InputError(f"sbatch refuses: {why}; mend the option that it names, or a line of what `slurm render` prints.")
    job_id = done.stdout.strip().partition(";")[0]  # after it, the name of one cluster among several
    log = str(Path.cwd() / job.log).replace("%j", job_id)
    say(f"Job {job_id} ({job.name}) is submitted, and writes to {log}. Now, to see how it stands, to follow it, and to stop it:")
    for command in (["squeue", "--job", job_id], ["tail", "-F", log], ["scancel", job_id]):
        say(f"  {shlex.join(command)}")
    return EXIT_DONE


def rendered(script: str, job: Job) -> str:
    """The script with all that a job is asked for in it; arguments that it is given itself come after those of the job."""
    known, directives = _directives(script), {key: shlex.quote(value) for key, value in job.directives.items()}
    script = _DIRECTIVE.sub(lambda match: f"#SBATCH --{match[1]}={directives.get(match[1], match[2])}", script)
    head, begin, body = script.partition("set -eu\n")
    head += "".join(f"#SBATCH --{key}={value}\n" for key, value in directives.items() if key not in known)
    begin += "".join(f"export {key}={shlex.quote(value)}\n" for key, value in job.environment.items())
    if job.arguments:
        begin += f'set -- {shlex.join(job.arguments)} "$@"\n'
    return head + begin + body


def _checked(options: argparse.Namespace, defaults: Mapping[str, str]) -> Job:
    """What is asked for, once it makes sense.

    Raises:
        InputError: a sentence for what does not.
    """
    given = _given(options)
    for option, key in (("--partition", "partition"), ("--account", "account"), ("--name", "job-name")):
        if not given.get(key, "x").strip():
            raise InputError(f"{option} is {given[key]!r}; give one, or leave it out.")
    every = {**defaults, **given}
    if ":" in every["nodes"]:
        raise InputError(f"--nodes is {every['nodes']!r}, but a job keeps the nodes that it gets; give one number.")
    num_nodes = _count("--nodes", every["nodes"], 1)
    gpus = _count("--gpus-per-node", every["gpus-per-node"], 0)
    ranks = _ranks_per_node(gpus, options.ranks_per_node)
    _count("--cpus-per-task", given.setdefault("cpus-per-task", str(CPUS_PER_RANK * ranks)), 1)
    stop_before_seconds = _count("--stop-before", every["signal"].removeprefix(_SIGNAL), 1)
    if _seconds(every["time"]) <= stop_before_seconds:
        raise InputError(
            f"--time is {every['time']!r}, but {stop_before_seconds} s before it is over the ranks are told to end (--stop-before), which "
            "leaves none to train; give more time."
        )
    checked(options.settings, NodeCount(num_nodes, num_nodes), ranks)
    arguments = [*([] if gpus else ["--ranks-per-node", str(ranks)]), *options.settings]  # by itself, a rank for each GPU
    environment = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(stop_before_seconds * 4 // 5)} if "signal" in given else {}
    name = every["job-name"]
    return Job(given, arguments, environment, name, Path(every["output"].replace("%x", name)))


def _given(options: argparse.Namespace) -> dict[str, str]:
    """The options of sbatch that those of the command stand for."""
    values = {
        "nodes": options.nodes,
        "gpus-per-node": options.gpus_per_node,
        "cpus-per-task": options.cpus_per_task,
        "time": options.time,
        "signal": None if options.stop_before is None else _SIGNAL + options.stop_before,
        "partition": options.partition,
        "account": options.account,
        "job-name": options.name,
    }
    return {key: value for key, value in values.items() if value is not None}


def _ranks_per_node(gpus: int, given: str | None) -> int:
    if gpus and given is not None:
        raise InputError(f"--ranks-per-node is {given!r}, but each of {gpus} GPUs gets a rank; leave it out, or give --gpus-per-node 0.")
    if not gpus and given is None:
        raise InputError("--gpus-per-node is 0, so --ranks-per-node has to say how many ranks train on each node; give it.")
    return gpus or _count("--ranks-per-node", str(given), 1)


def _directives(script: str) -> dict[str, str]:
    """The #SBATCH lines that have a value."""
    return dict(_DIRECTIVE.findall(script))


def _count(option: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise InputError(f"{option} is {text!r}; give a number, {least} or more.")
    return int(text)


def _seconds(time: str) -> int:
    """Of a time as sbatch reads it: '30' are minutes, '30:00', '8:00:00', '2-0', '2-0:30', '2-0:30:00'."""
    match = _TIME.fullmatch(time)
    if not match:
        raise InputError(f"--time is {time!r}; give days-hours:minutes:seconds, hours:minutes:seconds or minutes, such as 1-12:00:00.")
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"]:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    else:
        hours, minutes, seconds = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    return ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _one_line(stderr: str) -> str:
    """What sbatch says, without its own name in every line."""
    lines = [re.sub(r"^sbatch: (error: |fatal: )?", "", line).strip() for line in stderr.splitlines()]
    return "; ".join(line for line in lines if line)
