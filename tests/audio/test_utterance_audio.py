from __future__ import annotations

import io
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from speaker_verification.audio import utterance_audio
from speaker_verification.audio.files import decode_audio, encode_audio, read_audio
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.audio.places import Place, next_part
from speaker_verification.audio.utterance_audio import UtteranceAudio
from speaker_verification.common.errors import DataError


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return (3000 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.int16)


def as_mp3(samples: np.ndarray) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, SAMPLE_RATE, format="MP3")
    return stream.getvalue()


def table(path: Path, num_samples: int, **place: Any) -> pd.DataFrame:
    row = {"utterance_id": "anna/1/1.wav", "path": str(path), "num_samples": num_samples}
    return pd.DataFrame([row | place])


def test_a_prepared_file_is_read_in_place(tmp_path: Path) -> None:
    samples = noise(20_000)
    (tmp_path / "a.wav").write_bytes(encode_audio(samples, "wav"))
    audio = UtteranceAudio(table(tmp_path / "a.wav", 20_000))
    np.testing.assert_array_equal(audio.read(0, 500, 100), samples[500:600] / np.float32(32768))
    assert len(audio.read(0)) == 20_000


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_member_gives_the_samples_of_the_same_file(tmp_path: Path, packing: int) -> None:
    encoded = as_mp3(noise(30_000))
    (tmp_path / "alone.mp3").write_bytes(encoded)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", packing) as archive:
        archive.writestr("before.txt", "x" * 1000)
        archive.writestr("a.mp3", encoded)
        member = archive.getinfo("a.mp3")
    offset = member.header_offset + 30 + len("a.mp3")
    num_samples = len(decode_audio(encoded, "a"))
    place = {
        "offset": offset,
        "num_bytes": member.compress_size,
        "deflated": packing == zipfile.ZIP_DEFLATED,
        "codec": "mp3",
    }
    audio = UtteranceAudio(table(tmp_path / "a.zip", num_samples, **place))
    np.testing.assert_array_equal(audio.read(0), read_audio(tmp_path / "alone.mp3"))
    np.testing.assert_array_equal(audio.read(0, 7000, 50), read_audio(tmp_path / "alone.mp3")[7000:7050])


def test_a_recording_that_begins_in_one_part_continues_in_the_next_ones(tmp_path: Path) -> None:
    encoded = encode_audio(noise(2_000), "flac")
    data = b"before" + encoded + b"behind"
    cuts = [0, 100, 150, len(data)]
    for suffix, start, stop in zip(("ay", "az", "ba"), cuts[:-1], cuts[1:], strict=True):
        (tmp_path / f"x_part{suffix}").write_bytes(data[start:stop])
    place = Place(str(tmp_path / "x_partay"), 6, len(encoded))
    assert place.read() == encoded
    (tmp_path / "x_partba").unlink()
    missing = len(encoded) + 6 - 150
    with pytest.raises(DataError, match=f"x_partay, byte 6: the file ends {missing} bytes before"):
        place.read()
    assert next_part(Path("/d/vox2_dev_aac_partah")) == Path("/d/vox2_dev_aac_partai")


