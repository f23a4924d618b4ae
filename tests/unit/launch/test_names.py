"""How a node finds node 0: by its own name, once the name server knows it."""

import socket
import threading

import pytest

from distgan.errors import InputError
from distgan.launch import names
from distgan.launch.names import NameTimeoutError, rank_zero, wait_for


@pytest.mark.parametrize(
    ("own", "index", "expected"),
    [
        ("digits-3.digits.team.svc.cluster.local", 3, "digits-0.digits.team.svc.cluster.local"),
        ("digits-0.digits.team.svc.cluster.local", 0, "digits-0.digits.team.svc.cluster.local"),
        ("my-digits-12.my-digits.other.svc.example.org", 12, "my-digits-0.my-digits.other.svc.example.org"),  # renamed
        ("set-ranks-0-2.set", 2, "set-ranks-0-0.set"),  # a JobSet's
    ],
)
def test_node_0_is_this_node_with_another_number(own: str, index: int, expected: str) -> None:
    assert rank_zero(own, index) == expected


@pytest.mark.parametrize(
    ("own", "index", "words"),
    [
        ("digits-3", 3, "without a domain"),
        ("digits-3.digits", 2, "but its index (JOB_COMPLETION_INDEX) is 2"),
        ("digits.digits", 0, "completionMode Indexed"),
        ("3.digits", 3, "completionMode Indexed"),
    ],
)
def test_other_names_are_refused(own: str, index: int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        rank_zero(own, index)
    assert words in str(caught.value)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names that resolve."""
    resolvable: set[str] = set()

    def getaddrinfo(name: str, port: None) -> list[str]:
        if name not in resolvable:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [name]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(names, "_POLL_SECONDS", 0.01)
    return resolvable


def test_a_name_that_appears_late(known: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once that it is waited for."""
    monkeypatch.setattr(names, "_NOTICE_SECONDS", 0.05)
    threading.Timer(0.3, known.add, ["node-0.run"]).start()
    said: list[str] = []
    assert wait_for("node-0.run", 60, lambda: False, said.append)
    assert said == ["Waiting for node-0.run to resolve (Name or service not known)."]


@pytest.mark.usefixtures("known")
def test_a_name_that_never_appears() -> None:
    with pytest.raises(NameTimeoutError, match=r"node-0\.run does not resolve after 0 s .*headless Service"):
        wait_for("node-0.run", 0.05, lambda: False, print)


@pytest.mark.usefixtures("known")
def test_a_node_that_is_stopped_waits_no_longer() -> None:
    calls = iter([False, False, True])
    assert not wait_for("node-0.run", 60, lambda: next(calls), print)
