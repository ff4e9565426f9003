"""The road from an archive to a folder, gone again, gone half, and gone with hostile archives."""

from __future__ import annotations

import errno
import io
import logging
import os
import random
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile

from speaker_verification.audio import files as audio_files
from speaker_verification.audio.files import read_audio
from speaker_verification.audio.format import AudioFormat
from speaker_verification.common.distributed import processes
from speaker_verification.common.errors import DataError
from speaker_verification.corpora import utterances
from speaker_verification.corpora.augmentation import extract_musan
from speaker_verification.corpora.conversion import archives, sources, storing
from speaker_verification.corpora.conversion import convert as conversion
from speaker_verification.corpora.conversion.sources import ArchiveSource
from speaker_verification.corpora.utterances import convert_subset, list_subset
from speaker_verification.corpora.voxceleb import VOXCELEB
from tests.support.corpora import flac, m4a, noise, tarred, wav, write_parts, zipped
from tests.support.processes import run_processes, values_of
from tests.support.waiting import wait_until

NAMES = [f"id{speaker}/s/{number}" for speaker in range(3) for number in range(4)]


def convert(
    archive: Path, folder: Path, audio_format: AudioFormat = "wav", num_workers: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    return convert_subset("vox1-dev", ArchiveSource([archive]), folder, 0.5, 1.0, num_workers, audio_format)


def write_archive(folder: Path) -> Path:
    archive = folder / "a.zip"
    members = {f"wav/{name}.wav": wav(noise(seed, 8_000)) for seed, name in enumerate(NAMES)}
    archive.write_bytes(zipped({**members, "wav/id9/s/silent.wav": wav(np.zeros(8_000, np.int16))}))
    return archive


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, hidden ones included, with what changes when it is written."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()
    }


def test_a_second_run_opens_no_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    archive, audio = write_archive(tmp_path), tmp_path / "audio"
    first = convert(archive, audio)
    before = state(tmp_path)
    for module, name in ((sources, "read_members"), (storing, "audio_info"), (storing, "decode_audio")):
        monkeypatch.setattr(module, name, None)
    caplog.clear()
    with caplog.at_level(logging.INFO, "speaker_verification"):
        second = convert(archive, audio)
    assert [record.getMessage() for record in caplog.records] == [
        "vox1-dev: nothing to convert, all 13 recordings are converted"
    ]
    for table, again in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(table, again)
    assert state(tmp_path) == before


@pytest.mark.parametrize("record", [None, b"not a table"])
def test_without_the_record_headers_are_read_and_nothing_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: bytes | None
) -> None:
    archive, audio = write_archive(tmp_path), tmp_path / "audio"
    first, _ = convert(archive, audio)
    path = audio / "vox1-dev/.record.parquet"
    path.unlink()
    if record is not None:
        path.write_bytes(record)
    converted = {name: found for name, found in state(audio).items() if name.endswith(".wav")}
    monkeypatch.setattr(storing, "write_audio", None)
    second, rejected = convert(archive, audio)
    pd.testing.assert_frame_equal(first, second)
    assert rejected["reason"].tolist() == ["silent"]
    assert {name: found for name, found in state(audio).items() if name.endswith(".wav")} == converted


def test_what_killed_runs_left_half_written_is_removed(tmp_path: Path) -> None:
    archive, audio = write_archive(tmp_path), tmp_path / "audio"
    convert(archive, audio)
    before = contents(audio)
    (audio / "vox1-dev/id0/s/.0.wav.part").write_bytes(b"half")
    (audio / "vox1-dev/id0/.s.part").mkdir()
    (audio / "vox1-dev/id0/.s.part/1.wav").write_bytes(b"half")
    convert(archive, audio)
    assert contents(audio) == before
    assert not (audio / "vox1-dev/id0/.s.part").exists()


