"""Where every file of the corpora lies, what it must hold, and what proves that one may have it."""

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
from speaker_verification.corpora.download.addresses import CREDENTIALS_FILE, Address, is_address
from speaker_verification.corpora.mirror import (
    ARCHIVES,
    IN_PARTS,
    MUSAN_ARCHIVE,
    RIRS_NOISES_ARCHIVE,
)
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.corpora.speakers import VOXCELEB1_META
from speaker_verification.corpora.trials.trial_lists import PUBLISHED_LISTS

OPTIONAL = (VOXCELEB1_META,)

# VoxCeleb's and OpenSLR's own checksums, of parts and of whole archives.
OFFICIAL_SUMS = {
    "vox1_dev_wav.zip": "ae63e55b951748cc486645f532ba230b",
    "vox1_dev_wav_partaa": "e395d020928bc15670b570a21695ed96",
    "vox1_dev_wav_partab": "bbfaaccefab65d82b21903e81a8a8020",
    "vox1_dev_wav_partac": "017d579a2a96a077f40042ec33e51512",
    "vox1_dev_wav_partad": "7bb1e9f70fddc7a678fa998ea8b3ba19",
    "vox1_test_wav.zip": "185fdc63c3c739954633d50379a3d102",
    "vox2_dev_aac.zip": "bbc063c46078a602ca71605645c2a402",
    "vox2_dev_aac_partaa": "da070494c573e5c0564b1d11c3b20577",
    "vox2_dev_aac_partab": "17fe6dab2b32b48abaf1676429cdd06f",
    "vox2_dev_aac_partac": "1de58e086c5edf63625af1cb6d831528",
    "vox2_dev_aac_partad": "5a043eb03e15c5a918ee6a52aad477f9",
    "vox2_dev_aac_partae": "cea401b624983e2d0b2a87fb5d59aa60",
    "vox2_dev_aac_partaf": "fc886d9ba90ab88e7880ee98effd6ae9",
    "vox2_dev_aac_partag": "d160ecc3f6ee3eed54d55349531cb42e",
    "vox2_dev_aac_partah": "6b84a81b9af72a9d9eecbb3b1f602e65",
    "vox2_test_aac.zip": "0d2b3ea430a821c33263b5ea37ede312",
    MUSAN_ARCHIVE: "0c472d4fc0c5141eca47ad1ffeb2a7df",
    RIRS_NOISES_ARCHIVE: "e6f48e257286e05de56413b4779d8ffb",
    "dev-clean.tar.gz": "42e2234ba48799c1f50f24a7926300a1",
    "test-clean.tar.gz": "32fa31d27d2e1cad72775fee3f4849a9",
    "train-clean-100.tar.gz": "2a93770f6d5c6c964bc36631d331a522",
}
_ON_OPENSLR = {
    MUSAN_ARCHIVE: "17",
    RIRS_NOISES_ARCHIVE: "28",
    "dev-clean.tar.gz": "12",
    "test-clean.tar.gz": "12",
    "train-clean-100.tar.gz": "12",
}
_ON_VGG = (*(published.file for published in PUBLISHED_LISTS.values()), *OPTIONAL)


class HostSettings(Settings):
    """Official hosts: addresses below which files lie, but for `mmai`, which takes file and key as its query.

    Attributes:
        kaist: VoxCeleb, for a user with a password.
        mmai: VoxCeleb, for the holder of an access key.
        vgg: trial lists and the speakers of VoxCeleb1.
        openslr: MUSAN, RIRS_NOISES and LibriSpeech.
    """

    kaist: Address = "http://cnode01.mm.kaist.ac.kr/voxceleb/vox1a/"
    mmai: Address = "https://cn01.mmai.io/download/voxceleb"
    vgg: Address = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/"
    openslr: Address = "https://www.openslr.org/resources/"


class DownloadSettings(Settings):
    """How files are brought.

    Attributes:
        num_parallel: files at a time.
        retries: attempts in a row that bring nothing new before a file is given up.
        backoff_seconds: wait after the first of them, in seconds; it doubles from one to the next.
        longest_backoff_seconds: what it grows to, in seconds.
        timeout_seconds: how long a silent host is waited for, in seconds.
        hosts: where files lie when no mirror is set.
    """

    num_parallel: int = Field(3, ge=1, le=16)
    retries: int = Field(8, ge=0, le=100)
    backoff_seconds: float = Field(1.0, ge=0)
    longest_backoff_seconds: float = Field(60.0, ge=0)
    timeout_seconds: float = Field(60.0, gt=0)
    hosts: HostSettings = HostSettings()


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
            ParameterError: naming what is wrong, never what it holds.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            wrong = {".".join(map(str, ("download", *problem["loc"]))) for problem in error.errors()}
            raise ParameterError(
                f"{CREDENTIALS_FILE}: {', '.join(sorted(wrong))}: wrong, unknown or missing; below "
                "'download' may stand mirror: {user, password}, kaist: {user, password} and mmai: {key}, all "
                "texts in quotes"
            ) from None


