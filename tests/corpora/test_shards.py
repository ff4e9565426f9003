from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from speaker_verification.audio.files import decode_audio, encode_audio
from speaker_verification.audio.utterance_audio import UtteranceAudio
from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import UTTERANCES
from speaker_verification.corpora.shards import INDEX, plan_shards, read_shards, utterance_key, write_shards
from tests.support.corpora import m4a, noise
from tests.support.processes import run_processes
from tests.support.waiting import wait_until

SECOND = 16_000
LONG = "a" * 60


def described(table: pd.DataFrame) -> pd.DataFrame:
    """The utterances table of rows that give ids, places and lengths."""
    speakers, sessions = (table["utterance_id"].str.split("/").str[part] for part in (0, 1))
    return UTTERANCES.conform(
        table.assign(
            speaker_id=speakers,
            session_id=sessions,
            subset="vox2-dev",
            duration_seconds=table["num_samples"] / SECOND,
        )
    )


@pytest.fixture
def corpus(tmp_path: Path) -> pd.DataFrame:
    """Forty prepared files of 0.5 s to 1.5 s, 1.3 MB."""
    ids = [f"id{number // 8:05d}/session{number // 4}/{number:05d}.wav" for number in range(40)]
    return written(tmp_path / "audio", ids)


def written(folder: Path, ids: list[str]) -> pd.DataFrame:
    """Prepared files of these utterances, each 25 ms longer than the one before."""
    folder.mkdir()
    paths = [folder / f"{number}.wav" for number in range(len(ids))]
    lengths = [8_000 + 400 * number for number in range(len(ids))]
    for number, path in enumerate(paths):
        path.write_bytes(encode_audio(noise(number, lengths[number]), "wav"))
    names = [str(path) for path in paths]
    return described(pd.DataFrame({"utterance_id": ids, "path": names, "num_samples": lengths}))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.glob("*/*.tar")}


def same_samples(left: pd.DataFrame, right: pd.DataFrame) -> None:
    one, other = UtteranceAudio(left), UtteranceAudio(right)
    for row in range(len(one)):
        np.testing.assert_array_equal(one.read(row), other.read(row))
        np.testing.assert_array_equal(one.read(row, 100, 300), other.read(row, 100, 300))


def test_shards_hold_every_utterance_at_the_place_that_the_index_gives(
    tmp_path: Path, corpus: pd.DataFrame
) -> None:
    index = write_shards(corpus, tmp_path / "shards", megabytes=1)
    facts = ["utterance_id", "speaker_id", "session_id", "subset", "num_samples", "duration_seconds"]
    pd.testing.assert_frame_equal(index[facts], corpus[facts])
    same_samples(corpus, index)
    shards = sorted((tmp_path / "shards" / "vox2-dev").glob("*.tar"))
    assert [path.name for path in shards] == ["000000.tar", "000001.tar"]
    assert shards[0].stat().st_size == pytest.approx(1e6, rel=0.05)
    members = []
    for path in shards:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)
                assert content is not None
                members.append((member.name, content.read()))
    for utterance in corpus.itertuples():
        key = utterance.utterance_id.removesuffix(".wav")
        assert (f"{key}.spk", utterance.speaker_id.encode()) in members
        assert (f"{key}.wav", Path(utterance.path).read_bytes()) in members
    assert len(members) == 80


def test_the_members_of_an_utterance_are_neighbours_without_a_time_or_an_owner(
    tmp_path: Path, corpus: pd.DataFrame
) -> None:
    write_shards(corpus, tmp_path / "shards", megabytes=100)
    with tarfile.open(tmp_path / "shards" / "vox2-dev" / "000000.tar") as archive:
        members = archive.getmembers()
    assert [os.path.splitext(member.name)[1] for member in members] == [".spk", ".wav"] * 40
    assert all(
        first.name[:-4] == second.name[:-4] for first, second in zip(members[::2], members[1::2], strict=True)
    )
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}
    speakers = [member.name.split("/")[0] for member in members[::2]]
    assert speakers != sorted(speakers)


@pytest.mark.parametrize(
    ("utterance_id", "key"),
    [
        ("id10270/5r0dWxy17C8/00001.wav", "id10270/5r0dWxy17C8/00001"),
        ("mine-jürgen/v1.2/take.3.wav", "mine-jürgen/v1.2/take%2E3"),
        ("mine-a/s/50%2E.wav", "mine-a/s/50%252E"),
    ],
)
def test_a_key_is_the_same_up_to_the_first_dot_and_the_last(utterance_id: str, key: str) -> None:
    member = f"{utterance_key(utterance_id)}.wav"
    assert member == f"{key}.wav"
    first_dot = re.fullmatch(r"((?:.*/)?[^/.]+)\.([^/]*)", member)
    assert first_dot is not None
    assert first_dot[1] == member[: member.rfind(".")] == key
    assert unquote(key) + ".wav" == utterance_id