def copy_without_times(source: Path, target: Path) -> None:
    """As `cp -r` does: every file gets the time of its copying, in no order that means anything."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for number, path in enumerate(sorted(target.rglob("*"), reverse=True)):
        os.utime(path, (1.5e9 + number, 1.5e9 + number))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_copy_that_lost_all_times_is_not_converted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "old").mkdir()
    archive = write_archive(tmp_path / "old")
    if kind == "tar.gz":
        archive.write_bytes(tarred({"wav/id1/s/0.wav": wav(noise(1))}))
    first, _ = convert(archive, tmp_path / "old/audio")
    copy_without_times(tmp_path / "old", tmp_path / "new")
    shutil.rmtree(tmp_path / "old")
    monkeypatch.setattr(storing, "audio_info", None)
    monkeypatch.setattr(storing, "decode_audio", None)
    for _ in range(2):
        second, _ = convert(tmp_path / "new/a.zip", tmp_path / "new/audio")
        pd.testing.assert_frame_equal(second.drop(columns="path"), first.drop(columns="path"))
        assert all(Path(path).is_relative_to(tmp_path / "new") for path in second["path"])
        os.utime(tmp_path / "new/a.zip", (1, 1))
    monkeypatch.undo()
    convert(tmp_path / "new/a.zip", tmp_path / "new/audio", "flac")
    assert not list((tmp_path / "new").rglob("*.wav"))


def test_half_a_folder_whose_copy_lost_all_times_is_begun_anew_and_resumes_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").mkdir()
    first, _ = convert(write_archive(tmp_path / "old"), tmp_path / "old/audio")
    (tmp_path / "old/audio/vox1-dev/.record.parquet").unlink()
    altered = tmp_path / "old/audio/vox1-dev/id0/s/0.wav"  # in the copy, nothing tells of which archive it is
    right = altered.read_bytes()
    altered.write_bytes(wav(noise(99, 8_000)))
    copy_without_times(tmp_path / "old", tmp_path / "new")
    archive, audio = tmp_path / "new/a.zip", tmp_path / "new/audio"
    with monkeypatch.context() as killed:
        killed.setattr(conversion.ConvertedFolder, "save_record", None)
        with pytest.raises(TypeError):
            convert(archive, audio)
    assert contents(audio)["vox1-dev/id0/s/0.wav"] == right
    monkeypatch.setattr(storing, "write_audio", None)
    second, _ = convert(archive, audio)
    pd.testing.assert_frame_equal(second.drop(columns="path"), first.drop(columns="path"))


def test_an_archive_of_the_same_size_with_other_contents_is_converted(tmp_path: Path) -> None:
    def samples(value: int) -> bytes:
        return wav(np.full(8_000, value, np.int16))

    archive, audio = tmp_path / "a.zip", tmp_path / "audio"
    sizes = set()
    for value in (1_000, 2_000):
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
            file.writestr("wav/id1/s/0.wav", samples(value))
        sizes.add(archive.stat().st_size)
        utterances, _ = convert(archive, audio)
        assert read_audio(utterances["path"][0])[0] * 32768 == value
    assert len(sizes) == 1


def test_a_marker_without_digest_still_tells_of_its_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, audio = write_archive(tmp_path), tmp_path / "audio"
    first, _ = convert(archive, audio)
    marker = audio / "vox1-dev/.source"
    found = marker.stat()
    marker.write_text("".join(line for line in marker.open() if ": " not in line))
    os.utime(marker, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert marker.read_text() == f"a.zip {archive.stat().st_size} {archive.stat().st_mtime_ns}\nwav\n"
    monkeypatch.setattr(sources, "read_members", None)
    second, _ = convert(archive, audio)
    pd.testing.assert_frame_equal(first, second)


def test_a_file_that_was_changed_since_is_converted_anew(tmp_path: Path) -> None:
    archive, audio = write_archive(tmp_path), tmp_path / "audio"
    convert(archive, audio)
    before = contents(audio)
    changed = audio / "vox1-dev/id0/s/0.wav"
    changed.write_bytes(wav(noise(99, 9_000)))
    utterances, rejected = convert(archive, audio)
    assert utterances["num_samples"].tolist() == [8_000] * 12
    assert rejected["file_id"].tolist() == ["id9/s/silent.wav"]
    assert contents(audio) == before


def test_flac_holds_the_same_samples_under_the_same_ids_and_takes_the_place_of_wav(tmp_path: Path) -> None:
    archive, audio = write_archive(tmp_path), tmp_path / "audio"
    as_wav, _ = convert(archive, audio)
    samples = [read_audio(path) for path in as_wav["path"]]
    as_flac, _ = convert(archive, audio, "flac")
    assert as_flac["utterance_id"].tolist() == as_wav["utterance_id"].tolist()
    assert {Path(path).suffix for path in as_flac["path"]} == {".flac"}
    assert all(soundfile.info(path).subtype == "PCM_16" for path in as_flac["path"])
    assert all(map(np.array_equal, samples, map(read_audio, as_flac["path"])))
    assert not list(audio.rglob("*.wav"))


def test_musan_is_not_read_a_second_time(mirror_folder: Path, tmp_path: Path) -> None:
    first, _ = extract_musan(mirror_folder / "musan.tar.gz", tmp_path / "out", 0.0)
    before = state(tmp_path / "out")
    data = (mirror_folder / "musan.tar.gz").stat()
    (mirror_folder / "musan.tar.gz").write_bytes(bytes(data.st_size))
    os.utime(mirror_folder / "musan.tar.gz", ns=(data.st_atime_ns, data.st_mtime_ns))
    second, _ = extract_musan(mirror_folder / "musan.tar.gz", tmp_path / "out", 0.0)
    pd.testing.assert_frame_equal(first, second)
    assert state(tmp_path / "out") == before


@pytest.mark.parametrize("num_workers", [0, 1])
def test_flac_in_a_tar_archive_is_converted_and_its_texts_are_passed_over(
    tmp_path: Path, num_workers: int
) -> None:
    folder = "LibriSpeech/test-clean/19/198"
    members = {
        "LibriSpeech/SPEAKERS.TXT": b"; ID | SEX\n",
        "LibriSpeech/LICENSE.TXT": b"CC BY 4.0",
        f"{folder}/19-198.trans.txt": b"19-198-0000 WORDS\n",
        f"{folder}/19-198-0001.flac": flac(noise(2, 9_000)),
        f"{folder}/19-198-0000.flac": flac(noise(1, 8_000)),
    }
    parts = write_parts(tmp_path, "x", tarred(members), 2)
    ids = ["19/198/19-198-0000.wav", "19/198/19-198-0001.wav"]
    listed, refused = list_subset("librispeech-test-clean", ArchiveSource(parts))
    assert refused.empty
    assert listed.to_dict("list") == {
        "utterance_id": ids,
        "speaker_id": ["19", "19"],
        "subset": ["librispeech-test-clean"] * 2,
    }
    utterances, rejected = convert_subset(
        "librispeech-test-clean", ArchiveSource(parts), tmp_path, 0.5, 0.0, num_workers
    )
    assert rejected.empty
    assert utterances["utterance_id"].tolist() == ids
    assert utterances["session_id"].tolist() == ["198", "198"]
    assert np.array_equal(read_audio(utterances["path"][0]) * 32768, noise(1, 8_000))


def test_a_corpus_that_is_nearly_the_published_one_is_compared_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    archive = write_archive(tmp_path)
    dev = VOXCELEB.subsets["vox1-dev"]
    monkeypatch.setitem(VOXCELEB.subsets, "vox1-dev", replace(dev, num_speakers=4, num_utterances=15))
    convert(archive, tmp_path / "audio")
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "vox1-dev: 13 utterances, published are 15: difference -2"
    ]
    caplog.clear()
    monkeypatch.setitem(VOXCELEB.subsets, "vox1-dev", replace(dev, num_speakers=40, num_utterances=150))
    convert(archive, tmp_path / "audio")
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def mac_zip(path: Path) -> None:
    """A folder of recordings as Finder and Windows pack it, with all that they add."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("my corpus/", "my corpus/wav/id1/", "__MACOSX/"):
            archive.writestr(name, b"")
        folder = zipfile.ZipInfo("corpus\\wav\\id1")
        folder.external_attr = 0x10
        archive.writestr(folder, b"")
        archive.writestr("corpus\\wav\\id1\\", b"")
        archive.writestr("corpus/wav/id1/s/1.WAV", wav(noise(1)))
        archive.writestr("./corpus/wav/id1/s/2.wav", wav(noise(2)))
        archive.writestr("corpus\\wav\\id1\\s\\3.wav", wav(noise(3)))
        archive.writestr("corpus/wav/Zoe\u0308/s/4.wav", wav(noise(4)))
        for added in ("._1.WAV", ".DS_Store", "Thumbs.db", "desktop.ini", "Read me.rtf"):
            archive.writestr(f"corpus/wav/id1/s/{added}", b"\0\5\x16\7")
        archive.writestr("__MACOSX/corpus/wav/id1/s/._2.wav", b"\0\5\x16\7")
    data = bytearray(path.read_bytes())
    name = "corpus/wav/Zoe\u0308/s/4.wav".encode()
    for place, signature, flags in (
        (data.index(name) - 30, b"PK\3\4", 6),
        (data.rindex(name) - 46, b"PK\1\2", 8),
    ):
        assert data[place : place + 4] == signature
        data[place + flags : place + flags + 2] = b"\0\0"  # as on macOS: UTF-8 without the flag
    path.write_bytes(data)


