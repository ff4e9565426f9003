"""Files brought over HTTP: resumed where they stopped, verified, and there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import requests
import urllib3
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from speaker_verification.corpora.addresses import CREDENTIALS_FILE, masked, secrets_out_of_logs
from speaker_verification.corpora.mirror import CHECKSUMS, Digests, add_file, parse_checksums
from speaker_verification.corpora.sources import (
    OFFICIAL_SUMS,
    OPTIONAL,
    Credentials,
    DownloadSettings,
    Place,
    Source,
    forms_of,
    mirror_place,
    official_places,
)
from speaker_verification.errors import DataError, UserError
from speaker_verification.whole import written_whole

logger = logging.getLogger(__name__)

_BLOCK = 1 << 16  # bytes on their way to disk: what a kill loses
_VERSION = 8  # hexadecimal digits of a part's name that tell versions of a file apart
_INTERRUPTED = (requests.RequestException, urllib3.exceptions.HTTPError)
_REPEATABLE = (408, 425, 429, 500, 502, 503, 504)

Item = TypeVar("Item")
Result = TypeVar("Result")


class AbsentError(DataError):
    """The host answers, and does not have the file."""


class _StoppedError(Exception):
    """Another thread has failed for good, or the user has had enough."""


@dataclass(frozen=True)
class Remote:
    """What a host says of a file.

    Attributes:
        size: in bytes; None where it does not say.
        version: its entity tag, or else the time of its last change; empty where it says neither.
    """

    size: int | None
    version: str

    @classmethod
    def of(cls, response: requests.Response) -> Remote:
        headers = response.headers
        whole = headers.get("Content-Range", "").rpartition("/")[2]  # of a range, where it is one
        size = whole if response.status_code == 206 else headers.get("Content-Length", "")
        return cls(
            int(size) if size.isdecimal() else None, headers.get("ETag") or headers.get("Last-Modified", "")
        )

    def differs(self, other: Remote) -> bool:
        """Whether these are two versions of the file."""
        sizes = {self.size, other.size} - {None}
        return self.version != other.version or len(sizes) > 1

    @property
    def condition(self) -> dict[str, str]:
        """The header by which a range is only sent of this version; weak tags do not serve."""
        return {"If-Range": self.version} if self.version and not self.version.startswith("W/") else {}


class Client:
    """Asks hosts for files, patiently, and says what is wrong in words that hold no credentials."""

    def __init__(self, settings: DownloadSettings, secrets: Sequence[str]) -> None:
        self._settings = settings
        self._secrets = secrets
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let what runs in other threads end soon."""
        self._stopped.set()

    def go_on(self) -> None:
        """Raise where the client was stopped."""
        if self._stopped.is_set():
            raise _StoppedError

    def ask(self, source: Source, method: str = "GET", **headers: str) -> requests.Response:
        """Send one request.

        Returns:
            The response, its body unread.

        Raises:
            requests.RequestException: the host cannot be reached, or asks for patience.
            AbsentError: it has no such file, or sends a page in its place.
            DataError: it refuses the credentials, or answers with something else.
        """
        self.go_on()
        place = source.place
        response = requests.request(
            method,
            source.address,
            params={"key": place.key} if place.key else None,
            auth=place.login,
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
            raise _page_error(source)
        if status in _REPEATABLE:
            raise requests.HTTPError(f"the host answers {status} {response.reason}", response=response)
        if status in (401, 403):
            raise DataError(f"{source.address}: access refused ({status}); {_access_remedy(place)}")
        if status in (404, 410):
            raise AbsentError(f"{source.address}: not there ({status}); check {place.parameter}")
        raise DataError(f"{source.address}: the host answers {status} {response.reason}")

    def probe(self, source: Source) -> Remote:
        """What the host says of a file, before any of it is fetched."""

        def look() -> Remote:
            try:
                with self.ask(source, "HEAD") as response:
                    remote = Remote.of(response)
            except AbsentError:
                raise
            except DataError:
                remote = Remote(None, "")
            if remote.size:
                return remote
            with self.ask(source, Range="bytes=0-0") as response:  # a host that has no answer to HEAD
                return Remote.of(response)

        return self.persist(source, look, lambda: 0)

    def text(self, source: Source) -> str:
        """A small file."""

        def get() -> str:
            with self.ask(source) as response:
                if _is_page(response.content):
                    raise _page_error(source)
                return response.content.decode("utf-8", errors="replace")

        return self.persist(source, get, lambda: 0)

    def persist(self, source: Source, attempt: Callable[[], Result], progress: Callable[[], int]) -> Result:
        """Attempt until it succeeds, waiting longer from one time to the next that brings nothing new.

        Args:
            source: the file, for messages.
            attempt: raises `requests.RequestException` or `urllib3.exceptions.HTTPError` to be made again.
            progress: bytes that came so far; they grow when an attempt brought something new.

        Raises:
            DataError: too many attempts in a row brought nothing new.
        """
        failures, held = 0, progress()
        while True:
            try:
                return attempt()
            except _INTERRUPTED as error:
                self.go_on()
                dropped = isinstance(error, urllib3.exceptions.ProtocolError)
                reason = "too few bytes came" if dropped else masked(str(error), self._secrets)
                before, held = held, progress()
                failures = 0 if held > before else failures + 1
                if failures > self._settings.retries:
                    raise DataError(
                        f"{source.address}: given up at byte {held:,}, after {failures} attempts that "
                        f"brought nothing new; the last: {reason}; run again to go on from there"
                    ) from None
                wait = self._wait(failures, error)
                logger.warning(
                    "%s: %s; going on at byte %s in %g s", source.address, reason, f"{held:,}", wait
                )
                self._stopped.wait(wait)

    def _wait(self, failures: int, error: Exception) -> float:
        """Seconds to wait: what the host asks for, or a time that doubles; none where something came."""
        settings = self._settings
        wait = settings.backoff_seconds * 2.0 ** (failures - 1) if failures else 0.0
        response = getattr(error, "response", None)
        asked = response.headers.get("Retry-After", "") if response is not None else ""
        return min(max(wait, float(asked) if asked.isdecimal() else 0.0), settings.longest_backoff_seconds)


class Transfer:
    """One file on its way: a hidden part beside its final name, named after the version it is a part of.

    A part of another version is removed.

    Args:
        source: the file.
        remote: what the host says of it.
        folder: where it goes.
    """

    def __init__(self, source: Source, remote: Remote, folder: Path) -> None:
        self.source = source
        self._folder = folder
        self._begin(remote)
        self._furthest = self.held
        self._digest = hashlib.md5(usedforsecurity=False)

    def _begin(self, remote: Remote) -> None:
        self.remote = remote
        version = hashlib.md5(f"{remote.version} {remote.size}".encode(), usedforsecurity=False).hexdigest()
        self._part = self._folder / f".{self.source.name}.{version[:_VERSION]}.part"
        for other in _parts_of(self.source.name, self._folder):
            if other != self._part:
                logger.warning(
                    "%s: another version of the file than the %s bytes held, which are removed",
                    self.source.address,
                    f"{other.stat().st_size:,}",
                )
                other.unlink()
        self.held = self._part.stat().st_size if self._part.is_file() else 0

    @property
    def missing(self) -> int:
        """Bytes still to come, as far as is known."""
        return max((self.remote.size or 0) - self.held, 0)

    def run(self, client: Client, advance: Callable[[int], None]) -> str:
        """Bring what is missing, verify it and give the file its name.

        Args:
            client: by which it is brought.
            advance: is told of bytes that came, and of bytes lost again as a negative number.

        Returns:
            The file's MD5.

        Raises:
            DataError: the file cannot be had, or is not what it must be.
        """
        if self.held:
            add_file(self._digest, self._part)
        try:
            client.persist(self.source, lambda: self._attempt(client, advance), lambda: self._furthest)
        finally:
            if not self.held:
                self._part.unlink(missing_ok=True)
        return self._finish()

    def _attempt(self, client: Client, advance: Callable[[int], None]) -> None:
        if self.remote.size is None or self.held > self.remote.size:
            self._drop(advance)  # where no size is told, a part may be the whole
        if self.held and self.held == self.remote.size:
            return
        headers = {"Range": f"bytes={self.held}-", **self.remote.condition} if self.held else {}
        with client.ask(self.source, **headers) as response:
            found = Remote.of(response)
            changed = self.remote.differs(found)
            if self.held and (changed or response.status_code == 200):
                reason = "the file has changed" if changed else "the host ignores ranges"
                lost = f"{self.held:,}"
                logger.warning("%s: %s; starting over, %s bytes are lost", self.source.address, reason, lost)
                self._drop(advance)
            if changed:
                self._begin(found)
            came = response.headers.get("Content-Range", "bytes 0-")
            if not came.startswith(f"bytes {self.held}-"):
                raise requests.ConnectionError(f"byte {self.held:,} was asked for, '{came}' came")
            with self._part.open("ab", buffering=0) as file:
                for block in response.raw.stream(_BLOCK, decode_content=False):
                    client.go_on()
                    if not self.held and _is_page(block):
                        raise _page_error(self.source)
                    file.write(block)
                    self._digest.update(block)
                    self.held += len(block)
                    self._furthest = max(self._furthest, self.held)
                    advance(len(block))
            if self.missing:
                raise urllib3.exceptions.ProtocolError("the body was shorter than the file")

    def _drop(self, advance: Callable[[int], None]) -> None:
        advance(-self.held)
        self.held, self._digest = 0, hashlib.md5(usedforsecurity=False)
        self._part.unlink(missing_ok=True)

    def _finish(self) -> str:
        md5, expected = self._digest.hexdigest(), self.source.md5
        if expected and md5 != expected:
            self._part.unlink()
            raise DataError(
                f"{self.source.address}: MD5 of its {self.held:,} bytes is {md5}, it must be {expected}; "
                "they were removed: run again, or take another mirror (one with files of its own needs an "
                f"{CHECKSUMS})"
            )
        os.replace(self._part, self._folder / self.source.name)
        told = "MD5 verified" if expected else "no MD5 is known"
        logger.info("%s: %s bytes, %s", self.source.name, f"{self.held:,}", told)
        return md5


def download_files(
    names: Sequence[str],
    folder: Path,
    mirror: str | None,
    settings: DownloadSettings,
    credentials: Credentials,
) -> None:
    """Bring files to a folder; what is there and verifies is not fetched again.

    A file appears under its name whole and verified. What a killed run holds of it is gone on with.

    Args:
        names: whole archives (`vox2_dev_aac.zip`: its parts will do) and lists; those of OPTIONAL may be
            missing at the source.
        folder: becomes a mirror, with an `MD5SUMS` of its own.
        mirror: base URL; None asks the official hosts.
        settings: how files are brought.
        credentials: of the hosts that want some.

    Raises:
        ParameterError: the official hosts want credentials that are not given.
        DataError: files cannot be had, are not what they must be, or do not fit the disk; all of them are
            named.
    """
    given = (credentials.mirror, credentials.kaist)
    secrets = [login.password.get_secret_value() for login in given if login]
    secrets += [credentials.mmai.key.get_secret_value()] if credentials.mmai else []
    folder.mkdir(parents=True, exist_ok=True)
    with secrets_out_of_logs(secrets):
        _Courier(Client(settings, secrets), folder, mirror, settings, credentials).bring(names)


class _Courier:
    """What one run of `download_files` knows."""

    def __init__(
        self,
        client: Client,
        folder: Path,
        mirror: str | None,
        settings: DownloadSettings,
        credentials: Credentials,
    ) -> None:
        self._client = client
        self._folder = folder
        self._settings = settings
        self._credentials = credentials
        self._mirror = mirror_place(mirror, credentials) if mirror is not None else None
        self._digests = Digests(folder)
        self._sums = self._bring_checksums()

    def _bring_checksums(self) -> Mapping[str, str]:
        """The mirror's checksums, or the official ones where it has none; left beside the files."""
        sums: Mapping[str, str] = OFFICIAL_SUMS
        text = "".join(f"{md5}  {name}\n" for name, md5 in OFFICIAL_SUMS.items())
        if self._mirror:
            source = self._mirror.source(CHECKSUMS, None)
            try:
                text = self._client.text(source)
                sums = parse_checksums(text, source.address)
            except AbsentError as error:
                logger.info("%s; the official checksums hold", error)
        path = self._folder / CHECKSUMS
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with written_whole(path) as part:
                part.write_text(text, encoding="utf-8", newline="")
        return sums

    def bring(self, names: Sequence[str]) -> None:
        transfers = [found for chosen in self._each(self._choose, names) for found in chosen]
        if not transfers:
            logger.info("nothing to download: all %d files are in %s", len(names), self._folder)
            return
        missing, held = (
            sum(getattr(transfer, what) for transfer in transfers) for what in ("missing", "held")
        )
        free = shutil.disk_usage(self._folder).free
        if missing > free:
            raise DataError(
                f"{self._folder}: {missing:,} bytes are to come and {free:,} are free on this disk: "
                f"{missing - free:,} bytes are missing"
            )
        logger.info(
            "%d files, %s bytes to come, %s held already", len(transfers), f"{missing:,}", f"{held:,}"
        )
        columns = (
            TextColumn("download"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as progress:
            task = progress.add_task("download", total=missing + held, completed=held)

            def run(transfer: Transfer) -> None:
                try:
                    md5 = transfer.run(self._client, lambda size: progress.advance(task, size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    self._client.stop()
                    raise DataError(
                        f"{self._folder}: no space is left on this disk, {transfer.missing:,} bytes of "
                        f"{transfer.source.name} are still to come; free some and run again"
                    ) from error
                self._digests.remember([self._folder / transfer.source.name], md5)

            self._each(run, transfers)

    def _choose(self, name: str) -> list[Transfer]:
        """What is still to be brought for an archive or a list, from the first place that has it."""
        forms = forms_of(name, self._sums)
        if any(all(map(self._is_whole, form)) for form in forms):
            return []
        reasons = []
        places = (
            [self._mirror] if self._mirror else official_places(name, self._settings.hosts, self._credentials)
        )
        for place in places:
            for form in forms:
                try:
                    return self._still_missing(form, place)
                except AbsentError as error:
                    reasons.append(str(error))
                except DataError as error:
                    reasons.append(str(error))
                    break
        if name not in OPTIONAL:
            raise DataError("; ".join(reasons))
        logger.info("going on without %s: %s", name, "; ".join(reasons))
        return []

    def _is_whole(self, name: str) -> bool:
        """Whether a file is there, holding what it is known to hold."""
        path = self._folder / name
        if not path.is_file() or name not in self._sums:
            return False
        found = self._digests.md5([path])
        if found != self._sums[name]:
            logger.warning("%s: MD5 is %s, it must be %s: to be brought anew", path, found, self._sums[name])
            return False
        self._forget_parts(name)
        return True

    def _still_missing(self, names: Sequence[str], place: Place) -> list[Transfer]:
        transfers = []
        for name in names:
            if self._is_whole(name):
                continue
            source = place.source(name, self._sums.get(name))
            remote = self._client.probe(source)
            path = self._folder / name
            if source.md5 is None and path.is_file() and path.stat().st_size == remote.size:
                self._forget_parts(name)
            else:
                transfers.append(Transfer(source, remote, self._folder))
        return transfers

    def _forget_parts(self, name: str) -> None:
        for part in _parts_of(name, self._folder):
            part.unlink()

    def _each(self, job: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Do a job for every item, a few at a time; what one fails of stops no other."""
        with ThreadPoolExecutor(self._settings.num_parallel) as pool:
            futures = [pool.submit(job, item) for item in items]
            try:
                errors = [error for future in futures if (error := future.exception())]
            except BaseException:  # Ctrl-C
                self._client.stop()
                pool.shutdown(cancel_futures=True)
                raise
        for error in errors:
            if not isinstance(error, (UserError, _StoppedError)):
                raise error
        mistakes = {str(error): type(error) for error in errors if isinstance(error, UserError)}
        if mistakes:
            raise next(iter(mistakes.values()))("; ".join(mistakes))
        return [future.result() for future in futures]


def _parts_of(name: str, folder: Path) -> list[Path]:
    """What earlier runs hold of a file, of whatever version."""
    return list(folder.glob(f".{name}.{'?' * _VERSION}.part"))


def _is_page(start: bytes) -> bool:
    return start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def _page_error(source: Source) -> AbsentError:
    return AbsentError(
        f"{source.address}: an HTML page instead of the file (of a login or an error?); open it in a "
        f"browser, check {source.place.group or source.place.parameter}"
    )


def _access_remedy(place: Place) -> str:
    if not place.group:
        return f"check {place.parameter}"
    if place.login or place.key:
        return f"check what {CREDENTIALS_FILE} says under {place.group}"
    return f"put user and password into {CREDENTIALS_FILE}, under {place.group}"
