"""HTTP host of corpus files on loopback, with faults on request and a record of all requests."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.support.http import Handler, listening

PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
BLOCK = 1 << 14


@dataclass
class Request:
    """A request and its answer.

    Attributes:
        start: first byte of the requested range, 0 without one.
        sent: number of bytes of the body so far.
        answered: whether the host is done with it.
    """

    method: str
    name: str
    start: int
    if_range: str | None
    status: int = 0
    sent: int = 0
    answered: bool = False


@dataclass
class Host:
    """Files by name and the ways in which requests for them fail.

    Attributes:
        files: contents by name, below /DIR/ or at /key?file=NAME.
        ranges, entity_tags, heads, lengths: support of ranges, ETag, HEAD and Content-Length.
        login: user and password that requests must have.
        key: value of `key` that queries must have.
        statuses: answers by name, in place of the file; each request uses up one.
        cuts: bytes of a body after which the connection drops, by name; each request uses up one.
        after_cut: contents of a file after its first cut.
        pages: names for which an HTML page comes; `typed` is whether its type is announced.
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
    with listening(HostHandler, host) as address:
        host.address = f"{address}/DIR/"
        yield host


class HostHandler(Handler[Host]):
    """Answers for one connection to a corpus host."""

    def answer(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        name = query["file"][0] if "file" in query else url.path.removeprefix("/DIR/")
        request = Request(self.command, name, self.range_start, self.headers.get("If-Range"))
        self.served.requests.append(request)
        request.status = self._status(name, query.get("key"))
        try:
            if request.status < 400:
                self._send(request)
            else:
                self.send_response(request.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
        finally:
            request.answered = True

    def _status(self, name: str, keys: list[str] | None) -> int:
        host = self.served
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

    def _send(self, request: Request) -> None:
        host, name = self.served, request.name
        page = name in host.pages
        body = PAGE if page else host.files[name]
        current = request.if_range in (None, host.tag(name))
        if "Range" in self.headers and host.ranges and current and not page:
            request.status = 206
        start = request.start if request.status == 206 else 0
        self.send_response(request.status)
        self.send_header("Content-Type", "text/html" if page and host.typed else "application/octet-stream")
        if request.status == 206:
            self.send_range(start, len(body))
        if host.entity_tags and not page:
            self.send_header("ETag", host.tag(name))
        if host.lengths:
            self.send_header("Content-Length", str(len(body) - start))
        self.finish_with(lambda: self._write(body, start, request))

    def _write(self, body: bytes, start: int, request: Request) -> None:
        """Send the body in blocks up to its next cut, from which on the file may be another."""
        host = self.served
        cuts = host.cuts.get(request.name)
        end = min(start + cuts.pop(0), len(body)) if cuts else len(body)
        try:
            for position in range(start, end, BLOCK):
                time.sleep(host.block_seconds)
                request.sent += self.wfile.write(body[position : min(position + BLOCK, end)])
        finally:
            if end < len(body):
                host.files[request.name] = host.after_cut.pop(request.name, body)
