"""The names that the nodes of a run find each other by."""

import socket
import time
from collections.abc import Callable

from distgan.errors import InputError, RunError

_NOTICE_SECONDS = 10.0
_POLL_SECONDS = 0.5


class NameTimeoutError(RunError):
    """A name did not resolve in time."""


def rank_zero(own_name: str, index: int) -> str:
    """The full name of node 0, from this node's and its index.

    From the name itself and not from a setting: whatever prefix or namespace a manifest was given since, this stays right.

    Args:
        own_name: 'digits-3.digits.team.svc.cluster.local'
        index: 3

    Raises:
        InputError: the name has no domain, or does not end in the index.
    """
    host, _, domain = own_name.partition(".")
    base, _, number = host.rpartition("-")
    if not domain:
        raise InputError(
            f"This node is called {own_name!r}, without a domain in which to find node 0; give the pods a subdomain: the name of their "
            "headless Service."
        )
    if not base or number != str(index):
        raise InputError(
            f"This node is called {own_name!r}, but its index (JOB_COMPLETION_INDEX) is {index}; run it in a Job with completionMode "
            "Indexed, which calls its pods <job>-<index>."
        )
    return f"{base}-0.{domain}"


def wait_for(name: str, timeout_seconds: float, stop: Callable[[], bool], say: Callable[[str], object]) -> bool:
    """Wait until a name resolves: the name server learns of a pod some time after it has started. False: `stop` said so.

    Raises:
        NameTimeoutError: it did not.
    """
    begin = time.monotonic()
    is_noticed = False
    while not stop():
        try:
            socket.getaddrinfo(name, None)
            return True
        except OSError as error:  # socket.gaierror: not known, or no answer
            seconds = time.monotonic() - begin
            if seconds > timeout_seconds:
                raise NameTimeoutError(
                    f"{name} does not resolve after {seconds:.0f} s ({error.strerror}); the headless Service has to select the pods and to "
                    "publish addresses that are not ready."
                ) from None
            if seconds > _NOTICE_SECONDS and not is_noticed:
                is_noticed = True
                say(f"Waiting for {name} to resolve ({error.strerror}).")
        time.sleep(_POLL_SECONDS)
    return False
