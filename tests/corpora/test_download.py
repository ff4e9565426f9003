"""Downloads: their resumption, retries and checksums, checked against the requests that the host got."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.locks import InUseError
from speaker_verification.corpora.download import client, downloader, sources
from speaker_verification.corpora.download.downloader import download_files
from speaker_verification.corpora.download.sources import Credentials, DownloadSettings
from tests.support.host import Host, serving
from tests.support.locking import held_by_another
from tests.support.waiting import wait_until

ARCHIVE = "vox1_test_wav.zip"
PARTS = [f"vox2_dev_aac_parta{letter}" for letter in "abc"]
NAMES = [ARCHIVE, "vox2_dev_aac.zip", "veri_test2.txt", "musan.tar.gz"]
PASSWORD, KEY = "pass/word+1", "k3y&secret"

Download = Callable[..., None]


def content(name: str, size: int) -> bytes:
    return np.random.default_rng(list(name.encode())).bytes(size)


def checksums(files: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.md5(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()


@pytest.fixture
def host() -> Iterator[Host]:
    sizes = {ARCHIVE: 300_000, **dict.fromkeys(PARTS, 150_000), "veri_test2.txt": 900, "musan.tar.gz": 70_000}
    files = {name: content(name, size) for name, size in sizes.items()}
    with serving(Host({**files, "MD5SUMS": checksums(files)})) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "mirror"


@pytest.fixture
def download(host: Host, folder: Path) -> Download:
    def run(
        *names: str, credentials: dict[str, Any] | None = None, mirror: str | None = "", **settings: Any
    ) -> None:
        patience = {"retries": 2, "backoff_seconds": 0, "timeout_seconds": 20}
        download_files(
            names or NAMES,
            folder,
            host.address if mirror == "" else mirror,
            DownloadSettings.parse({**patience, **settings}, "download"),
            Credentials.read(credentials or {}),
        )

    return run


def found(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def part(folder: Path) -> Path:
    (only,) = folder.glob(f".{ARCHIVE}.*.part")
    return only


def test_a_mirror_is_downloaded_whole_and_a_second_run_asks_for_its_checksums_alone(
    host: Host, download: Download, folder: Path
) -> None:
    download()
    assert found(folder) == host.files
    host.requests.clear()
    download()
    assert [(request.method, request.name) for request in host.requests] == [("GET", "MD5SUMS")]


def test_after_a_cut_the_bytes_held_are_not_asked_for_again(
    host: Host, download: Download, folder: Path
) -> None:
    host.cuts[ARCHIVE] = [100_000, 50_000, 0, 7]
    download(ARCHIVE)
    assert found(folder)[ARCHIVE] == host.files[ARCHIVE]
    asked = host.gets(ARCHIVE)
    assert [request.start for request in asked] == [0, 100_000, 150_000, 150_000, 150_007]
    assert sum(request.sent for request in asked) == len(host.files[ARCHIVE])
    assert [request.if_range for request in asked] == [None, *[host.tag(ARCHIVE)] * 4]


@pytest.mark.parametrize("seed", range(4))
def test_a_line_that_drops_at_random_costs_no_byte_twice(
    host: Host, download: Download, folder: Path, seed: int
) -> None:
    drawn = random.Random(seed)
    host.cuts = {
        name: [drawn.randrange(1, 40_000) for _ in range(6)] for name in host.files if "MD5" not in name
    }
    download()
    assert found(folder) == host.files
    for name, data in host.files.items():
        assert sum(request.sent for request in host.gets(name)) == len(data)


@pytest.mark.project
def test_a_killed_run_is_resumed_where_it_stopped(host: Host, download: Download, folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from speaker_verification.corpora.download.downloader import download_files\n"
        "from speaker_verification.corpora.download.sources import Credentials, DownloadSettings\n"
        f"download_files({NAMES!r}, Path(sys.argv[1]), sys.argv[2], DownloadSettings(), Credentials())\n"
    )
    drawn = random.Random(3)
    host.block_seconds = 0.005
    for _ in range(4):
        enough = drawn.uniform(0, 200_000)
        process = subprocess.Popen([sys.executable, "-c", program, str(folder), host.address])
        wait_until(lambda enough=enough: sum(request.sent for request in host.requests) > enough)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: all(request.answered for request in host.requests))
        held = {name: list(folder.glob(f".{name}.????????.part")) for name in host.files}
        sizes = {name: paths[0].stat().st_size if paths else 0 for name, paths in held.items()}
        whole = [name for name in host.files if (folder / name).is_file()]
        host.requests.clear()
    host.block_seconds = 0
    download()
    for name in host.files:
        starts = [request.start for request in host.gets(name)]
        assert starts == ([] if name in whole and name != "MD5SUMS" else [sizes[name]])
    assert found(folder) == host.files


def test_a_host_that_ignores_ranges_is_told_of_and_starts_over(
    host: Host, download: Download, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host.ranges, host.cuts[ARCHIVE] = False, [100_000]
    download(ARCHIVE)
    assert found(folder)[ARCHIVE] == host.files[ARCHIVE]
    assert f"{ARCHIVE}: the host ignores ranges; starting over, 100,000 bytes are lost" in caplog.text
    host.cuts[ARCHIVE] = [250_000] * 9
    (folder / ARCHIVE).unlink()
    with pytest.raises(DataError, match="gave up at byte 250,000 after 3 attempts"):
        download(ARCHIVE)


def test_a_part_of_another_version_is_removed_and_the_file_begun_anew(
    host: Host, download: Download, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host.cuts[ARCHIVE] = [100_000, 0, 0, 0]
    with pytest.raises(DataError, match="gave up at byte 100,000"):
        download(ARCHIVE)
    host.files[ARCHIVE] = content("new", 300_000)
    host.files["MD5SUMS"] = checksums({ARCHIVE: host.files[ARCHIVE]})
    host.requests.clear()
    download(ARCHIVE)
    assert [request.start for request in host.gets(ARCHIVE)] == [0]
    assert found(folder) == {name: host.files[name] for name in (ARCHIVE, "MD5SUMS")}
    assert "another version of the file than the 100,000 bytes held, which are removed" in caplog.text


def test_a_file_that_changes_while_it_is_downloaded_is_begun_anew(
    host: Host, download: Download, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = content("new", 280_000)
    host.files["MD5SUMS"] = checksums({ARCHIVE: new})
    host.cuts[ARCHIVE], host.after_cut[ARCHIVE] = [100_000], new
    download(ARCHIVE)
    assert [(request.start, request.status) for request in host.gets(ARCHIVE)] == [(0, 200), (100_000, 200)]
    assert found(folder) == {name: host.files[name] for name in (ARCHIVE, "MD5SUMS")}
    assert "the file has changed; starting over, 100,000 bytes are lost" in caplog.text


def test_wrong_bytes_are_removed_and_both_checksums_told(
    host: Host, download: Download, folder: Path
) -> None:
    right = hashlib.md5(host.files[ARCHIVE]).hexdigest()
    host.files[ARCHIVE] = wrong = content("wrong", 300_000)
    with pytest.raises(DataError) as caught:
        download(ARCHIVE)
    assert f"MD5 of its 300,000 bytes is {hashlib.md5(wrong).hexdigest()}, it must be {right}" in str(
        caught.value
    )
    assert "they were removed" in str(caught.value)
    assert set(found(folder)) == {"MD5SUMS"}


def test_a_host_that_sends_too_few_bytes_is_told_apart_and_what_came_is_kept(
    host: Host, download: Download, folder: Path
) -> None:
    host.cuts[ARCHIVE] = [100_000, 0, 0, 0]
    with pytest.raises(DataError, match=r"gave up at byte 100,000 .*: connection closed early"):
        download(ARCHIVE)
    assert part(folder).stat().st_size == 100_000
    assert not (folder / ARCHIVE).exists()


@pytest.mark.parametrize("typed", [True, False])
def test_a_page_instead_of_a_file_is_told_apart(
    host: Host, download: Download, folder: Path, typed: bool
) -> None:
    host.pages, host.typed = {ARCHIVE}, typed
    with pytest.raises(DataError, match=rf"DIR/{ARCHIVE}: an HTML page instead of the file"):
        download(ARCHIVE)
    assert not (folder / ARCHIVE).exists()


def test_files_that_are_not_there_are_all_named_before_anything_is_fetched(
    host: Host, download: Download
) -> None:
    del host.files[PARTS[1]], host.files["musan.tar.gz"]
    with pytest.raises(DataError) as caught:
        download()
    for name in (PARTS[1], "musan.tar.gz"):
        assert f"{host.address}{name}: not there (404); check prepare.mirror" in str(caught.value)
    assert {request.name for request in host.requests if request.method == "GET"} == {"MD5SUMS"}


def test_what_only_some_mirrors_have_may_be_missing(
    host: Host, download: Download, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    download(ARCHIVE, "vox1_meta.csv")
    assert "without the optional vox1_meta.csv" in caplog.text
    host.files["vox1_meta.csv"] = b"VoxCeleb1 ID\tGender\n"
    download(ARCHIVE, "vox1_meta.csv")
    assert found(folder)["vox1_meta.csv"] == host.files["vox1_meta.csv"]


def test_a_mirror_may_want_a_login(host: Host, download: Download, folder: Path) -> None:
    host.login = ("ann", PASSWORD)
    with pytest.raises(
        DataError, match=r"access refused \(401\); put user and password into .*credentials.yml"
    ):
        download()
    with pytest.raises(
        DataError, match=r"\(401\); check what .*credentials.yml says under download.mirror"
    ) as caught:
        download(credentials={"mirror": {"user": "ann", "password": "wrong one"}})
    assert "wrong one" not in str(caught.value)
    download(credentials={"mirror": {"user": "ann", "password": PASSWORD}})
    assert found(folder) == host.files


@pytest.fixture
def official(host: Host, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The host as all official ones: settings that point to it."""
    sums = {name: hashlib.md5(data).hexdigest() for name, data in host.files.items() if "txt" not in name}
    del sums["MD5SUMS"]
    for module in (downloader, sources):
        monkeypatch.setattr(module, "official_checksums", lambda: sums)
    host.files["17/musan.tar.gz"] = host.files["musan.tar.gz"]
    del host.files["MD5SUMS"]
    root = host.address.removesuffix("DIR/")
    addresses = {"kaist": host.address, "mmai": f"{root}key", "vgg": host.address, "openslr": host.address}
    return {"mirror": None, "hosts": addresses}


