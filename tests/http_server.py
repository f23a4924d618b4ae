"""A real HTTP/1.1 server on loopback that serves a directory, counts requests, and misbehaves where it is told to.

    with serving(directory) as server:
        server.faults["/a.tar"].resets = 1
        ... server.url("a.tar") ... server.num_requests("/a.tar")

On its own, for measurements in which it must not share the interpreter: python -m tests.http_server DIRECTORY --latency-seconds 0.02
"""

import argparse
import functools
import re
import socket
import struct
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

PIECE_BYTES = 64 << 10
PAUSE_SECONDS = 0.05  # before a connection breaks: a client loses what it has received but not yet read


@dataclass
class Faults:
    """What is wrong with a path. Counts are of requests and are used up, in the order of the fields."""

    latency_seconds: float = 0.0  # before every answer
    bytes_per_second: float | None = None
    status: int | None = None  # of every answer
    statuses: list[int] = field(default_factory=list)  # of the first answers
    retry_after: str | None = None  # sent with these
    redirect: str | None = None  # to this URL, every time
    mute: int = 0  # nothing is answered, the connection stays
    stalls: int = 0  # the body stops in the middle, the connection stays
    resets: int = 0  # ... and the connection is reset
    cuts: int = 0  # ... and the connection is closed, as a proxy that gives up does
    flips: int = 0  # a bit of the body is flipped
    after_bytes: int | None = None  # where the middle is; None: at half of the body
    ignores_range: bool = False
    wrong_range: bool = False  # one byte further on than asked, and says so
    missing_bytes: int = 0  # of every whole file, which looks whole
    says_no_size: bool = False  # the body ends with the connection
    compressed: bool = False  # says so
    has_etag: bool = True
    has_time: bool = True


@dataclass(frozen=True)
class Request:
    """One that came in."""

    path: str  # as sent, with the query
    headers: dict[str, str]  # by names in lower case
    connection: int  # the client's port


class Server(ThreadingHTTPServer):
    """See the module."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, directory: Path) -> None:
        self.faults: dict[str, Faults] = defaultdict(Faults)  # by path, without the query
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(directory)))

    def url(self, name: str = "") -> str:
        """The URL of a file of the directory."""
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def num_requests(self, path: str) -> int:
        """How often `path`, without its query, was asked for."""
        with self.lock:
            return sum(urlsplit(request.path).path == path for request in self.requests)

    def ranges(self, path: str) -> list[str | None]:
        """The Range of each request for `path`."""
        with self.lock:
            return [request.headers.get("range") for request in self.requests if urlsplit(request.path).path == path]

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that has gone is nothing
            super().handle_error(request, client_address)  # pyright: ignore[reportArgumentType]


class Handler(SimpleHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            self.server.requests.append(Request(self.path, headers, self.client_address[1]))
            faults = self.server.faults[path]
            status = faults.statuses.pop(0) if faults.statuses else faults.status
            fault = None
            if status is None and not faults.redirect:
                fault = next((name for name in ("mute", "stalls", "resets", "cuts", "flips") if getattr(faults, name) > 0), None)
                if fault:
                    setattr(faults, fault, getattr(faults, fault) - 1)
        time.sleep(faults.latency_seconds)
        if fault == "mute":
            self._hang()
        elif faults.redirect:
            self._send_status(302, {"Location": faults.redirect})
        elif status is not None:
            self._send_status(status, {"Retry-After": faults.retry_after} if faults.retry_after else {})
        elif Path(self.translate_path(path)).is_file():
            self._send_file(Path(self.translate_path(path)), faults, fault)
        elif self.command == "HEAD":
            super().do_HEAD()
        else:
            super().do_GET()  # an index page, or 404

    do_HEAD = do_GET  # noqa: N815

    def _send_status(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_file(self, path: Path, faults: Faults, fault: str | None) -> None:
        status = path.stat()
        size = status.st_size - faults.missing_bytes
        asked = None if faults.ignores_range else re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, stop = 0, size
        if asked:
            first = int(asked[1]) + faults.wrong_range
            stop = min(size, int(asked[2]) + 1 if asked[2] else size)
            if first >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{size}")
        if faults.says_no_size:
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(stop - first))
        if faults.compressed:
            self.send_header("Content-Encoding", "gzip")
        if faults.has_etag:
            self.send_header("ETag", f'"{status.st_mtime_ns:x}-{size:x}"')
        if faults.has_time:
            self.send_header("Last-Modified", self.date_time_string(int(status.st_mtime)))
        self.send_header("Content-Type", "application/x-tar")
        self.end_headers()
        if self.command == "GET":
            self._send_body(path, first, stop, faults, fault)

    def _send_body(self, path: Path, first: int, stop: int, faults: Faults, fault: str | None) -> None:
        middle = min(stop, first + ((stop - first) // 2 if faults.after_bytes is None else faults.after_bytes))
        self._send_bytes(path, first, middle, faults)
        if fault == "stalls":
            return self._hang()
        if fault == "resets":
            # A lingering time of zero makes a close a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault in ("resets", "cuts"):
            time.sleep(PAUSE_SECONDS)
            self.close_connection = True
            return self.connection.close()
        if fault == "flips":
            with open(path, "rb") as file:
                file.seek(middle)
                self.wfile.write(bytes([file.read(1)[0] ^ 0x10]))
            middle += 1
        self._send_bytes(path, middle, stop, faults)
        return None

    def _send_bytes(self, path: Path, first: int, stop: int, faults: Faults) -> None:
        with open(path, "rb") as file:
            if faults.bytes_per_second is None:
                if stop > first:  # sendfile takes a count of 0 for all there is
                    self.connection.sendfile(file, first, stop - first)
                return
            file.seek(first)
            begin = time.monotonic()
            piece_bytes = max(1, min(PIECE_BYTES, int(faults.bytes_per_second / 50)))
            for position in range(first, stop, piece_bytes):
                self.wfile.write(file.read(min(piece_bytes, stop - position)))
                time.sleep(max(0.0, begin + (position + piece_bytes - first) / faults.bytes_per_second - time.monotonic()))

    def _hang(self) -> None:
        self.server.closing.wait()
        self.close_connection = True


@contextmanager
def serving(directory: Path) -> Iterator[Server]:
    """Serve `directory` from threads of this process."""
    with Server(directory) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a directory on loopback until killed; the first line of output is the URL.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--latency-seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    server = Server(arguments.directory)
    server.faults.default_factory = lambda: Faults(latency_seconds=arguments.latency_seconds)  # pyright: ignore[reportAttributeAccessIssue]
    print(server.url(), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
