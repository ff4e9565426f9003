"""URLs, checksums and credentials of corpus files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError

from speaker_verification.audio.augmentation import AugmentationSettings
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.settings_base import Settings
from speaker_verification.corpora.corpus import ArchivedFile, MetadataFile
from speaker_verification.corpora.download.addresses import CREDENTIALS_FILE, Address, is_address
from speaker_verification.corpora.musan import MUSAN_ARCHIVE
from speaker_verification.corpora.registry import (
    archive_named,
    archive_of,
    hosted_files,
    official_checksums,
)
from speaker_verification.corpora.rirs_noises import RIRS_NOISES_ARCHIVE
from speaker_verification.corpora.settings import PrepareSettings


class HostSettings(Settings):
    """Base addresses of the official hosts; `mmai` takes file and key as its query."""

    kaist: Address = "http://cnode01.mm.kaist.ac.kr/voxceleb/vox1a/"
    """VoxCeleb, with user and password."""
    mmai: Address = "https://cn01.mmai.io/download/voxceleb"
    """VoxCeleb, with an access key; file and key go into the query."""
    vgg: Address = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/"
    """Trial lists and speakers of VoxCeleb1."""
    openslr: Address = "https://www.openslr.org/resources/"
    """MUSAN, RIRS_NOISES and LibriSpeech."""


class DownloadSettings(Settings):
    """Parallelism, retries and hosts of downloads."""

    num_parallel: int = Field(3, ge=1, le=16)
    """Files downloaded at a time."""
    retries: int = Field(8, ge=0, le=100)
    """Attempts in a row without new bytes after which a file is given up."""
    backoff_seconds: float = Field(1.0, ge=0)
    """Wait before the first retry in seconds, doubled from one to the next."""
    longest_backoff_seconds: float = Field(60.0, ge=0)
    """Longest wait before a retry in seconds."""
    timeout_seconds: float = Field(60.0, gt=0)
    """Longest wait for a silent host in seconds."""
    hosts: HostSettings = HostSettings()
    """Official hosts, used where prepare.mirror is null."""


class Login(Settings):
    """A user of a host with basic authentication."""

    user: str
    password: SecretStr = Field(min_length=1)


class AccessKey(Settings):
    """A key that goes into the query."""

    key: SecretStr = Field(min_length=1)


class Credentials(Settings):
    """The group `download` of credentials.yml; each of the three may be absent.

    Attributes:
        mirror: login of the mirror that prepare.mirror names.
        kaist: login of the host kaist.
        mmai: key of the host mmai.
    """

    mirror: Login | None = None
    kaist: Login | None = None
    mmai: AccessKey | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Credentials:
        """Read credentials from plain values.

        Raises:
            ParameterError: naming the wrong fields, never their values.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            wrong = {".".join(map(str, ("download", *problem["loc"]))) for problem in error.errors()}
            raise ParameterError(
                f"{CREDENTIALS_FILE}: {', '.join(sorted(wrong))}: wrong, unknown or missing; "
                "'download' takes mirror: {user, password}, kaist: {user, password} and mmai: {key}, all "
                "texts in quotes"
            ) from None


def needed_files(prepare: PrepareSettings, augmentation: AugmentationSettings) -> list[str]:
    """The archives (by their whole names) and lists, but none in an archive, that `prepare` must have."""
    known = hosted_files()
    lists = {name: known.get(name) for name in prepare.list_files.values()}
    in_archives = [file.subset for file in lists.values() if isinstance(file, ArchivedFile)]
    archives = [archive_of(subset).name for subset in (*prepare.mirrored_subsets, *in_archives)]
    files = [*archives, *(name for name, file in lists.items() if not isinstance(file, ArchivedFile))]
    if augmentation.where_missing == "refuse":
        files += augmentation_files(augmentation)
    return list(dict.fromkeys(files))  # subsets may share an archive


def augmentation_files(augmentation: AugmentationSettings) -> list[str]:
    """The archives that augmentation takes clips and RIRs from."""
    clips = [MUSAN_ARCHIVE.name] if augmentation.clip_kinds else []
    return clips + ([RIRS_NOISES_ARCHIVE.name] if augmentation.takes_rooms else [])


