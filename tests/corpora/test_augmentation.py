"""MUSAN and RIRS_NOISES."""

from __future__ import annotations

import io
import logging
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speaker_verification.common.errors import DataError
from speaker_verification.corpora.augmentation import extract_musan, extract_rirs
from speaker_verification.corpora.conversion.convert import UNSAFE
from speaker_verification.corpora.rirs_noises import RIR_LIST
from tests.support.corpora import flac, noise, tarred, wav, zipped


def test_musan_is_catalogued_by_kind(mirror_folder: Path, tmp_path: Path) -> None:
    clips, rejected = extract_musan(mirror_folder / "musan.tar.gz", tmp_path / "out", 0.0)
    assert rejected.empty
    assert clips.to_dict("list") == {
        "clip_id": [f"{kind}/x/{kind}-x-0.wav" for kind in ("music", "noise", "speech")],
        "kind": ["music", "noise", "speech"],
        "path": [
            str(tmp_path / f"out/musan/{kind}/x/{kind}-x-0.wav") for kind in ("music", "noise", "speech")
        ],
        "num_samples": [16_000] * 3,
        "num_channels": [1] * 3,
        "vocals": [True, False, False],  # of music, which no annotation calls free of them
    }
    assert Path(clips["path"][0]).read_bytes() == wav(noise(5))


def test_music_has_vocals_unless_annotations_say_that_it_has_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    archive = tmp_path / "musan.tar.gz"
    names = ["music/fma/music-fma-0", "music/fma/music-fma-1", "music/rfm/music-rfm-0", "music/x/music-x-0"]
    sounds = {f"musan/{name}.wav": wav(noise(at)) for at, name in enumerate([*names, "noise/y/noise-y-0"])}
    annotations = {
        "musan/music/fma/ANNOTATIONS": b"music-fma-0 rock,pop N Some Band\nmusic-fma-1 folk Y Singer\n\n",
        "musan/music/rfm/ANNOTATIONS": b"music-rfm-0\tbaroque\tN\tHarpsichordist\r\nmusic-rfm-9 jazz N x\n",
        "musan/speech/z/ANNOTATIONS": b"music-x-0 f english N\n",
    }
    archive.write_bytes(tarred({**sounds, **annotations}))
    expected = dict(zip([f"{name}.wav" for name in names], [False, True, False, True], strict=True))

    def vocals() -> dict[str, bool]:
        clips, _ = extract_musan(archive, tmp_path / "out", 0.0)
        return dict(zip(clips["clip_id"], clips["vocals"], strict=True))

    assert vocals() == {**expected, "noise/y/noise-y-0.wav": False}
    assert "musan: 3 of 4 annotated clips of music have no vocals" in caplog.messages
    caplog.clear()
    assert vocals() == {**expected, "noise/y/noise-y-0.wav": False}
    assert not any("annotat" in line for line in caplog.messages)  # the archive was not gone through again
    archive.write_bytes(tarred(sounds))
    assert vocals() == {**dict.fromkeys(expected, True), "noise/y/noise-y-0.wav": False}


def test_simulated_responses_and_the_listed_real_ones_are_taken(mirror_folder: Path, tmp_path: Path) -> None:
    responses, rejected = extract_rirs(mirror_folder / "rirs_noises.zip", tmp_path / "out", 0.0)
    assert rejected.empty
    assert list(responses["rir_id"]) == [
        "real_rirs_isotropic_noises/real_000.wav",
        "simulated_rirs/smallroom/Room001/Room001-00001.wav",
    ]
    assert list(responses["kind"]) == ["real", "simulated"]
    assert list(responses["num_samples"]) == [900, 800]
    assert list(responses["num_channels"]) == [2, 1]


def test_what_is_there_already_is_kept(mirror_folder: Path, tmp_path: Path) -> None:
    first, _ = extract_musan(mirror_folder / "musan.tar.gz", tmp_path / "out", 0.0)
    inodes = [Path(path).stat().st_ino for path in first["path"]]
    second, _ = extract_musan(mirror_folder / "musan.tar.gz", tmp_path / "out", 0.0)
    assert [Path(path).stat().st_ino for path in second["path"]] == inodes


def test_bad_clips_and_paths_are_listed_and_left_out(tmp_path: Path) -> None:
    archive = tmp_path / "musan.tar.gz"
    members = {
        "musan/noise/x/good.wav": wav(noise(1)),
        "musan/noise/x/slow.wav": wav(noise(1), rate=8_000),
        "musan/noise/x/empty.wav": wav(noise(1, 0)),
        "musan/noise/x/text.wav": b"text",
        "musan/../../noise/evil.wav": wav(noise(1)),
    }
    archive.write_bytes(tarred(members))
    clips, rejected = extract_musan(archive, tmp_path / "out", 1.0)
    assert list(clips["clip_id"]) == ["noise/x/good.wav"]
    reasons = dict(zip(rejected["file_id"], rejected["reason"], strict=True))
    assert set(rejected["subset"]) == {"musan"}
    assert reasons.pop("noise/x/text.wav").startswith("not audio")
    assert reasons == {
        "noise/x/slow.wav": "8000 Hz instead of 16000",
        "noise/x/empty.wav": "no samples",
        "musan/../../noise/evil.wav": UNSAFE,
    }
    assert not list(tmp_path.rglob("evil*"))
    with pytest.raises(DataError, match="musan: 4 of 5 files"):
        extract_musan(archive, tmp_path / "out", 0.5)


