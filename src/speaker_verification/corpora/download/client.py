"""HTTP client with retries, back-off and classified errors."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import requests
import urllib3

from speaker_verification.common.errors import DataError
from speaker_verification.corpora.download.addresses import CREDENTIALS_FILE, masked
from speaker_verification.corpora.download.sources import DownloadSettings, Host, Source

logger = logging.getLogger(__name__)

_INTERRUPTED = (requests.RequestException, urllib3.exceptions.HTTPError)
_REPEATABLE = (408, 425, 429, 500, 502, 503, 504)

Result = TypeVar("Result")


class AbsentError(DataError):
    """The host answers, and does not have the file."""


class StoppedError(Exception):
    """The client was stopped from another thread."""


@dataclass(frozen=True)
class RemoteFile:
    """Size and version of a file, from the headers of a host.

    Attributes:
        size: size in bytes; None without a header of it.
        version: entity tag, or else time of the last change; empty without a header of either.
    """

    size: int | None
    version: str

    @classmethod
    def of(cls, response: requests.Response) -> RemoteFile:
        headers = response.headers
        whole = headers.get("Content-Range", "").rpartition("/")[2]  # of a range, where it is one
        size = whole if response.status_code == 206 else headers.get("Content-Length", "")
        return cls(
            int(size) if size.isdecimal() else None, headers.get("ETag") or headers.get("Last-Modified", "")
        )

    def differs(self, other: RemoteFile) -> bool:
        """Whether the two are of different versions of the file."""
        sizes = {self.size, other.size} - {None}
        return self.version != other.version or len(sizes) > 1

    @property
    def condition(self) -> dict[str, str]:
        """The header by which a range is only sent of this version; weak tags do not serve."""
        return {"If-Range": self.version} if self.version and not self.version.startswith("W/") else {}


class Client:
    """HTTP client that retries, and whose messages hold no credentials."""

    def __init__(self, settings: DownloadSettings, secrets: Sequence[str]) -> None:
        self._settings = settings
        self._secrets = secrets
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End requests of other threads soon."""
        self._stopped.set()

    def check_stopped(self) -> None:
        """Raise StoppedError once the client was stopped."""
        if self._stopped.is_set():
            raise StoppedError

    def ask(self, source: Source, method: str = "GET", **headers: str) -> requests.Response:
        """Send one request.

        Returns:
            The response, its body unread.

        Raises:
            requests.RequestException: the host cannot be reached, or its error is worth a retry.
            AbsentError: the host has no such file, or sends an HTML page.
            DataError: the host refuses the credentials, or answers with another error.
        """
        self.check_stopped()
        host = source.host
        response = requests.request(
            method,
            source.address,
            params={"key": host.key} if host.key else None,
            auth=host.login,
            headers={"Accept-Encoding": "identity", **headers},
            stream=True,
            timeout=self._settings.timeout_seconds,
            allow_redirects=True,
        )
        status = response.status_code
        if response.ok and "html" not in response.headers.get("Content-Type", ""):
            return response
        response.close()
        if response.ok:
            raise page_error(source)
        if status in _REPEATABLE:
            raise requests.HTTPError(f"the host answers {status} {response.reason}", response=response)
        if status in (401, 403):
            raise DataError(f"{source.address}: access refused ({status}); {_access_remedy(host)}")
        if status in (404, 410):
            raise AbsentError(f"{source.address}: not there ({status}); check {host.parameter}")
        raise DataError(f"{source.address}: the host answers {status} {response.reason}")

    def probe(self, source: Source) -> RemoteFile:
        """Size and version of a file, without downloading it."""

        def look() -> RemoteFile:
            try:
                with self.ask(source, "HEAD") as response:
                    remote = RemoteFile.of(response)
            except AbsentError:
                raise
            except DataError:
                remote = RemoteFile(None, "")
            if remote.size:
                return remote
            with self.ask(source, Range="bytes=0-0") as response:  # a host that has no answer to HEAD
                return RemoteFile.of(response)

        return self.retry(source, look, lambda: 0)

    def text(self, source: Source) -> str:
        """A small file."""

        def get() -> str:
            with self.ask(source) as response:
                if is_page(response.content):
                    raise page_error(source)
                return response.content.decode("utf-8", errors="replace")

        return self.retry(source, get, lambda: 0)

    def retry(self, source: Source, attempt: Callable[[], Result], progress: Callable[[], int]) -> Result:
        """Retry until an attempt succeeds, with exponential back-off while there is no progress.

        Args:
            source: the file, for messages.
            attempt: function that raises `requests.RequestException` or `urllib3.exceptions.HTTPError` to be
                retried.
            progress: number of bytes downloaded so far; it grows when an attempt made progress.

        Raises:
            DataError: too many attempts in a row without progress.
        """
        failures, held = 0, progress()
        while True:
            try:
                return attempt()
            except _INTERRUPTED as error:
                self.check_stopped()
                dropped = isinstance(error, urllib3.exceptions.ProtocolError)
                reason = "connection closed early" if dropped else masked(str(error), self._secrets)
                before, held = held, progress()
                failures = 0 if held > before else failures + 1
                if failures > self._settings.retries:
                    raise DataError(
                        f"{source.address}: gave up at byte {held:,} after {failures} attempts without "
                        f"progress; last error: {reason}; run again to resume"
                    ) from None
                wait = self._wait(failures, error)
                logger.warning(
                    "%s: %s; resuming at byte %s in %g s", source.address, reason, f"{held:,}", wait
                )
                self._stopped.wait(wait)

    def _wait(self, failures: int, error: Exception) -> float:
        """Seconds to wait: the host's Retry-After, or a back-off that doubles; none after progress."""
        settings = self._settings
        wait = settings.backoff_seconds * 2.0 ** (failures - 1) if failures else 0.0
        response = getattr(error, "response", None)
        asked = response.headers.get("Retry-After", "") if response is not None else ""
        return min(max(wait, float(asked) if asked.isdecimal() else 0.0), settings.longest_backoff_seconds)


def is_page(start: bytes) -> bool:
    """Whether a body that begins so is HTML."""
    return start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def page_error(source: Source) -> AbsentError:
    """The error for an HTML page in place of a file."""
    return AbsentError(
        f"{source.address}: an HTML page instead of the file (of a login or an error?); open it in a "
        f"browser, check {source.host.group or source.host.parameter}"
    )


def _access_remedy(host: Host) -> str:
    if not host.group:
        return f"check {host.parameter}"
    if host.login or host.key:
        return f"check what {CREDENTIALS_FILE} says under {host.group}"
    return f"put user and password into {CREDENTIALS_FILE}, under {host.group}"
