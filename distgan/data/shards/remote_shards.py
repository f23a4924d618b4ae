"""Shards behind URLs: the manifest that lies beside them is used if there is one; else each shard is read once, and indexed here.

What was made or brought here lies in a directory of the user's cache, one for each directory of shards:

    manifest.json, shards.jsonl, <shard>.index    as beside local shards; an index that somebody else has made comes when it is asked for
    identities.json    {shard: what its server said when it was indexed here}: something else by now means that it has changed
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tqdm import tqdm

from distgan.data.parallel import in_processes
from distgan.data.remote import storage
from distgan.data.remote.cache import CacheSettings
from distgan.data.remote.transfer import NotFoundError, RefusedError, RemoteFile, TransferError, shown
from distgan.data.shards.index import Shard, ShardRecord, index_shard
from distgan.data.shards.records import SHARDS, TOTALS, directory_in_cache, parse_records, read_records, write_records
from distgan.errors import InputError, RunError
from distgan.files import locked, write_atomically

MAX_MANIFEST_BYTES = 2**32
_LOOK_UPS = 32  # at once
_DOWNLOADS = 8  # at once, each of which is indexed by its own process
_IDENTITIES = "identities.json"


def name_of(url: str) -> str:
    """'https://host/data/x-0.tar?key=1' -> 'x-0.tar'."""
    return urlsplit(url).path.rpartition("/")[2]


def directory_of(url: str) -> str:
    """'https://host/data/x-0.tar?key=1' -> 'https://host/data/?key=1'."""
    return beside(url, "")


def beside(url: str, name: str) -> str:
    """The URL of another file in the same directory."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rpartition("/")[0] + "/" + name))


def published_records(directory: str) -> dict[str, ShardRecord]:
    """The records, by name, of the manifest that lies in a directory; none if there is no manifest, or one of another version.

    Raises:
        InputError: it cannot be read.
    """
    try:
        totals = storage.read_small(beside(directory, TOTALS), MAX_MANIFEST_BYTES)
        return parse_records(totals, storage.read_small(beside(directory, SHARDS), MAX_MANIFEST_BYTES))
    except (NotFoundError, RefusedError):  # stores that may not be listed answer the same if there is nothing
        return {}
    except InputError:  # is a ValueError, too
        raise
    except TransferError as error:
        raise InputError(f"data.url names shards whose manifest cannot be read: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The manifest at {shown(directory)} cannot be read ({error}); put a whole one there (python -m distgan.data index), or none."
        ) from None


def open_directory(directory: str, urls: Sequence[str], settings: CacheSettings) -> dict[str, Shard]:
    """The shards at these URLs of one directory, by name; indexes those that have no manifest beside them, under a lock.

    Raises:
        InputError: a shard cannot be read or indexed, or nothing can be written here.
    """
    published = published_records(directory)
    own = _own_directory(directory)
    try:
        with locked(own / ".manifest.lock"):
            records = read_records(own)
            missing = [url for url in urls if name_of(url) not in published]
            identities = _identities(missing)
            known = _read_identities(own)
            stale = [url for url in missing if name_of(url) not in records or known.get(name_of(url)) != identities[name_of(url)]]
            if stale:
                known = {name: identity for name, identity in known.items() if name in records} | identities
                # The old records go first: an index of the new shard beside a record of the old one would look right.
                records = {name: record for name, record in records.items() if name not in {name_of(url) for url in stale}}
                write_records(own, records)
                for record in _indexed(directory, stale, own, settings):
                    records[record.name] = record
                write_records(own, records)
                write_atomically(own / _IDENTITIES, json.dumps(known, indent=1).encode())
    except OSError as error:
        raise InputError(
            f"data.url names shards at {shown(directory)}, whose index cannot be written to {own} ({error.strerror})."
        ) from None
    records |= published
    return {name_of(url): Shard(url, own, records[name_of(url)]) for url in urls}


def changed(shards: Sequence[Shard]) -> list[tuple[Shard, int]]:
    """Those remote shards of which the server says another size than their manifest does, with that size in bytes.

    Raises:
        InputError: a shard cannot be looked at.
    """
    sizes = [found.num_bytes for found in _look_up([shard.location for shard in shards])]
    return [(shard, size) for shard, size in zip(shards, sizes, strict=True) if size is not None and size != shard.record.bytes]


def fetch_index(shard: Shard) -> None:
    """Bring the index that lies beside a remote shard, unless the right one is here.

    Raises:
        TransferError: it cannot be read.
        ValueError: it is not the one that the shard's record tells of.
    """
    if not shard.is_remote or (shard.index_file.is_file() and shard.is_index_whole()):
        return
    content = storage.read_small(beside(shard.location, f"{shard.record.name}.index"), shard.record.index_bytes)
    if zlib.crc32(content) != shard.record.index_crc32:
        raise ValueError(f"the index beside it at {shown(shard.location)} has another checksum than its manifest says")
    write_atomically(shard.index_file, content)


def _own_directory(directory: str) -> Path:
    own = directory_in_cache(shown(directory))
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"data.url names shards at {shown(directory)}, but {own} cannot be made for their index ({error.strerror}); "
            "set XDG_CACHE_HOME to a directory that can be written."
        ) from None
    return own


def _read_identities(own: Path) -> dict[str, str]:
    try:
        return json.loads((own / _IDENTITIES).read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _identities(urls: Sequence[str]) -> dict[str, str]:
    """What the server says of each shard now, by name."""
    return {name_of(url): f"{found.identity} {found.num_bytes}" for url, found in zip(urls, _look_up(urls), strict=True)}


def _look_up(urls: Sequence[str]) -> list[RemoteFile]:
    try:
        with ThreadPoolExecutor(_LOOK_UPS) as pool:
            return list(pool.map(storage.look_up, urls))
    except TransferError as error:
        raise InputError(f"data.url names a shard that cannot be read: {error}") from None


def _indexed(directory: str, urls: Sequence[str], own: Path, settings: CacheSettings) -> Iterator[ShardRecord]:
    """The records of shards that were read for it, as they come. They stay in the cache as far as there is room."""
    indexed = in_processes(_index, [(url, own, settings) for url in urls], num_bytes=0, num_processes=min(_DOWNLOADS, len(urls)))
    yield from tqdm(indexed, total=len(urls), desc=f"indexing {shown(directory)}", unit="shard", disable=None)


def _index(url: str, own: Path, settings: CacheSettings) -> ShardRecord:
    cache = settings.cache()
    with cache.incoming(name_of(url)) as file:
        try:
            num_bytes = storage.size_of(url)
            with open(file, "wb") as opened:
                storage.download(url, opened, num_bytes)
            record = index_shard(file, own)
        except RunError as error:  # a ChangedShardError, too: it changed while it came
            raise InputError(f"data.url names a shard that cannot be read: {error}") from None
        cache.adopt(file, url, record.sha256)
        return record
