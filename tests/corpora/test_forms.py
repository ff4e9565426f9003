"""Forms in which mirrors hold VoxCeleb: archives, unpacked folders, WebDataset tars, wespeaker's shards."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from speaker_verification.audio.format import CorpusFormat
from speaker_verification.audio.utterance_audio import UtteranceAudio
from speaker_verification.common.errors import DataError
from speaker_verification.corpora.conversion.convert import UNPARSED
from speaker_verification.corpora.conversion.sources import ShardsSource
from speaker_verification.corpora.mirror import Digests, Mirror
from speaker_verification.corpora.registry import corpus_of
from speaker_verification.corpora.utterances import convert_subset, list_subset
from tests.support.corpora import cnceleb_files, noise, tarred, wav, write_checksums, write_cnceleb_mirror


def unzipped(mirror: Path, subset: str) -> dict[str, bytes]:
    """Recordings of a subset's archive by SPEAKER/SESSION/UTTERANCE.ENDING."""
    parts = Mirror(mirror).files(corpus_of(subset).subsets[subset].archive.name)
    with zipfile.ZipFile(io.BytesIO(b"".join(path.read_bytes() for path in parts))) as archive:
        return {"/".join(name.split("/")[-3:]): archive.read(name) for name in archive.namelist()}


def write_files(folder: Path, members: Mapping[str, bytes]) -> None:
    for name, data in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def halves(members: dict[str, bytes]) -> list[dict[str, bytes]]:
    """Members in two archives, of which each speaker is in one."""
    speakers = sorted({name.split("/")[0] for name in members})
    return [
        {name: data for name, data in members.items() if speakers.index(name.split("/")[0]) % 2 == half}
        for half in (0, 1)
    ]


def webdataset(members: Mapping[str, bytes]) -> bytes:
    """A tar as `gaunernst/voxceleb2-dev-wds` has it: each recording with the number of its class."""
    files: dict[str, bytes] = {}
    for name, data in members.items():
        files[name] = data
        files[f"{name.rpartition('.')[0]}.cls"] = b"1459"
    return tarred(files, "w")


def wespeaker(members: Mapping[str, bytes]) -> bytes:
    """A shard as wespeaker's tools/make_shard_list.py writes it: keys end in .wav, speakers come first."""
    files: dict[str, bytes] = {}
    for name, data in members.items():
        stem, _, ending = name.rpartition(".")
        files |= {f"{stem}.wav.spk": name.split("/")[0].encode(), f"{stem}.wav.{ending}": data}
    return tarred(files, "w")


def read(mirror: Path, subset: str, folder: Path, audio_format: CorpusFormat) -> pd.DataFrame:
    found = Mirror(mirror)
    found.check([corpus_of(subset).subsets[subset].archive.name], digests=None)
    return convert_subset(subset, found.source(subset), folder, 0.5, 0.0, 0, audio_format)[0]


def same(first: pd.DataFrame, second: pd.DataFrame) -> None:
    """Ids, speakers, sessions and all samples of two tables are equal."""
    columns = ["utterance_id", "speaker_id", "session_id", "subset", "num_samples"]
    pd.testing.assert_frame_equal(first[columns], second[columns])
    one, other = UtteranceAudio(first), UtteranceAudio(second)
    for row in range(len(first)):
        assert np.array_equal(one.read(row), other.read(row))


@pytest.mark.parametrize("audio_format", ["wav", "as_is"])
@pytest.mark.parametrize("form", ["dev/aac", "voxceleb2/dev/aac", "webdataset", "wespeaker"])
def test_voxceleb2_is_the_same_in_every_form(
    mirror_folder: Path, tmp_path: Path, form: str, audio_format: CorpusFormat
) -> None:
    members = unzipped(mirror_folder, "vox2-dev")
    other = tmp_path / "other"
    other.mkdir()
    if form == "webdataset":
        for number, half in enumerate(halves(members)):
            (other / f"voxceleb2-dev-{number:04d}.tar").write_bytes(webdataset(half))
    elif form == "wespeaker":
        for number, half in enumerate(halves(members)):
            write_files(other / "vox2_dev", {f"shards/shards_{number:09d}.tar": wespeaker(half)})
        where_made = "data/vox2_dev/shards/shards_{:09d}.tar\n"
        (other / "vox2_dev/shard.list").write_text(where_made.format(0) + where_made.format(1))
    else:
        write_files(other / form, members)
    packed = read(mirror_folder, "vox2-dev", tmp_path / "packed", audio_format)
    assert len(packed) == 8
    same(packed, read(other, "vox2-dev", tmp_path / "unpacked", audio_format))


