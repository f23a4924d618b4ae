"""`data.url` -> the paths of its shards."""

import glob
from pathlib import Path

from braceexpand import UnbalancedBracesError, braceexpand  # pyright: ignore[reportAttributeAccessIssue]

from distgan.errors import InputError


def resolve(url: str) -> list[Path]:
    """The shards that `url` names: a tar file, a pattern ({0..9}, *) of tar files, or a directory (all of its *.tar).

    Raises:
        InputError: nothing is there, or the scheme is one that is not read.
    """
    if "://" in url or url.startswith("pipe:"):
        raise InputError(f"data.url is {url!r}, but only local files are read; copy the shards to a directory and set data.url to it.")
    try:
        return _resolve(url)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"data.url is {url!r}, which cannot be looked at ({reason}); set data.url to where the shards are.") from None


def _resolve(url: str) -> list[Path]:
    try:
        patterns = [str(Path(path).expanduser()) for path in braceexpand(url)]
    except UnbalancedBracesError as error:
        raise InputError(
            f"data.url is {url!r}, whose braces do not pair ({error}); write a pattern such as 'x-{{0000..0127}}.tar'."
        ) from None
    shards = []
    for path in [Path(path) for pattern in patterns for path in sorted(glob.glob(pattern)) or [pattern]]:
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
    return [path.resolve() for path in shards]
