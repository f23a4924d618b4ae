"""`data.url` of data.mode stream -> what is read after each other."""

import shutil

from distgan.data.remote.transfer import shown
from distgan.data.shards import urls
from distgan.errors import InputError


def resolve(url: str) -> list[str]:
    """The tars that `url` names, as webdataset opens them: absolute paths, http(s)://... and 'pipe:' commands; braces make several.

    Raises:
        InputError: a path is not there, a scheme is one that is not read, or what reads it is missing.
    """
    if url.startswith("pipe:"):
        return urls.expanded(url, escape=False)  # its backslashes are for the shell
    if "://" not in url:
        return urls.resolve(url)
    shards = urls.expanded(url)
    for shard in shards:
        if not shard.startswith(("http://", "https://")):
            raise InputError(
                f"data.url is {shown(url)!r}, but what is streamed is a path, http(s)://, or 'pipe:' and a command; "
                "write a command that prints the shard, such as 'pipe:aws s3 cp s3://bucket/{000..127}.tar -'."
            )
    if shutil.which("curl") is None:
        raise InputError(f"data.url is {shown(url)!r}, which is read by curl, but there is no curl on the PATH; install it.")
    return shards
