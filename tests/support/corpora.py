"""Writes tiny corpora in VoxCeleb's layout, made of noise."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import av
import numpy as np
import pandas as pd
import soundfile

from speaker_verification.audio.files import encode_audio
from speaker_verification.common.tables import UTTERANCES
from speaker_verification.corpora.settings import SyntheticSettings


def noise(seed: int, num_samples: int = 16_000, channels: int = 1) -> np.ndarray:
    shape = (num_samples,) if channels == 1 else (num_samples, channels)
    return np.random.default_rng(seed).integers(-9_000, 9_000, shape).astype(np.int16)


def wav(samples: np.ndarray, rate: int = 16_000, form: str = "WAV") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form, subtype="PCM_16")
    return stream.getvalue()


def m4a(samples: np.ndarray) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


def zipped(members: Mapping[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def flac(samples: np.ndarray) -> bytes:
    return encode_audio(samples, "flac")


def tarred(members: Mapping[str, bytes], mode: Literal["w", "w:gz"] = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def write_parts(folder: Path, stem: str, data: bytes, num_parts: int) -> list[Path]:
    size = -(-len(data) // num_parts)
    paths = [folder / f"{stem}{suffix}" for suffix in ("aa", "ab", "ac", "ad")[:num_parts]]
    for index, path in enumerate(paths):
        path.write_bytes(data[index * size : (index + 1) * size])
    return paths


def write_checksums(folder: Path) -> None:
    lines = [
        f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
        if path.is_file()
    ]
    (folder / "MD5SUMS").write_text("".join(lines))


def manifest(counts: Mapping[str, int], subset: str = "vox2-dev") -> pd.DataFrame:
    """Utterances by number for every speaker, two to a session."""
    rows = [
        (
            f"{speaker}/s{number // 2}/{number:05d}.wav",
            speaker,
            f"s{number // 2}",
            subset,
            "x.wav",
            32_000,
            2.0,
        )
        for speaker, count in counts.items()
        for number in range(count)
    ]
    return pd.DataFrame(rows, columns=UTTERANCES.required)


def write_augmentation(folder: Path) -> None:
    """MUSAN and RIRS_NOISES of a few noises."""
    musan = {f"musan/{kind}/x/{kind}-x-0.wav": wav(noise(5)) for kind in ("noise", "music", "speech")}
    (folder / "musan.tar.gz").write_bytes(tarred({"musan/README": b"hello", **musan}))
    real = "RIRS_NOISES/real_rirs_isotropic_noises"
    responses = {
        "RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00001.wav": wav(noise(6, 800)),
        f"{real}/real_000.wav": wav(noise(7, 900, channels=2)),
        f"{real}/not_listed.wav": wav(noise(7, 900)),
        "RIRS_NOISES/pointsource_noises/noise.wav": wav(noise(8)),
        f"{real}/rir_list": f"--rir-id 00001 --room-id r {real}/real_000.wav\n".encode(),
    }
    (folder / "rirs_noises.zip").write_bytes(zipped(responses))


def write_mirror(folder: Path) -> Path:
    """A whole mirror of a few noises: 2 + 2 speakers of VoxCeleb1, 4 + 1 of VoxCeleb2."""
    folder.mkdir(exist_ok=True)
    for name, data in _mirror_files().items():
        (folder / name).write_bytes(data)
    return folder


@cache
def _mirror_files() -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        _make_mirror(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _make_mirror(folder: Path) -> None:
    names = ["a/00001", "b/00001"]
    dev1 = {f"wav/id1000{s}/{n}.wav": wav(noise(s)) for s in (1, 2) for n in names}
    test1 = {f"wav/id1027{s}/{n}.wav": wav(noise(s)) for s in (0, 1) for n in names}
    dev2 = {f"dev/aac/id0001{s}/{n}.m4a": m4a(noise(s)) for s in (2, 3, 4, 5) for n in names}
    test2 = {f"aac/id09001/{n}.m4a": m4a(noise(9)) for n in names}
    write_parts(folder, "vox1_dev_wav_part", zipped(dev1), 2)
    write_parts(folder, "vox2_dev_aac_part", zipped(dev2), 3)
    (folder / "vox1_test_wav.zip").write_bytes(zipped(test1))
    (folder / "vox2_test_aac.zip").write_bytes(zipped(test2))
    o = "1 id10270/a/00001.wav id10270/b/00001.wav\n0 id10270/a/00001.wav id10271/b/00001.wav\n"
    e = o + "1 id10001/a/00001.wav id10001/b/00001.wav\n0 id10001/a/00001.wav id10271/a/00001.wav\n"
    for name in ("veri_test.txt", "veri_test2.txt"):
        (folder / name).write_text(o)
    for name in ("list_test_all.txt", "list_test_all2.txt", "list_test_hard.txt", "list_test_hard2.txt"):
        (folder / name).write_text(e)
    write_augmentation(folder)
    write_checksums(folder)


LIBRISPEECH = {
    "train-clean-100": ("19", "26", "27", "32", "39", "40", "60", "78"),
    "dev-clean": ("84", "174", "251", "422"),
    "test-clean": ("61", "121", "237", "260"),
}
SPEAKERS_TXT = """\
; Some pieces of information about the speakers
;
;ID  |SEX| SUBSET           |MINUTES| NAME
""" + "".join(
    f"{speaker:<5}| {'FM'[number % 2]} | {subset:<17}| 25.01 | A | Name {number}\n"
    for subset, speakers in LIBRISPEECH.items()
    for number, speaker in enumerate(speakers)
)


def librispeech_archive(subset: str) -> dict[str, bytes]:
    """Members as in OpenSLR 12: two chapters of each speaker, two noises of a second in each."""
    members = {
        "LibriSpeech/LICENSE.TXT": b"CC BY 4.0",
        "LibriSpeech/README.TXT": b"hello",
        "LibriSpeech/CHAPTERS.TXT": b";ID    |READER|MINUTES| SUBSET\n",
        "LibriSpeech/SPEAKERS.TXT": SPEAKERS_TXT.encode(),
        "LibriSpeech/BOOKS.TXT": b";BOOK ID|BOOK TITLE\n",
    }
    for speaker in LIBRISPEECH[subset]:
        for chapter in (int(speaker) + 100_000, int(speaker) + 200_000):
            stem = f"LibriSpeech/{subset}/{speaker}/{chapter}/{speaker}-{chapter}"
            members[f"{stem}.trans.txt"] = f"{speaker}-{chapter}-0000 HELLO\n".encode()
            for number in range(2):
                members[f"{stem}-{number:04d}.flac"] = wav(noise(chapter + number), form="FLAC")
    return members


def write_librispeech_mirror(folder: Path) -> Path:
    """A whole mirror of a few noises: 8 speakers to train on, 4 + 4 to test."""
    folder.mkdir(exist_ok=True)
    for subset in LIBRISPEECH:
        (folder / f"{subset}.tar.gz").write_bytes(tarred(librispeech_archive(subset)))
    write_augmentation(folder)
    write_checksums(folder)
    return folder


CNCELEB_1 = (
    *(
        f"data/{speaker}/{name}"
        for speaker in ("id00012", "id00799")
        for name in ("drama-01-001", "vlog-02-001")
    ),
    *(f"data/{speaker}/singing-01-{n:03d}" for speaker in ("id00800", "id00999") for n in (1, 2)),
    *(f"eval/enroll/{speaker}-enroll" for speaker in ("id00800", "id00999")),
    *(f"eval/test/{speaker}-live_broadcast-03-001" for speaker in ("id00800", "id00999")),
)
CNCELEB_2 = tuple(
    f"data/id1000{speaker}/{name}"
    for speaker in (0, 1, 2)
    for name in ("play-01-001", "play-01-002", "movie-01-001")
)
CNCELEB_TRIALS = """\
id00800-enroll test/id00800-live_broadcast-03-001.wav 1
id00800-enroll test/id00999-live_broadcast-03-001.wav 0
id00999-enroll test/id00800-live_broadcast-03-001.wav 0
id00999-enroll test/id00999-live_broadcast-03-001.wav 1
"""


def cnceleb_files(part: int) -> dict[str, bytes]:
    """Files of CN-Celeb 1 or 2 as in OpenSLR 82."""
    if part == 2:
        return {f"CN-Celeb2_flac/{name}.flac": flac(noise(n)) for n, name in enumerate(CNCELEB_2)}
    texts = {
        "README.TXT": "hello",
        "dev/dev.lst": "id00012\nid00799\n",
        "eval/lists/enroll.lst": "id00800-enroll enroll/id00800-enroll.wav\n",
        "eval/lists/enroll.map": "id00800-enroll id00800/singing-01-001.wav id00800/singing-01-002.wav\n",
        "eval/lists/trials.lst": CNCELEB_TRIALS,
    }
    recordings = {f"CN-Celeb_flac/{name}.flac": flac(noise(100 + n)) for n, name in enumerate(CNCELEB_1)}
    return {f"CN-Celeb_flac/{name}": text.encode() for name, text in texts.items()} | recordings


def write_cnceleb_mirror(folder: Path, unpacked: bool = False) -> Path:
    """CN-Celeb 1 and 2 of a few noises, as archives (the second one in parts) or unpacked."""
    folder.mkdir(exist_ok=True)
    if unpacked:
        for name, data in (cnceleb_files(1) | cnceleb_files(2)).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    else:
        (folder / "cn-celeb_v2.tar.gz").write_bytes(tarred(cnceleb_files(1)))
        write_parts(folder, "cn-celeb2_v2.tar.gz", tarred(cnceleb_files(2)), 3)
    return folder


def write_voxblink2_mirror(folder: Path) -> Path:
    """VoxBlink2 as its scripts crop it: of four listed speakers one is gone, and one video of another."""
    listed = {
        "id000000": ("dQw4w9WgXcQ", "-a_b"),
        "id000012": ("x", "y", "z"),
        "id000020": ("k", "l"),
        "id123456": ("gone", "too"),
    }
    folder.mkdir(exist_ok=True)
    lines = (" ".join((speaker, *videos)) + "\n" for speaker, videos in listed.items())
    (folder / "spk2videos").write_text("".join(lines))
    for number, speaker in enumerate([*listed][:3]):
        for video in listed[speaker][: 2 if speaker == "id000012" else None]:
            path = folder / "voxblink2" / speaker / video / "00000.wav"
            path.parent.mkdir(parents=True)
            path.write_bytes(wav(noise(200 + number)))
    return folder


TINY = SyntheticSettings(
    vox1_dev_speakers=2,
    vox1_test_speakers=3,
    vox2_dev_speakers=5,
    vox2_test_speakers=2,
    training_utterances=4,
    test_utterances=4,
    target_trials=12,
    nontarget_trials=20,
    wrong_labels=2,
    noise_clips=2,
    music_clips=2,
    speech_clips=3,
    simulated_responses=3,
    real_responses=2,
)
