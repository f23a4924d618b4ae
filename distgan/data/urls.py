"""`data.url` -> the shards that it names."""

import glob
from pathlib import Path

from braceexpand import UnbalancedBracesError, braceexpand  # pyright: ignore[reportAttributeAccessIssue]

from distgan.data.remote import storage
from distgan.data.remote.shards import beside, published_records
from distgan.data.remote.transfer import TransferError, shown
from distgan.errors import InputError


def resolve(url: str) -> list[str]:
    """The shards that `url` names: a tar file, a pattern ({0..9}, *) of tar files, or a directory (all of its *.tar).

    Paths come absolute; they and URLs may be mixed by braces.

    Raises:
        InputError: nothing is there, or the scheme is one that is not read.
    """
    try:
        patterns = list(braceexpand(url))
    except UnbalancedBracesError as error:
        raise InputError(
            f"data.url is {url!r}, whose braces do not pair ({error}); write a pattern such as 'x-{{0000..0127}}.tar'."
        ) from None
    remote = [pattern for pattern in patterns if storage.is_remote(pattern)]
    try:
        local = _local(url, [pattern for pattern in patterns if pattern not in set(remote)]) if len(remote) < len(patterns) else []
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"data.url is {url!r}, which cannot be looked at ({reason}); set data.url to where the shards are.") from None
    return local + [shard for pattern in remote for shard in _remote(pattern)]


def _local(url: str, patterns: list[str]) -> list[str]:
    expanded = [str(Path(pattern).expanduser()) for pattern in patterns]
    shards = []
    for path in [Path(path) for pattern in expanded for path in sorted(glob.glob(pattern)) or [pattern]]:
        if path.is_dir():
            inside = sorted(path.glob("*.tar"))
            if not inside:
                raise InputError(
                    f"data.url is {url!r}, but {path} holds no *.tar file; set data.url to where the shards are, "
                    f"or pack images and labels: tar --sort=name -cf x.tar -C {path} ."
                )
            shards += inside
        else:
            shards.append(path)
    missing = [path for path in shards if not path.is_file()]
    if missing:
        number = "matches nothing" if len(missing) == len(shards) else f"lacks {len(missing)} of its {len(shards)} shards"
        raise InputError(f"data.url is {url!r}, which {number}: {missing[0]} does not exist; set data.url to where the shards are.")
    return [str(path.resolve()) for path in shards]


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