def wanted_files(prepare: PrepareSettings, augmentation: AugmentationSettings) -> list[str]:
    """The files that `prepare` reads, optional ones included; of the user's own lists those of a base URL."""
    at_hand = {file for file in prepare.list_files.values() if Path(file).is_absolute()}
    if not is_address(prepare.mirror):
        at_hand |= {*prepare.other_trial_lists.values()}
    files = dict.fromkeys([*needed_files(prepare, augmentation), *augmentation_files(augmentation)])
    wanted = [name for name in files if name not in at_hand]
    return [*wanted, *(name for name, file in _metadata().items() if {*file.subsets} & {*prepare.subsets})]


def is_optional(name: str) -> bool:
    """Whether `prepare` can do without a file."""
    return name in _metadata()


def _metadata() -> dict[str, MetadataFile]:
    return {name: file for name, file in hosted_files().items() if isinstance(file, MetadataFile)}


@dataclass(frozen=True)
class Source:
    """One file at one host.

    Attributes:
        name: file name in the mirror.
        address: URL without credentials: it may be shown.
        md5: expected MD5; None where it is not known.
        host: host of the file.
    """

    name: str
    address: str
    md5: str | None
    host: Host


@dataclass(frozen=True)
class Host:
    """A host and its credentials.

    Attributes:
        address: base address of the files.
        parameter: parameter that holds the address, for messages.
        group: group of credentials.yml for this host; empty where it needs none.
        login: user and password.
        key: access key; it goes into the query, with the file's name.
    """

    address: str
    parameter: str
    group: str = ""
    login: tuple[str, str] | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)

    def source(self, name: str, md5: str | None) -> Source:
        """A file at this host."""
        tail = f"?file={quote(name)}" if self.key else f"/{quote(name)}"
        return Source(name, self.address.rstrip("/") + tail, md5, self)


def mirror_host(mirror: str, credentials: Credentials) -> Host:
    """A mirror's base URL, with its login where there is one."""
    return Host(mirror, "prepare.mirror", "download.mirror", _login(credentials.mirror))


def official_hosts(name: str, hosts: HostSettings, credentials: Credentials) -> list[Host]:
    """The official hosts of an archive or a list, the newest first.

    Raises:
        ParameterError: its hosts want credentials, and none are given.
        DataError: no official host has it.
    """
    file = hosted_files().get(name)
    if file is None or not file.hosts:
        raise DataError(f"{name}: no official host has this file; copy it into the mirror by hand")
    found = [host for address in file.hosts if (host := _host(address, hosts, credentials))]
    if not found:
        raise ParameterError(
            "VoxCeleb's hosts want credentials: put 'download: {mmai: {key: ...}}' or "
            f"'download: {{kaist: {{user: ..., password: ...}}}}' into {CREDENTIALS_FILE}, or set "
            "prepare.mirror to a folder or base URL that has the archives"
        )
    return found


def _host(address: str, hosts: HostSettings, credentials: Credentials) -> Host | None:
    """A host of a corpus's file; None where its credentials are not given."""
    named = re.fullmatch(r"\{(\w+)\}(.*)", address)
    if named is None:
        return Host(address, "the hosts of its corpus")
    name, folder = named.groups()
    base, parameter, group = getattr(hosts, name), f"download.hosts.{name}", f"download.{name}"
    if name == "mmai":
        key = credentials.mmai and credentials.mmai.key.get_secret_value()
        return Host(base, parameter, group, key=key) if key else None
    if name == "kaist":
        login = _login(credentials.kaist)
        return Host(base, parameter, group, login) if login else None
    return Host(f"{base.rstrip('/')}{folder}", parameter)


def forms_of(name: str, sums: Mapping[str, str]) -> list[list[str]]:
    """The files that an archive or a list may consist of: its parts or itself, the likelier first.

    Args:
        name: whole archive (`vox2_dev_aac.zip`) or list.
        sums: known MD5 by file name; the parts that it names are all there are.
    """
    prefix = archive_named(name).part_prefix
    if not prefix:
        return [[name]]
    listed, official = _parts_in(sums, prefix), _parts_in(official_checksums(), prefix)
    if listed or name not in sums:
        return [listed or official, [name]]
    return [[name], official]


def _parts_in(sums: Mapping[str, str], prefix: str) -> list[str]:
    named_as_by_split = re.compile(rf"{re.escape(prefix)}[a-z][a-z]")  # a host may list anything, paths too
    return sorted(part for part in sums if named_as_by_split.fullmatch(part))


def _login(login: Login | None) -> tuple[str, str] | None:
    return (login.user, login.password.get_secret_value()) if login else None
