"""The script for SLURM as it is rendered and submitted, and what it does about the exit codes of nodes.

SLURM's own programs are stand-ins here; tests/slurm has real ones.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distgan.launch import slurm
from distgan.launch.__main__ import main
from distgan.launch.shipped import shipped

SCRIPT = shipped("launch/slurm.sbatch").read_text()
ODD = ["--run.dir", "it's $HOME", "--run.seed", "7"]


def rendered(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["slurm", "render", *arguments]) == 0
    return capsys.readouterr().out


def changes(text: str) -> tuple[list[str], list[str]]:
    """The lines of the shipped script that it lacks, and those that it has beside them."""
    old, new = SCRIPT.splitlines(), text.splitlines()
    return [line for line in old if line not in new], [line for line in new if line not in old]


def test_without_options_the_script_is_rendered_as_it_is_but_for_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert rendered(capsys) == SCRIPT
    assert changes(rendered(capsys, "--run.dir", "a b")) == ([], ["set -- --run.dir 'a b' \"$@\""])


def test_what_is_given_stands_in_the_rendered_script(capsys: pytest.CaptureFixture[str]) -> None:
    on_cpus = ["--gpus-per-node", "0", "--ranks-per-node", "2"]
    where = ["--nodes", "3", "--partition", "long", "--account", "team", "--name", "my run"]
    when = ["--time", "2-00:00:00", "--stop-before", "600"]
    text = rendered(capsys, *on_cpus, *where, *when, "--train.batch_size", "60")
    gone, added = changes(text)
    assert gone == [
        "#SBATCH --job-name=distgan",
        "#SBATCH --nodes=2",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --cpus-per-task=64",
        "#SBATCH --time=24:00:00",
        "#SBATCH --signal=TERM@300",
    ]
    assert added == [
        "#SBATCH --job-name='my run'",
        "#SBATCH --nodes=3",
        "#SBATCH --gpus-per-node=0",
        "#SBATCH --cpus-per-task=16",
        "#SBATCH --time=2-00:00:00",
        "#SBATCH --signal=TERM@600",
        "#SBATCH --partition=long",
        "#SBATCH --account=team",
        "export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=480",
        'set -- --ranks-per-node 2 --train.batch_size 60 "$@"',
    ]
    assert text.index("--account=team") < text.index("set -eu")  # sbatch reads no further than the first command


def test_the_help_says_what_the_script_has() -> None:
    lines = slurm._directives(SCRIPT)
    told = f"{lines['nodes']} nodes with {lines['gpus-per-node']} GPUs each, 24 hours, told to save and end 300 s before"
    assert told in str(slurm.__doc__)
    assert (lines["time"], lines["signal"]) == ("24:00:00", "TERM@300")
    assert int(lines["cpus-per-task"]) == slurm.CPUS_PER_RANK * int(lines["gpus-per-node"])


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("6", 360), ("5:01", 301), ("00:05:01", 301), ("24:00:00", 86400), ("1-0", 86400), ("1-1:30", 91800), ("2-00:00:01", 172801)],
)
def test_times_are_read_as_sbatch_reads_them(time: str, seconds: int) -> None:
    assert slurm._seconds(time) == seconds


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nodes", "2:4"], "--nodes is '2:4', but a job keeps the nodes that it gets"),
        (["--nodes", "0"], "--nodes is '0'; give a number, 1 or more"),
        (["--gpus-per-node", "many"], "--gpus-per-node is 'many'"),
        (["--gpus-per-node", "0"], "--ranks-per-node has to say how many"),
        (["--ranks-per-node", "4"], "--ranks-per-node is '4', but each of 8 GPUs gets a rank"),
        (["--gpus-per-node", "0", "--ranks-per-node", "0"], "--ranks-per-node is '0'"),
        (["--cpus-per-task", "0"], "--cpus-per-task is '0'"),
        (["--time", "1h"], "--time is '1h'; give days-hours"),
        (["--time", "5"], "--time is '5', but 300 s before it is over"),
        (["--time", "10", "--stop-before", "601"], "--time is '10', but 601 s before"),
        (["--stop-before", "0"], "--stop-before is '0'"),
        (["--gpus-per-node", "3"], "train.batch_size is 64, which does not divide by 6 ranks"),
        (["--gpu-per-node", "3"], "--gpu-per-node is neither an option of this command nor a setting"),
        (["--account", ""], "--account is ''; give one, or leave it out."),
        (["--run.sed", "3"], "did you mean run.seed?"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "submit", *arguments]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert words in sentence


def program(directory: Path, name: str, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!{sys.executable}\nimport json, os, subprocess, sys\n{text}")
    (directory / name).chmod(0o755)


def test_a_dry_run_prints_what_would_be_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell runs it, and finds a stand-in for sbatch."""
    monkeypatch.delenv("PYTHON", raising=False)
    assert main(["slurm", "submit", "--dry-run", "--time", "8:00:00", "--stop-before", "100", *ODD]) == 0
    program(
        tmp_path / "bin", "sbatch", "print(json.dumps([sys.argv[1:], os.environ['PYTHON'], os.environ['TORCH_ELASTIC_SHUTDOWN_TIMEOUT']]))"
    )
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", capsys.readouterr().out], env=environment, check=True, capture_output=True, text=True)
    arguments, python, timeout = json.loads(done.stdout)
    options = ["--time=8:00:00", "--signal=TERM@100", "--cpus-per-task=64"]
    assert arguments == ["--parsable", *options, str(shipped("launch/slurm.sbatch")), *ODD]
    assert (python, timeout) == (sys.executable, "80")


