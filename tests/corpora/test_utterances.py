"""Conversion of archives of speech."""

from __future__ import annotations

import logging
import os
import stat
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from speaker_verification.audio.files import audio_info, decode_audio, read_audio
from speaker_verification.audio.utterance_audio import UtteranceAudio
from speaker_verification.common.errors import DataError
from speaker_verification.corpora.conversion import storing
from speaker_verification.corpora.conversion.convert import UNSAFE
from speaker_verification.corpora.conversion.sources import ArchiveSource, ArchivesSource, FolderSource
from speaker_verification.corpora.utterances import convert_subset
from tests.support.corpora import m4a, noise, tarred, wav, write_parts, zipped


def convert(
    archive: Path, folder: Path, subset: str = "vox1-dev", max_rejected: float = 1.0, num_workers: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    return convert_subset(subset, ArchiveSource([archive]), folder, 0.5, max_rejected, num_workers)


def test_wave_files_come_through_bit_for_bit_with_their_manifest(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    members = {"wav/id2/s/2.wav": wav(noise(2, 8_000)), "wav/id1/s/1.wav": wav(noise(1, 24_000))}
    archive.write_bytes(zipped({"wav/": b"", **members}))
    utterances, rejected = convert(archive, tmp_path / "audio")
    assert rejected.empty
    assert utterances.to_dict("list") == {
        "utterance_id": ["id1/s/1.wav", "id2/s/2.wav"],
        "speaker_id": ["id1", "id2"],
        "session_id": ["s", "s"],
        "subset": ["vox1-dev", "vox1-dev"],
        "path": [str(tmp_path / f"audio/vox1-dev/id{n}/s/{n}.wav") for n in (1, 2)],
        "offset": [0, 0],
        "num_bytes": [0, 0],
        "deflated": [False, False],
        "codec": ["", ""],
        "crc32": [0, 0],
        "first_sample": [0, 0],
        "num_samples": [24_000, 8_000],
        "duration_seconds": [1.5, 0.5],
    }
    assert np.array_equal(read_audio(utterances["path"][0]), noise(1, 24_000).astype(np.float32) / 32768)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.project)])
def test_aac_in_parts_is_converted_by_any_number_of_workers(tmp_path: Path, num_workers: int) -> None:
    members = {f"dev/aac/id{s}/v/{n}.m4a": m4a(noise(10 * s + n)) for s in range(4) for n in range(4)}
    parts = write_parts(tmp_path, "p", zipped(members), 3)
    utterances, _ = convert_subset(
        "vox2-dev", ArchiveSource(parts), tmp_path / "audio", 0.5, 0.01, num_workers
    )
    assert len(utterances) == 16
    by_id = utterances.set_index("utterance_id")
    for member, data in members.items():
        row = by_id.loc[member.removeprefix("dev/aac/").replace("m4a", "wav")]
        expected = decode_audio(data, member)
        assert row["num_samples"] == len(expected)
        assert np.array_equal(read_audio(row["path"]) * 32768, expected)


