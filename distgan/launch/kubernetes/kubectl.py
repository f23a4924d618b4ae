"""The user's own kubectl, with the user's own rights; what it refuses becomes a sentence."""

import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distgan.errors import InputError, RunError

Manifest = dict[str, Any]

_NOISE = re.compile(r"[IWEF]\d{4} |Warning: ")  # kubectl's own log, and what the server would rather see done otherwise
_LOGGED = re.compile(r'err="(.*)"')
_PREFIX = re.compile(r"^(?:error: |Error from server(?: \(\w+\))?: |Error in configuration: )")
# What kubectl says -> the mend, and whether the command or what it sends is wrong: trying again is no use then.
_MENDS = (
    (r"context was not found|context .* does not exist", "give --context one that `kubectl config get-contexts` lists", True),
    (r'namespaces "[^"]*" not found', "give --namespace one that there is, or make it (kubectl create namespace NAME)", True),
    (r"[Ff]orbidden|[Uu]nauthorized|must be logged in", "log in as someone who may, or give a --namespace in which you may", False),
    (r"no matches for kind", "the cluster lacks what a component needs: install that, or leave the component out", True),
    (r"connection to the server|dial tcp|[Tt]imeout|no such host", "check --context, and that the cluster can be reached from here", False),
    (r"not declared in schema|unknown field|[Ii]nvalid", "mend the overlay or the option that it comes from", True),
)


@dataclass(frozen=True)
class Kubectl:
    """Where commands go to; None: as the user's kubeconfig has it."""

    context: str | None = None
    namespace: str | None = None

    def command(self, *words: str) -> list[str]:
        """The whole command line."""
        context = ["--context", self.context] if self.context else []
        namespace = ["--namespace", self.namespace] if self.namespace else []
        return ["kubectl", *context, *namespace, *words]

    def shown(self, *words: str) -> str:
        """The same, ready to paste."""
        return shlex.join(self.command(*words))

    def run(self, *words: str, send: str = "") -> str:
        """What it prints, given `send` as its input.

        Raises:
            InputError: there is no kubectl, or what it was told cannot be right.
            RunError: it failed for another reason.
        """
        done = start(self.command(*words), send)
        if done.returncode:
            raise failure(f"kubectl {words[0]}", done.stderr)
        return done.stdout

    def get(self, *words: str) -> list[Manifest]:
        """The objects that `kubectl get` finds, which may be none; raises as `run`."""
        text = self.run("get", *words, "--ignore-not-found", "--output", "json")
        found = json.loads(text) if text.strip() else {"items": []}
        return found.get("items", [found])


def start(command: Sequence[str], send: str = "") -> "subprocess.CompletedProcess[str]":
    """Run a command line of kubectl.

    Raises:
        InputError: there is no kubectl.
    """
    try:
        return subprocess.run(command, input=send, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise InputError(
            "kubectl is not on the PATH, which renders the manifests and talks to the cluster; install it (kubernetes.io/docs/tasks/tools)."
        ) from None


def reason(complaint: str) -> str:
    """What kubectl wrote to stderr, without its log and in one line; where there is nothing else, what its log says."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    said = [line for line in lines if not _NOISE.match(line)] or [found[1] for line in lines if (found := _LOGGED.search(line))]
    return "; ".join(dict.fromkeys(_PREFIX.sub("", line) for line in said)).rstrip(".") or "it did not say why"


def failure(what: str, complaint: str) -> InputError | RunError:
    """To raise when kubectl has failed, by what it wrote to stderr."""
    why = reason(complaint)
    for pattern, mend, is_input in _MENDS:
        if re.search(pattern, why):
            return (InputError if is_input else RunError)(f"{what} failed: {why}; {mend}.")
    return RunError(f"{what} failed: {why}.")