def needed_files(prepare: PrepareSettings, augmentation: AugmentationSettings) -> list[str]:
    """The archives (by their whole names) and lists that `prepare` reads."""
    files = [*(ARCHIVES[subset] for subset in prepare.subsets), *prepare.list_files.values()]
    if augmentation.clip_kinds:
        files.append(MUSAN_ARCHIVE)
    if augmentation.takes_rooms:
        files.append(RIRS_NOISES_ARCHIVE)
    return files


def wanted_files(prepare: PrepareSettings, augmentation: AugmentationSettings) -> list[str]:
    """What `prepare` reads, and what it can do without; of the user's own lists those that a base URL has."""
    by_address = is_address(prepare.mirror)
    lists = prepare.other_trial_lists.values()
    at_hand = {file for file in lists if Path(file).is_absolute() or not by_address}
    with_voxceleb1 = any(subset.startswith("vox1-") for subset in prepare.subsets)
    wanted = [name for name in needed_files(prepare, augmentation) if name not in at_hand]
    return [*wanted, *(OPTIONAL if with_voxceleb1 else ())]


@dataclass(frozen=True)
class Source:
    """One file at one host.

    Attributes:
        name: under which the file is kept.
        address: where it lies, without credentials: it may be shown.
        md5: what it must hold; None where nobody says.
        host: the host that has it.
    """

    name: str
    address: str
    md5: str | None
    host: Host


@dataclass(frozen=True)
class Host:
    """A host, and what proves that one may have its files.

    Attributes:
        address: below which the files lie.
        parameter: that holds the address.
        group: of credentials.yml that opens the host; empty where none does.
        login: user and password.
        key: an access key; it goes into the query, with the file's name.
    """

    address: str
    parameter: str
    group: str = ""
    login: tuple[str, str] | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)

    def source(self, name: str, md5: str | None) -> Source:
        """Where a file lies at this host."""
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
    if name in _ON_OPENSLR:
        return [Host(f"{hosts.openslr.rstrip('/')}/{_ON_OPENSLR[name]}", "download.hosts.openslr")]
    if name in _ON_VGG:
        return [Host(hosts.vgg, "download.hosts.vgg")]
    if name not in ARCHIVES.values():
        raise DataError(f"{name}: no official host has this file; copy it into the mirror by hand")
    found = []
    if credentials.mmai:
        key = credentials.mmai.key.get_secret_value()
        found.append(Host(hosts.mmai, "download.hosts.mmai", "download.mmai", key=key))
    if credentials.kaist:
        found.append(Host(hosts.kaist, "download.hosts.kaist", "download.kaist", _login(credentials.kaist)))
    if not found:
        raise ParameterError(
            "VoxCeleb's hosts want credentials: put 'download: {mmai: {key: ...}}' or "
            f"'download: {{kaist: {{user: ..., password: ...}}}}' into {CREDENTIALS_FILE}, or set "
            "prepare.mirror to a folder or base URL that has the archives"
        )
    return found


def forms_of(name: str, sums: Mapping[str, str]) -> list[list[str]]:
    """The files that an archive or a list may consist of: its parts or itself, the likelier first.

    Args:
        name: whole archive (`vox2_dev_aac.zip`) or list.
        sums: known MD5 by file name; the parts that it names are all there are.
    """
    if name not in IN_PARTS:
        return [[name]]
    listed = _parts_in(sums, name)
    if listed or name not in sums:
        return [listed or _parts_in(OFFICIAL_SUMS, name), [name]]
    return [[name], _parts_in(OFFICIAL_SUMS, name)]


def _parts_in(sums: Mapping[str, str], name: str) -> list[str]:
    named_as_by_split = re.compile(rf"{IN_PARTS[name]}[a-z][a-z]")  # a host may list anything, paths too
    return sorted(part for part in sums if named_as_by_split.fullmatch(part))


def _login(login: Login | None) -> tuple[str, str] | None:
    return (login.user, login.password.get_secret_value()) if login else None
