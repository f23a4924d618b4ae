"""Files of object stores: memory:// for what fsspec has in common, s3:// from moto's server and from one that misbehaves."""

import errno
import io
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from distgan.data.remote import objects, transfer
from distgan.data.remote.storage import download, exists, identity, list_tars, look_up, read_range, read_small, size_of
from distgan.data.remote.transfer import ChangedShardError, NotFoundError, Patience, RefusedError, TransferError
from distgan.data.shards.urls import resolve
from distgan.errors import InputError
from tests.http_server import Server, serving

CONTENT = np.random.default_rng(0).bytes(300_000)
# The two stores differ in the time after which they are taken to stall, so that the client of each is made only once.
OF_MOTO = Patience()
PATIENT = Patience(retry_seconds=20, stall_seconds=0.25)
HASTY = Patience(retry_seconds=0.3, stall_seconds=0.25)
SECRET = "hunter2"  # noqa: S105


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "FIRST_DELAY_SECONDS", 0.02)


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """Holds `CONTENT` as memory://set/a.tar."""
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/set/a.tar", CONTENT)
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """A server that speaks S3; its URL."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def use_endpoint(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have botocore speak to `url`, with credentials, and without the user's files."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def store(moto: str) -> S3FileSystem:
    return S3FileSystem(endpoint_url=moto, key="key", secret=SECRET, skip_instance_cache=True, use_listings_cache=False)


@pytest.fixture
def bucket(moto: str, store: S3FileSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3FileSystem]:
    """Holds `CONTENT` as s3://shards/set/a.tar."""
    use_endpoint(moto, monkeypatch, tmp_path)
    store.mkdir("shards")
    store.pipe_file("shards/set/a.tar", CONTENT)
    yield store
    store.rm("shards", recursive=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of files, which are what S3 gives for an object; `CONTENT` is s3://shards/a.tar."""
    directory = tmp_path_factory.mktemp("served")
    (directory / "shards").mkdir()
    (directory / "shards" / "a.tar").write_bytes(CONTENT)
    with serving(directory) as running:
        yield running


@pytest.fixture
def faulty(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """The server without faults and requests, and S3 is there."""
    use_endpoint(server.url(), monkeypatch, tmp_path)
    server.faults.clear()
    server.requests.clear()
    return server


@pytest.fixture
def _new_clients() -> Iterator[None]:
    """Clients see the environment of the test."""
    objects._filesystem.cache_clear()
    yield
    objects._filesystem.cache_clear()


def downloaded(url: str, patience: Patience = OF_MOTO, expected_bytes: int = len(CONTENT)) -> bytes:
    file, pieces = io.BytesIO(), []
    download(url, file, expected_bytes, pieces.append, patience)
    assert b"".join(pieces) == file.getvalue()
    return file.getvalue()


def check_reading(url: str) -> None:
    assert (size_of(url), exists(url)) == (len(CONTENT), True)
    assert downloaded(url) == read_small(url, len(CONTENT)) == CONTENT
    for offset, length in ((0, 10), (1000, 200_000), (299_999, 1), (5, 0)):
        assert read_range(url, offset, length) == CONTENT[offset : offset + length]
    with pytest.raises(TransferError, match="is larger than 299999 bytes"):
        read_small(url, len(CONTENT) - 1)
    with pytest.raises(ChangedShardError, match="has 300000 bytes instead of 300001"):
        downloaded(url, expected_bytes=len(CONTENT) + 1)


def check_missing(url: str) -> None:
    assert not exists(url)
    for ask in (size_of, downloaded, lambda url: read_small(url, 1), lambda url: read_range(url, 0, 1)):
        with pytest.raises(NotFoundError, match=f"^{url} does not exist"):
            ask(url)


def check_listing(filesystem: Any, root: str, scheme: str) -> None:
    for name in ("c.tar", "b.tar", "README", "a.tar.index", "deep/x.tar", "d.tar/x"):
        filesystem.pipe_file(f"{root}set/{name}", b"x")
    expected = [f"{scheme}set/{name}" for name in ("a.tar", "b.tar", "c.tar")]
    assert list_tars(f"{scheme}set") == list_tars(f"{scheme}set/") == expected
    assert list_tars(f"{scheme}nothing") == []
    filesystem.pipe_file(f"{root}set/e.tar", b"x")
    assert list_tars(f"{scheme}set") == [*expected, f"{scheme}set/e.tar"]


def check_change(filesystem: Any, path: str, url: str) -> None:
    before = look_up(url)
    assert look_up(url) == before
    filesystem.pipe_file(path, CONTENT[::-1])
    after = look_up(url)
    assert before.identity
    assert (after.num_bytes, after.identity == before.identity) == (before.num_bytes, False)
    assert read_range(url, 0, 10) == CONTENT[:-11:-1]


def test_memory_is_read(memory: MemoryFileSystem) -> None:
    check_reading("memory://set/a.tar")
    check_missing("memory://set/b.tar")
    check_missing("memory://set")
    check_listing(memory, "/", "memory://")
    check_change(memory, "/set/a.tar", "memory://set/a.tar")


def test_s3_is_read(bucket: S3FileSystem) -> None:
    check_reading("s3://shards/set/a.tar")
    check_missing("s3://shards/set/b.tar")
    check_missing("s3://shards/set")
    check_listing(bucket, "shards/", "s3://shards/")
    check_change(bucket, "shards/set/a.tar", "s3://shards/set/a.tar")


def test_a_bucket_that_does_not_exist(bucket: S3FileSystem) -> None:
    check_missing("s3://nobodys/set/a.tar")
    assert list_tars("s3://nobodys/set") == []


def test_an_empty_object(bucket: S3FileSystem) -> None:
    bucket.pipe_file("shards/empty", b"")
    assert (size_of("s3://shards/empty"), read_small("s3://shards/empty", 0), downloaded("s3://shards/empty", expected_bytes=0)) == (
        0,
        b"",
        b"",
    )


def test_an_object_of_several_requests(bucket: S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distgan.data.remote.storage.CHUNK_BYTES", 70_000)
    assert downloaded("s3://shards/set/a.tar") == CONTENT


# Every way to ask a store for something.
ASKING: dict[str, Callable[[str, Patience], object]] = {
    "look_up": look_up,
    "read_small": lambda url, patience: read_small(url, 1 << 20, patience),
    "read_range": lambda url, patience: read_range(url, 7, 9, patience),
    "download": downloaded,
}
asking = pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
URL = "s3://shards/a.tar"


@asking
@pytest.mark.parametrize("fault", ["statuses", "mute", "stalls", "resets", "cuts"])
def test_what_passes_is_tried_again(faulty: Server, ask: Callable[[str, Patience], object], fault: str) -> None:
    expected = ask(URL, PATIENT)
    before = faulty.num_requests("/shards/a.tar")
    setattr(faulty.faults["/shards/a.tar"], fault, [503, 500] if fault == "statuses" else 1)
    assert ask(URL, PATIENT) == expected
    assert faulty.num_requests("/shards/a.tar") > before + (ask is not look_up or fault in ("statuses", "mute"))


@asking
def test_attempts_are_counted_once(faulty: Server, ask: Callable[[str, Patience], object]) -> None:
    """Not by us, by s3fs and by botocore: 125 of each."""
    ask(URL, PATIENT)
    before = faulty.num_requests("/shards/a.tar")
    faulty.faults["/shards/a.tar"].status = 503
    with pytest.raises(TransferError, match=r"cannot be read: OSError: .*(503|Service Unavailable).*tried \d+ times") as caught:
        ask(URL, HASTY)
    num_attempts = int(str(caught.value).partition("tried ")[2].partition(" ")[0])
    assert faulty.num_requests("/shards/a.tar") - before == num_attempts


@asking
@pytest.mark.parametrize("status", [401, 403])
def test_what_is_refused_is_not_tried_again(faulty: Server, ask: Callable[[str, Patience], object], status: int) -> None:
    faulty.faults["/shards/a.tar"].status = status
    with pytest.raises(RefusedError, match=r"s3://shards/a.tar may not be read .*; check the credentials"):
        ask(URL, PATIENT)
    assert faulty.num_requests("/shards/a.tar") == 1


def test_a_bad_request_is_not_tried_again(faulty: Server) -> None:
    faulty.faults["/shards/a.tar"].status = 400
    with pytest.raises(TransferError, match=r"^s3://shards/a.tar cannot be read: OSError: .*Bad Request\.$"):
        size_of(URL, PATIENT)
    assert faulty.num_requests("/shards/a.tar") == 1


@pytest.mark.usefixtures("_new_clients")
def test_nobody_listens_for_s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_endpoint("http://127.0.0.1:9", monkeypatch, tmp_path)
    with pytest.raises(TransferError, match=r"s3://shards/a.tar cannot be read: EndpointConnectionError: .*tried \d+ times"):
        size_of(URL, Patience(retry_seconds=1, stall_seconds=10))


@pytest.mark.usefixtures("_new_clients")
def test_no_credentials(faulty: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(RefusedError, match="credentials"):
        size_of(URL, PATIENT)
    assert faulty.requests == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EBUSY, "slow down"), None),
        (TimeoutError("late"), None),
        (ConnectionResetError(errno.ECONNRESET, "reset"), None),
        (PermissionError("no"), RefusedError),
        (OSError("Forbidden: b/o\nno"), RefusedError),
        (ValueError(f"bad http://u:{SECRET}@h/?{SECRET}"), TransferError),
    ],
    ids=str,
)
def test_failures_by_kind(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[TransferError] | None
) -> None:
    """What is worth another attempt gets it, what is not does not."""
    calls = []
    read = MemoryFileSystem.cat_file

    def fail_once(self: MemoryFileSystem, path: str, start: int | None = None, end: int | None = None, **options: object) -> object:
        calls.append(path)
        if len(calls) == 1:
            raise error
        return read(self, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail_once)
    if expected is None:
        assert read_range("memory://set/a.tar", 3, 5, PATIENT) == CONTENT[3:8]
    else:
        with pytest.raises(TransferError) as caught:
            read_range("memory://set/a.tar", 3, 5, PATIENT)
        assert (type(caught.value), len(calls), SECRET in str(caught.value)) == (expected, 1, False)


def test_an_object_that_ends_early(memory: MemoryFileSystem) -> None:
    with pytest.raises(TransferError, match="5 bytes came instead of 10"):
        read_range("memory://set/a.tar", len(CONTENT) - 5, 10, HASTY)


@pytest.mark.usefixtures("_new_clients")
@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for ask in (*ASKING.values(), lambda url, patience: list_tars(url, patience)):
        with pytest.raises(InputError, match=rf"^data.url is one of {scheme}://, .*; pip install 'distgan\[{scheme}\]'\.$"):
            ask(f"{scheme}://b/a.tar", PATIENT)
    with pytest.raises(InputError, match=r"^data.url is one of"):  # and not that its manifest is damaged
        resolve(f"{scheme}://b/set/")


def test_identities_of_memory(memory: MemoryFileSystem) -> None:
    assert identity("memory://set/a.tar") == look_up("memory://set/a.tar").identity != ""
