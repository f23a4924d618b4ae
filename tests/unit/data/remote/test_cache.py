"""The cache of shards: whole files within a limit, each downloaded once, whatever dies, fills up or lies on the way."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from distgan.data.remote import transfer
from distgan.data.remote.cache import CacheFullError, ShardCache, cache_key
from distgan.data.remote.transfer import ChangedShardError, Patience, TransferError
from distgan.errors import InputError
from tests.http_server import Server, serving

PATIENT = Patience(retry_seconds=20, stall_seconds=5)
SIZE = 100_000

# Fetches shards into a cache: arguments are its directory, its limit, then URL and SHA-256 of each. Prints each file's SHA-256.
# Fails if more than the limit is there at the moment in which a file gets its size, when nothing else can grow.
FETCH = f"""
import hashlib, os, sys
from pathlib import Path
from distgan.data.remote.cache import CacheFullError, ShardCache
directory, limit = Path(sys.argv[1]), int(sys.argv[2])
allocate = os.posix_fallocate
def size(path):
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
def checked(*arguments):
    allocate(*arguments)
    assert sum(size(entry.path) for entry in os.scandir(directory)) <= limit
os.posix_fallocate = checked
def fetched(url, sha256):
    while True:
        try:
            return hashlib.sha256(ShardCache(directory, limit).fetch(url, sha256, {SIZE}).read_bytes()).hexdigest()
        except FileNotFoundError:  # evicted by another process before it was opened
            continue
        except CacheFullError as error:
            return f"CacheFullError {{error}}"
for url, sha256 in zip(sys.argv[3::2], sys.argv[4::2]):
    print(fetched(url, sha256), flush=True)