def mac_tar(path: Path) -> None:
    recordings = {
        "./wav/id1/s/1.WAV": wav(noise(1)),
        "./wav/id1/s/2.wav": wav(noise(2)),
        "./wav/id1/s/3.wav": wav(noise(3)),
        "./wav/Zoe\u0308/s/4.wav": wav(noise(4)),
    }
    added = {f"./wav/id1/s/{name}": b"\0\5" for name in ("._1.WAV", "._2.wav", ".DS_Store")}
    path.write_bytes(tarred({**recordings, **added, "./licence": b"", "./README.pdf": b"", "./x": b""}))


@pytest.mark.parametrize("write", [mac_zip, mac_tar])
def test_what_other_systems_add_is_passed_over_with_one_count_and_forms_of_a_name_are_one(
    tmp_path: Path, write: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    archive = tmp_path / "a"
    write(archive)
    with caplog.at_level(logging.INFO, "speaker_verification"):
        utterances, rejected = convert_subset(
            "vox1-dev", ArchiveSource([archive]), tmp_path / "audio", 0.5, 0.0, 0
        )
    assert rejected.empty
    assert utterances["utterance_id"].tolist() == [
        "Zo\u00eb/s/4.wav",
        "id1/s/1.wav",
        "id1/s/2.wav",
        "id1/s/3.wav",
    ]
    assert [
        np.array_equal(read_audio(path) * 32768, noise(n))
        for path, n in zip(utterances["path"], (4, 1, 2, 3), strict=True)
    ] == [True] * 4
    (line,) = [text for record in caplog.records if "passed over" in (text := record.getMessage())]
    assert line.startswith("vox1-dev: 6 other members of its archive are passed over: ")
    listed, refused = list_subset("vox1-dev", ArchiveSource([archive]))
    assert listed["utterance_id"].tolist() == utterances["utterance_id"].tolist()
    assert refused.empty


def test_two_forms_of_one_name_are_told_as_one_recording_twice(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    forms = ("wav/id1/s/1.wav", "wav\\id1\\s\\1.wav", "wav/id1/s/1.WAV", "./wav/id1/s/1.wav")
    archive.write_bytes(zipped({name: wav(noise(1)) for name in forms}))
    utterances, rejected = convert(archive, tmp_path / "audio")
    assert utterances["utterance_id"].tolist() == ["id1/s/1.wav"]
    assert rejected["reason"].tolist() == ["duplicate of another member of the archive"] * 3


def test_members_that_an_earlier_run_refused_by_their_names_are_judged_anew(tmp_path: Path) -> None:
    archive, audio = tmp_path / "a.zip", tmp_path / "audio"
    misplaced = {"wav/id1/s/program.exe": b"", "wav\\id1\\s\\2.wav": wav(noise(2)), "../evil.wav": b""}
    archive.write_bytes(zipped({"wav/id1/s/1.wav": wav(noise(1)), **misplaced}))
    convert(archive, audio)
    (audio / "vox1-dev/id1/s/2.wav").unlink()
    path = audio / "vox1-dev/.record.parquet"
    record = pd.read_parquet(path)[["file_id", "kind", "num_samples", "num_channels", "num_bytes", "reason"]]
    reason = "not SPEAKER/SESSION/UTTERANCE.wav, .m4a or .flac"  # of an earlier version
    refused = (
        record.iloc[:0]
        .reindex(range(3))
        .assign(file_id=list(misplaced), kind="", num_samples=0, num_channels=0, num_bytes=0, reason=reason)
    )
    pd.concat([record[record["file_id"] == "id1/s/1.wav"], refused]).astype(record.dtypes).to_parquet(path)
    utterances, rejected = convert(archive, audio)
    assert utterances["utterance_id"].tolist() == ["id1/s/1.wav", "id1/s/2.wav"]
    assert rejected["file_id"].tolist() == ["../evil.wav"]


def hostile_zip(path: Path) -> None:
    """A good recording among members that lead elsewhere, lie or cannot be read."""
    good = wav(noise(1))
    link = zipfile.ZipInfo("wav/id1/s/link.wav")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("wav/id1/s/good.wav", good)
        archive.writestr("/evil/id1/s/absolute.wav", good)
        archive.writestr("../evil/s/above.wav", good)
        archive.writestr("wav/id1/../../../evil.wav", good)
        archive.writestr("wav/id1/s\\..\\evil.wav", good)
        archive.writestr(link, "/etc/passwd")
        archive.writestr("wav/id1/s/text.wav", b"not audio" * 100)
        archive.writestr("wav/id1/s/bzip2.wav", good, zipfile.ZIP_BZIP2)
        for name in ("bomb", "liar", "locked"):
            archive.writestr(f"wav/id1/s/{name}.wav", bytes(1 << 20), zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    for name, offset, value in (
        ("bomb", 24, struct.pack("<I", 3 << 30)),  # declares more than any recording has
        ("liar", 24, struct.pack("<I", 1000)),  # inflates to more than it declares
        ("locked", 8, struct.pack("<H", 1)),  # the flag of encryption
    ):
        entry = data.rindex(f"wav/id1/s/{name}.wav".encode()) - 46  # its entry in the central directory
        assert data[entry : entry + 4] == b"PK\1\2"
        data[entry + offset : entry + offset + len(value)] = value
    path.write_bytes(data)


def hostile_tar(path: Path) -> None:
    good = wav(noise(1))
    with tarfile.open(path, "w:gz") as archive:
        for name in (
            "wav/id1/s/good.wav",
            "/evil/id1/s/absolute.wav",
            "../evil/s/above.wav",
            "wav/id1/../evil.wav",
        ):
            info = tarfile.TarInfo(name)
            info.size = len(good)
            archive.addfile(info, io.BytesIO(good))
        for kind, name in (
            (tarfile.SYMTYPE, "link"),
            (tarfile.LNKTYPE, "hard"),
            (tarfile.FIFOTYPE, "pipe"),
            (tarfile.CHRTYPE, "device"),
        ):
            info = tarfile.TarInfo(f"wav/id1/s/{name}.wav")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (
            hostile_zip,
            {
                "/evil/id1/s/absolute.wav": conversion.UNSAFE,
                "../evil/s/above.wav": conversion.UNSAFE,
                "wav/id1/../../../evil.wav": conversion.UNSAFE,
                "wav/id1/s/../evil.wav": conversion.UNSAFE,
                "id1/s/link.wav": "a link",
                "id1/s/text.wav": "not audio: ",
                "id1/s/bzip2.wav": "packed by method 12, neither stored nor deflated",
                "id1/s/bomb.wav": "declares 3221225472 bytes, more than any recording has",
                "id1/s/liar.wav": "damaged in the archive: its size or checksum differs",
                "id1/s/locked.wav": "encrypted",
            },
        ),
        (
            hostile_tar,
            {
                "/evil/id1/s/absolute.wav": conversion.UNSAFE,
                "../evil/s/above.wav": conversion.UNSAFE,
                "wav/id1/../evil.wav": conversion.UNSAFE,
                "id1/s/link.wav": "a link",
                "id1/s/hard.wav": "a link",
                "id1/s/pipe.wav": "not a regular file",
                "id1/s/device.wav": "not a regular file",
            },
        ),
    ],
)
def test_a_hostile_archive_leaves_its_good_recordings_and_nothing_else_anywhere(
    tmp_path: Path, write: Callable[[Path], None], expected: dict[str, str], num_workers: int
) -> None:
    archive, audio = tmp_path / "in/a", tmp_path / "data/audio"
    archive.parent.mkdir()
    write(archive)
    utterances, rejected = convert(archive, audio, num_workers=num_workers)
    assert utterances["utterance_id"].tolist() == ["id1/s/good.wav"]
    reasons = dict(zip(rejected["file_id"], rejected["reason"], strict=True))
    assert reasons.keys() == expected.keys()
    assert {name: reasons[name][: len(reason)] for name, reason in expected.items()} == expected
    assert state(tmp_path).keys() == {
        "in/a",
        "data/audio/vox1-dev/.source",
        "data/audio/vox1-dev/.record.parquet",
        "data/audio/vox1-dev/id1/s/good.wav",
    }


def test_bytes_missing_in_front_cost_the_recording_that_they_belong_to(tmp_path: Path) -> None:
    parts = write_parts(tmp_path, "p", write_archive(tmp_path).read_bytes(), 3)
    parts[0].write_bytes(parts[0].read_bytes()[100:])
    utterances, rejected = convert_subset("vox1-dev", ArchiveSource(parts), tmp_path / "audio", 0.5, 1.0, 0)
    assert len(utterances) == 11
    reasons = dict(zip(rejected["file_id"], rejected["reason"], strict=True))
    assert reasons["id0/s/0.wav"] == "its place is before the first part: bytes are missing in front"


def test_a_member_is_inflated_no_further_than_it_declares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile_zip(tmp_path / "a.zip")
    (liar,) = [member for member in archives.read_members([tmp_path / "a.zip"]) if "liar" in member.name]
    inflated: list[int] = []
    inflater = archives.zlib.decompressobj(-15)

    def decompress(data: bytes, limit: int) -> bytes:
        inflated.append(len(result := inflater.decompress(data, limit)))
        return result

    monkeypatch.setattr(archives.zlib, "decompressobj", lambda _: SimpleNamespace(decompress=decompress))
    with pytest.raises(archives.DamagedMember):
        liar.read()
    assert inflated == [1001]


def test_more_than_the_disk_holds_is_refused_with_the_bytes_missing_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "a.zip"
    members = {f"aac/id1/s/{number}.m4a": bytes(1000) for number in range(5)}
    archive.write_bytes(zipped({**members, "aac/words.txt": bytes(5000)}))
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda _: SimpleNamespace(free=12_345))
    monkeypatch.setattr(storing, "decode_audio", None)
    with pytest.raises(DataError, match="lacks 7655 bytes for vox1-dev, which takes about 20000; make room"):
        convert(archive, tmp_path / "audio")
    assert not list((tmp_path / "audio").rglob("*.wav"))