def test_bad_recordings_are_listed_with_a_reason_and_left_out(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(
        zipped(
            {
                "wav/id1/s/good.wav": wav(noise(1)),
                "wav/id1/s/stereo.wav": wav(noise(2, 16_000, channels=2)),
                "wav/id1/s/slow.wav": wav(noise(3, 8_000), rate=8_000),
                "wav/id1/s/empty.wav": b"",
                "wav/id1/s/text.wav": b"I am not a wave." * 100,
                "wav/id1/s/nothing.wav": wav(noise(1, 0)),
                "wav/id1/s/short.wav": wav(noise(1, 7_999)),
                "wav/id1/s/silent.wav": wav(np.zeros(16_000, np.int16)),
                "wav/id1/s/good.m4a": m4a(noise(1)),
                "wav/../../id1/s/evil.wav": wav(noise(1)),
                "wav/id1/s/program.exe": b"hello",
                "wav/id1/s/words.txt": b"hello",
            }
        )
    )
    utterances, rejected = convert(archive, tmp_path / "audio")
    assert [name.split("/")[-1] for name in utterances["utterance_id"]] == [
        "good.wav",
        "slow.wav",
        "stereo.wav",
    ]
    reasons = dict(zip(rejected["file_id"], rejected["reason"], strict=True))
    assert set(rejected["subset"]) == {"vox1-dev"}
    assert reasons.pop("id1/s/text.wav").startswith("not audio: ")
    assert reasons == {
        "id1/s/empty.wav": "empty file",
        "id1/s/nothing.wav": "no samples",
        "id1/s/short.wav": "7999 samples, shorter than 0.5 s",
        "id1/s/silent.wav": "silent",
        "id1/s/good.wav": "duplicate of another member of the archive",
        "wav/../../id1/s/evil.wav": UNSAFE,
    }
    assert not list(tmp_path.rglob("evil*"))


def test_links_and_damaged_members_are_never_written(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    link = zipfile.ZipInfo("wav/id1/s/link.wav")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr(link, "/etc/passwd")
        writer.writestr("wav/id1/s/good.wav", wav(noise(1)))
        writer.writestr("wav/id1/s/damaged.wav", wav(noise(2)))
    data = bytearray(archive.read_bytes())
    data[data.rindex(noise(2).tobytes()[:64]) + 5] ^= 0xFF
    archive.write_bytes(data)
    utterances, rejected = convert(archive, tmp_path / "audio")
    assert list(utterances["utterance_id"]) == ["id1/s/good.wav"]
    reasons = dict(zip(rejected["file_id"], rejected["reason"], strict=True))
    assert reasons["id1/s/link.wav"] == "a link"
    assert reasons["id1/s/damaged.wav"].startswith("damaged in the archive: ")
    assert [path.name for path in (tmp_path / "audio").rglob("*.wav")] == ["good.wav"]


def test_too_many_bad_recordings_stop_with_the_count_and_the_first_ten(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    bad = {f"wav/id1/s/bad{number:02d}.wav": b"" for number in range(12)}
    good = {f"wav/id1/s/{number}.wav": wav(noise(number, 8_000)) for number in range(12)}
    archive.write_bytes(zipped(good | bad))
    with pytest.raises(DataError, match="vox1-dev: 12 of 24 files") as caught:
        convert(archive, tmp_path / "audio", max_rejected=0.49)
    assert "bad09.wav (empty file)" in str(caught.value)
    assert "bad10.wav" not in str(caught.value)
    assert len(convert(archive, tmp_path / "audio", max_rejected=0.5)[0]) == 12


def test_an_archive_without_recordings_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({"readme.txt": b"hello"}))
    with pytest.raises(DataError, match="holds no recording"):
        convert(archive, tmp_path / "audio")


def test_what_was_converted_before_is_kept_and_what_was_damaged_is_not(tmp_path: Path) -> None:
    archive, audio = tmp_path / "a.zip", tmp_path / "audio"
    archive.write_bytes(zipped({f"wav/id1/s/{number}.wav": wav(noise(number)) for number in range(3)}))
    first, _ = convert(archive, audio)
    kept, cut, gone = (Path(path) for path in first["path"])
    inodes = {path: path.stat().st_ino for path in (kept, cut)}
    cut.write_bytes(b"cut")
    gone.unlink()
    for num_workers in (0, 1):
        second, _ = convert(archive, audio, num_workers=num_workers)
        pd.testing.assert_frame_equal(first, second)
    assert kept.stat().st_ino == inodes[kept]
    assert audio_info(cut).num_samples == audio_info(gone).num_samples == 16_000


def test_another_archive_replaces_what_was_converted(tmp_path: Path) -> None:
    archive, audio = tmp_path / "a.zip", tmp_path / "audio"
    for seed in (1, 2):
        archive.write_bytes(zipped({"wav/id1/s/1.wav": wav(noise(seed))}))
        os.utime(archive, ns=(seed, seed))  # the same name and size
        utterances, _ = convert(archive, audio)
        assert np.array_equal(read_audio(utterances["path"][0]) * 32768, noise(seed))


def test_a_corpus_used_as_it_is_has_the_utterances_and_samples_of_the_converted_one(tmp_path: Path) -> None:
    members = {f"dev/aac/id{s}/v/{n}.m4a": m4a(noise(10 * s + n)) for s in range(3) for n in range(3)}
    (tmp_path / "in").mkdir()
    source = ArchiveSource(write_parts(tmp_path / "in", "vox2_dev_aac_part", zipped(members), 4))
    converted, _ = convert_subset("vox2-dev", source, tmp_path / "audio", 0.5, 0.01, 0)
    kept, rejected = convert_subset("vox2-dev", source, tmp_path / "audio", 0.5, 0.01, 0, "as_is")
    assert rejected.empty
    columns = ["utterance_id", "speaker_id", "session_id", "subset", "num_samples", "duration_seconds"]
    pd.testing.assert_frame_equal(kept[columns], converted[columns])
    ours, theirs = UtteranceAudio(kept), UtteranceAudio(converted)
    for row in range(len(kept)):
        np.testing.assert_array_equal(ours.read(row), theirs.read(row))
    assert {path.name for path in (tmp_path / "audio/as_is/vox2-dev").iterdir()} == {
        ".source",
        ".record.parquet",
    }


@pytest.mark.project
def test_processes_find_the_same_places_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"wav/id{s}/v/{n}.wav": wav(noise(10 * s + n)) for s in range(5) for n in range(20)}
    (tmp_path / "a.zip").write_bytes(zipped(members))
    source = ArchiveSource([tmp_path / "a.zip"])
    alone, _ = convert_subset("vox1-dev", source, tmp_path / "alone", 0.5, 0.0, 0, "as_is")
    monkeypatch.setattr(storing, "_SECONDS_ALONE", 0.0)
    shared, _ = convert_subset("vox1-dev", source, tmp_path / "shared", 0.5, 0.0, 2, "as_is")
    pd.testing.assert_frame_equal(shared, alone)
    assert alone["crc32"].tolist() == [zlib.crc32(data) for _, data in sorted(members.items())]


def test_the_record_of_a_corpus_used_as_it_is_moves_with_its_archive(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    members = {f"wav/id{s}/v/{n}.wav": wav(noise(10 * s + n)) for s in range(2) for n in range(2)}
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "here/a.tar").write_bytes(tarred(members, mode="w"))
    source = ArchiveSource([tmp_path / "here/a.tar"])
    convert_subset("vox1-dev", source, tmp_path / "audio", 0.5, 0.01, 0, "as_is")
    (tmp_path / "here/a.tar").rename(tmp_path / "there/a.tar")
    source = ArchiveSource([tmp_path / "there/a.tar"])
    with caplog.at_level(logging.INFO, "speaker_verification"):
        moved, _ = convert_subset("vox1-dev", source, tmp_path / "audio", 0.5, 0.01, 0, "as_is")
    assert "nothing to convert, all 4 recordings" in caplog.text
    assert set(moved["path"]) == {str(tmp_path / "there/a.tar")}
    np.testing.assert_array_equal(UtteranceAudio(moved).read(0), noise(0) / np.float32(32768))


def test_a_compressed_tar_archive_cannot_be_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(tarred({"wav/id1/v/1.wav": wav(noise(1))}))
    with pytest.raises(DataError, match="in a compressed tar archive, which cannot be read from the middle"):
        convert_subset(
            "vox1-dev", ArchiveSource([tmp_path / "a.tar.gz"]), tmp_path / "o", 0.5, 1.0, 0, "as_is"
        )


def test_shards_and_folders_give_the_same_utterances_as_an_archive(tmp_path: Path) -> None:
    members = {f"wav/id{s}/v/{n}.wav": wav(noise(10 * s + n)) for s in range(2) for n in range(2)}
    names = list(members)
    shards = []
    for number, part in enumerate((names[:1], names[1:])):
        shards.append(tmp_path / f"{number}.tar")
        shards[-1].write_bytes(tarred({name: members[name] for name in part}, mode="w"))
    for name, content in members.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "a.zip").write_bytes(zipped(members))
    sources = {
        "archive": ArchiveSource([tmp_path / "a.zip"]),
        "shards": ArchivesSource(shards),
        "folder": FolderSource(tmp_path / "folder"),
    }
    tables = {
        name: convert_subset("vox1-dev", source, tmp_path / name, 0.5, 0.0, 0, "as_is")[0]
        for name, source in sources.items()
    }
    for name in ("shards", "folder"):
        columns = ["utterance_id", "session_id", "num_samples", "codec"]
        pd.testing.assert_frame_equal(tables[name][columns], tables["archive"][columns])
        for row in range(4):
            expected = UtteranceAudio(tables["archive"]).read(row)
            np.testing.assert_array_equal(UtteranceAudio(tables[name]).read(row), expected)
