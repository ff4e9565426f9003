"""Archives in parts, and the paths in them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.corpora.conversion.archives import (
    JoinedFiles,
    is_recording,
    plain_name,
    read_members,
    safe_parts,
)
from tests.support.corpora import tarred, write_parts, zipped


@pytest.mark.parametrize("num_parts", [1, 2, 4])
def test_parts_read_like_the_whole(tmp_path: Path, num_parts: int) -> None:
    data = np.random.default_rng(0).bytes(10_007)
    stream = JoinedFiles(write_parts(tmp_path, "x", data, num_parts))
    reference = io.BytesIO(data)
    rng = np.random.default_rng(1)
    for _ in range(200):
        start, length = int(rng.integers(0, 10_100)), int(rng.integers(0, 6_000))
        assert stream.seek(start) == reference.seek(start)
        read = b""
        while len(read) < length and (block := stream.read(length - len(read))):
            read += block
        assert read == reference.read(length)
    assert stream.seek(-7, io.SEEK_END) == 10_000
    assert stream.seek(3, io.SEEK_CUR) == stream.tell() == 10_003
    assert io.BufferedReader(stream).read() == data[10_003:]


def test_a_seek_before_the_start_is_an_error(tmp_path: Path) -> None:
    stream = JoinedFiles(write_parts(tmp_path, "x", b"abc", 1))
    with pytest.raises(OSError, match="before the start"):
        stream.seek(-1)
    stream.close()
    assert stream.closed


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("num_parts", [1, 4])
def test_an_archive_is_read_from_its_parts(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes], num_parts: int
) -> None:
    files = {f"a/{number}.bin": np.random.default_rng(number).bytes(5_000) for number in range(9)}
    members = read_members(write_parts(tmp_path, "x", pack(files), num_parts))
    assert [(member.name, member.size, member.refused, member.read()) for member in members] == [
        (name, 5_000, "", data) for name, data in files.items()
    ]


@pytest.mark.parametrize(("pack", "kind"), [(zipped, "zip"), (tarred, "zip or tar")])
def test_an_archive_without_its_last_part_is_refused(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes], kind: str
) -> None:
    files = {"a": b"a" * 1000, "b": np.random.default_rng(0).bytes(5_000)}
    parts = write_parts(tmp_path, "x", pack(files), 3)
    with pytest.raises(DataError, match=f"xaa, .*xab: not a whole {kind} archive"):
        list(read_members(parts[:2]))


@pytest.mark.parametrize("data", [b"", b"<html>Not found</html>"])
def test_what_is_no_archive_is_told_in_one_line(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(
        DataError, match=r"xaa: not a whole zip or tar archive \([a-z ]+\); copy it again"
    ) as caught:
        list(read_members(write_parts(tmp_path, "x", data, 1)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "/a/b.wav",
        "../b.wav",
        "a/../b.wav",
        "a/./b.wav",
        "a//b.wav",
        "a/.b.wav",
        "a\\b.wav",
        "C:/b",
        "a/b\n",
        "",
        "a" * 201 + "/b.wav",
        "\u00e9" * 101,
        "a/\u202eb.wav",
    ],
)
def test_paths_that_lead_elsewhere_are_refused(name: str) -> None:
    assert safe_parts(name) is None


def test_voxceleb_paths_are_taken_apart() -> None:
    assert safe_parts("dev/aac/id00012/-x_Y5/00001.m4a") == ("dev", "aac", "id00012", "-x_Y5", "00001.m4a")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LibriSpeech/test-clean/1/2/1-2.trans.txt", False),
        ("LibriSpeech/SPEAKERS.TXT", False),
        ("musan/noise/free-sound/LICENSE", False),
        ("README.md", False),
        ("a/readme.wav", True),
        ("a/song.mp3", True),
        ("../a.wav", True),
        ("a/wav", False),
        ("a/program.exe", False),
        ("__MACOSX/wav/id1/s/1.wav", False),
        ("wav/id1/s/._1.wav", False),
        ("wav/.Trashes/id1/s/1.wav", False),
        ("wav/id1/s/.DS_Store", False),
        ("wav/Thumbs.db", False),
        ("wav/desktop.ini", False),
    ],
)
def test_recordings_are_told_from_texts_and_from_what_systems_add(name: str, expected: bool) -> None:
    assert is_recording(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wav\\id1\\s\\1.WAV", "wav/id1/s/1.wav"),
        ("././wav/id1/s/1.M4A", "wav/id1/s/1.m4a"),
        ("wav/Zoe\u0308/s/1.Flac", "wav/Zo\u00eb/s/1.flac"),
        ("LibriSpeech/SPEAKERS.TXT", "LibriSpeech/SPEAKERS.TXT"),
        ("..\\evil.wav", "../evil.wav"),
        ("WAV", "WAV"),
    ],
)
def test_forms_of_one_name_are_one_name(name: str, expected: str) -> None:
    assert plain_name(name) == expected
    assert plain_name(expected) == expected


def test_names_of_any_script_are_taken_apart() -> None:
    assert safe_parts("wav/Zo\u00eb/\u0e17\u0e35\u0e48/1.wav") == (
        "wav",
        "Zo\u00eb",
        "\u0e17\u0e35\u0e48",
        "1.wav",
    )