def test_a_disk_that_fills_up_leaves_no_half_file_and_the_next_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, audio = write_archive(tmp_path), tmp_path / "audio"
    write_bytes, written = Path.write_bytes, []

    def until_full(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) > 5:
            write_bytes(path, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, data)

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", until_full)
        with pytest.raises(DataError, match="the disk is full; make room"):
            convert(archive, audio)
    done = state(audio)
    assert sum(name.endswith(".wav") for name in done) == 5
    assert not [name for name in done if name.endswith(".part")]
    utterances, _ = convert(archive, audio)
    assert len(utterances) == 12
    assert {name: found for name, found in state(audio).items() if name in done} == done


CONVERT = """
import sys
from pathlib import Path
from speaker_verification.corpora.conversion.sources import ArchiveSource
from speaker_verification.corpora.utterances import convert_subset
if __name__ == "__main__":
    source = ArchiveSource(sorted(Path(sys.argv[1]).iterdir()))
    convert_subset("vox2-dev", source, Path(sys.argv[2]), 0.1, 0.0, 2)
"""


def processes_with(argument: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if argument.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.project
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_runs_killed_at_any_moment_end_as_one_undisturbed_and_leave_no_strays(tmp_path: Path) -> None:
    members = {f"dev/aac/id{n % 9}/s/{n:03d}.m4a": m4a(noise(n, 8_000)) for n in range(240)}
    (tmp_path / "in").mkdir()
    write_parts(tmp_path / "in", "p", zipped(members), 3)
    convert_subset(
        "vox2-dev", ArchiveSource(sorted((tmp_path / "in").iterdir())), tmp_path / "whole", 0.1, 0.0, 0
    )
    (tmp_path / "convert.py").write_text(CONVERT)
    mark = f"KILL_TEST={tmp_path}"
    command = [sys.executable, str(tmp_path / "convert.py"), str(tmp_path / "in"), str(tmp_path / "cut")]
    environment = {**os.environ, "KILL_TEST": str(tmp_path)}
    drawn = random.Random(7)

    def num_converted() -> int:
        return len(list(tmp_path.glob("cut/*/*/*/*")))

    for _ in range(3):
        enough = num_converted() + drawn.randrange(1, 60)
        run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda enough=enough: num_converted() >= enough)
        run.send_signal(signal.SIGKILL)
        run.wait()
    wait_until(lambda: not processes_with(mark))
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    hidden = {".source", ".record.parquet"}
    whole, cut = (
        {name: data for name, data in contents(tmp_path / folder).items() if Path(name).name not in hidden}
        for folder in ("whole", "cut")
    )
    assert cut == whole
    assert len(whole) == 240