"""


def content(number: int) -> bytes:
    return np.random.default_rng(number).bytes(SIZE)


def sha256_of(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "FIRST_DELAY_SECONDS", 0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serves `content` of 0 to 7 as 0.tar to 7.tar."""
    directory = tmp_path / "served"
    directory.mkdir()
    for number in range(8):
        (directory / f"{number}.tar").write_bytes(content(number))
    with serving(directory) as running:
        yield running


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the cache is, or will be."""
    return tmp_path / "cache"


Fetch = Callable[..., Path | None]


@pytest.fixture
def fetch(server: Server, directory: Path) -> Fetch:
    """Fetches a shard, by its number, into a cache with room for three."""
    shards = ShardCache(directory, 3 * SIZE, PATIENT)

    def fetch_shard(number: int, keep: object = frozenset(), wait: bool = True) -> Path | None:
        return shards.fetch(server.url(f"{number}.tar"), sha256_of(number), SIZE, keep, wait)  # pyright: ignore[reportArgumentType]

    return fetch_shard


def start(
    server: Server, directory: Path, numbers: list[int], limit_bytes: int = 3 * SIZE, prefix: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """Another process that fetches these shards."""
    shards = [argument for number in numbers for argument in (server.url(f"{number}.tar"), sha256_of(number))]
    command = [*prefix, sys.executable, "-c", FETCH, str(directory), str(limit_bytes), *shards]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files(directory: Path) -> dict[str, int]:
    """Names and sizes of what is in the cache, without its lock."""
    return {path.name: path.stat().st_size for path in directory.iterdir() if path.name != ".lock"}


def held(server: Server, directory: Path) -> list[int]:
    """The numbers of the shards that are in the cache, by an independent look at them."""
    digests = {sha256_of(number): number for number in range(8)}
    return sorted(digests[hashlib.sha256((directory / name).read_bytes()).hexdigest()] for name in files(directory))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_shard_is_downloaded_once(server: Server, directory: Path, fetch: Fetch) -> None:
    shards = ShardCache(directory, 3 * SIZE)
    assert shards.path(server.url("0.tar"), sha256_of(0), SIZE) is None
    path = fetch(0)
    assert path is not None
    assert path.read_bytes() == content(0)
    assert fetch(0) == ShardCache(directory, 3 * SIZE).path(server.url("0.tar"), sha256_of(0), SIZE) == path
    assert (server.num_requests("/0.tar"), shards.used_bytes(), files(directory)) == (1, SIZE, {path.name: SIZE})


def test_the_same_name_under_two_prefixes(server: Server, directory: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "served" / f"set{number}").mkdir()
        (tmp_path / "served" / f"set{number}" / "0.tar").write_bytes(content(number))
    shards = ShardCache(directory, 3 * SIZE)
    paths = [shards.fetch(server.url(f"set{number}/0.tar"), sha256_of(number), SIZE) for number in (1, 2)]
    assert [path and path.read_bytes() for path in paths] == [content(1), content(2)]


def test_a_new_version_is_another_shard(server: Server, directory: Path, fetch: Fetch, tmp_path: Path) -> None:
    fetch(0)
    (tmp_path / "served" / "0.tar").write_bytes(content(1))
    path = ShardCache(directory, 3 * SIZE).fetch(server.url("0.tar"), sha256_of(1), SIZE)
    assert path is not None
    assert path.read_bytes() == content(1)
    assert held(server, directory) == [0, 1]


def test_a_signature_is_not_part_of_the_key(server: Server, directory: Path) -> None:
    shards, urls = ShardCache(directory, SIZE), [server.url("0.tar") + f"?X-Amz-Signature={number}" for number in range(2)]
    assert len({shards.fetch(url, sha256_of(0), SIZE) for url in urls}) == 1
    assert server.num_requests("/0.tar") == 1
    keys = {cache_key(url, sha) for url in ("http://h/a.tar", "http://h/b/a.tar", "http://g/a.tar", "s3://h/a.tar") for sha in ("0", "1")}
    assert len(keys) == 8
    assert cache_key("http://user:word@h/a.tar?x=1#y", "0") in keys


def test_a_file_of_the_wrong_size_is_not_the_shard(directory: Path, fetch: Fetch) -> None:
    path = fetch(0)
    assert path is not None
    with open(path, "r+b") as file:
        file.truncate(SIZE - 1)
    assert fetch(0) == path
    assert path.read_bytes() == content(0)


def test_the_one_used_longest_ago_goes_first(server: Server, directory: Path, fetch: Fetch) -> None:
    for number in (0, 1, 2, 0, 3):  # 0 is used again
        fetch(number)
    assert held(server, directory) == [0, 2, 3]
    assert ShardCache(directory, 3 * SIZE).path(server.url("2.tar"), sha256_of(2), SIZE)
    fetch(4)
    assert held(server, directory) == [2, 3, 4]
    assert [server.num_requests(f"/{number}.tar") for number in range(5)] == [1] * 5


def test_what_is_kept_is_not_evicted(server: Server, directory: Path, fetch: Fetch) -> None:
    keep = {cache_key(server.url(f"{number}.tar"), sha256_of(number)) for number in (0, 2)}
    for number in (0, 1, 2, 3):
        fetch(number, keep)
    assert held(server, directory) == [0, 2, 3]
    keep.add(cache_key(server.url("3.tar"), sha256_of(3)))
    message = (
        rf"data.cache_dir {directory} has no room for a shard of {SIZE} bytes: 300000 of 300000 bytes \(data.cache_gigabytes\) are used"
    )
    with pytest.raises(CacheFullError, match=message):
        fetch(4, keep)
    assert (held(server, directory), server.num_requests("/4.tar")) == ([0, 2, 3], 0)


def test_nothing_is_evicted_in_vain(server: Server, directory: Path, fetch: Fetch) -> None:
    keep = {cache_key(server.url(f"{number}.tar"), sha256_of(number)) for number in (0, 1)}
    for number in (0, 1, 2):
        fetch(number)
    with pytest.raises(CacheFullError):
        ShardCache(directory, 3 * SIZE).fetch(server.url("big.tar"), "0", 2 * SIZE, keep)
    with pytest.raises(CacheFullError):
        ShardCache(directory, 3 * SIZE).fetch(server.url("big.tar"), "0", 4 * SIZE)
    assert held(server, directory) == [0, 1, 2]


def test_an_evicted_shard_can_be_read_by_those_who_have_it_open(directory: Path, fetch: Fetch) -> None:
    path = fetch(0)
    assert path is not None
    with open(path, "rb") as file:
        for number in (1, 2, 3):
            fetch(number)
        assert not path.exists()
        assert file.read() == content(0)


def test_what_is_not_of_the_cache_is_left_alone(server: Server, directory: Path, fetch: Fetch) -> None:
    foreign = {"photos.tar": 10 * SIZE, "x.partial": 10, f"{'0' * 64}.txt": 10, f"{'g' * 64}.tar": 10}
    for name, size in foreign.items():
        (directory / name).write_bytes(bytes(size))
    (directory / f"{'1' * 64}.partial").write_bytes(bytes(2 * SIZE))  # of a dead process
    for number in range(5):
        fetch(number)
    assert {name: size for name, size in files(directory).items() if name in foreign} == foreign
    assert ShardCache(directory, 3 * SIZE).used_bytes() == 3 * SIZE


@pytest.mark.parametrize("fault", ["resets", "cuts", "statuses"])
def test_a_broken_connection_goes_unnoticed(server: Server, fetch: Fetch, fault: str) -> None:
    setattr(server.faults["/0.tar"], fault, [503] if fault == "statuses" else 1)
    path = fetch(0)
    assert path is not None
    assert path.read_bytes() == content(0)


@pytest.mark.parametrize("ignores_range", [False, True])
def test_a_damaged_copy_is_fetched_afresh_once(server: Server, directory: Path, fetch: Fetch, ignores_range: bool) -> None:
    server.faults["/0.tar"].flips, server.faults["/0.tar"].ignores_range = 1, ignores_range
    path = fetch(0)
    assert path is not None
    assert path.read_bytes() == content(0)
    assert [request.headers.get("cache-control") for request in server.requests] == [None, "no-cache"]


@pytest.mark.parametrize("change", ["bytes", "shorter", "longer"])
def test_a_changed_shard_is_refused_by_name(server: Server, directory: Path, fetch: Fetch, tmp_path: Path, change: str) -> None:
    changed = {"bytes": content(1), "shorter": content(0)[:-1], "longer": content(0) + b"x"}[change]
    (tmp_path / "served" / "0.tar").write_bytes(changed)
    with pytest.raises(ChangedShardError, match=rf"^{server.url('0.tar')} has (changed since it was indexed|{len(changed)} bytes)"):
        fetch(0)
    assert (files(directory), server.num_requests("/0.tar")) == ({}, 2)


def test_what_cannot_be_downloaded_leaves_nothing(server: Server, directory: Path, fetch: Fetch) -> None:
    server.faults["/0.tar"].status = 404
    with pytest.raises(TransferError, match=r"0.tar does not exist"):
        fetch(0)
    assert files(directory) == {}
    server.faults["/0.tar"].status = None
    assert fetch(0)


def test_the_content_reaches_the_disk_before_the_name_does(directory: Path, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        calls.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).suffix))
        fsync(descriptor)

    def spy_replace(source: Path, destination: Path) -> None:
        assert hashlib.sha256(source.read_bytes()).hexdigest() == sha256_of(0)
        calls.append(("replace", destination.suffix))
        replace(source, destination)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    fetch(0)
    assert calls == [("fsync", ".partial"), ("replace", ".tar"), ("fsync", "")]


def test_ranks_share_the_work(server: Server, directory: Path, fetch: Fetch) -> None:
    server.faults["/0.tar"].latency_seconds = 0.3
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(fetch, 0)
        wait_for(lambda: server.num_requests("/0.tar"))
        begin = time.monotonic()
        assert fetch(0, wait=False) is None
        assert time.monotonic() - begin < 0.25
        assert fetch(1, wait=False) is not None
        assert len({first.result(), *(pool.map(fetch, [0] * 4))}) == 1
    assert server.num_requests("/0.tar") == 1
    assert held(server, directory) == [0, 1]


def test_processes_download_each_shard_once(server: Server, directory: Path) -> None:
    orders = [[0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0], [0, 2, 4, 6, 1, 3, 5, 7], [0, 1, 2, 3, 4, 5, 6, 7]]
    for number in range(8):
        server.faults[f"/{number}.tar"].latency_seconds = 0.02
    processes = [start(server, directory, order, limit_bytes=8 * SIZE) for order in orders]
    for process, order in zip(processes, orders, strict=True):
        output, errors = process.communicate(timeout=60)
        assert (output.split(), errors) == ([sha256_of(number) for number in order], "")
    assert [server.num_requests(f"/{number}.tar") for number in range(8)] == [1] * 8
    assert held(server, directory) == list(range(8))


def test_the_limit_holds_while_processes_fetch(server: Server, directory: Path) -> None:
    """Each of them checks it whenever a file grows; 100 bytes more than three shards are not enough for a fourth."""
    orders = [[0, 1, 2, 3, 4, 5, 6, 7] * 2, [7, 6, 5, 4, 3, 2, 1, 0] * 2, [0, 2, 4, 6, 1, 3, 5, 7] * 2]
    processes = [start(server, directory, order, limit_bytes=3 * SIZE + 100) for order in orders]
    for process, order in zip(processes, orders, strict=True):
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        lines = output.splitlines()
        assert len(lines) == len(order)
        # Two others may hold all the room that there is with what they are downloading.
        assert all(line == sha256_of(number) or line.startswith("CacheFullError") for line, number in zip(lines, order, strict=True))
    assert sorted(files(directory).values()) == [SIZE] * 3


def test_a_killed_process_leaves_nothing_in_the_way(server: Server, directory: Path, fetch: Fetch) -> None:
    """Its partial file counts, is waited for, and is taken over when it dies, or removed if something else needs room."""
    server.faults["/0.tar"].bytes_per_second = server.faults["/1.tar"].bytes_per_second = 20_000
    processes = [start(server, directory, [number]) for number in (0, 1)]
    wait_for(lambda: sorted(files(directory).values()) == [SIZE] * 2)
    wait_for(lambda: server.num_requests("/0.tar") and server.num_requests("/1.tar"))
    assert fetch(0, wait=False) is None
    assert fetch(2)
    with pytest.raises(CacheFullError):  # the two that are being downloaded are not evicted
        fetch(3, keep={path.stem for path in directory.glob("*.tar")})
    server.faults.clear()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(fetch, 0)
        time.sleep(0.2)
        assert not waiting.done()
        for process in reversed(processes):
            process.send_signal(signal.SIGKILL)
            process.communicate()
        path = waiting.result(30)
    assert path is not None
    assert path.read_bytes() == content(0)
    assert held(server, directory) == [0, 2], "the other partial file is gone"
    assert [path.name for path in directory.glob("*.partial")] == []


def test_a_partial_file_is_not_taken_for_the_shard(server: Server, directory: Path, fetch: Fetch) -> None:
    """It has the size of one from the start."""
    server.faults["/0.tar"].bytes_per_second = 50_000
    process = start(server, directory, [0])
    wait_for(lambda: list(files(directory).values()) == [SIZE])
    assert ShardCache(directory, 3 * SIZE).path(server.url("0.tar"), sha256_of(0), SIZE) is None
    assert ShardCache(directory, 3 * SIZE).used_bytes() == SIZE
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_allocation_that_fails_once_evicts(
    server: Server, directory: Path, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """With a posix_fallocate that says so; what a real full disk does is tested below."""
    allocate, calls = os.posix_fallocate, []

    def fail_once(*arguments: int) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(number, os.strerror(number))
        allocate(*arguments)

    fetch(0)
    fetch(1)
    monkeypatch.setattr(os, "posix_fallocate", fail_once)
    fetch(2)
    assert held(server, directory) == [1, 2]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_after_all(directory: Path, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Some file systems promise more than they have, and say so when it is written; here a flush does, by monkeypatch."""

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CacheFullError, match=rf"data.cache_dir {directory} has no room .*{os.strerror(number)}"):
        fetch(0)
    assert files(directory) == {}


