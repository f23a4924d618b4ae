"""A url of tars -> its samples, as webdataset opens and groups them; nothing but images and labels is read, and nothing is unpickled."""

import contextlib
import random
import signal
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from webdataset.filters import pick
from webdataset.gopen import Pipe, gopen

from distgan.data.decoding import EXTENSIONS, RAW_EXTENSION
from distgan.data.remote.transfer import shown
from distgan.data.shards.grouping import (
    LABEL_EXTENSION,
    MAX_IMAGE_BYTES,
    MAX_LABEL_BYTES,
    NO_LABEL,
    SORTED,
    images_among,
    key_and_extension,
    parse_label,
)
from distgan.data.streaming.tar_stream import DamagedStreamError, StreamedMember, walk

SHUFFLE_SAMPLES = 1000  # that wait in a worker's memory, not decoded, to be shuffled
SHUFFLE_BYTES = 1 << 28  # of all of these; fewer wait if they are larger
SHUFFLE_START = 100  # samples that are there when the first one is taken
_CURL = {6: ": no such host", 7: ": nobody answers there", 22: ": the server refuses it, as where nothing lies there (404)"}  # by exit code
_WANTED = EXTENSIONS | {RAW_EXTENSION, LABEL_EXTENSION}


class StreamedSample(NamedTuple):
    """An image that is not decoded yet, of the shard that is called so."""

    shard: str
    key: str
    extension: str
    payload: bytes
    label: int  # NO_LABEL: none


class StreamProblem(NamedTuple):
    """What could not be read.

    Attributes:
        shard: its url, without its secrets.
        key: of a sample; empty for what is wrong with the stream itself.
        reason: one of `samples.REASONS`, for counting; `sentence` is for people.
    """

    shard: str
    key: str
    reason: str
    sentence: str


class _Refused(Exception):  # noqa: N818 - carried to the problem of one sample
    """Why a sample is none."""

    def __init__(self, reason: str, text: str) -> None:
        self.reason, self.text = reason, text


def samples_of(url: str, num_classes: int | None) -> Iterator[StreamedSample | StreamProblem]:
    """All samples of the tars that a url gives, in their order, and what is none.

    Args:
        url: a path, http(s)://..., or 'pipe:' and a command of the shell.
        num_classes: every sample must have a label below it; None: it may have any, or none.
    """
    name = url if url.startswith("pipe:") else shown(url)
    is_empty = True
    try:
        with contextlib.closing(_Incoming(url)) as incoming:
            for group in _groups(walk(incoming, _is_wanted)):
                try:
                    found = group.sample(name, num_classes)
                except _Refused as refused:
                    found = StreamProblem(name, group.key, refused.reason, f"{name} {refused.text}.")
                is_empty = False
                yield found
    except DamagedStreamError as error:
        yield StreamProblem(name, "", "shard", f"{name} {error}.")
        return
    if is_empty:
        yield StreamProblem(name, "", "shard", f"{name} holds no image ({', '.join(sorted(EXTENSIONS))}); pack it again.")


def shuffled(items: Iterable[StreamedSample | StreamProblem], seed: int) -> Iterator[StreamedSample | StreamProblem]:
    """The same in another order, by way of a buffer that is as large as SHUFFLE_SAMPLES and SHUFFLE_BYTES allow; problems do not wait."""
    generator = random.Random(seed)  # noqa: S311 - an order, no secret
    buffer: list[StreamedSample] = []
    num_bytes = 0
    for number, item in enumerate(items):
        if isinstance(item, StreamProblem):
            yield item
            continue
        buffer.append(item)
        num_bytes += len(item.payload)
        while len(buffer) > SHUFFLE_SAMPLES or num_bytes > SHUFFLE_BYTES:
            taken = pick(buffer, generator)
            num_bytes -= len(taken.payload)
            yield taken
        if len(buffer) > SHUFFLE_START and number % 2:  # until it is full, every other one may go
            taken = pick(buffer, generator)
            num_bytes -= len(taken.payload)
            yield taken
    while buffer:
        yield pick(buffer, generator)