def write_mixed_archives(folder: Path) -> dict[str, list[Path]]:
    """Archives by subset: a zip in parts with unusable and repeated recordings, and a tar."""
    speech = {f"dev/aac/id{n % 9}/s/{n:03d}.m4a": m4a(noise(n, 8_000)) for n in range(50)}
    speech |= {f"dev/aac/id{n}/s/{n:03d}.wav": wav(noise(n, 8_000)) for n in range(3)}  # twice
    speech |= {"dev/aac/id1/s/text.m4a": b"hello", "dev/aac/id1/s/silent.wav": wav(np.zeros(8_000, np.int16))}
    readings = {
        f"LibriSpeech/dev-clean/{n % 3}/1/{n % 3}-1-{n:04d}.flac": flac(noise(n, 8_000)) for n in range(21)
    }
    parts = write_parts(folder, "vox2_dev_aac_part", zipped(speech), 3)
    (folder / "dev-clean.tar.gz").write_bytes(tarred(readings | {"LibriSpeech/README.TXT": b"hello"}))
    return {"vox2-dev": parts, "librispeech-dev-clean": [folder / "dev-clean.tar.gz"]}


def convert_mixed(folder: Path, max_rejected: float = 0.1) -> list[pd.DataFrame]:
    """Tables of both subsets; the folder's archives are those of `write_mixed_archives`."""
    archive_files = {
        "vox2-dev": sorted(folder.parent.glob("vox2_dev_aac_part*")),
        "librispeech-dev-clean": [folder.parent / "dev-clean.tar.gz"],
    }
    tables = [
        convert_subset(subset, ArchiveSource(files), folder, 0.1, max_rejected, 0)
        for subset, files in archive_files.items()
    ]
    return [table for pair in tables for table in pair]