def test_official_hosts_are_asked_with_a_login(
    host: Host, download: Download, folder: Path, official: dict[str, Any]
) -> None:
    host.login = ("ann", PASSWORD)
    download(
        ARCHIVE, "vox2_dev_aac.zip", credentials={"kaist": {"user": "ann", "password": PASSWORD}}, **official
    )
    assert {name: data for name, data in found(folder).items() if name != "MD5SUMS"} == {
        name: host.files[name] for name in (ARCHIVE, *PARTS)
    }
    host.login = None
    download("veri_test2.txt", "musan.tar.gz", **official)
    assert found(folder)["musan.tar.gz"] == host.files["musan.tar.gz"]
    assert found(folder)["veri_test2.txt"] == host.files["veri_test2.txt"]


def test_official_hosts_are_asked_with_a_key_that_nobody_sees(
    host: Host, download: Download, folder: Path, official: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    host.key, host.cuts[ARCHIVE] = KEY, [1000, 1000]
    download(ARCHIVE, credentials={"mmai": {"key": KEY}}, **official)
    assert found(folder)[ARCHIVE] == host.files[ARCHIVE]
    with pytest.raises(DataError, match=r"key\?file=vox2_dev_aac_partaa: access refused \(403\)") as refused:
        download("vox2_dev_aac.zip", credentials={"mmai": {"key": "k3y&wrong"}}, **official)
    official["hosts"]["mmai"] = "http://127.0.0.1:9/key"
    with pytest.raises(DataError, match="Connection refused") as unreachable:
        download("vox2_dev_aac.zip", credentials={"mmai": {"key": KEY}}, **official)
    assert "key=***" in caplog.text
    for told in (
        caplog.text,
        str(refused.value),
        str(unreachable.value),
        repr(Credentials.read({"mmai": {"key": KEY}})),
    ):
        assert "k3y" not in told


def test_where_one_official_host_refuses_the_other_is_asked(
    host: Host, download: Download, folder: Path, official: dict[str, Any]
) -> None:
    host.login = ("ann", PASSWORD)
    both = {"mmai": {"key": KEY}, "kaist": {"user": "ann", "password": PASSWORD}}
    download(ARCHIVE, credentials=both, **official)
    assert found(folder)[ARCHIVE] == host.files[ARCHIVE]


def test_missing_credentials_are_told_of_once_with_what_to_write(
    download: Download, official: dict[str, Any]
) -> None:
    with pytest.raises(ParameterError) as caught:
        download(ARCHIVE, "vox2_dev_aac.zip", **official)
    assert (
        str(caught.value).count("VoxCeleb's hosts want credentials: put 'download: {mmai: {key: ...}}'") == 1
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"mmai": {"key": 1234567}},
        {"mmai": "1234567"},
        {"kaist": {"user": "ann", "password": "1234567", "pin": "1234567"}},
        {"kaist": {"user": ["1234567"], "password": ""}},
    ],
)
def test_wrong_credentials_are_named_and_not_repeated(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=r"credentials.yml: download\.(mmai|kaist)") as caught:
        Credentials.read(wrong)
    assert "1234567" not in str(caught.value)