@pytest.mark.parametrize("form", ["wav", "voxceleb1", "shards"])
def test_one_folder_of_voxceleb1_is_parted_by_the_test_speakers(
    mirror_folder: Path, tmp_path: Path, form: str
) -> None:
    members = unzipped(mirror_folder, "vox1-dev") | unzipped(mirror_folder, "vox1-test")
    other = tmp_path / "other"
    if form == "shards":
        write_files(other / "vox1", {"shard.list": b"a.tar", "shards/a.tar": wespeaker(members)})
    else:
        write_files(other / form, members | {"id00012/s/1.wav": wav(noise(1))})  # VoxCeleb2's in one folder
    for subset in ("vox1-dev", "vox1-test"):
        packed = read(mirror_folder, subset, tmp_path / "packed", "wav")
        same(packed, read(other, subset, tmp_path / "unpacked", "wav"))


def test_voxceleb1_unpacked_as_wespeaker_does_has_a_folder_for_each_subset(
    mirror_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for subset in ("dev", "test"):
        write_files(other / "voxceleb1" / subset / "wav", unzipped(mirror_folder, f"vox1-{subset}"))
        packed = read(mirror_folder, f"vox1-{subset}", tmp_path / "packed", "wav")
        same(packed, read(other, f"vox1-{subset}", tmp_path / "unpacked", "wav"))


def test_an_archive_goes_before_other_forms_and_the_log_names_what_was_taken(
    mirror_folder: Path, tmp_path: Path
) -> None:
    write_files(mirror_folder / "wav", unzipped(mirror_folder, "vox1-test"))
    (mirror_folder / "vox2_test_aac.zip").unlink()
    write_files(mirror_folder / "aac", {"id09001/a/00001.m4a": b""})
    (line,) = Mirror(mirror_folder).describe(["vox1-test", "vox2-dev", "vox2-test"])
    assert line == (
        "voxceleb (CC BY 4.0): vox1-test from vox1_test_wav.zip; vox2-dev from vox2_dev_aac_partaa and "
        "2 more parts; vox2-test from folder aac"
    )


def test_checksums_of_archives_that_were_unpacked_are_not_asked_for(mirror_folder: Path) -> None:
    write_files(mirror_folder / "wav", unzipped(mirror_folder, "vox1-test"))
    write_checksums(mirror_folder)
    (mirror_folder / "vox1_test_wav.zip").unlink()
    Mirror(mirror_folder).check(["vox1_test_wav.zip"], Digests(mirror_folder))


def test_a_shard_that_a_list_names_and_that_is_nowhere_is_named_with_its_line(tmp_path: Path) -> None:
    write_files(tmp_path / "vox2_dev", {"shard.list": b"/old/a.tar\n/old/b.tar\n", "a.tar": wespeaker({})})
    with pytest.raises(DataError, match=r"shard\.list, line 2: no archive /old/b\.tar"):
        Mirror(tmp_path).source("vox2-dev")


def test_wespeakers_shards_of_cnceleb_hold_both_training_sets_and_the_test(tmp_path: Path) -> None:
    packed, shards = write_cnceleb_mirror(tmp_path / "packed"), tmp_path / "shards"
    files = {
        name: data for part in (1, 2) for name, data in cnceleb_files(part).items() if name.endswith(".flac")
    }
    training = {"/".join(name.split("/")[-2:]): data for name, data in files.items() if "/data/" in name}
    keys = {"/".join(name.split("/")[-2:]): data for name, data in files.items() if "/eval/" in name}
    tested = {
        f"{name}{ending}": content
        for name, data in keys.items()
        for ending, content in ((".spk", name.split("/")[1][:7].encode()), (".flac", data))
    }
    write_files(shards / "cnceleb_train", {"shard.list": b"a.tar", "a.tar": wespeaker(training)})
    write_files(shards / "eval", {"shard.list": b"a.tar", "a.tar": tarred(tested, "w")})
    for subset in ("cnceleb1-dev", "cnceleb1-eval", "cnceleb2-dev"):
        same(
            read(packed, subset, tmp_path / "a", "wav"),
            read(shards, subset, tmp_path / "b", "wav"),
        )


def test_a_list_that_should_come_with_the_recordings_is_read_from_the_mirror_or_missed(
    tmp_path: Path,
) -> None:
    write_cnceleb_mirror(tmp_path, unpacked=True)
    packed = tmp_path / "CN-Celeb_flac/eval/lists/trials.lst"
    found = Mirror(tmp_path).list_file("eval/lists/trials.lst")
    assert (found.name, found.read_bytes()) == ("trials.lst", packed.read_bytes())
    packed.rename(tmp_path / "trials.lst")
    with pytest.raises(DataError, match=r"CN-Celeb_flac: holds no eval/lists/trials\.lst, which comes with"):
        Mirror(tmp_path).list_file("eval/lists/trials.lst").read_bytes()
    (tmp_path / "CN-Celeb_flac").rename(tmp_path / "elsewhere")
    with pytest.raises(
        DataError, match=r"cn-celeb_v2\.tar\.gz: no such file; put eval/lists/trials\.lst into"
    ):
        Mirror(tmp_path).list_file("eval/lists/trials.lst").read_bytes()
    write_files(tmp_path, {"eval/lists/trials.lst": b"1"})
    assert Mirror(tmp_path).list_file("eval/lists/trials.lst").read_bytes() == b"1"


def named(tmp_path: Path, files: Mapping[str, bytes]) -> list[str]:
    archive = tmp_path / "a.tar"
    archive.write_bytes(tarred(files, "w"))
    return [member.name for member in ShardsSource((archive,)).members()]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"k1.spk": b"anna\n", "k1.wav": b""}, ["anna/k1.wav"]),
        ({"k1.wav": b"", "k1.spk": b"anna"}, ["anna/k1.wav"]),
        ({"anna/s/k1.spk": b"anna", "anna/s/k1.flac": b""}, ["anna/s/k1.flac"]),
        ({"bela/k1.spk": b"anna", "bela/k1.wav": b""}, ["anna/bela/k1.wav"]),
        ({"k1.cls": b"7", "k1.m4a": b""}, ["7/k1.m4a"]),
        ({"anna/s/k1.cls": b"7", "anna/s/k1.m4a": b""}, ["anna/s/k1.m4a"]),
        ({"k1.json": json.dumps({"text": "", "speaker": 12}).encode(), "k1.mp3": b""}, ["12/k1.mp3"]),
        ({"k1.wav": b"", "k2.spk": b"bela", "k2.wav": b"", "notes.txt": b""}, ["k1.wav", "bela/k2.wav"]),
    ],
)
def test_the_speaker_of_a_shards_recording_is_in_the_file_beside_it(
    tmp_path: Path, files: dict[str, bytes], expected: list[str]
) -> None:
    assert named(tmp_path, files) == expected


def test_a_broken_json_beside_a_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tar, k1\.json: not a JSON object"):
        named(tmp_path, {"k1.json": b"{", "k1.wav": b""})


def test_a_speaker_who_contradicts_the_path_is_refused(tmp_path: Path) -> None:
    members = {"id00012/s/1.wav.spk": b"id00013", "id00012/s/1.wav.wav": wav(noise(1))}
    write_files(tmp_path / "vox2_dev", {"shard.list": b"a.tar", "a.tar": tarred(members, "w")})
    utterances, rejected = list_subset("vox2-dev", Mirror(tmp_path).source("vox2-dev"))
    assert utterances.empty
    assert rejected[["file_id", "reason"]].to_numpy().tolist() == [["id00013/id00012/s/1.wav", UNPARSED]]
