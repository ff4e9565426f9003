"""HTTP server on loopback, the base of the corpus host and of the model hub."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, TypeVar

Served = TypeVar("Served")


class Handler(BaseHTTPRequestHandler, Generic[Served]):
    """One connection; subclasses give the `answer` to GET and HEAD out of what is `served`."""

    protocol_version = "HTTP/1.1"

    def __init__(self, served: Served, *connection: Any) -> None:
        self.served = served
        super().__init__(*connection)  # answers at once

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        raise NotImplementedError

    @property
    def range_start(self) -> int:
        """First byte of the requested range, 0 without one."""
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])

    def send_range(self, start: int, size: int) -> None:
        self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")

    def finish_with(self, body: Callable[[], object] = lambda: None) -> None:
        """End the headers and the connection; `body` writes what a GET request is sent."""
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if self.command == "GET":
            with suppress(OSError):  # the client may have been killed
                body()


@contextmanager
def listening(handler: type[Handler[Served]], served: Served) -> Iterator[str]:
    """Answer requests until the block ends; gives the base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, served))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