def test_a_real_disk_that_is_full(server: Server, tmp_path: Path) -> None:
    """A file system of 256 KiB, in a mount namespace of its own: two shards fit, whatever the limit says."""
    mount = (
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs -o size=256k tmpfs "$0" && exec "$@"',
        str(tmp_path / "disk"),
    )
    (tmp_path / "disk").mkdir()
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    process = start(server, tmp_path / "disk", [0, 1, 2, 0], limit_bytes=100 * SIZE, prefix=mount)
    output, errors = process.communicate(timeout=60)
    assert (output.split(), errors) == ([sha256_of(number) for number in (0, 1, 2, 0)], "")
    assert [server.num_requests(f"/{number}.tar") for number in range(3)] == [2, 1, 1]  # 0 made room for 2


def test_a_limit_of_the_process_is_a_full_disk(server: Server, directory: Path) -> None:
    process = start(server, directory, [0], prefix=("sh", "-c", 'ulimit -f 20 && exec "$0" "$@"'))  # blocks of 512 or 1,024 bytes
    output, errors = process.communicate(timeout=60)
    assert output.startswith(f"CacheFullError data.cache_dir {directory} has no room for a shard of {SIZE} bytes"), errors


@pytest.mark.parametrize("place", ["a file", "no place"])
def test_a_directory_that_cannot_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    directory = {"a file": tmp_path / "file", "no place": Path("/proc/cache")}[place]
    with pytest.raises(InputError, match=rf"^data.cache_dir is '{directory}', which cannot be written \(.*\); set it to a directory"):
        ShardCache(directory, SIZE)