class _Incoming:
    """A url, opened by webdataset. A command that fails is an error at the end of what it gives, not a short tar.

    Raises:
        DamagedStreamError: it cannot be opened, or read to its end.
    """

    def __init__(self, url: str) -> None:
        # Ctrl-C and SIGTERM go to the whole group, but the rank still needs its images to finish its step. A program inherits what is
        # blocked; a shell clears that, but not what it ignores.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self._stream = gopen(f"pipe:trap '' INT TERM; {url.removeprefix('pipe:')}" if url.startswith("pipe:") else url)
        except (OSError, ValueError) as error:
            raise DamagedStreamError(f"cannot be opened ({getattr(error, 'strerror', None) or error})") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._has_ended = False

    def read(self, count: int) -> bytes:
        """At most `count` bytes; none at the end."""
        if self._has_ended:
            return b""
        try:
            content = self._stream.read(count)
            if not content:
                self._has_ended = True
                self._stream.close()  # waits for a command, and raises what it ended with
        except OSError as error:
            raise DamagedStreamError(f"could not be read to its end ({self._reason(error)})") from None
        return content

    def _reason(self, error: OSError) -> str | None:
        if not isinstance(self._stream, Pipe):
            return error.strerror
        is_command = isinstance(self._stream.proc.args, str)
        meaning = "" if is_command else _CURL.get(self._stream.status or 0, "")
        return f"{'its command' if is_command else 'curl'} ended with exit code {self._stream.status}{meaning}"

    def close(self) -> None:
        """Stop reading; a command is ended."""
        if isinstance(self._stream, Pipe):
            self._stream.proc.kill()  # it may be waiting for a server, and would be waited for
        with contextlib.suppress(OSError):
            self._stream.close()


class _Group:
    """Consecutive members of one key."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._parts: dict[str, StreamedMember] = {}
        self._doubled: str | None = None

    def add(self, extension: str, member: StreamedMember) -> None:
        """One more member."""
        if extension in self._parts:
            self._doubled = self._doubled or member.name
        else:
            is_second = extension in EXTENSIONS and not EXTENSIONS.isdisjoint(self._parts)  # it is refused below: not kept in memory
            self._parts[extension] = replace(member, content=None) if is_second else member

    def sample(self, shard: str, num_classes: int | None) -> StreamedSample:
        """The sample, now that it has all of its members.

        Raises:
            _Refused: it is none.
        """
        if self._doubled is not None:
            raise _Refused("sample", f"holds {self._doubled!r} twice; {SORTED}")
        images = images_among(self._parts)
        if len(images) != 1:
            number = "no image" if not images else f"{len(images)} images"
            raise _Refused("sample", f"holds {number} in the sample {self.key!r}; {SORTED}, with one image each")
        image = self._parts[images[0]]
        for member in (image, self._parts.get(LABEL_EXTENSION)):
            if member is not None and not member.is_plain:
                raise _Refused("sample", f"holds {member.name!r} as a link, a device or a sparse file; pack it again as a plain one")
        if image.content is None:
            raise _Refused("sample", f"holds {image.name!r} of {image.num_bytes} bytes; pack images below {MAX_IMAGE_BYTES >> 20} MiB")
        return StreamedSample(shard, self.key, images[0], image.content, self._label(num_classes))

    def _label(self, num_classes: int | None) -> int:
        member = self._parts.get(LABEL_EXTENSION)
        if member is None and num_classes is not None:
            raise _Refused("label", f"holds the sample {self.key!r} without a label (.{LABEL_EXTENSION}), but model.conditional is true")
        try:
            label = NO_LABEL if member is None else parse_label(self.key, member.content)
        except ValueError as error:
            raise _Refused("label", str(error)) from None
        if num_classes is not None and label >= num_classes:
            raise _Refused("label", f"holds the sample {self.key!r} with the label {label}, but data.num_classes is {num_classes}")
        return label


def _groups(members: Iterable[StreamedMember]) -> Iterator[_Group]:
    """The members that may belong to a sample, by their keys."""
    group = None
    for member in members:
        key, extension = key_and_extension(member.name)
        if extension not in _WANTED or not key.rpartition("/")[2]:  # hidden files, such as macOS's ._NAME, are no samples
            continue
        if group is None or key != group.key:
            if group is not None:
                yield group
            group = _Group(key)
        group.add(extension, member)
    if group is not None:
        yield group


def _is_wanted(name: str, num_bytes: int) -> bool:
    """Whether a member is to be read: an image or a label of a believable size."""
    _, extension = key_and_extension(name)
    return extension in _WANTED and num_bytes <= (MAX_LABEL_BYTES if extension == LABEL_EXTENSION else MAX_IMAGE_BYTES)