def tables_and_files(folder: Path, tables: list[pd.DataFrame]) -> tuple[list[dict], dict[str, bytes]]:
    """Tables, and files below a folder; of the markers, which hold times, there are none."""
    files = {name: data for name, data in contents(folder).items() if not name.endswith(".source")}
    paths = [table.assign(path="") if "path" in table else table for table in tables]
    return [table.to_dict("list") for table in paths], files


@pytest.mark.project
def test_any_number_of_processes_gives_tables_record_and_files_of_one(tmp_path: Path) -> None:
    write_mixed_archives(tmp_path)
    one = tables_and_files(tmp_path / "one", convert_mixed(tmp_path / "one"))
    assert [len(table["file_id"]) for table in one[0] if "file_id" in table] == [5, 0]
    assert len(one[1]) == 50 + 21 + 2  # recordings and records
    for size in (2, 3):
        folder = tmp_path / str(size)
        for _ in range(2):  # the second time, nothing is left to convert
            for tables in values_of(run_processes(size, convert_mixed, folder)):
                assert tables_and_files(folder, tables) == one


def convert_until_killed(folder: Path) -> None:
    """Conversion whose process of rank 1 is killed at its sixth recording."""
    written = 0

    def store(source: bytes, path: Path) -> audio_files.AudioInfo:
        nonlocal written
        written += 1
        if written == 6 and processes().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return storing.store_speech(source, path)

    utterances.store_speech = store
    convert_mixed(folder)


