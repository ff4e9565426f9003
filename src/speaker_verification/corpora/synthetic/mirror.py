"""Synthetic mirror in VoxCeleb's shape, for machines without data."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import multiprocessing
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.locks import holds
from speaker_verification.common.progress import progress_bar
from speaker_verification.corpora.corpus import Archive, part_suffix
from speaker_verification.corpora.mirror import CHECKSUMS
from speaker_verification.corpora.musan import MUSAN_ARCHIVE
from speaker_verification.corpora.random_streams import SyntheticStream
from speaker_verification.corpora.rirs_noises import RIR_LIST, RIRS_NOISES_ARCHIVE, ROOT
from speaker_verification.corpora.settings import SyntheticSettings
from speaker_verification.corpora.synthetic.sounds import (
    chord_music,
    coloured_noise,
    draw_channel,
    draw_rir,
    scaled,
)
from speaker_verification.corpora.synthetic.voices import Voice, draw_voices, speak
from speaker_verification.corpora.trials.trials import draw_trials
from speaker_verification.corpora.voxceleb import PUBLISHED_LISTS, VOXCELEB

RECORD = "synthetic.json"  # settings and seed of the mirror
_RECIPE = 3  # version of the synthesis, raised when the same settings and seed give another mirror
_MEMBERS = {
    "vox1-dev": ("wav", "wav"),
    "vox1-test": ("wav", "wav"),
    "vox2-dev": ("dev/aac", "m4a"),
    "vox2-test": ("aac", "m4a"),
}
_FIRST_ID = {"vox1-dev": 10_001, "vox1-test": 10_270, "vox2-dev": 12, "vox2-test": 9_001}
_NUM_PARTS = {"vox1-dev": 2, "vox2-dev": 3}
_BLOCK = 22  # speakers that one process makes
_SESSION_LETTERS = np.array([*"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"])

Wave = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Speaker:
    """A synthetic speaker; `number` counts all speakers of the mirror, `subset` may be musan."""

    number: int
    speaker_id: str
    subset: str
    voice: Voice


def is_synthetic_mirror(folder: Path, settings: SyntheticSettings, seed: int) -> bool:
    """Whether the folder holds the mirror that these settings and this seed give."""
    record = folder / RECORD
    return record.is_file() and record.read_text(encoding="utf-8") == _record(settings, seed)


def refuse_other_mirror(folder: Path, settings: SyntheticSettings, seed: int) -> None:
    """Refuse a synthetic mirror made with other settings or another seed.

    Raises:
        DataError: with all that differs; the folder may also hold none.
    """
    record = folder / RECORD
    if not record.is_file() or is_synthetic_mirror(folder, settings, seed):
        return
    try:
        made = _origin(json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError, AttributeError):  # no such record
        made = {}
    asked = _origin(json.loads(_record(settings, seed)))
    differing = [name for name in {**asked, **made} if made.get(name) != asked.get(name)]
    absent = "not set" if made else "unknown"
    before, now = (
        ", ".join(f"{name} = {values.get(name, absent)}" for name in differing) for values in (made, asked)
    )
    raise DataError(
        f"{folder}: the synthetic corpus that was prepared here is of {before}, asked for is {now}: set "
        f"these as they were, or another data_root in globals.yml, or remove {folder} and all made from it"
    )


def _origin(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record by the names of the parameters."""
    sizes = {f"prepare.synthetic.{name}": value for name, value in record["settings"].items()}
    return {"prepare.seed": record["seed"], **sizes, "version of the synthesis": record["recipe"]}


