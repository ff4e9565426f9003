"""Training examples a second on one core: ours beside the published way, on the same files, in one run.

Both draw speed, crop and augmentation as the first phase does (2 s crops by default). The published way is
written here as LAP's public code goes about it: read the whole utterance in float64 and resample all of it;
take the start of a crop from the list of all starts; read whole 5 s pieces of the clips, which lie cut on the
disk, and whole RIRs; convolve with scipy.signal.convolve; stack the clips and add them up; search
the list of speakers. With --lap-folder that code itself (sadPororo/LAP) takes its turns too.

    python -m benchmarks.loading data/mini
    python -m benchmarks.loading --wavs WAVS --musan MUSAN --rirs RIRS --utterance-seconds 8
    python -m benchmarks.loading data/mini --forms

With --forms the ways are not programs but the forms in which a corpus lies on the disk, of utterances of
5.5 s: prepared files, archives used as they are, shards. Each is read from the page cache and, after its
pages were dropped (posix_fadvise), from the disk.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import soundfile
import torch
import torchaudio
from scipy import signal
from tests.support.recordings import FORMATS, encoded

from speaker_verification.audio.augmentation import CLIPS_OF, AugmentationSettings, Augmenter
from speaker_verification.audio.files import audio_info, read_audio, read_segment, write_audio
from speaker_verification.audio.format import SAMPLE_RATE, CorpusFormat
from speaker_verification.common.tables import NOISE_CLIPS, RIRS, UTTERANCES
from speaker_verification.corpora.conversion.sources import ArchiveSource
from speaker_verification.corpora.shards import write_shards
from speaker_verification.corpora.utterances import convert_subset
from speaker_verification.data.examples import TrainingExamples

SPEEDS = (1.0, 1.0, 1.0, 0.9, 1.1)
PIECE = 5 * SAMPLE_RATE
STEP = 3 * SAMPLE_RATE
SNR_DB = {"noise": (0, 15), "music": (5, 15), "speech": (13, 20)}
SHARES = ((1.0, 1.0), (0.4, 0.6), (0.2, 0.4))
FORM_SECONDS = 5.5  # length of an utterance
BLOCK = 100  # examples that one way makes before it is the other's turn

Wave = np.ndarray
Example = Callable[[int, int], str]  # from pass and row to the kind of its augmentation


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(1)
    if arguments.forms:
        arguments.utterance_seconds = arguments.utterance_seconds or FORM_SECONDS
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        utterances, clips, rooms = _corpus(arguments)
        if arguments.utterance_seconds:
            utterances = _joined(utterances, arguments.utterance_seconds, folder)
        mean_seconds = utterances["num_samples"].mean() / SAMPLE_RATE
        tell(
            f"{len(utterances)} utterances of {mean_seconds:.1f} s on average, {len(clips)} clips, "
            f"{len(rooms)} RIRs; crops of {arguments.crop_seconds:g} s"
        )
        clock = time.process_time if arguments.cpu_time else time.perf_counter
        if arguments.forms:
            augmenter = Augmenter(
                clips, rooms, AugmentationSettings(cache_megabytes=arguments.cache_megabytes)
            )
            _compare_forms(
                _forms(utterances, folder), augmenter, arguments.crop_seconds, arguments.rounds, clock
            )
            return
        pieces = _cut(clips, folder)
        ways = {
            "published": _published(utterances, pieces, rooms, arguments.crop_seconds),
            "ours": _ours(utterances, clips, rooms, arguments.crop_seconds, arguments.cache_megabytes),
        }
        if arguments.lap_folder:
            ways["public code"] = _public_code(
                arguments.lap_folder, utterances, rooms, folder, arguments.crop_seconds
            )
        _report(*_measure(ways, len(utterances), arguments.rounds, clock))


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_root", nargs="?", type=Path, help="prepared data: what prepare leaves")
    parser.add_argument("--wavs", type=Path, help="instead: folder of 16 kHz SPEAKER/SESSION/UTTERANCE.wav")
    parser.add_argument("--musan", type=Path, help="with it: the folder of MUSAN's noise, music and speech")
    parser.add_argument("--rirs", type=Path, help="with it: a folder of RIRs")
    parser.add_argument("--lap-folder", type=Path, help="a clone of the public code, to measure as well")
    parser.add_argument("--crop-seconds", type=float, default=2.0)
    parser.add_argument("--utterance-seconds", type=float, help="join utterances to files of this length")
    parser.add_argument("--cache-megabytes", type=int, default=AugmentationSettings().cache_megabytes)
    parser.add_argument("--forms", action="store_true", help="compare forms on the disk instead of programs")
    parser.add_argument("--rounds", type=int, default=20, help=f"of {BLOCK} examples each way")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor: on a busy machine")
    arguments = parser.parse_args()
    if not arguments.data_root and not (arguments.wavs and arguments.musan and arguments.rirs):
        parser.error("give a prepared data root, or --wavs, --musan and --rirs")
    return arguments


def _corpus(arguments: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Utterances, clips and RIRs, as tables."""
    if arguments.data_root:
        root = arguments.data_root.absolute()
        tables = {
            "03_primary/training_utterances": UTTERANCES,
            "02_intermediate/noise_clips": NOISE_CLIPS,
            "02_intermediate/rirs": RIRS,
        }
        utterances, clips, rooms = (
            schema.read(root / f"{table}.parquet", root) for table, schema in tables.items()
        )
        return utterances, clips, rooms
    spoken = [
        ["/".join(path.parts[-3:]), *path.parts[-3:-1], "vox2-dev", str(path), length, length / SAMPLE_RATE]
        for path, length, _ in _files(arguments.wavs)
    ]
    kinds = ("noise", "music", "speech")
    noises = [
        [str(path), kind, str(path), *shape]
        for kind in kinds
        for path, *shape in _files(arguments.musan / kind)
    ]
    responses = [[str(path), "simulated", str(path), *shape] for path, *shape in _files(arguments.rirs)]
    return (
        UTTERANCES.conform(pd.DataFrame(spoken, columns=UTTERANCES.required)),
        NOISE_CLIPS.conform(pd.DataFrame(noises, columns=NOISE_CLIPS.required)),
        RIRS.conform(pd.DataFrame(responses, columns=RIRS.columns.names)),
    )


