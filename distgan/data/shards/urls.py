"""`data.url` -> the shards that it names."""

import glob
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from braceexpand import UnbalancedBracesError, braceexpand  # pyright: ignore[reportAttributeAccessIssue]

from distgan.data import digits
from distgan.data.remote import storage
from distgan.data.remote.transfer import TransferError, shown
from distgan.data.shards.remote_shards import beside, published_records
from distgan.errors import InputError


def resolve(url: str) -> list[str]:
    """The shards that `url` names: 'digits', a tar file, a pattern ({0..9}, *) of tar files, or a directory (all of its *.tar).

    Paths come absolute; they and URLs may be mixed by braces.

    Raises:
        InputError: nothing is there, or the scheme is one that is not read.
    """
    if url.startswith("pipe:"):
        raise InputError(
            f"data.url is {url!r}, a command, but data.mode is 'indexed', which reads samples by their places; set data.mode to stream."
        )
    shards = _named(url)
    with _looking_at(url):
        missing = [shard for shard in shards if not storage.is_remote(shard) and not Path(shard).is_file()]
    if missing:
        number = "matches nothing" if len(missing) == len(shards) else f"lacks {len(missing)} of its {len(shards)} shards"
        raise InputError(f"data.url is {url!r}, which {number}: {missing[0]} does not exist; set data.url to where the shards are.")
    return shards


def named_locally(url: str) -> list[Path]:
    """As `resolve`, but those that `url` names one by one need not be there, and none may be elsewhere.

    Raises:
        InputError: nothing is where `url` says that something is, or it is a URL.
    """
    remote = [pattern for pattern in _patterns(url) if storage.is_remote(pattern)]
    if remote:
        raise InputError(f"{shown(remote[0])!r} is elsewhere, but this command takes local shards only; copy them here first.")
    return [Path(shard) for shard in _named(url)]


def would_name(url: str, paths: Iterable[Path]) -> list[Path]:
    """Those of `paths` (absolute) that the local `url` would name if they were there; raises as `named_locally`."""
    with _looking_at(url):
        patterns = [Path(pattern).expanduser().resolve() for pattern in _patterns(url)]
    return [path for path in paths if any(path.parent == pattern or path.match(str(pattern)) for pattern in patterns)]


def _named(url: str) -> list[str]:
    shards: list[str] = []
    for pattern in _patterns(url):
        if storage.is_remote(pattern):
            shards += _remote(pattern)
        else:
            with _looking_at(url):
                shards += [str(path.resolve()) for path in _local(url, str(Path(pattern).expanduser()))]
    return shards


def _patterns(url: str) -> list[str]:
    """Paths, globs and URLs."""
    if url == "digits":
        return [str(digits.ensure_packed())]
    return expanded(url)


def expanded(url: str, escape: bool = True) -> list[str]:
    """Whatever the braces of `url` make of it; `escape`: a backslash keeps a brace from that.

    Raises:
        InputError: they do not pair.
    """
    try:
        return list(braceexpand(url, escape=escape))
    except UnbalancedBracesError as error:
        raise InputError(
            f"data.url is {url!r}, whose braces do not pair ({error}); write a pattern such as 'x-{{0000..0127}}.tar'."
        ) from None


def _local(url: str, pattern: str) -> list[Path]:
    shards = []
    for path in map(Path, sorted(glob.glob(pattern)) or [pattern]):
        if path.is_dir():
            inside = sorted(path.glob("*.tar"))
            if not inside:
                raise InputError(f"data.url is {url!r}, but {path} holds no *.tar file; {_instead(path)}")
            shards += inside
        else:
            shards.append(path)
    return shards


def _instead(directory: Path) -> str:
    """What whoever gave a directory without shards may have meant."""
    if below := sorted({path.parent for path in directory.glob("*/*.tar")}):
        return f"did you mean {' or '.join(map(str, below[:3]))}?"
    if any(path.name.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")) for path in directory.iterdir()):
        return "compressed ones have no places to read from: unpack them, or stream them (data.mode stream, data.url '.../*.tar.gz')."
    return f"set data.url to where the shards are, or pack the images there (python -m distgan.data pack {directory} shards)."


def _remote(url: str) -> list[str]:
    """The shards at a URL: itself, or those of its directory's manifest, or else those that the server lists."""
    path = url.partition("?")[0]
    if "*" in path:
        raise InputError(f"data.url is {shown(url)!r}, but * has a meaning in local paths only; write braces such as x-{{0000..0127}}.tar.")
    if path.endswith(".tar"):
        return [url]
    directory = url if path.endswith("/") else url.replace(path, path + "/", 1)
    if records := published_records(directory):
        return [beside(directory, name) for name in records]
    try:
        shards = storage.list_tars(directory)
    except TransferError as error:
        raise InputError(f"data.url cannot be read: {error}") from None
    if not shards:
        raise InputError(f"data.url is {shown(url)!r}, where no *.tar lies; set data.url to where the shards are.")
    return shards


@contextmanager
def called(name: str) -> Iterator[None]:
    """Within this, what is refused about `data.url` is said about `name`: what a command calls it."""
    try:
        yield
    except InputError as error:
        raise InputError(problem.replace("data.url", name) for problem in error.problems) from None


@contextmanager
def _looking_at(url: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"data.url is {url!r}, which cannot be looked at ({reason}); set data.url to where the shards are.") from None