def test_a_segment_is_cut_from_its_decoded_recording(tmp_path: Path) -> None:
    samples = noise(50_000)
    (tmp_path / "call.flac").write_bytes(encode_audio(samples, "flac"))
    audio = UtteranceAudio(table(tmp_path / "call.flac", 8_000, codec="flac", first_sample=16_000))
    np.testing.assert_array_equal(audio.read(0), samples[16_000:24_000] / np.float32(32768))
    np.testing.assert_array_equal(audio.read(0, 10, 5), samples[16_010:16_015] / np.float32(32768))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Least samples that every decoded recording was asked for."""
    seen: list[int | None] = []

    def decode(source: bytes, name: str, least_samples: int | None) -> np.ndarray:
        seen.append(least_samples)
        return decode_audio(source, name, least_samples)

    monkeypatch.setattr(utterance_audio, "decode_audio", decode)
    return seen


def test_a_kept_recording_is_decoded_once_for_all_of_its_segments(
    tmp_path: Path, decoded: list[int | None]
) -> None:
    samples = noise(50_000)
    (tmp_path / "call.flac").write_bytes(encode_audio(samples, "flac"))
    starts = (16_000, 0, 30_000)
    segments = [table(tmp_path / "call.flac", 8_000, codec="flac", first_sample=start) for start in starts]
    audio = UtteranceAudio(pd.concat(segments), cache_megabytes=1)
    for _ in range(2):
        for row, start in enumerate(starts):
            expected = samples[start + 5 : start + 8_000] / np.float32(32768)
            np.testing.assert_array_equal(audio.read(row, 5), expected)
    assert decoded == [None]


def test_a_recording_without_room_in_memory_is_decoded_as_far_as_it_is_used(
    tmp_path: Path, decoded: list[int | None]
) -> None:
    samples = noise(600_000)  # 1.2 MB
    (tmp_path / "call.flac").write_bytes(encode_audio(samples, "flac"))
    audio = UtteranceAudio(table(tmp_path / "call.flac", 600_000, codec="flac"), cache_megabytes=1)
    for _ in range(3):
        assert np.array_equal(audio.read(0, 100, 400) * 32768, samples[100:500])
    assert decoded == [None, 500, 500]


def test_other_bytes_in_the_place_of_a_recording_are_never_taken_for_it(tmp_path: Path) -> None:
    archive, prepared, other = (
        tmp_path / "a.tar",
        *(encode_audio(noise(6_000, seed), "wav") for seed in (1, 2)),
    )
    assert len(prepared) == len(other)
    place = {"offset": 700, "num_bytes": len(prepared), "codec": "wav", "crc32": zlib.crc32(prepared)}
    audio = UtteranceAudio(table(archive, 6_000, **place))
    archive.write_bytes(bytes(700) + prepared + bytes(99))
    np.testing.assert_array_equal(audio.read(0) * 32768, noise(6_000, 1))
    named = re.escape(f"anna/1/1.wav: {archive}, byte 700: ")
    for changed, reason in (
        (bytes(700) + other + bytes(99), "not the recording that was prepared"),
        (bytes(699) + prepared + bytes(99), "not the recording that was prepared"),
        ((bytes(700) + prepared)[:-80], "the file ends 80 bytes before the recording does"),
        (b"", f"the file ends {len(prepared)} bytes before"),
    ):
        archive.write_bytes(changed)
        with pytest.raises(DataError, match=f"^{named}{reason}.*kedro run --pipeline=prepare$"):
            audio.read(0, 0, 10)
    archive.unlink()
    with pytest.raises(DataError, match=f"^{named}cannot be read: No such file.*--pipeline=prepare$"):
        audio.read(0)


def test_a_recording_that_does_not_decode_is_named_with_its_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no sound" * 100)
    place = {"offset": 8, "num_bytes": 400, "codec": "m4a", "crc32": zlib.crc32(b"no sound" * 50)}
    with pytest.raises(DataError, match=r"^anna/1/1.wav \(.*a.tar, byte 8\): not audio: "):
        UtteranceAudio(table(tmp_path / "a.tar", 6_000, **place)).read(0)


def test_a_recording_that_is_not_the_prepared_one_is_named(tmp_path: Path) -> None:
    encoded = encode_audio(noise(5_000), "wav")
    (tmp_path / "a.tar").write_bytes(encoded)
    place = {"offset": 0, "num_bytes": len(encoded), "codec": "wav"}
    audio = UtteranceAudio(table(tmp_path / "a.tar", 6_000, **place))
    with pytest.raises(DataError, match=r"anna/1/1.wav \(.*a.tar, byte 0\): the recording has 5000 samples"):
        audio.read(0)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'b.tar'}, byte 0: cannot be read: No such")):
        UtteranceAudio(table(tmp_path / "b.tar", 6_000, **place)).read(0)
    deflated = zlib.compress(encoded)[5:]
    (tmp_path / "c.zip").write_bytes(deflated)
    with pytest.raises(DataError, match="no deflated member of a zip archive"):
        Place(str(tmp_path / "c.zip"), 0, len(deflated), deflated=True).read()