def _files(folder: Path) -> Iterator[tuple[Path, int, int]]:
    """Files with their lengths and numbers of channels."""
    for path in sorted(folder.rglob("*.wav")):
        info = audio_info(path)
        yield path, info.num_samples, info.num_channels


def _joined(utterances: pd.DataFrame, seconds: float, folder: Path) -> pd.DataFrame:
    """Each utterance followed by the next ones, up to a length."""
    length = round(seconds * SAMPLE_RATE)
    sources = utterances["path"].tolist()
    paths = [folder / name for name in utterances["utterance_id"]]
    for at, path in enumerate(paths):
        wave, following = read_segment(sources[at]), at
        while len(wave) < length:
            following = (following + 1) % len(sources)
            wave = np.concatenate([wave, read_segment(sources[following])])
        write_audio(path, (wave[:length] * 2**15).astype(np.int16))
    return utterances.assign(
        path=[str(path) for path in paths], num_samples=length, duration_seconds=length / SAMPLE_RATE
    )


def _cut(clips: pd.DataFrame, folder: Path) -> dict[str, list[str]]:
    """Pieces of 5 s every 3 s as files, by kind; a short clip is one piece."""
    pieces: dict[str, list[str]] = defaultdict(list)
    for number, clip in enumerate(clips.itertuples()):
        wave, _ = soundfile.read(clip.path, dtype="int16")
        for start in range(0, max(len(wave) - PIECE, 0) + 1, STEP):
            path = folder / "musan_split" / clip.kind / "source" / str(number) / f"{start}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave[start : start + PIECE], SAMPLE_RATE)
            pieces[clip.kind].append(str(path))
    return pieces


def _ours(
    utterances: pd.DataFrame, clips: pd.DataFrame, rooms: pd.DataFrame, seconds: float, cache_megabytes: int
) -> Example:
    augmenter = Augmenter(clips, rooms, AugmentationSettings(cache_megabytes=cache_megabytes))
    examples = TrainingExamples(utterances, augmenter, seconds, SPEEDS, seed=0)
    length = examples.crop_lengths.longest

    def example(pass_number: int, row: int) -> str:
        wave, _, augmentation = examples.draw((pass_number, row, length))
        augmenter.apply(wave, augmentation)
        return augmentation.kind if augmentation is not None else "nothing"

    return example


