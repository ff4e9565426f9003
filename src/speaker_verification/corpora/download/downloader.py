"""Resumable, checksum-verified, atomic downloads over HTTP."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import requests
import urllib3

from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.checksums import add_file
from speaker_verification.common.errors import DataError, UserError
from speaker_verification.common.locks import holds
from speaker_verification.common.progress import progress_bar
from speaker_verification.corpora.download.addresses import secrets_out_of_logs
from speaker_verification.corpora.download.client import (
    AbsentError,
    Client,
    RemoteFile,
    StoppedError,
    is_page,
    page_error,
)
from speaker_verification.corpora.download.sources import (
    Credentials,
    DownloadSettings,
    Host,
    Source,
    forms_of,
    is_optional,
    mirror_host,
    official_hosts,
)
from speaker_verification.corpora.mirror import CHECKSUMS, Digests, parse_checksums
from speaker_verification.corpora.registry import official_checksums

logger = logging.getLogger(__name__)

_BLOCK = 1 << 16  # bytes written at a time, the most that a kill loses
_VERSION = 8  # hexadecimal digits of a partial file's name that distinguish versions

Item = TypeVar("Item")
Result = TypeVar("Result")


class Transfer:
    """Download of one file, through a hidden partial file whose name holds the version.

    A partial file of another version is removed.

    Args:
        source: the file.
        remote: size and version of the file at the host.
        folder: folder of the mirror.
    """

    def __init__(self, source: Source, remote: RemoteFile, folder: Path) -> None:
        self.source = source
        self._folder = folder
        self._begin(remote)
        self._furthest = self.held
        self._digest = hashlib.md5(usedforsecurity=False)

    def _begin(self, remote: RemoteFile) -> None:
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
        """Download the missing bytes, verify the file and give it its name.

        Args:
            client: HTTP client.
            advance: callback for the number of bytes downloaded, negative for bytes lost again.

        Returns:
            The file's MD5.

        Raises:
            DataError: the file cannot be downloaded, or its MD5 is wrong.
        """
        if self.held:
            add_file(self._digest, self._part)
        try:
            client.retry(self.source, lambda: self._attempt(client, advance), lambda: self._furthest)
        finally:
            if not self.held:
                self._part.unlink(missing_ok=True)
        return self._finish()

    def _attempt(self, client: Client, advance: Callable[[int], None]) -> None:
        if self.remote.size is None or self.held > self.remote.size:
            self._drop(advance)  # without a known size, a partial file may be the whole
        if self.held and self.held == self.remote.size:
            return
        headers = {"Range": f"bytes={self.held}-", **self.remote.condition} if self.held else {}
        with client.ask(self.source, **headers) as response:
            found = RemoteFile.of(response)
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
                    client.check_stopped()
                    if not self.held and is_page(block):
                        raise page_error(self.source)
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
        verified = "MD5 verified" if expected else "no known MD5"
        logger.info("%s: %s bytes, %s", self.source.name, f"{self.held:,}", verified)
        return md5


@holds("folder")
def download_files(
    names: Sequence[str],
    folder: Path,
    mirror: str | None,
    settings: DownloadSettings,
    credentials: Credentials,
) -> None:
    """Download files to a folder; files that are there and verify are not downloaded again.

    Files appear atomically and verified. A download resumes from the partial file of a killed run.

    Args:
        names: whole archives (`vox2_dev_aac.zip`: its parts will do) and lists; metadata may be
            missing at the source.
        folder: folder that becomes a mirror, with an `MD5SUMS` of its own.
        mirror: base URL; None: the official hosts.
        settings: parallelism, retries and hosts.
        credentials: credentials of the hosts that need them.

    Raises:
        ParameterError: the official hosts want credentials that are not given.
        InUseError: another run, which is alive, works in the folder.
        DataError: files cannot be downloaded, have a wrong MD5 or do not fit the disk; all of them are named.
    """
    given = (credentials.mirror, credentials.kaist)
    secrets = [login.password.get_secret_value() for login in given if login]
    secrets += [credentials.mmai.key.get_secret_value()] if credentials.mmai else []
    folder.mkdir(parents=True, exist_ok=True)
    with secrets_out_of_logs(secrets):
        _Downloader(Client(settings, secrets), folder, mirror, settings, credentials).download(names)


class _Downloader:
    """One run of `download_files`."""

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
        self._mirror = mirror_host(mirror, credentials) if mirror is not None else None
        self._digests = Digests(folder)
        self._sums = self._download_checksums()

    def _download_checksums(self) -> Mapping[str, str]:
        """The mirror's checksums, or the official ones where it has none; left beside the files."""
        sums: Mapping[str, str] = official_checksums()
        text = "".join(f"{md5}  {name}\n" for name, md5 in sums.items())
        if self._mirror:
            source = self._mirror.source(CHECKSUMS, None)
            try:
                text = self._client.text(source)
                sums = parse_checksums(text, source.address)
            except AbsentError as error:
                logger.info("%s; the official checksums hold", error)
        path = self._folder / CHECKSUMS
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with atomic_write(path) as part:
                part.write_text(text, encoding="utf-8", newline="")
        return sums

    def download(self, names: Sequence[str]) -> None:
        transfers = [found for chosen in self._each(self._choose, names) for found in chosen]
        if not transfers:
            logger.info("nothing to download: all %d files are in %s", len(names), self._folder)
            return
        missing = sum(transfer.missing for transfer in transfers)
        held = sum(transfer.held for transfer in transfers)
        free = shutil.disk_usage(self._folder).free
        if missing > free:
            raise DataError(
                f"{self._folder}: {missing:,} bytes are to be downloaded and {free:,} are free on this disk: "
                f"{missing - free:,} bytes are missing"
            )
        logger.info(
            "%d files, %s bytes to download, %s held already", len(transfers), f"{missing:,}", f"{held:,}"
        )
        with progress_bar("download", missing + held, held, in_bytes=True) as advance:

            def run(transfer: Transfer) -> None:
                try:
                    md5 = transfer.run(self._client, advance)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    self._client.stop()
                    raise DataError(
                        f"{self._folder}: no space is left on this disk, {transfer.missing:,} bytes of "
                        f"{transfer.source.name} are still missing; free some and run again to resume"
                    ) from error
                self._digests.remember([self._folder / transfer.source.name], md5)

            self._each(run, transfers)

    def _choose(self, name: str) -> list[Transfer]:
        """Downloads that a file still needs, from the first host that has it."""
        forms = forms_of(name, self._sums)
        if any(all(map(self._is_whole, form)) for form in forms):
            return []
        reasons = []
        hosts = (
            [self._mirror] if self._mirror else official_hosts(name, self._settings.hosts, self._credentials)
        )
        for host in hosts:
            for form in forms:
                try:
                    return self._still_missing(form, host)
                except AbsentError as error:
                    reasons.append(str(error))
                except DataError as error:
                    reasons.append(str(error))
                    break
        if not is_optional(name):
            raise DataError("; ".join(reasons))
        logger.info("continuing without the optional %s: %s", name, "; ".join(reasons))
        return []

    def _is_whole(self, name: str) -> bool:
        """Whether a file is there with its known MD5."""
        path = self._folder / name
        if not path.is_file() or name not in self._sums:
            return False
        whole = self._digests.md5([path]) == self._sums[name]
        if whole:
            self._forget_parts(name)
        return whole

    def _still_missing(self, names: Sequence[str], host: Host) -> list[Transfer]:
        transfers = []
        for name in names:
            if self._is_whole(name):
                continue
            source = host.source(name, self._sums.get(name))
            remote = self._client.probe(source)
            path = self._folder / name
            if source.md5 is None and path.is_file() and path.stat().st_size == remote.size:
                self._forget_parts(name)
            else:
                if path.is_file():
                    logger.warning("%s: differs from %s: downloading it again", path, source.address)
                transfers.append(Transfer(source, remote, self._folder))
        return transfers

    def _forget_parts(self, name: str) -> None:
        for part in _parts_of(name, self._folder):
            part.unlink()

    def _each(self, job: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Run a job for every item, a few at a time; a failed one stops no other."""
        with ThreadPoolExecutor(self._settings.num_parallel) as pool:
            futures = [pool.submit(job, item) for item in items]
            try:
                errors = [error for future in futures if (error := future.exception())]
            except BaseException:  # Ctrl-C
                self._client.stop()
                pool.shutdown(cancel_futures=True)
                raise
        for error in errors:
            if not isinstance(error, (UserError, StoppedError)):
                raise error
        mistakes = {str(error): type(error) for error in errors if isinstance(error, UserError)}
        if mistakes:
            raise next(iter(mistakes.values()))("; ".join(mistakes))
        return [future.result() for future in futures]


def _parts_of(name: str, folder: Path) -> list[Path]:
    """Partial files of earlier runs, of any version of a file."""
    return list(folder.glob(f".{name}.{'?' * _VERSION}.part"))
