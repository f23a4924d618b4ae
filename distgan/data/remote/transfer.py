"""What all transfers from elsewhere share: how they fail, how long they are tried again, and how a URL is shown."""

import random
import re
import sys
import time
from dataclasses import dataclass
from typing import Protocol

from distgan.errors import RunError

FIRST_DELAY_SECONDS = 0.25
LONGEST_DELAY_SECONDS = 20.0
NOTICE_SECONDS = 10.0


class TransferError(RunError):
    """A remote file could not be read; one sentence that names its URL and what happened."""


class NotFoundError(TransferError):
    """There is nothing at this URL."""


class RefusedError(TransferError):
    """The server does not let us read this URL; where listing is forbidden, stores answer the same if there is nothing."""


class RangesUnsupportedError(TransferError):
    """The server gives whole files only."""


class ChangedShardError(RunError):
    """A remote shard is not, or no longer, what it was when it was indexed."""


class TransientError(Exception):
    """A failure that may be gone at the next attempt: what happened, and how long the server asks to wait."""

    def __init__(self, reason: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class Patience:
    """How long a transfer is kept up: `retry_seconds` in which no byte comes, over all attempts; `stall_seconds` of silence in one."""

    retry_seconds: float = 120.0
    stall_seconds: float = 30.0


@dataclass(frozen=True)
class RemoteFile:
    """What a server says of a file without sending it; see `storage.look_up`."""

    num_bytes: int | None
    identity: str


class Body(Protocol):
    """The bytes of a remote file from position `first` on; `num_bytes` is the size of the whole file, if known."""

    first: int
    num_bytes: int | None

    def read(self, limit_bytes: int) -> bytes:
        """At least one and at most `limit_bytes` bytes; none at the end. Raises TransientError or TransferError."""
        ...


class Retries:
    """When to try one transfer again: after twice the time from failure to failure, with jitter, until patience is at an end."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._url, self._patience = url, patience
        self._num_attempts = 0
        self._noticed = False
        self.progress()

    def progress(self) -> None:
        """Bytes have come: the time without any begins anew."""
        self._last_progress = time.monotonic()
        self._num_failures = 0

    def wait(self, failure: TransientError) -> None:
        """Wait until the next attempt is due.

        Raises:
            TransferError: `retry_seconds` have passed since the last byte.
        """
        self._num_attempts += 1
        self._num_failures += 1
        seconds = time.monotonic() - self._last_progress
        left_seconds = self._patience.retry_seconds - seconds
        if left_seconds <= 0:
            times = "once" if self._num_attempts == 1 else f"{self._num_attempts} times"
            raise TransferError(
                f"{shown(self._url)} cannot be read: {failure} (tried {times}; {seconds:.1f} s without a byte). "
                "Start again when the server can be reached."
            ) from None
        if seconds >= NOTICE_SECONDS and not self._noticed:
            self._noticed = True
            notice = f"warning: {shown(self._url)}: {failure}; it is tried again for {left_seconds:.0f} s."
            print(notice, file=sys.stderr, flush=True)
        # Jitter: the ranks of a run meet the same failure in the same moment, and should not come back in the same moment.
        backoff_seconds = FIRST_DELAY_SECONDS * 2 ** min(self._num_failures - 1, 16) * random.uniform(0.5, 1)  # noqa: S311
        delay_seconds = max(min(backoff_seconds, LONGEST_DELAY_SECONDS), failure.retry_after_seconds)
        time.sleep(min(delay_seconds, left_seconds))


def shown(url: str) -> str:
    """The URL without what is secret in it: name and password, and the query, which may hold a signature."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")
    return scheme + separator + host.rpartition("@")[2] + slash + path


def without_secrets(text: str) -> str:
    """The first line of a library's message, with every URL in it as `shown` gives it."""
    first_line = text.strip().partition("\n")[0][:300]
    return re.sub(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", lambda match: shown(match[0]), first_line, flags=re.IGNORECASE)