def test_an_id_without_the_ending_is_named() -> None:
    with pytest.raises(DataError, match=r"'a/b/c\.flac'"):
        utterance_key("a/b/c.flac")


def test_long_and_foreign_names_come_back(tmp_path: Path) -> None:
    ids = [f"{LONG}/{LONG}/{LONG}.wav", f"{3 * LONG}/s/1.wav", "mine-jürgen/séance/1.2.wav"]
    corpus = written(tmp_path / "audio", ids)
    same_samples(corpus, write_shards(corpus, tmp_path / "shards", megabytes=1))
    with tarfile.open(tmp_path / "shards" / "vox2-dev" / "000000.tar") as archive:
        names = {unquote(name) for name in archive.getnames() if name.endswith(".wav")}
    assert names == set(ids)


def test_recordings_as_they_came_keep_their_bytes_and_segments_become_files(tmp_path: Path) -> None:
    spoken, long = m4a(noise(1, 24_000)), m4a(noise(2, 64_000))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.m4a", spoken)
        member = archive.getinfo("a.m4a")
    (tmp_path / "long.m4a").write_bytes(long)
    ids = ["anna/1/whole.wav", "anna/2/first.wav", "bert/2/second.wav"]
    corpus = pd.DataFrame({"utterance_id": ids, "codec": "m4a", "first_sample": [0, 0, 20_000]}).assign(
        path=[str(tmp_path / name) for name in ("a.zip", "long.m4a", "long.m4a")],
        offset=[member.header_offset + 30 + len("a.m4a"), 0, 0],
        num_bytes=[member.compress_size, 0, 0],
        deflated=[True, False, False],
        num_samples=[len(decode_audio(spoken, "a.m4a")), 16_000, 16_000],
    )
    corpus = described(corpus)
    index = write_shards(corpus, tmp_path / "shards", megabytes=1)
    same_samples(corpus, index)
    assert index["codec"].tolist() == ["m4a", "", ""]
    assert index["first_sample"].tolist() == [0, 0, 0]
    with tarfile.open(tmp_path / "shards" / "vox2-dev" / "000000.tar") as archive:
        kept = archive.extractfile("anna/1/whole.m4a")
        assert kept is not None
        assert kept.read() == spoken
        assert {"anna/2/first.wav", "bert/2/second.wav"} <= {*archive.getnames()}


def test_shards_that_are_there_are_kept_and_others_written_again(
    tmp_path: Path, corpus: pd.DataFrame
) -> None:
    folder = tmp_path / "shards"
    whole = write_shards(corpus, folder, megabytes=1)
    before = digests(folder)
    first, second = sorted(folder.glob("*/*.tar"))
    kept = first.stat()
    second.write_bytes(second.read_bytes()[:-1])
    pd.testing.assert_frame_equal(write_shards(corpus, folder, megabytes=1), whole)
    assert digests(folder) == before
    assert first.stat().st_mtime_ns == kept.st_mtime_ns
    assert first.stat().st_ino == kept.st_ino


def test_another_speaker_or_another_size_makes_other_shards(tmp_path: Path, corpus: pd.DataFrame) -> None:
    folder = tmp_path / "shards"
    write_shards(corpus, folder, megabytes=1)
    renamed = corpus.assign(speaker_id="x" + corpus["speaker_id"])
    write_shards(renamed, folder, megabytes=1)
    with tarfile.open(folder / "vox2-dev" / "000000.tar") as archive:
        spoken = archive.extractfile(archive.getmembers()[0])
        assert spoken is not None
        assert spoken.read().startswith(b"xid")
    index = write_shards(corpus, folder, megabytes=100)
    assert [path.name for path in sorted(folder.glob("*/*.tar"))] == ["000000.tar"]
    same_samples(corpus, index)


def test_a_killed_writer_is_resumed_to_the_same_bytes(tmp_path: Path, corpus: pd.DataFrame) -> None:
    """The writer waits at a recording that is a pipe, after its first shard."""
    folder, undisturbed = tmp_path / "shards", tmp_path / "undisturbed"
    first, second = plan_shards(corpus, folder, megabytes=1)
    write_shards(corpus, undisturbed, megabytes=1)
    path = Path(corpus["path"].iloc[second.rows[3]])
    recording = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    process = multiprocessing.get_context("spawn").Process(target=write_shards, args=(corpus, folder, 1))
    process.start()
    part = second.path.with_name(f".{second.path.name}.part")
    wait_until(part.exists)
    process.kill()
    process.join()
    assert first.record.exists()
    assert not second.path.exists()
    kept = first.path.stat().st_ino
    path.unlink()
    path.write_bytes(recording)
    same_samples(corpus, write_shards(corpus, folder, megabytes=1))
    assert digests(folder) == digests(undisturbed)
    assert first.path.stat().st_ino == kept
    assert not part.exists()