def _published(
    utterances: pd.DataFrame, pieces: dict[str, list[str]], rooms: pd.DataFrame, seconds: float
) -> Example:
    paths, speakers = utterances["path"].tolist(), utterances["speaker_id"].tolist()
    speaker_list = sorted(set(speakers))
    responses = rooms["path"].tolist()
    length = round(seconds * SAMPLE_RATE)

    def whole(path: str) -> Wave:
        return soundfile.read(path)[0].astype(np.float32)

    def one_channel(path: str) -> Wave:
        wave = whole(path)
        return wave if wave.ndim == 1 else wave[:, random.randrange(wave.shape[1])]

    def drawn_start(room: int) -> int:
        return random.choice(list(range(room + 1)))

    def fitted(wave: Wave, num_samples: int) -> Wave:
        if len(wave) <= num_samples:
            return np.pad(wave, (0, num_samples - len(wave)), mode="wrap")
        start = drawn_start(len(wave) - num_samples)
        return wave[start : start + num_samples]

    def level(wave: Wave) -> float:
        return 10 * np.log10(np.mean(wave**2) + 1e-4)

    def with_clips(wave: Wave, kind: str, share: tuple[float, float]) -> Wave:
        clips = []
        for _ in range(random.randint(4, 7) if kind == "speech" else 1):
            num_samples = int(random.uniform(*share) * len(wave))
            clip = fitted(one_channel(random.choice(pieces[kind])), num_samples)
            gain_db = level(wave) - level(clip) - random.uniform(*SNR_DB[kind])
            placed = np.zeros_like(wave)
            start = drawn_start(len(wave) - num_samples)
            placed[start : start + num_samples] = clip
            clips.append(np.sqrt(10 ** (gain_db / 10)) * placed)
        return wave + np.stack(clips).sum(axis=0)

    def with_reverb(wave: Wave) -> Wave:
        response = one_channel(random.choice(responses))
        unit = response / np.sqrt(np.sum(response**2))
        return signal.convolve(wave, unit, mode="full")[: len(wave)]

    def example(_: int, row: int) -> str:
        wave = whole(paths[row])
        speaker_list.index(speakers[row])
        speed = random.choice(SPEEDS)
        if speed != 1:
            source, target = round(speed * 10), 10
            wave = torchaudio.functional.resample(torch.from_numpy(wave), source, target).numpy()
        wave = fitted(wave, length)
        if random.random() >= AugmentationSettings().probability:
            return "nothing"
        kind = random.choice(("reverb", *CLIPS_OF))
        if kind == "reverb":
            with_reverb(wave)
        share = (1.0, 1.0) if kind == "television" else random.choice(SHARES)
        for clips in CLIPS_OF.get(kind, ()):
            wave = with_clips(wave, clips, share)
        return kind

    return example


def _public_code(
    clone: Path, utterances: pd.DataFrame, rooms: pd.DataFrame, folder: Path, seconds: float
) -> Example:
    sys.path.insert(0, str(clone / "src"))
    from utils.dataset import TrainDataset

    listed = folder / "RIRS_NOISES" / "real_rirs_isotropic_noises" / "rir_list"
    listed.parent.mkdir(parents=True)
    listed.write_text("\n".join(rooms["path"]))
    model = {
        "sample_rate": SAMPLE_RATE,
        "train_max_duration": seconds,
        "speed_perturb": list(SPEEDS),
        "training_set": "",
        "rir_path": str(folder),
        "musan_path": str(folder),
        "p_augment": AugmentationSettings().probability,
        "batch_size": 1,
        "grad_acc": 1,
        "n_iter_per_epoch": 0,
        "seed": 0,
    }
    speakers = sorted(set(utterances["speaker_id"]))
    paths = utterances["path"].tolist()
    examples = TrainDataset(SimpleNamespace(model=SimpleNamespace(**model)), paths, speakers)

    def example(_: int, row: int) -> str:
        examples[row]
        return "any"

    return example


def _measure(
    ways: dict[str, Example], num_utterances: int, rounds: int, clock: Callable[[], float]
) -> tuple[pd.DataFrame, dict[tuple[str, str], list[float]]]:
    """Seconds of an example: the mean of every round by way, and of each example by kind and way."""
    means: dict[str, list[float]] = defaultdict(list)
    by_kind: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(rounds + 1):  # the first one warms up
        for way, example in ways.items():
            seconds = []
            for place in range(number * BLOCK, (number + 1) * BLOCK):
                started = clock()
                kind = example(*divmod(place, num_utterances))
                seconds.append(clock() - started)
                if number:
                    by_kind[kind, way].append(seconds[-1])
            if number:
                means[way].append(float(np.mean(seconds)))
    return pd.DataFrame(means), by_kind