@holds("folder")
def write_synthetic_mirror(folder: Path, settings: SyntheticSettings, seed: int, num_workers: int) -> None:
    """Write a mirror with all of VoxCeleb's, MUSAN's and RIRS_NOISES' file names, whole or not at all.

    Args:
        folder: folder of the mirror; an earlier synthetic mirror is replaced.
        settings: size of the mirror.
        seed: seed of all files.
        num_workers: processes beside this one; at least one is used, since espeak-ng is only
            reproducible in a fresh process.

    Raises:
        InUseError: another run, which is alive, works in the folder.
        ParameterError: the packages that make speech and rooms are not installed.
        DataError: the folder holds something else.
    """
    absent = [
        name for name in ("espeakng_loader", "pyroomacoustics") if importlib.util.find_spec(name) is None
    ]
    if absent:
        raise ParameterError(
            f"prepare.synthetic needs {' and '.join(absent)}: pip install 'speaker-verification[demo]'"
        )
    if folder.exists() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise DataError(f"{folder}: holds something other than a synthetic mirror; it is not replaced")
    with atomic_write(folder) as part:
        part.mkdir()
        _write_mirror(part, settings, seed, max(1, num_workers))


def _record(settings: SyntheticSettings, seed: int) -> str:
    made_from = {"recipe": _RECIPE, "seed": seed, "settings": settings.model_dump(exclude_none=True)}
    return json.dumps(made_from, indent=2, sort_keys=True) + "\n"


def _write_mirror(folder: Path, settings: SyntheticSettings, seed: int, num_workers: int) -> None:
    speakers = _cast(settings, seed)
    recordings = _record_all(speakers, settings, seed, num_workers)
    for subset, (prefix, _) in _MEMBERS.items():
        members = {path: data for path, data in recordings.items() if path.startswith(f"{subset}/")}
        archive = _zip({path.replace(subset, prefix, 1): data for path, data in members.items()})
        _write_parts(folder, VOXCELEB.subsets[subset].archive, archive, _NUM_PARTS.get(subset, 1))
    speech = [data for path, data in recordings.items() if path.startswith("musan/")]
    (folder / MUSAN_ARCHIVE.name).write_bytes(_musan(speech, settings, seed))
    (folder / RIRS_NOISES_ARCHIVE.name).write_bytes(_rirs(settings, seed))
    _write_trial_lists(folder, speakers, list(recordings), settings, seed)
    _write_meta(folder, speakers)
    (folder / RECORD).write_text(_record(settings, seed), encoding="utf-8")
    _write_checksums(folder)


def _cast(settings: SyntheticSettings, seed: int) -> list[Speaker]:
    """All speakers of the mirror, those of the babble included; no two share a voice."""
    sizes = {
        "vox1-dev": settings.vox1_dev_speakers,
        "vox1-test": settings.vox1_test_speakers,
        "vox2-dev": settings.vox2_dev_speakers,
        "vox2-test": settings.vox2_test_speakers,
        "musan": settings.speech_clips,
    }
    voices = iter(draw_voices(sum(sizes.values()), np.random.default_rng([seed, SyntheticStream.VOICES])))
    names = [
        (subset, f"id{_FIRST_ID[subset] + index:05d}" if subset in _FIRST_ID else f"speech-{index:04d}")
        for subset, size in sizes.items()
        for index in range(size)
    ]
    return [Speaker(number, name, subset, next(voices)) for number, (subset, name) in enumerate(names)]


def _record_all(
    speakers: Sequence[Speaker], settings: SyntheticSettings, seed: int, num_workers: int
) -> dict[str, bytes]:
    """The encoded recordings of all speakers by SUBSET/SPEAKER/SESSION/NAME."""
    blocks = [(speakers[start : start + _BLOCK], settings, seed) for start in range(0, len(speakers), _BLOCK)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(num_workers, len(blocks)), maxtasksperchild=1) as pool:
        recordings: dict[str, bytes] = {}
        with progress_bar("synthesise speakers", len(speakers)) as advance:
            for block, part in zip(blocks, pool.imap(_record_block, blocks, chunksize=1), strict=True):
                recordings |= part
                advance(len(block[0]))
    return recordings


