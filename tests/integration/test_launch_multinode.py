"""python -m distgan.launch local and multinode: real ranks, and two "machines" reached by a real ssh."""

import getpass
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distgan import checkpoint
from distgan.bench.ranks import free_port
from distgan.launch.__main__ import main
from tests.processes import until
from tests.tools import missing

GUARD_SECONDS = 120
HOSTS = ("127.0.0.1", "127.0.0.2")
SMALL = ["--model.name", "mlp", "--model.generator_sizes", "16", "--model.discriminator_sizes", "16", "--metrics.port", "0"]
ENDLESS = ["--train.total_kimg", "100000", "--checkpoint.every_kimg", "0.64"]
LACKING = missing("sshd", "ssh", "ssh-keygen")
needs_ssh = pytest.mark.skipif(bool(LACKING), reason=f"ssh needs {LACKING}")


def launch(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "distgan.launch", *arguments]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and all that it says on stderr."""
    try:
        _, stderr = process.communicate(timeout=GUARD_SECONDS)
    finally:
        process.kill()
    return process.returncode, stderr


def events(run: Path) -> list[dict]:
    return [line for line in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if "event" in line]


def steps(run: Path) -> list[int]:
    return checkpoint.steps(run / "checkpoints")


def test_local_trains_on_several_ranks_and_ends_honestly(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = launch("local", "--ranks-per-node", "2", *SMALL, *ENDLESS, "--run.dir", str(run))
    until(lambda: steps(run) or process.poll() is not None, "no checkpoint", GUARD_SECONDS)
    process.send_signal(signal.SIGINT)
    code, said = told(process)
    assert code == 75, said
    assert f"SIGINT: training was saved at step {steps(run)[-1]}, and goes on from there." in said
    assert events(run)[0]["num_ranks"] == 2


def test_a_node_that_waits_for_the_others_ends_when_told_to() -> None:
    """In that wait Python itself comes to no handler of a signal; as process 1 of a container the node would not even die of it."""
    process = launch(
        "multinode", "--nodes", "2", "--node-rank", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port()), *SMALL
    )
    assert process.stderr is not None
    while "Node 1 of 2; node 0 is 127.0.0.1." not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(2)  # it connects
    process.send_signal(signal.SIGTERM)
    code, said = told(process)
    assert (code, said.splitlines()[-1]) == (75, "distgan.launch: Stopped before training began."), said


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[str]:
    """The command that reaches `HOSTS`: a server of its own, with keys of its own, on this machine."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    port = free_port()
    settings = {
        "Port": str(port),
        "HostKey": str(tmp_path / "host"),
        "AuthorizedKeysFile": str(tmp_path / "user.pub"),
        "PidFile": str(tmp_path / "pid"),
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
    }
    addresses = "".join(f"ListenAddress {host}\n" for host in HOSTS)
    (tmp_path / "sshd_config").write_text(addresses + "".join(f"{name} {value}\n" for name, value in settings.items()))
    Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself in
    path = subprocess.run(["which", "sshd"], check=True, capture_output=True, text=True).stdout.strip()  # it insists on its full path
    with open(tmp_path / "sshd.log", "wb") as log:
        server = subprocess.Popen([path, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=log)
    options = ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={tmp_path / 'known'}", "-o", "LogLevel=ERROR"]
    try:
        until(lambda: "listening" in (tmp_path / "sshd.log").read_text(), "no ssh server", GUARD_SECONDS)
        yield shlex.join(["ssh", "-p", str(port), "-i", str(tmp_path / "user"), "-l", getpass.getuser(), *options])
    finally:
        server.kill()
        server.wait()


def multinode(ssh: str, run: Path, *settings: str, hosts: tuple[str, ...] = HOSTS) -> subprocess.Popen[str]:
    options = ["--hosts", ",".join(hosts), "--ssh", ssh, "--master-port", str(free_port()), "--ranks-per-node", "1"]
    return launch("multinode", *options, *SMALL, "--run.dir", str(run), *settings)


@needs_ssh
def test_two_machines_train_together_save_when_told_to_end_and_go_on(ssh: str, tmp_path: Path) -> None:
    run = tmp_path / "a run"  # with a space, which ssh hands to a shell
    process = multinode(ssh, run, *ENDLESS)
    until(lambda: steps(run) or process.poll() is not None, "no checkpoint", GUARD_SECONDS)
    process.send_signal(signal.SIGTERM)
    code, said = told(process)
    assert code == 75, said
    assert all(f"[{host}] distgan.launch: SIGTERM: training was saved at step {steps(run)[-1]}" in said for host in HOSTS), said
    assert (events(run)[0]["num_nodes"], events(run)[0]["num_ranks"]) == (2, 2)
    images = steps(run)[-1] * 64 / 1000
    code, said = told(multinode(ssh, run, "--train.total_kimg", str(images + 0.64), *ENDLESS[2:]))
    assert code == 0, said
    assert events(run)[-1]["event"] == "resume"


@needs_ssh
def test_a_machine_that_cannot_be_reached_ends_the_others(ssh: str, tmp_path: Path) -> None:
    """Nobody listens at the third address."""
    code, said = told(multinode(ssh, tmp_path / "run", "--train.batch_size", "63", hosts=(*HOSTS, "127.0.0.3")))
    assert code == 1, said
    assert "distgan.launch: ssh lost or never reached 127.0.0.3; what it said stands above." in said
    assert all(f"[{host}] distgan.launch: Stopped before training began." in said for host in HOSTS), said


@needs_ssh
def test_what_the_machines_refuse_is_not_to_be_tried_again(ssh: str, tmp_path: Path) -> None:
    code, said = told(multinode(ssh, tmp_path / "run", "--data.url", "/nowhere"))
    assert code == 2, said
    assert "data.url is '/nowhere'" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["local", "--rank", "2"], "--rank is neither an option of this command nor a setting"),
        (["local", "--ranks-per-node", "0"], "--ranks-per-node is '0'"),
        (["local", "--ranks-per-node", "3"], "train.batch_size is 64, which does not divide by 3 ranks"),
        (["local", "--train.batch_size", "0"], "train.batch_size is '0'"),
        (["multinode", "--nodes", "2"], "--node-rank is missing"),
        (["multinode", "--nodes", "2", "--node-rank", "2", "--master-addr", "a"], "--node-rank is 2, but --nodes is 2"),
        (["multinode", "--nodes", "0", "--node-rank", "0", "--master-addr", "a"], "--nodes is '0'"),
        (["multinode", "--hosts", "a,a"], "--hosts is 'a,a'"),
        (["multinode", "--hosts", "a,b", "--nodes", "2"], "--nodes is 2, but --hosts says"),
        (["multinode", "--hosts=-oProxyCommand=x,b"], "--hosts is '-oProxyCommand=x,b'"),
        (["multinode", "--hosts", "a b,c"], "--hosts is 'a b,c'"),
        (["multinode", "--hosts", "a,b", "--train.batch_size", "63"], "does not divide by 2 ranks"),
        (["multinode", "--hosts", "a,b,c", "--ranks-per-node", "1"], "does not divide by 3 ranks"),
        (["multinode", "--hosts", "a,b", "--ssh", "no-such-program"], "--ssh is 'no-such-program'"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert words in sentence


def test_a_dry_run_prints_what_would_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["multinode", "--hosts", "a,b", "--dry-run", "--run.dir", "a run"]) == 0
    first, second = (shlex.split(line) for line in capsys.readouterr().out.splitlines())
    assert (first[:2], second[:2]) == (["ssh", "a"], ["ssh", "b"])
    there = shlex.split(second[2])
    assert there[there.index("--node-rank") + 1] == "1"
    assert there[-2:] == ["--run.dir", "a run"]
