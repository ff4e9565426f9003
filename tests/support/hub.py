"""Hugging Face hub on loopback: models by name, with the answers that the hub's own client knows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.http import Handler, listening

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Models and the ways in which requests for them fail.

    Attributes:
        models: files by model, as OWNER/NAME.
        refusals: status and error code by model, in place of its files.
        cuts: bytes after which the line drops, by file; one is used up by each request.
        altered: files sent as zeros, which the announced SHA-256 does not fit.
        requests: method and path of all requests.
    """

    models: dict[str, dict[str, bytes]]
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    altered: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    address: str = ""


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve until the block ends; `hub.address` is what HF_ENDPOINT must be."""
    with listening(HubHandler, hub) as hub.address:
        yield hub


class HubHandler(Handler[Hub]):
    """Answers for one connection to a hub."""

    def answer(self) -> None:
        hub = self.served
        hub.requests.append(f"{self.command} {self.path}")
        large, path = self.path.startswith("/cdn/"), self.path.removeprefix("/cdn")
        name, _, rest = path[1:].partition("/resolve/main/")
        body = hub.models.get(name, {}).get(rest)
        if name in hub.refusals:
            self._refuse(*hub.refusals[name])
        elif name not in hub.models:
            self._refuse(401, "RepoNotFound")
        elif body is None:
            self._refuse(404, "EntryNotFound")
        elif large or rest.endswith(".json"):
            self._send(rest, body)
        else:
            self._redirect(path, body)

    def _redirect(self, path: str, body: bytes) -> None:
        """Point to another host, which has the large files."""
        self.send_response(302)
        self.send_header("Location", self.served.address.replace("127.0.0.1", "localhost") + f"/cdn{path}")
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(body)))
        self._finish(b"")

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self._finish(b"")

    def _send(self, file: str, body: bytes) -> None:
        body = bytes(len(body)) if file in self.served.altered else body
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_range(self.range_start, len(body))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        cuts = self.served.cuts.get(file) if self.command == "GET" else None
        self._finish(body[self.range_start :], cuts.pop(0) if cuts else None)

    def _finish(self, body: bytes, cut: int | None = None) -> None:
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.finish_with(lambda: self.wfile.write(body[:cut]))