@pytest.mark.project
def test_a_conversion_of_two_processes_that_was_killed_resumes_with_three(tmp_path: Path) -> None:
    write_mixed_archives(tmp_path)
    one = tables_and_files(tmp_path / "one", convert_mixed(tmp_path / "one"))
    folder = tmp_path / "cut"
    waiting, killed = run_processes(2, convert_until_killed, folder)
    assert killed.exit_code == -signal.SIGKILL
    assert waiting.error.endswith(f"rank 1 on host {socket.gethostname()} has died")
    before = state(folder)
    assert len(list(folder.rglob("*.wav"))) == 26 + 5  # those of rank 0, and five of rank 1
    for tables in values_of(run_processes(3, convert_mixed, folder)):
        assert tables_and_files(folder, tables) == one
    kept = {name: found for name, found in state(folder).items() if name.endswith(".wav")}
    assert kept.items() >= {item for item in before.items() if item[0].endswith(".wav")}


@pytest.mark.project
def test_what_archives_lack_is_told_by_several_processes_as_by_one(tmp_path: Path) -> None:
    write_mixed_archives(tmp_path)
    with pytest.raises(DataError) as refused:
        convert_mixed(tmp_path / "one", 0.01)
    first, second = run_processes(2, convert_mixed, tmp_path / "two", 0.01)
    assert first.error.endswith(str(refused.value))
    assert (first.exit_code, second.exit_code) == (1, 1)
    (tmp_path / "vox2_dev_aac_partac").unlink()
    first, second = run_processes(2, convert_mixed, tmp_path / "three")
    assert "vox2_dev_aac_partab: not a whole zip" in first.error
    assert (first.exit_code, second.exit_code) == (1, 1)


def end_at_once(source: bytes, path: Path) -> None:
    os._exit(9)


@pytest.mark.project
def test_a_process_that_dies_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speaker_verification.corpora.utterances.store_speech", end_at_once)
    with pytest.raises(DataError, match=r"was killed, perhaps for want of memory: lower num_workers"):
        convert(write_archive(tmp_path), tmp_path / "audio", num_workers=1)


def test_the_processes_that_convert_load_neither_tables_nor_torch() -> None:
    load = "import sys, speaker_verification.corpora.conversion.storing"
    check = "sys.exit(not {'pandas', 'pyarrow', 'torch', 'pydantic'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", f"{load}; {check}"], check=False).returncode == 0
