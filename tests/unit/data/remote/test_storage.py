"""Files of web servers, from a real server that misbehaves: what comes is right to the byte, or the failure has a name."""

import hashlib
import io
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from distgan.data.remote import storage, transfer, web
from distgan.data.remote.storage import download, exists, identity, is_remote, list_tars, look_up, read_range, read_small, size_of
from distgan.data.remote.transfer import (
    ChangedShardError,
    NotFoundError,
    Patience,
    RangesUnsupportedError,
    RefusedError,
    TransferError,
    shown,
    without_secrets,
)
from distgan.errors import InputError
from tests.http_server import Server, serving

CONTENT = np.random.default_rng(0).bytes(300_000)
PATIENT = Patience(retry_seconds=20, stall_seconds=0.25)
HASTY = Patience(retry_seconds=0.3, stall_seconds=0.2)
PATH = "/a.tar"
SECRET = "hunter2"  # noqa: S105

# Downloads argv[1] of argv[2] bytes and prints by how many MiB the process has grown since a download of one MiB, at its largest.
GROWTH = """
import os, resource, sys
from distgan.data.remote.storage import download
def largest(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with open(os.devnull, "wb", buffering=0) as file:
    download(sys.argv[1] + "small", file, 1 << 20)
    before = largest()
    download(sys.argv[1] + "large", file, int(sys.argv[2]))
print(largest() - before)
"""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy and no ~/.netrc of the user's, and short waits between attempts."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").touch()
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(transfer, "FIRST_DELAY_SECONDS", 0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serves `CONTENT` as a.tar."""
    directory = tmp_path / "served"
    directory.mkdir()
    (directory / "a.tar").write_bytes(CONTENT)
    with serving(directory) as running:
        yield running


def downloaded(url: str, patience: Patience = PATIENT, expected_bytes: int = len(CONTENT)) -> bytes:
    file, pieces = io.BytesIO(), []
    download(url, file, expected_bytes, pieces.append, patience)
    assert b"".join(pieces) == file.getvalue()
    return file.getvalue()


# Every way to ask a server for something.
ASKING: dict[str, Callable[[str, Patience], object]] = {
    "look_up": look_up,
    "read_small": lambda url, patience: read_small(url, 1 << 20, patience),
    "read_range": lambda url, patience: read_range(url, 7, 9, patience),
    "download": downloaded,
}
asking = pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)


def test_what_lies_there(server: Server) -> None:
    url = server.url("a.tar")
    assert (size_of(url), exists(url), exists(server.url("b.tar"))) == (len(CONTENT), True, False)
    assert read_small(url, len(CONTENT)) == CONTENT
    assert downloaded(url) == CONTENT


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, 300_000), (0, 1000), (12_345, 100_000), (299_999, 1), (5, 0)])
def test_a_range(server: Server, offset: int, length: int) -> None:
    assert read_range(server.url("a.tar"), offset, length) == CONTENT[offset : offset + length]


def test_nothing_but_the_range_is_asked_for(server: Server) -> None:
    read_range(server.url("a.tar"), 100, 50)
    size_of(server.url("a.tar"))
    downloaded(server.url("a.tar"))
    assert server.ranges(PATH) == ["bytes=100-149", "bytes=0-0", None]


def test_a_connection_is_used_again(server: Server) -> None:
    for number in range(5):
        size_of(server.url("a.tar"))
        read_range(server.url("a.tar"), number * 1000, 2000)
        downloaded(server.url("a.tar"))
    assert len({request.connection for request in server.requests}) == 1


def test_an_empty_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "served" / "empty").touch()
    url = server.url("empty")
    assert (size_of(url), read_small(url, 0), downloaded(url, expected_bytes=0)) == (0, b"", b"")


@asking
@pytest.mark.parametrize(("status", "error"), [(404, NotFoundError), (410, NotFoundError), (403, RefusedError), (401, RefusedError)])
def test_what_lasts_is_not_tried_again(
    server: Server, ask: Callable[[str, Patience], object], status: int, error: type[TransferError]
) -> None:
    server.faults[PATH].status = status
    with pytest.raises(error, match=rf"^{server.url('a.tar')} .*{status}"):
        ask(server.url("a.tar"), PATIENT)
    assert server.num_requests(PATH) == 1


@asking
@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_passes_is_tried_again(server: Server, ask: Callable[[str, Patience], object], status: int) -> None:
    expected = ask(server.url("a.tar"), PATIENT)
    server.faults[PATH].statuses = [status] * 3
    assert ask(server.url("a.tar"), PATIENT) == expected
    assert server.num_requests(PATH) == 5


@asking
def test_patience_ends(server: Server, ask: Callable[[str, Patience], object]) -> None:
    server.faults[PATH].status = 503
    with pytest.raises(TransferError, match=r"a.tar cannot be read: the server answers 503 Service Unavailable \(tried \d+ times; 0.\d s "):
        ask(server.url("a.tar"), HASTY)
    assert server.num_requests(PATH) > 3


@asking
def test_a_server_that_says_nothing(server: Server, ask: Callable[[str, Patience], object]) -> None:
    expected = ask(server.url("a.tar"), PATIENT)
    server.faults[PATH].mute = 1
    assert ask(server.url("a.tar"), PATIENT) == expected
    server.faults[PATH].mute = 1000
    with pytest.raises(TransferError, match=r"nothing came for 0.2 s"):
        ask(server.url("a.tar"), HASTY)


@pytest.mark.parametrize("ask", [ASKING["read_small"], ASKING["read_range"], ASKING["download"]], ids=["small", "range", "download"])
@pytest.mark.parametrize("fault", ["stalls", "resets", "cuts"])
def test_a_body_that_breaks_off(server: Server, ask: Callable[[str, Patience], object], fault: str) -> None:
    expected = ask(server.url("a.tar"), PATIENT)
    setattr(server.faults[PATH], fault, 2)
    assert ask(server.url("a.tar"), PATIENT) == expected
    assert server.num_requests(PATH) == 4


@pytest.mark.parametrize("fault", ["stalls", "resets", "cuts"])
def test_a_download_goes_on_after_its_last_byte(server: Server, fault: str) -> None:
    setattr(server.faults[PATH], fault, 3)
    server.faults[PATH].after_bytes = 50_000
    assert downloaded(server.url("a.tar")) == CONTENT
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.ranges(PATH)[1:] if asked]
    assert len(starts) == 3
    assert 0 < starts[0] < starts[1] < starts[2] <= 150_000


def test_progress_renews_patience(server: Server) -> None:
    """Ten broken connections, each of which brings something, take longer in all than patience without progress lasts."""
    server.faults[PATH].cuts, server.faults[PATH].after_bytes, server.faults[PATH].latency_seconds = 10, 20_000, 0.05
    begin = time.monotonic()
    assert downloaded(server.url("a.tar"), Patience(retry_seconds=0.5, stall_seconds=10)) == CONTENT
    assert time.monotonic() - begin > 1


def test_a_slow_download_is_not_a_stalled_one(server: Server) -> None:
    server.faults[PATH].bytes_per_second = 250_000
    begin = time.monotonic()
    assert downloaded(server.url("a.tar"), HASTY) == CONTENT
    assert time.monotonic() - begin > 1
    assert server.num_requests(PATH) == 1


@pytest.mark.parametrize("fault", ["stalls", "resets", "cuts"])
def test_a_download_without_ranges_passes_over_what_it_has(server: Server, fault: str) -> None:
    setattr(server.faults[PATH], fault, 1)
    server.faults[PATH].ignores_range = True
    assert downloaded(server.url("a.tar")) == CONTENT
    assert server.num_requests(PATH) == 2


def test_a_whole_file_is_not_taken_for_a_range(server: Server, tmp_path: Path) -> None:
    """And is not read: of this one, a gigabyte would follow."""
    with open(tmp_path / "served" / "large", "wb") as file:
        file.truncate(1 << 30)
    server.faults["/large"].ignores_range = server.faults[PATH].ignores_range = True
    server.faults["/large"].bytes_per_second = 1e6
    with pytest.raises(RangesUnsupportedError, match=r"large can only be read as a whole: the server ignores Range"):
        read_range(server.url("large"), 1000, 50)
    assert read_range(server.url("large"), 0, 50) == bytes(50)
    assert read_range(server.url("a.tar"), 0, len(CONTENT)) == CONTENT
    assert size_of(server.url("large")) == 1 << 30


def test_another_range_than_asked(server: Server) -> None:
    server.faults[PATH].wrong_range = True
    with pytest.raises(TransferError, match="sends other bytes than it is asked for"):
        read_range(server.url("a.tar"), 100, 50)


def test_a_range_beyond_the_end(server: Server) -> None:
    for offset in (len(CONTENT) - 10, len(CONTENT), len(CONTENT) + 5):
        with pytest.raises(TransferError, match=rf"has 300000 bytes, but bytes {offset} to {offset + 19} are wanted: it has changed"):
            read_range(server.url("a.tar"), offset, 20, PATIENT)
    assert server.num_requests(PATH) == 3


@pytest.mark.parametrize("wrong_bytes", [-1, 1])
@pytest.mark.parametrize("says_no_size", [False, True])
def test_the_size_of_a_download_is_checked(server: Server, wrong_bytes: int, says_no_size: bool) -> None:
    server.faults[PATH].says_no_size = says_no_size
    with pytest.raises(ChangedShardError, match=r"a.tar has (300000 bytes instead of|more than) (299999|300001)"):
        downloaded(server.url("a.tar"), PATIENT, len(CONTENT) + wrong_bytes)


def test_a_file_that_shrinks_during_its_download(server: Server, tmp_path: Path) -> None:
    server.faults[PATH].stalls = 1
    timer = threading.Timer(0.1, lambda: (tmp_path / "served" / "a.tar").write_bytes(CONTENT[:1000]))
    timer.start()
    with pytest.raises(ChangedShardError, match="has 1000 bytes instead of 300000"):
        downloaded(server.url("a.tar"))


def test_a_server_that_says_no_size(server: Server) -> None:
    server.faults[PATH].says_no_size = server.faults[PATH].ignores_range = True
    with pytest.raises(TransferError, match="does not say how large it is"):
        size_of(server.url("a.tar"))
    assert downloaded(server.url("a.tar")) == CONTENT
    assert read_small(server.url("a.tar"), len(CONTENT)) == CONTENT


def test_compressed_bytes_are_not_taken_for_the_file(server: Server) -> None:
    server.faults[PATH].compressed = True
    for ask in ASKING.values():
        with pytest.raises(TransferError, match="compressed"):
            ask(server.url("a.tar"), PATIENT)
    assert {request.headers["accept-encoding"] for request in server.requests} == {"identity"}


@pytest.mark.parametrize("says_no_size", [False, True])
def test_a_large_file_is_no_small_one(server: Server, says_no_size: bool) -> None:
    server.faults[PATH].says_no_size = says_no_size
    with pytest.raises(TransferError, match=r"a.tar is larger than 299999 bytes"):
        read_small(server.url("a.tar"), len(CONTENT) - 1)


def test_an_identity_changes_with_the_content(server: Server, tmp_path: Path) -> None:
    url, path = server.url("a.tar"), tmp_path / "served" / "a.tar"
    seen = {identity(url), identity(url)}
    path.write_bytes(CONTENT[::-1])
    seen.add(identity(url))
    server.faults[PATH].has_etag = False
    seen |= {identity(url), identity(url)}
    os.utime(path, (0, 0))
    seen.add(identity(url))
    path.write_bytes(CONTENT[1:])
    os.utime(path, (0, 0))
    seen.add(identity(url))
    assert (len(seen), "" in seen) == (5, False)
    server.faults[PATH].has_time = False
    assert identity(url) == ""


def test_a_changed_file_is_seen(server: Server, tmp_path: Path) -> None:
    assert (size_of(server.url("a.tar")), read_range(server.url("a.tar"), 0, 4)) == (len(CONTENT), CONTENT[:4])
    (tmp_path / "served" / "a.tar").write_bytes(b"another")
    assert (size_of(server.url("a.tar")), read_range(server.url("a.tar"), 0, 4)) == (7, b"anot")


def test_a_server_may_ask_for_time(server: Server) -> None:
    server.faults[PATH].statuses, server.faults[PATH].retry_after = [503], "1"
    begin = time.monotonic()
    size_of(server.url("a.tar"), PATIENT)
    assert time.monotonic() - begin >= 1
    server.faults[PATH].statuses, server.faults[PATH].retry_after = [503] * 100, "3600"  # not for more than our patience
    with pytest.raises(TransferError, match="tried 2 times"):
        size_of(server.url("a.tar"), HASTY)


def test_attempts_grow_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "FIRST_DELAY_SECONDS", 1.0)
    delays: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", delays.append)
    retries = transfer.Retries("http://host/a", Patience(retry_seconds=1000))
    for _ in range(8):
        retries.wait(transfer.TransientError("x"))
    assert all(2**number / 2 <= delay <= 2**number for number, delay in enumerate(delays[:5]))
    assert delays[6:] == [transfer.LONGEST_DELAY_SECONDS] * 2
    retries.progress()
    retries.wait(transfer.TransientError("x"))
    assert delays[-1] <= 1
    assert len({delay / 2**number for number, delay in enumerate(delays[:4])}) == 4  # jitter


def test_a_long_wait_is_said_once(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(transfer, "NOTICE_SECONDS", 0.05)
    server.faults[PATH].statuses = [503] * 5
    size_of(server.url("a.tar") + f"?signature={SECRET}", PATIENT)
    notice = "the server answers 503 Service Unavailable; it is tried again for 20 s."
    assert capsys.readouterr().err == f"warning: {server.url('a.tar')}: {notice}\n"


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        with pytest.raises(TransferError, match=rf"no connection to 127.0.0.1:{port} .*refused|Connect call failed.*tried [2-9] times"):
            size_of(f"http://127.0.0.1:{port}/a.tar", HASTY)


def test_a_host_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(TransferError, match=r"http://no.such.host/a.tar cannot be read: there is no host no.such.host"):
        size_of("http://no.such.host/a.tar", PATIENT)


def test_a_certificate_of_nobody(tmp_path: Path) -> None:
    """Not tried again, and not accepted."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout key -out cert"
    if subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("needs openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with Server(tmp_path) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(TransferError, match=r"^https://\S+ cannot be read: the server's certificate is not valid here\.$"):
            size_of(f"https://127.0.0.1:{server.server_port}/cert", PATIENT)
        server.shutdown()


def test_a_redirection_is_followed(server: Server) -> None:
    server.faults["/b.tar"].redirect = server.url("a.tar")
    assert read_range(server.url("b.tar"), 3, 5) == CONTENT[3:8]
    assert downloaded(server.url("b.tar")) == CONTENT
    server.faults["/c.tar"].redirect = server.url("c.tar")
    with pytest.raises(TransferError, match=r"c.tar cannot be read: TooManyRedirects"):
        size_of(server.url("c.tar"), PATIENT)


@asking
@pytest.mark.parametrize("fault", ["status", "mute", "cuts", "redirect", "ignores_range", "refused"])
def test_no_message_holds_a_secret(server: Server, ask: Callable[[str, Patience], object], fault: str) -> None:
    """Not even the traceback of an error that nobody catches."""
    url = server.url("a.tar").replace("://", f"://user:{SECRET}@") + f"?X-Amz-Signature={SECRET}&x=%2F"
    match fault:
        case "status":
            server.faults[PATH].status = 418
        case "refused":
            server.faults[PATH].status = 403
        case "redirect":
            server.faults[PATH].redirect = url
        case "ignores_range":
            server.faults[PATH].ignores_range, server.faults[PATH].missing_bytes, server.faults[PATH].compressed = True, 1, True
        case _:
            setattr(server.faults[PATH], fault, 1000)
            server.faults[PATH].after_bytes = 0
    if fault == "cuts" and ask is look_up:
        pytest.skip("reads no body")
    with pytest.raises(TransferError) as caught:
        ask(url, HASTY)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert server.url("a.tar") in str(caught.value)


def test_what_a_url_is_shown_as() -> None:
    assert shown(f"https://user:{SECRET}@host:8/a%20b/c.tar?X-Amz-Signature={SECRET}#{SECRET}") == "https://host:8/a%20b/c.tar"
    assert shown(f"https://host?{SECRET}@x/y") == "https://host"
    assert shown("s3://bucket/a@b/c.tar") == "s3://bucket/a@b/c.tar"
    assert shown("/a/path@b") == "/a/path@b"
    text = f"cannot reach 'https://u:{SECRET}@host/x?s={SECRET}' or http://[::1?{SECRET}, sorry\nAuthorization: {SECRET}"
    assert without_secrets(text) == "cannot reach 'https://host/x' or http://[::1 sorry"


def test_name_and_password_reach_the_server(server: Server, tmp_path: Path) -> None:
    size_of(server.url("a.tar").replace("://", "://user:pass%20word@"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    size_of(server.url("a.tar"))
    sent = [request.headers.get("authorization") for request in server.requests]
    assert sent == ["Basic dXNlcjpwYXNzIHdvcmQ=", "Basic dXNlcjpzZWNyZXQ="]  # user:pass word, user:secret


def test_a_signature_reaches_the_server_as_it_is(server: Server, tmp_path: Path) -> None:
    """%2F and %2B decoded and encoded again would be another query; a space must not end the request."""
    (tmp_path / "served" / "a b").write_bytes(b"content")
    assert read_small(server.url("a b?signature=a%2Fb%2Bc%3D&x=y+z/~"), 100) == b"content"
    assert server.requests[-1].path == "/a%20b?signature=a%2Fb%2Bc%3D&x=y+z/~"
    assert read_small(server.url("a%20b"), 100) == b"content"


def test_a_proxy_of_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url())
    assert read_range("http://shards.invalid/a.tar", 3, 5) == CONTENT[3:8]
    assert server.requests[-1].path == "http://shards.invalid/a.tar"


def test_an_index_page_is_listed(server: Server, tmp_path: Path) -> None:
    directory = tmp_path / "served" / "set"
    (directory / "below.tar").mkdir(parents=True)
    for name in ("b.tar", "a.tar", "a b&c.tar", "README", "c.tar.index"):
        (directory / name).write_bytes(b"x")
    expected = [server.url(f"set/{name}") for name in ("a%20b%26c.tar", "a.tar", "b.tar")]
    assert list_tars(server.url("set")) == list_tars(server.url("set/")) == expected
    assert [read_small(url, 1) for url in expected] == [b"x"] * 3
    assert list_tars(server.url("set").replace("://", "://user:word@"))[1] == expected[1].replace("://", "://user:word@")


def test_links_of_an_index_page() -> None:
    page = """<a href="?C=N;O=D">Name</a> <a href="../x.tar">up</a> <a href="/d/abs.tar">1</a> <A HREF='http://h/d/full.tar?v=1&amp;w=2'>2</A>
        <a href="http://other/d/no.tar">3</a> <a href="deep/no.tar">4</a> <a href="x.tar#part">5</a> <a href=x.tar>6</a> <a>7</a> no.tar"""
    assert web.tar_links(page, "http://h/d/") == ["http://h/d/abs.tar", "http://h/d/full.tar", "http://h/d/x.tar"]


@pytest.mark.parametrize("status", [403, 404, None])
def test_a_directory_that_cannot_be_listed(server: Server, tmp_path: Path, status: int | None) -> None:
    (tmp_path / "served" / "set").mkdir()
    server.faults["/set/"].status = status
    with pytest.raises(
        InputError, match=r"^data.url is 'http://[\d.:]+/set', .*; write a pattern .* http://[\d.:]+/set/x-{0000..0127}.tar.$"
    ):
        list_tars(server.url("set"))


def test_what_is_remote() -> None:
    remote = ["http://h/a.tar", "https://h:8/", "HTTPS://h/x", "s3://bucket/x", "gs://bucket", "memory://x", "memory:///x"]
    assert [is_remote(url) for url in remote] == [True] * len(remote)
    assert [is_remote(url) for url in ("/a/b.tar", "a.tar", "x-{0..3}.tar", "C:/x", "digits")] == [False] * 5


@pytest.mark.parametrize("url", ["ftp://u:hunter2@h/a.tar", "pipe:curl -H hunter2", "file:///a.tar", "hdfs://x", "s3a://b/x", "pipe://x"])
def test_other_schemes_are_refused(url: str) -> None:
    scheme = url.partition(":")[0]
    with pytest.raises(InputError, match=f"^data.url begins with '{scheme}:', which is not read; set it to a path, or to a URL") as caught:
        is_remote(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["http:///a.tar", "http://h:port/a.tar", "https://u:hunter2@[::1/a.tar?hunter2", "s3:///x", "http://h:0/x"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InputError, match=r"which is not a URL; write (http|https|s3)://host/path") as caught:
        is_remote(url)
    assert SECRET not in str(caught.value)


def test_what_cannot_be_written_is_not_tried_again(server: Server) -> None:
    """A full disk is no failure of the network, though both are an OSError."""

    class Full(io.BytesIO):
        def write(self, content: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        download(server.url("a.tar"), Full(), len(CONTENT), None, PATIENT)
    assert not isinstance(caught.value, TransferError)
    assert server.num_requests(PATH) == 1


def test_a_file_that_takes_little_at_once(server: Server) -> None:
    class Small(io.BytesIO):
        def write(self, content: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
            return super().write(content[:10_000])

    file = Small()
    download(server.url("a.tar"), file, len(CONTENT), None, PATIENT)
    assert file.getvalue() == CONTENT


def test_many_threads_at_once(server: Server) -> None:
    server.faults[PATH].resets = server.faults[PATH].cuts = 3
    server.faults[PATH].statuses = [503] * 5

    def work(number: int) -> bool:
        offset = number * 1000
        ranged = read_range(server.url("a.tar"), offset, 5000, PATIENT) == CONTENT[offset : offset + 5000]
        return ranged and hashlib.sha256(downloaded(server.url("a.tar"))).digest() == hashlib.sha256(CONTENT).digest()

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(64)))


def test_a_forked_process(server: Server) -> None:
    """The thread that does the work is not there after a fork."""
    assert read_range(server.url("a.tar"), 0, 5) == CONTENT[:5]
    child = os.fork()
    if child == 0:
        os._exit(0 if read_range(server.url("a.tar"), 5, 5) == CONTENT[5:10] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert read_range(server.url("a.tar"), 10, 5) == CONTENT[10:15]


def test_memory_is_bounded(server: Server, tmp_path: Path) -> None:
    for name, size in (("small", 1 << 20), ("large", 1 << 28)):
        with open(tmp_path / "served" / name, "wb") as file:
            file.truncate(size)
    command = [sys.executable, "-c", GROWTH, server.url(), str(1 << 28)]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(grown) < 32, "MiB for 256 MiB"


def test_fresh_copies_are_asked_for(server: Server) -> None:
    download(server.url("a.tar"), io.BytesIO(), len(CONTENT))
    download(server.url("a.tar"), io.BytesIO(), len(CONTENT), fresh=True)
    assert [request.headers.get("cache-control") for request in server.requests] == [None, "no-cache"]


def test_five_minutes_are_no_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp ends what takes longer, unless it is told not to."""
    asked = []
    get = web.aiohttp.ClientSession.get

    def spy(session: object, url: object, **options: object) -> object:
        asked.append(options["timeout"])
        return get(session, url, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(web.aiohttp.ClientSession, "get", spy)
    downloaded(server.url("a.tar"), Patience(stall_seconds=7))
    assert [(each.total, each.connect, each.sock_connect, each.sock_read) for each in asked] == [(None, None, 7, 7)]
    assert (storage.PATIENCE.retry_seconds, storage.PATIENCE.stall_seconds) == (120, 30)