def test_submit_tells_how_to_go_on(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several clusters, sbatch names the one that it chose."""
    program(tmp_path / "bin", "sbatch", "print('17;alpha')")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    assert main(["slurm", "submit", "--name", "mine"]) == 0
    first, *commands = capsys.readouterr().err.splitlines()
    assert f"Job 17 (mine) is submitted, and writes to {tmp_path}/mine-17.log." in first
    assert [command.partition(":")[2].split() for command in commands] == [
        ["squeue", "--job", "17"],
        ["tail", "-F", f"{tmp_path}/mine-17.log"],
        ["scancel", "17"],
    ]


def test_submit_needs_sbatch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["slurm", "submit"]) == 2
    assert "sbatch is not installed here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("complaint", "code", "sentence"),
    [
        # As sbatch 22.05 says it.
        (
            "error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            1,
            "sbatch cannot reach SLURM's controller: ",
        ),
        ("fatal: Could not establish a configuration source", 1, "sbatch cannot reach SLURM's controller: Could not establish"),
        (
            "error: invalid partition specified: x",
            2,
            "error: sbatch refuses: invalid partition specified: x; mend the option that it names",
        ),
    ],
)
def test_what_sbatch_says(
    complaint: str, code: int, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "sbatch", f"sys.exit('sbatch: {complaint}')")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert main(["slurm", "submit"]) == code
    assert capsys.readouterr().err.startswith(f"distgan.launch: {sentence}")


@pytest.mark.parametrize(
    ("codes", "restarts", "expected", "requeued"),
    [
        ([0, 0], 0, 0, False),
        ([75, 75], 0, 0, True),
        ([75, 75], 500, 0, True),  # however long the run takes
        ([1, 75], 0, 0, True),  # another node found a checkpoint of its last moments
        ([1, 1], 0, 0, True),
        ([1, 137], 19, 0, True),
        ([1, 1], 20, 1, False),
        ([2, 1], 0, 2, False),
        ([127, 127], 0, 127, False),  # no such Python
    ],
)
def test_what_the_job_does_about_exit_codes(
    codes: list[int], restarts: int, expected: int, requeued: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`expected` is the script's own code, or of the `scontrol` that takes its place."""
    programs = tmp_path / "bin"
    program(
        programs,
        "srun",
        "task = sys.argv[sys.argv.index('bash') :]\n"
        f"environments = [os.environ | {{'SLURM_NODEID': str(node)}} for node in range({len(codes)})]\n"
        "sys.exit(max(subprocess.run(task, env=environment).returncode for environment in environments))",
    )
    program(
        programs, "scontrol", "print(*['node-0', 'node-1'] if sys.argv[1:] == ['show', 'hostnames', 'node-[0-1]'] else sys.argv, sep='\\n')"
    )
    program(programs, "python", f"print(json.dumps(sys.argv[1:]))\nsys.exit({codes}[int(sys.argv[sys.argv.index('--node-rank') + 1])])")
    job = {
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node-[0-1]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "64",
        "SLURM_RESTART_COUNT": str(restarts),
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    (tmp_path / "script").write_text(rendered(capsys, *ODD))
    done = subprocess.run(["bash", str(tmp_path / "script"), "--extra"], env=job, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (expected, "")
    assert ("requeue\n123456\n" in done.stdout) == requeued
    meeting = ["--nodes", "2", "--master-addr", "node-0", "--master-port", "23456"]
    started = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["-m"')]
    assert started == [["-m", "distgan.launch", "multinode", "--node-rank", str(node), *meeting, *ODD, "--extra"] for node in range(2)]