def _report(means: pd.DataFrame, by_kind: dict[tuple[str, str], list[float]]) -> None:
    tell(f"{'':12}{'published':>12}{'ours':>12}{'ratio':>8}")
    published, ours = means["published"].median(), means["ours"].median()
    tell(f"{'examples/s':12}{1 / published:12.0f}{1 / ours:12.0f}{published / ours:8.1f}")
    for kind in ("nothing", "reverb", *CLIPS_OF):
        of_published, of_ours = (np.median(by_kind[kind, way]) * 1e3 for way in ("published", "ours"))
        tell(f"{kind:12}{of_published:9.2f} ms{of_ours:9.2f} ms{of_published / of_ours:8.1f}")
    ratios = means["published"] / means["ours"]
    tell(f"ratio in nine of ten rounds above {ratios.quantile(0.1):.1f}, median {ratios.median():.1f}")
    if "public code" in means:
        public = means["public code"].median()
        tell(
            f"public code: {1 / public:.0f} examples/s, {public * 1e3:.2f} ms each; ratio {public / ours:.1f}"
        )


def _forms(utterances: pd.DataFrame, folder: Path) -> dict[str, pd.DataFrame]:
    """Tables of the same utterances in every form; those of AAC have other samples than those of WAV."""
    waves = {
        utterance_id: Path(path).read_bytes()
        for utterance_id, path in zip(utterances["utterance_id"], utterances["path"], strict=True)
    }
    tracks = {
        utterance_id.replace(".wav", ".m4a"): encoded(read_audio(wave)[None], SAMPLE_RATE, *FORMATS["m4a"])
        for utterance_id, wave in waves.items()
    }
    forms = {}
    for subset, prefix, members in (("vox1-dev", "wav", waves), ("vox2-dev", "dev/aac", tracks)):
        kind = "wav" if members is waves else "m4a"
        for packing in ("zip", "tar"):
            archive = folder / f"{kind}.{packing}"
            if packing == "zip":
                with zipfile.ZipFile(archive, "w") as stored:
                    for name, data in members.items():
                        stored.writestr(f"{prefix}/{name}", data)
            else:
                with tarfile.open(archive, "w") as tar:
                    for name, data in members.items():
                        info = tarfile.TarInfo(f"{prefix}/{name}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
            forms[f"{packing} of {kind}, as it is"] = _prepared(subset, archive, folder / packing, "as_is")
        for audio_format in ("wav", "flac"):
            name = f"{audio_format} files" + (" of m4a" if kind == "m4a" else "")
            forms[name] = _prepared(subset, folder / f"{kind}.zip", folder / audio_format, audio_format)
        as_is = forms[f"zip of {kind}, as it is"]
        forms[f"shards of {kind}"] = write_shards(as_is, folder / "shards", megabytes=256)
    return forms


def _prepared(subset: str, archive: Path, folder: Path, audio_format: CorpusFormat) -> pd.DataFrame:
    started = time.perf_counter()
    utterances, _ = convert_subset(subset, ArchiveSource([archive]), folder, 0.5, 0.0, 0, audio_format)
    seconds = time.perf_counter() - started
    tell(f"prepare {archive.name} as {audio_format}: {seconds / len(utterances) * 1e3:.2f} ms each")
    return utterances


def _compare_forms(
    forms: dict[str, pd.DataFrame],
    augmenter: Augmenter,
    seconds: float,
    rounds: int,
    clock: Callable[[], float],
) -> None:
    order = np.random.default_rng(0)
    means: dict[tuple[str, str], list[float]] = defaultdict(list)
    os.sync()  # what is not yet written cannot be dropped
    for number in range(rounds + 1):  # the first one warms up
        rows = order.permutation(len(next(iter(forms.values()))))[:BLOCK]
        for form, utterances in forms.items():
            for column, used, is_cold in (
                ("cold", None, True),
                ("warm", None, False),
                ("augmented", augmenter, False),
            ):
                examples = TrainingExamples(utterances, used, seconds, SPEEDS, seed=0)
                if is_cold:
                    _drop_pages(utterances["path"].unique())
                started = clock()
                for row in rows:
                    examples[number, int(row), examples.crop_lengths.longest]
                if number:
                    means[form, column].append((clock() - started) / len(rows))
    tell(f"{'examples a second':24}{'warm':>8}{'cold':>8}{'augmented':>11}{'kB each':>9}")
    for form, utterances in forms.items():
        warm, cold, augmented = (
            1 / np.median(means[form, column]) for column in ("warm", "cold", "augmented")
        )
        size = sum(os.path.getsize(path) for path in utterances["path"].unique()) / len(utterances) / 1e3
        tell(f"{form:24}{warm:8.0f}{cold:8.0f}{augmented:11.0f}{size:9.0f}")


def _drop_pages(paths: Iterable[str]) -> None:
    """Drop files from the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


if __name__ == "__main__":
    main()
