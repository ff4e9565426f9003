"""An HTTP host on loopback that misbehaves as told, and remembers what it was asked for."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
BLOCK = 1 << 14


@dataclass
class Request:
    """What was asked for and what was sent: `start` is where the range begins, 0 without one."""

    method: str
    name: str
    start: int
    if_range: str | None
    status: int = 0
    sent: int = 0


@dataclass
class Host:
    """Files by name, and how they are served.

    Attributes:
        files: what lies below /DIR/, or at /key?file=NAME.
        ranges, entity_tags, heads, lengths: whether ranges are served, tags and lengths told, HEAD answered.
        login: user and password that are asked for.
        key: that must stand in the query.
        statuses: answers by name, instead of the file; one is used up by each request.
        cuts: bytes of a body after which the line drops, by name; one is used up by each request.
        after_cut: what a file is from its first cut on.
        pages: names for which an HTML page comes; `typed` tells whether its type is told.
        block_seconds: wait before every 16 KiB of a body, in seconds.
    """

    files: dict[str, bytes]
    ranges: bool = True
    entity_tags: bool = True
    heads: bool = True
    lengths: bool = True
    login: tuple[str, str] | None = None
    key: str | None = None
    statuses: dict[str, list[int]] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    after_cut: dict[str, bytes] = field(default_factory=dict)
    pages: set[str] = field(default_factory=set)
    typed: bool = True
    block_seconds: float = 0
    requests: list[Request] = field(default_factory=list)
    address: str = ""

    def gets(self, name: str) -> list[Request]:
        """The requests for a file's bytes, in order."""
        return [request for request in self.requests if (request.method, request.name) == ("GET", name)]

    def tag(self, name: str) -> str:
        return f'"{hashlib.md5(self.files[name]).hexdigest()}"'


@contextmanager
def serving(host: Host) -> Iterator[Host]:
    """Serve until the block ends; `host.address` is the base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            name = query["file"][0] if "file" in query else url.path.removeprefix("/DIR/")
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            request = Request(self.command, name, start, self.headers.get("If-Range"))
            host.requests.append(request)
            request.status = self._status(name, query.get("key"))
            if request.status >= 400:
                self.send_response(request.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            page = name in host.pages
            body = PAGE if page else host.files[name]
            current = request.if_range in (None, host.tag(name))
            if "Range" in self.headers and host.ranges and current and not page:
                request.status = 206
            else:
                start = 0
            self.send_response(request.status)
            self.send_header(
                "Content-Type", "text/html" if page and host.typed else "application/octet-stream"
            )
            if request.status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if host.entity_tags and not page:
                self.send_header("ETag", host.tag(name))
            if host.lengths:
                self.send_header("Content-Length", str(len(body) - start))
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            if self.command == "GET":
                cuts = host.cuts.get(name)
                end = min(start + cuts.pop(0), len(body)) if cuts else len(body)
                with suppress(OSError):  # the client may have been killed
                    for position in range(start, end, BLOCK):
                        time.sleep(host.block_seconds)
                        self.wfile.write(body[position : min(position + BLOCK, end)])
                    request.sent = end - start
                if end < len(body):
                    host.files[name] = host.after_cut.pop(name, body)

        def _status(self, name: str, keys: list[str] | None) -> int:
            if self.command == "HEAD" and not host.heads:
                return 405
            if host.login is not None:
                wanted = base64.b64encode(":".join(host.login).encode()).decode()
                if self.headers.get("Authorization") != f"Basic {wanted}":
                    return 401
            if host.key is not None and keys != [host.key]:
                return 403
            if host.statuses.get(name):
                return host.statuses[name].pop(0)
            return 200 if name in host.files or name in host.pages else 404

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    host.address = f"http://127.0.0.1:{server.server_address[1]}/DIR/"
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
