"""Follow the log of one node of a run, from pod to pod, until its Job has ended."""

import subprocess
import time
from datetime import UTC, datetime

from distgan.errors import InputError
from distgan.launch.kubernetes.kubectl import Kubectl, failure
from distgan.launch.kubernetes.rendering import CONTAINER
from distgan.launch.kubernetes.runs import Pod, Run, find, find_all
from distgan.launch.say import say
from distgan.process import EXIT_DONE, EXIT_FAILED

_POLL_SECONDS = 2.0
_PATIENCE = 3  # failures to read the log of a pod that is there


def follow(kubectl: Kubectl, name: str, index: int) -> int:
    """Print it as it comes, from the start of the newest pod; returns 0 if the Job completes, else 1.

    Raises:
        InputError: there is no such run, Job or index; or as `Kubectl.run`.
        RunError: the log cannot be read; or as `Kubectl.run`.
    """
    run = find(kubectl, name)
    _check(run, index)
    followed, since = "", None  # the pod whose log was shown, and until when
    num_failures, told = 0, ""
    while run.job is not None:
        pod = run.pod(index)
        is_shown = pod is not None and pod.name == followed and pod.has_ended
        if pod is not None and pod.has_begun and not is_shown:
            complaint = _print_log(kubectl, pod, since if pod.name == followed else None)
            num_failures = num_failures + 1 if complaint else 0
            if num_failures > _PATIENCE:
                raise failure("kubectl logs", complaint)
            if not complaint:  # or else again from where it began: to say something twice is better than not at all
                followed, since = pod.name, datetime.now(UTC).isoformat(timespec="seconds")
        elif run.end is not None:
            say(f"The run has ended: {run.end['type']}. {run.end.get('message', '')}".strip())
            return EXIT_DONE if run.end["type"] == "Complete" else EXIT_FAILED
        elif (waiting := _waiting(pod, index, is_shown)) != told:
            told = waiting
            say(waiting)
        time.sleep(_POLL_SECONDS)
        run = next(iter(find_all(kubectl, name)), Run(name))
    say("The run was stopped.")
    return EXIT_FAILED


def _check(run: Run, index: int) -> None:
    if run.job is None:
        raise InputError(f"NAME is {run.name!r}, a run without a Job, and so without a log; submit it to go on with it.")
    num_nodes = run.job["spec"].get("completions", 1)
    if not 0 <= index < num_nodes:
        raise InputError(f"--index is {index}, but the run has {num_nodes} nodes; give a number from 0 to {num_nodes - 1}.")


def _print_log(kubectl: Kubectl, pod: Pod, since: str | None) -> str:
    """Until the container ends, or the server hangs up; returns what kubectl complains of."""
    words = ["logs", "--follow", pod.name, "--container", CONTAINER, *(("--since-time", since) if since else ())]
    done = subprocess.run(kubectl.command(*words), stderr=subprocess.PIPE, text=True, check=False)
    return done.stderr if done.returncode else ""


def _waiting(pod: Pod | None, index: int, is_shown: bool) -> str:
    if pod is None or is_shown:
        return f"Waiting for a pod of index {index}, or for the end of the Job."
    return f"Waiting for {pod.name} to begin{f' ({pod.waits_for})' if pod.waits_for else ''}."