def sound(samples: np.ndarray, subtype: str = "FLOAT", form: str = "WAV") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, 16_000, format=form, subtype=subtype)
    return stream.getvalue()


def with_value(value: float) -> np.ndarray:
    samples = np.full(20_000, 0.25)
    samples[17_000] = value
    return samples


DEAD_CHANNEL = np.stack([noise(1), np.zeros(16_000, np.int16), noise(2)], axis=1)
UNUSABLE = {
    "nan": (sound(with_value(np.nan)), "not finite"),
    "infinite": (sound(with_value(-np.inf), "DOUBLE"), "not finite"),
    "loud": (sound(with_value(1e30)), "not finite"),  # its energy is
    "silent": (wav(np.zeros(16_000, np.int16)), "silent"),
    "faint": (sound(np.full(16_000, 1e-30)), "silent"),  # its energy is 0
    "dead": (wav(DEAD_CHANNEL), "channel 1 of 0 to 2 is silent"),
    "mute": (wav(np.zeros((16_000, 2), np.int16)), "silent"),
    "empty": (b"", "not audio"),
    "text": (b"text" * 100, "not audio"),
    "cut": (flac(noise(1, 60_000))[:40_000], ""),
}


def test_noise_clips_are_decoded_and_judged_before_they_are_drawn(tmp_path: Path) -> None:
    archive = tmp_path / "musan.tar.gz"
    bad = {f"musan/noise/x/{name}.wav": data for name, (data, _) in UNUSABLE.items()}
    short = {"musan/noise/x/short.wav": wav(noise(1, 1_599))}
    good = {"musan/noise/x/good.wav": wav(noise(1, 1_600)), "musan/noise/x/float.wav": sound(with_value(2.0))}
    archive.write_bytes(tarred({**bad, **short, **good}))
    clips, rejected = extract_musan(archive, tmp_path / "out", 1.0)
    assert clips["clip_id"].tolist() == ["noise/x/float.wav", "noise/x/good.wav"]
    reasons = dict(zip(rejected["file_id"], rejected["reason"], strict=True))
    assert reasons.pop("noise/x/short.wav") == "1599 samples, shorter than 0.1 s"
    assert reasons.keys() == {f"noise/x/{name}.wav" for name in UNUSABLE}
    for name, (_, reason) in UNUSABLE.items():
        assert reasons[f"noise/x/{name}.wav"].startswith(reason), name
    assert sorted(path.name for path in tmp_path.rglob("*.wav")) == ["float.wav", "good.wav", "short.wav"]


def test_rirs_are_decoded_and_judged_before_they_are_drawn(tmp_path: Path) -> None:
    archive = tmp_path / "rirs_noises.zip"
    rooms = "RIRS_NOISES/simulated_rirs/smallroom/Room001"
    bad = {f"{rooms}/{name}.wav": data for name, (data, _) in UNUSABLE.items()}
    dead = "RIRS_NOISES/real_rirs_isotropic_noises/dead.wav"
    good = {f"{rooms}/good.wav": wav(noise(1, 10))}
    listed = {RIR_LIST: f"--rir-id 1 --room-id r {dead}\n".encode(), dead: wav(DEAD_CHANNEL)}
    archive.write_bytes(zipped({**bad, **good, **listed}))
    responses, rejected = extract_rirs(archive, tmp_path / "out", 1.0)
    assert [name.rpartition("/")[2] for name in responses["rir_id"]] == ["good.wav"]
    reasons = dict(zip(rejected["file_id"], rejected["reason"], strict=True))
    assert reasons.pop(dead.partition("/")[2]) == "channel 1 of 0 to 2 is silent"
    assert len(reasons) == len(UNUSABLE)
    with pytest.raises(DataError, match="rirs_noises: 11 of 12 files"):
        extract_rirs(archive, tmp_path / "out", 0.01)


def test_clips_that_an_earlier_version_took_unjudged_are_judged(tmp_path: Path) -> None:
    archive, out = tmp_path / "musan.tar.gz", tmp_path / "out"
    archive.write_bytes(tarred({f"musan/noise/x/{n}.wav": wav(noise(n)) for n in (1, 2)}))
    extract_musan(archive, out, 0.0)
    marker = out / "musan/.source"
    times = marker.stat()
    marker.write_text(marker.read_text().replace(" decoded whole", ""))
    os.utime(marker, ns=(times.st_atime_ns, times.st_mtime_ns))
    (out / "musan/noise/x/1.wav").write_bytes(bytes(len(wav(noise(1)))))
    clips, _ = extract_musan(archive, out, 0.0)
    assert len(clips) == 2
    assert (out / "musan/noise/x/1.wav").read_bytes() == wav(noise(1))


