"""Start a command on several machines by ssh, show what they say, and end them together."""

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from distgan.errors import InputError
from distgan.launch import verdict
from distgan.launch.verdict import Verdict
from distgan.process import EXIT_DONE, StopRequest

# Of this machine's environment, what is about the network between the nodes or about finding the package, and so is theirs, too.
_CARRIED = ("NCCL_", "GLOO_", "TORCH_", "OMP_NUM_THREADS", "PYTHONPATH")
_SSH_FAILED = 255  # ssh's own exit code
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Remote:
    """A command and the machine that it is for."""

    host: str
    arguments: list[str]

    def command(self, ssh: str) -> list[str]:
        """ssh's, which runs it in this directory there."""
        carried = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_CARRIED)]
        there = f"cd {shlex.quote(str(Path.cwd()))} && exec env {shlex.join([*carried, *self.arguments])}"
        return [*shlex.split(ssh), self.host, there]


def check_ssh(ssh: str) -> None:
    """Whether there is such a command.

    Raises:
        InputError: there is not.
    """
    if shutil.which(shlex.split(ssh)[0]) is None:
        raise InputError(f"--ssh is {ssh!r}, which is no program that is here; install ssh, or name another command.")


def run_everywhere(nodes: Sequence[Remote], ssh: str) -> Verdict:
    """Run until all have ended. Where one fails the others are asked to end, as by SIGTERM or Ctrl-C here; a second signal ends ssh."""
    with StopRequest().listening() as stop:
        processes = [_start(node, ssh) for node in nodes]
        readers = [
            threading.Thread(target=_copy, args=(process.stdout, f"[{node.host}] "), daemon=True)
            for node, process in zip(nodes, processes, strict=True)
        ]
        for reader in readers:
            reader.start()
        asked = False
        try:
            while any(process.poll() is None for process in processes):
                if not asked and (stop() or any(process.poll() for process in processes)):
                    asked = True
                    for process in processes:
                        _ask_to_end(process)
                time.sleep(_POLL_SECONDS)
        except BaseException:  # not to leave ssh behind, whatever it was
            for process in processes:
                process.kill()
            raise
    for reader in readers:
        reader.join(5.0)
    return _together(nodes, [process.returncode for process in processes])


def _start(node: Remote, ssh: str) -> "subprocess.Popen[bytes]":
    # In a session of its own: a Ctrl-C at this terminal is not for ssh, which would leave the other end alone.
    return subprocess.Popen(
        node.command(ssh), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def _ask_to_end(process: "subprocess.Popen[bytes]") -> None:
    """Its input ends, and with it (`multinode --stop-with-input`) the node does, once it has saved."""
    assert process.stdin is not None
    process.stdin.close()


def _copy(source: IO[bytes], prefix: str) -> None:
    """Line by line, so that machines do not speak in the middle of each other's."""
    for line in source:
        sys.stderr.buffer.write(prefix.encode() + line)
        sys.stderr.flush()


def _together(nodes: Sequence[Remote], codes: Sequence[int]) -> Verdict:
    """How the run ended, from how its nodes did."""
    unreached = [node.host for node, code in zip(nodes, codes, strict=True) if code == _SSH_FAILED]
    if unreached:
        return Verdict(1, f"ssh lost or never reached {', '.join(unreached)}; what it said stands above.")
    failed = [code for code in codes if code != EXIT_DONE]
    return verdict.of_workers(failed) if failed else verdict.DONE