def test_a_mirror_without_checksums_is_asked_for_the_known_parts(
    host: Host, download: Download, folder: Path, official: dict[str, Any]
) -> None:
    download("vox2_dev_aac.zip")
    assert {*PARTS, "MD5SUMS"} == set(found(folder))
    for name in PARTS:  # kept under its whole name instead
        (folder / name).unlink()
    whole = b"".join(host.files.pop(name) for name in PARTS)
    host.files["vox2_dev_aac.zip"] = whole
    sources.official_checksums()["vox2_dev_aac.zip"] = hashlib.md5(whole).hexdigest()
    download("vox2_dev_aac.zip")
    assert found(folder)["vox2_dev_aac.zip"] == whole


def test_a_whole_archive_on_disk_replaces_its_parts(host: Host, download: Download, folder: Path) -> None:
    whole = b"".join(host.files[name] for name in PARTS)
    host.files["MD5SUMS"] += checksums({"vox2_dev_aac.zip": whole})
    folder.mkdir(parents=True)
    (folder / "vox2_dev_aac.zip").write_bytes(whole)
    download("vox2_dev_aac.zip")
    assert {request.name for request in host.requests} == {"MD5SUMS"}


def test_a_host_cannot_name_a_file_outside_the_folder(host: Host, download: Download, folder: Path) -> None:
    outside = "vox2_dev_aac_part/../../../outside"
    host.files[outside] = b"evil"
    host.files["MD5SUMS"] += checksums({outside: b"evil", "../outside": b"evil"})
    download()
    assert {path.name for path in folder.parents[1].rglob("*") if path.is_file()} == {
        *NAMES,
        *PARTS,
        "MD5SUMS",
        ".mirror_md5.json",
    } - {"vox2_dev_aac.zip"}