def test_two_processes_write_the_shards_of_one(tmp_path: Path, corpus: pd.DataFrame) -> None:
    alone = write_shards(corpus, tmp_path / "alone", megabytes=1)
    outcomes = run_processes(2, write_shards, corpus, tmp_path / "shared", 1)
    for outcome in outcomes:
        names = ["utterance_id", "offset", "num_bytes"]
        pd.testing.assert_frame_equal(outcome.value[names], alone[names])
    assert digests(tmp_path / "shared") == digests(tmp_path / "alone")


def test_lists_name_shards_and_speakers_as_wespeaker_reads_them(tmp_path: Path, corpus: pd.DataFrame) -> None:
    write_shards(corpus, tmp_path / "shards", megabytes=1)
    folder = tmp_path / "shards" / "vox2-dev"
    assert (folder / "shard.list").read_text().splitlines() == [
        str(folder / "000000.tar"),
        str(folder / "000001.tar"),
    ]
    speaker_of = dict(line.split() for line in (folder / "utt2spk").read_text().splitlines())
    ids, speakers = corpus["utterance_id"].str.removesuffix(".wav"), corpus["speaker_id"]
    assert speaker_of == dict(zip(ids, speakers, strict=True))


def test_a_folder_of_shards_can_be_moved(tmp_path: Path, corpus: pd.DataFrame) -> None:
    folder, moved = tmp_path / "shards", tmp_path / "elsewhere"
    UTTERANCES.write(write_shards(corpus, folder, megabytes=1), folder / INDEX, folder)
    folder.rename(moved)
    utterances, rejected = read_shards(moved, ["vox2-dev"])
    same_samples(corpus, utterances)
    assert rejected.empty
    (moved / "vox2-dev" / "000001.tar").unlink()
    with pytest.raises(DataError, match=r"index\.parquet.*missing.*000001\.tar"):
        read_shards(moved, ["vox2-dev"])


def test_utterances_of_shards_may_be_too_short_too(tmp_path: Path, corpus: pd.DataFrame) -> None:
    UTTERANCES.write(write_shards(corpus, tmp_path / "shards", megabytes=1), tmp_path / "shards" / INDEX)
    utterances, rejected = read_shards(tmp_path / "shards", ["vox2-dev"], min_duration_seconds=0.53)
    assert utterances["utterance_id"].tolist() == corpus["utterance_id"].tolist()[2:]  # 0.5, 0.525, 0.55 s
    assert rejected["file_id"].tolist() == corpus["utterance_id"].tolist()[:2]
    assert rejected["reason"][1] == "8400 samples, shorter than 0.53 s"


def test_a_subset_that_shards_lack_is_named(tmp_path: Path, corpus: pd.DataFrame) -> None:
    folder = tmp_path / "shards"
    with pytest.raises(DataError, match=r"shards/index\.parquet.*--pipeline=shards"):
        read_shards(folder, ["vox2-dev"])
    UTTERANCES.write(write_shards(corpus, folder, megabytes=1), folder / INDEX, folder)
    with pytest.raises(DataError, match=r"vox1-test.*vox2-dev"):
        read_shards(folder, ["vox2-dev", "vox1-test"])


def test_shards_are_not_written_over_what_they_are_read_from(tmp_path: Path, corpus: pd.DataFrame) -> None:
    index = write_shards(corpus, tmp_path / "shards", megabytes=1)
    with pytest.raises(DataError, match="'utterances'"):
        write_shards(index, tmp_path / "shards", megabytes=2)
    copy = write_shards(index, tmp_path / "others", megabytes=1)
    same_samples(corpus, copy)
    assert digests(tmp_path / "others") == digests(tmp_path / "shards")


def test_a_missing_recording_is_named_and_leaves_no_shard(tmp_path: Path, corpus: pd.DataFrame) -> None:
    Path(corpus["path"].iloc[7]).unlink()
    with pytest.raises(DataError, match=r"audio/7\.wav"):
        write_shards(corpus, tmp_path / "shards", megabytes=100)
    assert not [*(tmp_path / "shards").rglob("*.tar")]