def _record_block(block: tuple[Sequence[Speaker], SyntheticSettings, int]) -> dict[str, bytes]:
    speakers, settings, seed = block
    recordings: dict[str, bytes] = {}
    for speaker in speakers:
        rng = np.random.default_rng([seed, SyntheticStream.SPEAKERS, speaker.number])
        if speaker.subset == "musan":
            clip = scaled(speak(speaker.voice, rng.uniform(6, 10), rng), 0.7)
            recordings[f"musan/{speaker.speaker_id}.wav"] = _wav(clip)
        else:
            recordings |= _record_speaker(speaker, settings, seed, rng)
    return recordings


def _record_speaker(
    speaker: Speaker, settings: SyntheticSettings, seed: int, rng: np.random.Generator
) -> dict[str, bytes]:
    recordings: dict[str, bytes] = {}
    if speaker.subset.startswith("vox2"):
        num_utterances = max(2, round(settings.training_utterances * rng.uniform(0.8, 1.2)))
        channels = settings.training_channels
    else:
        num_utterances = settings.test_utterances
        channels = settings.test_channels
    extension = _MEMBERS[speaker.subset][1]
    encode = _aac if extension == "m4a" else _wav
    for session in range(settings.sessions):
        session_id = "".join(rng.choice(_SESSION_LETTERS, 11))
        room = draw_rir((3.0, 7.0), rng.uniform(0.12, 0.4), 1, rng)[:, 0]
        snr_db = rng.uniform(20, 35)
        peak = rng.uniform(0.2, 0.9)
        of_channel = np.random.default_rng([seed, SyntheticStream.CHANNELS, speaker.number, session])
        channel = None if channels is None else draw_channel(channels, of_channel)
        folder = f"{speaker.subset}/{speaker.speaker_id}/{session_id}"
        for number in range(session, num_utterances, settings.sessions):
            wave = _record_utterance(speaker.voice, room, snr_db, channel, peak, rng)
            recordings[f"{folder}/{number // settings.sessions + 1:05d}.{extension}"] = encode(wave)
    return recordings


def _record_utterance(
    voice: Voice, room: Wave, snr_db: float, channel: Wave | None, peak: float, rng: np.random.Generator
) -> Wave:
    """Two to five seconds of speech in a room with a faint noise, through a channel if there is one."""
    from scipy.signal import oaconvolve

    num_samples = int(rng.uniform(2.5, 5.0) * SAMPLE_RATE)
    speech = oaconvolve(speak(voice, 2.0, rng), room)[:num_samples]
    noise = coloured_noise(len(speech), rng)
    gain = np.sqrt(np.mean(speech**2) / np.mean(noise**2) / 10 ** (snr_db / 10))
    heard = speech + gain * noise
    return scaled(heard if channel is None else oaconvolve(heard, channel, mode="same"), peak)