def test_an_altered_file_on_disk_is_downloaded_anew(
    host: Host, download: Download, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    download()
    (folder / PARTS[0]).write_bytes(b"altered")
    host.requests.clear()
    download()
    assert found(folder) == host.files
    assert {request.name for request in host.requests} == {"MD5SUMS", PARTS[0]}
    assert f"{PARTS[0]}: differs from {host.address}{PARTS[0]}" in caplog.text


Usage = namedtuple("Usage", "total used free")


def test_free_disk_is_checked_over_all_files_with_the_bytes_missing(
    host: Host, download: Download, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.cuts[ARCHIVE] = [100_000, 0, 0, 0]
    with pytest.raises(DataError, match="gave up"):
        download(ARCHIVE)
    host.requests.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 0, 600_000))
    # 200,000 of the archive, 3 x 150,000 of the parts, 900 of the list and 70,000 of MUSAN are to come
    with pytest.raises(DataError, match=r"720,900 bytes .* 600,000 are free .*: 120,900 bytes are missing"):
        download()
    assert {request.name for request in host.requests if request.method == "GET"} == {"MD5SUMS"}


def test_a_disk_that_fills_up_is_told_of(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(downloader.Transfer, "run", full)
    with pytest.raises(DataError, match=f"no space is left on this disk, 300,000 bytes of {ARCHIVE}"):
        download(ARCHIVE)


def test_a_busy_host_is_asked_again_after_longer_and_longer_waits(
    host: Host, download: Download, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(client.threading.Event, "wait", lambda self, seconds=None: waits.append(seconds))
    patient = client.Client(DownloadSettings(backoff_seconds=2, longest_backoff_seconds=7, retries=4), [])
    source = sources.Host(host.address, "prepare.mirror").source(ARCHIVE, None)
    host.statuses[ARCHIVE] = [503, 500, 429, 503]
    assert patient.probe(source).size == 300_000
    assert [wait for wait in waits if isinstance(wait, float)] == [2, 4, 7, 7]


@pytest.mark.parametrize("lacking", ["heads", "lengths", "entity_tags"])
def test_hosts_that_say_less_serve_as_well(
    host: Host, download: Download, folder: Path, lacking: str
) -> None:
    setattr(host, lacking, False)
    download()
    assert found(folder) == host.files


def test_a_folder_that_another_process_downloads_to_is_left_as_it_is(
    host: Host, download: Download, folder: Path
) -> None:
    with held_by_another(folder, what="download"):
        with pytest.raises(InUseError, match="download is running since"):
            download()
        assert not host.requests
    download()
    assert found(folder)