def test_folders_in_front_and_what_other_systems_add_change_no_catalog(tmp_path: Path) -> None:
    added = {"__MACOSX/musan/noise/x/._1.wav": b"\0", "data/musan/noise/x/._1.wav": b"\0", ".DS_Store": b""}
    musan = {"data/musan/noise/x/1.WAV": wav(noise(1)), "data\\musan\\music\\x\\2.wav": wav(noise(2))}
    (tmp_path / "musan.tar.gz").write_bytes(tarred({**musan, **added}))
    clips, rejected = extract_musan(tmp_path / "musan.tar.gz", tmp_path / "out", 0.0)
    assert clips["clip_id"].tolist() == ["music/x/2.wav", "noise/x/1.wav"]
    assert rejected.empty
    real = "RIRS_NOISES\\real_rirs_isotropic_noises"
    rooms = {
        f"data\\{real}\\rir_list": "\ufeff--rir-id 1 RIRS_NOISES/real_rirs_isotropic_noises/1.WAV\n".encode(),
        f"data\\{real}\\1.wav": wav(noise(1)),
        "data/RIRS_NOISES/simulated_rirs/a/b/c.wav": wav(noise(2)),
        "data/RIRS_NOISES/simulated_rirs/a/b/._c.wav": b"\0",
    }
    (tmp_path / "rirs_noises.zip").write_bytes(zipped(rooms))
    responses, rejected = extract_rirs(tmp_path / "rirs_noises.zip", tmp_path / "out", 0.0)
    assert responses["kind"].tolist() == ["real", "simulated"]
    assert rejected.empty


def test_a_link_in_a_tar_archive_is_not_followed(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        link = tarfile.TarInfo("musan/noise/x/link.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        good = tarfile.TarInfo("musan/noise/x/good.wav")
        good.size = len(wav(noise(1)))
        archive.addfile(good, io.BytesIO(wav(noise(1))))
    (tmp_path / "musan.tar.gz").write_bytes(stream.getvalue())
    clips, rejected = extract_musan(tmp_path / "musan.tar.gz", tmp_path / "out", 1.0)
    assert list(clips["clip_id"]) == ["noise/x/good.wav"]
    assert list(rejected["file_id"]) == ["noise/x/link.wav"]


@pytest.mark.parametrize("cut", [0, 200, -200])
def test_a_cut_tar_archive_is_refused(tmp_path: Path, cut: int) -> None:
    archive = tmp_path / "musan.tar.gz"
    archive.write_bytes(tarred({"musan/noise/x/1.wav": wav(noise(1))})[:cut])
    with pytest.raises(DataError, match=r"not a whole zip or tar archive"):
        extract_musan(archive, tmp_path / "out", 1.0)


def test_an_archive_without_clips_is_refused(tmp_path: Path) -> None:
    (tmp_path / "musan.tar.gz").write_bytes(tarred({"musan/README": b"hello"}))
    with pytest.raises(DataError, match="musan: its archive holds no recordings"):
        extract_musan(tmp_path / "musan.tar.gz", tmp_path / "out", 1.0)


def test_a_missing_list_of_real_responses_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "rirs_noises.zip"
    archive.write_bytes(zipped({"RIRS_NOISES/simulated_rirs/a/b/c.wav": wav(noise(1))}))
    with pytest.raises(DataError, match="lacks RIRS_NOISES/real_rirs_isotropic_noises/rir_list"):
        extract_rirs(archive, tmp_path / "out", 1.0)


def test_listed_rirs_that_are_absent_misplaced_or_damaged_are_rejected(tmp_path: Path) -> None:
    archive = tmp_path / "rirs_noises.zip"
    damaged = "RIRS_NOISES/simulated_rirs/a/b/d.wav"
    lines = ["--rir-id 1 --room-id r RIRS_NOISES/absent.wav", "", "--rir-id 2 --room-id r ../evil.wav"]
    members = {
        "RIRS_NOISES/simulated_rirs/a/b/c.wav": wav(noise(1)),
        damaged: wav(noise(2)),
        "../evil.wav": wav(noise(3)),
        RIR_LIST: "\n".join(lines).encode(),
    }
    data = bytearray(zipped(members))
    data[data.index(damaged.encode()) + len(damaged) + 2_000] ^= 0xFF
    archive.write_bytes(data)
    responses, rejected = extract_rirs(archive, tmp_path / "out", 1.0)
    assert list(responses["rir_id"]) == ["simulated_rirs/a/b/c.wav"]
    reasons = dict(zip(rejected["file_id"], rejected["reason"], strict=True))
    assert reasons.pop("simulated_rirs/a/b/d.wav").startswith("damaged in the archive")
    assert reasons == {
        "absent.wav": "named by rir_list, but not in the archive",
        "../evil.wav": UNSAFE,
    }
    assert not list(tmp_path.rglob("evil*"))