def _wav(wave: Wave) -> bytes:
    """A WAV file of a wave (samples,) or (samples, channels)."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, wave, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return stream.getvalue()


def _aac(wave: Wave) -> bytes:
    """An AAC track in an m4a file of a wave (samples,)."""
    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        track.bit_rate = 48_000
        samples = np.round(wave * 32_767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


def _zip(members: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _tar_gz(members: Mapping[str, bytes]) -> bytes:
    import gzip

    stream = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def _musan(speech: Sequence[bytes], settings: SyntheticSettings, seed: int) -> bytes:
    rng = np.random.default_rng([seed, SyntheticStream.MUSAN])
    members = {}
    for index in range(settings.noise_clips):
        wave = coloured_noise(int(rng.uniform(4, 12) * SAMPLE_RATE), rng)
        members[f"musan/noise/free-sound/noise-free-sound-{index:04d}.wav"] = _wav(0.7 * wave)
    for index in range(settings.music_clips):
        wave = chord_music(int(rng.uniform(8, 16) * SAMPLE_RATE), rng)
        members[f"musan/music/synthetic/music-synthetic-{index:04d}.wav"] = _wav(0.7 * wave)
    annotations = (f"music-synthetic-{index:04d} chords N none\n" for index in range(settings.music_clips))
    members["musan/music/synthetic/ANNOTATIONS"] = "".join(annotations).encode()
    for index, data in enumerate(speech):
        members[f"musan/speech/synthetic/speech-synthetic-{index:04d}.wav"] = data
    return _tar_gz(members)


def _rirs(settings: SyntheticSettings, seed: int) -> bytes:
    rng = np.random.default_rng([seed, SyntheticStream.RIRS])
    sizes = {"smallroom": (2.5, 5.0), "mediumroom": (5.0, 9.0)}
    members = {}
    for index in range(settings.simulated_responses):
        kind = list(sizes)[index % 2]
        room = f"Room{1 + index // 10:03d}"
        name = f"{ROOT}/simulated_rirs/{kind}/{room}/{room}-{index:05d}.wav"
        members[name] = _wav(0.9 * draw_rir(sizes[kind], rng.uniform(0.2, 0.7), 1, rng)[:, 0])
    lines = []
    for index in range(settings.real_responses):
        name = f"{RIR_LIST.rpartition('/')[0]}/real_{index:03d}.wav"
        members[name] = _wav(0.9 * draw_rir((4.0, 9.0), rng.uniform(0.4, 0.9), 2 + 2 * (index % 2), rng))
        lines.append(f"--rir-id {1 + index:05d} --room-id real_{index:03d} {name}\n")
    members[RIR_LIST] = "".join(lines).encode()
    return _zip(members)


def _write_parts(folder: Path, archive: Archive, data: bytes, num_parts: int) -> None:
    if num_parts == 1:
        (folder / archive.name).write_bytes(data)
        return
    size = -(-len(data) // num_parts)
    for index in range(num_parts):
        part = folder / f"{archive.part_prefix}{part_suffix(index)}"
        part.write_bytes(data[index * size : (index + 1) * size])


def _write_trial_lists(
    folder: Path, speakers: Sequence[Speaker], paths: Sequence[str], settings: SyntheticSettings, seed: int
) -> None:
    """Cleaned lists, and uncleaned ones that add a few trials with a wrong label."""
    genders = {speaker.speaker_id: speaker.voice.gender for speaker in speakers}
    rows = [path.split("/", 2) for path in paths if path.startswith("vox1-")]
    table = pd.DataFrame(rows, columns=["subset", "speaker_id", "name"])
    table["utterance_id"] = table["speaker_id"] + "/" + table["name"]
    for number, name in enumerate(("vox1_o", "vox1_e", "vox1_h")):
        rng = np.random.default_rng([seed, SyntheticStream.TRIALS, number])
        tested = table[table["subset"].isin(PUBLISHED_LISTS[name].subsets)]
        trials = draw_trials(
            tested,
            settings.target_trials,
            settings.nontarget_trials + settings.wrong_labels,
            name,
            rng,
            across_sessions=settings.test_channels is not None,
            genders=genders if name == "vox1_h" else None,
        )
        trials = trials.iloc[rng.permutation(len(trials))].reset_index(drop=True)
        wrong = trials.index[trials["label"] == 0][: settings.wrong_labels]
        _write_list(folder / PUBLISHED_LISTS[name].file.name, trials.drop(index=wrong))
        mislabelled = trials.assign(label=trials["label"].where(~trials.index.isin(wrong), 1))
        _write_list(folder / PUBLISHED_LISTS[f"{name}_original"].file.name, mislabelled)


def _write_list(path: Path, trials: pd.DataFrame) -> None:
    trials[["label", "enroll_id", "test_id"]].to_csv(path, sep=" ", header=False, index=False)


def _write_meta(folder: Path, speakers: Sequence[Speaker]) -> None:
    lines = ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"]
    for speaker in speakers:
        if speaker.subset.startswith("vox1-"):
            part = speaker.subset.removeprefix("vox1-")
            name = speaker.voice.variant
            lines.append(f"{speaker.speaker_id}\t{name}\t{speaker.voice.gender}\tunknown\t{part}\n")
    (folder / "vox1_meta.csv").write_text("".join(lines), encoding="utf-8")


def _write_checksums(folder: Path) -> None:
    lines = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
    ]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
