"""A web server on loopback that answers late, in a process of its own: python -m distgan.bench.data.server DIRECTORY MILLISECONDS."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@contextmanager
def serving(directory: Path, latency_ms: float) -> Iterator[str]:
    """The URL (it ends with a slash) under which the directory's files are served meanwhile."""
    command = [sys.executable, "-m", __name__, str(directory), str(latency_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.kill()


class _Handler(SimpleHTTPRequestHandler):
    """Whole files and single ranges, over connections that stay open."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    latency_seconds = 0.0

    def do_GET(self) -> None:
        time.sleep(self.latency_seconds)
        path = Path(self.translate_path(self.path))
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        first = int(asked[1]) if asked else 0
        last = int(asked[2]) if asked and asked[2] else size - 1
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        self.wfile.flush()
        with open(path, "rb") as file:
            self.connection.sendfile(file, first, last + 1 - first)

    def do_HEAD(self) -> None:
        time.sleep(self.latency_seconds)
        super().do_HEAD()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: thousands of lines would cost what is measured."""


class _Server(ThreadingHTTPServer):
    """Clients are killed when they have had their turn."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: their connections break."""


def main(directory: str, latency_ms: str) -> None:
    """Serve until killed; prints the port."""
    _Handler.latency_seconds = float(latency_ms) / 1000
    server = _Server(("127.0.0.1", 0), partial(_Handler, directory=directory))
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
