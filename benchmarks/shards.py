"""An index of shards: its size, memory and seconds; and shards beside the files that they were written from.

    python -m benchmarks.shards index [--utterances 10000000]
    python -m benchmarks.shards corpus [--utterances 300000] [--wespeaker CLONE] [--webdataset]

`index` writes the index of a corpus that does not exist, with ids as VoxCeleb's (speakers of 200 utterances,
sessions of 7) in shards of 5,000. A process of its own opens it as training does, and draws the order of an
epoch.

`corpus` writes short utterances as files and as shards. The writing of the shards is killed half way and
resumed. Training examples drawn from files and from shards are compared sample by sample. With a clone of
wenet-e2e/wespeaker, the function that reads shards there goes through all of them, and so may webdataset.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.compute as compute
import soundfile
import torch
from benchmarks.timing import say

from speaker_verification.audio.files import encode_audio
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.tables import UTTERANCES
from speaker_verification.corpora.shards import INDEX, plan_shards, read_shards, utterance_key, write_shards
from speaker_verification.data.examples import TrainingExamples
from speaker_verification.data.sampling import EpochBatches, SamplingSettings, UtteranceOrder

SUBSET = "vox2-dev"
OF_A_SPEAKER, OF_A_SESSION, OF_A_SHARD = 200, 7, 5_000
LETTERS = np.array([*"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"])
MEGABYTES = 64  # of a shard of `corpus`
BATCH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("index", "corpus"))
    parser.add_argument("--utterances", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=None, help="for the files; a temporary one else")
    parser.add_argument("--wespeaker", type=Path, default=None, help="a clone of wenet-e2e/wespeaker")
    parser.add_argument("--webdataset", action="store_true", help="read with webdataset, if it is installed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if arguments.what == "index":
            apart(write_index, folder, arguments.utterances or 10_000_000)
            apart(open_index, folder)
            return
        files = write_files(folder / "files", arguments.utterances or 300_000)
        kill_and_resume(files, folder / "shards")
        apart(open_index, folder / "shards")
        compare_examples(files, folder / "shards")
        paths = (folder / "shards" / SUBSET / "shard.list").read_text().splitlines()
        if arguments.wespeaker:
            compare_reader("wespeaker", by_wespeaker(arguments.wespeaker, paths), files)
        if arguments.webdataset:
            compare_reader("webdataset", by_webdataset(paths), files)


def apart(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in a process of its own, whose memory holds nothing else."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def tell(step: str, started: float) -> None:
    """Print the seconds of a step, those of the processor up to now, and the memory of this process."""
    memory = psutil.Process().memory_info().rss / 2**20
    seconds = time.perf_counter() - started
    say(f"{step:36} {seconds:7.1f} s {time.process_time():7.1f} s in all {memory:7.0f} MiB")


def write_index(folder: Path, num_utterances: int) -> None:
    """Write the index of a corpus that does not exist, and its shards without their contents."""
    rng = np.random.default_rng(0)
    rows = np.arange(num_utterances)
    speakers = [f"id{number:06d}" for number in range(num_utterances // OF_A_SPEAKER + 1)]
    letters = LETTERS[rng.integers(len(LETTERS), size=(num_utterances // OF_A_SESSION + 1, 11))]
    sessions = ["".join(session) for session in letters]
    names = [f"{number:05d}.wav" for number in range(OF_A_SESSION)]
    shards = [folder / SUBSET / f"{number:06d}.tar" for number in range(-(-num_utterances // OF_A_SHARD))]
    shards[0].parent.mkdir(parents=True)
    for path in shards:
        path.touch()

    def taken(values: Sequence[str], places: np.ndarray) -> pa.Array:
        return pa.array(values, pa.large_string()).take(pa.array(places))

    speaker, session = taken(speakers, rows // OF_A_SPEAKER), taken(sessions, rows // OF_A_SESSION)
    slash = pa.scalar("/", pa.large_string())
    ids = compute.binary_join_element_wise(speaker, session, taken(names, rows % OF_A_SESSION), slash)
    num_samples = rng.integers(4 * SAMPLE_RATE, 20 * SAMPLE_RATE, num_utterances)
    paths = taken([str(path) for path in shards], rng.integers(len(shards), size=num_utterances))
    table = pd.DataFrame(
        {
            "utterance_id": ids.to_pandas(),
            "speaker_id": speaker.to_pandas(),
            "session_id": session.to_pandas(),
            "subset": SUBSET,
            "path": paths.to_pandas(),
            "offset": 512 * rng.integers(500_000, size=num_utterances),
            "num_bytes": num_samples // 2,
            "codec": "m4a",
            "crc32": rng.integers(1 << 32, size=num_utterances),
            "num_samples": num_samples,
            "duration_seconds": num_samples / SAMPLE_RATE,
        }
    )
    started = time.perf_counter()
    UTTERANCES.write(table, folder / INDEX, folder)
    megabytes = (folder / INDEX).stat().st_size / 1e6
    tell(f"write index of {num_utterances:,}", started)
    say(f"{megabytes:.0f} MB on disk, {1e6 * megabytes / num_utterances:.0f} bytes an utterance")


def open_index(folder: Path) -> None:
    """Open an index as training does, and draw the order of an epoch."""
    tell("imports", time.perf_counter())
    started = time.perf_counter()
    utterances, _ = read_shards(folder, [SUBSET])
    tell("read index", started)
    examples = TrainingExamples(utterances, None, 2.0, (1.0,), seed=0)
    order = UtteranceOrder(examples.speakers, SamplingSettings(), BATCH, seed=0)
    batches = EpochBatches(order, BATCH, None)
    tell(f"open {len(examples):,} for training", started)
    started = time.perf_counter()
    batches.batches(0)
    tell("draw an epoch", started)


def write_files(folder: Path, num_utterances: int) -> pd.DataFrame:
    """Prepared files of 10 to 12.4 ms, as a table of utterances."""
    rng = np.random.default_rng(0)
    rows = np.arange(num_utterances)
    speakers = [f"id{row // OF_A_SPEAKER:06d}" for row in rows]
    sessions = [f"s{row // OF_A_SESSION:07d}" for row in rows]
    ids = [f"{speakers[row]}/{sessions[row]}/{row % OF_A_SESSION:05d}.wav" for row in rows]
    lengths = 160 + rows % 40
    for utterance_id, length in zip(ids, lengths, strict=True):
        path = folder / utterance_id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_audio(rng.integers(-9_000, 9_000, length).astype(np.int16), "wav"))
    return UTTERANCES.conform(
        pd.DataFrame(
            {
                "utterance_id": ids,
                "speaker_id": speakers,
                "session_id": sessions,
                "subset": SUBSET,
                "path": [f"{folder}/{utterance_id}" for utterance_id in ids],
                "num_samples": lengths,
                "duration_seconds": lengths / SAMPLE_RATE,
            }
        )
    )


def kill_and_resume(files: pd.DataFrame, folder: Path) -> None:
    """Write shards in a process that is killed once half of them are there, then the others."""
    shards = plan_shards(files, folder, MEGABYTES)
    writer = multiprocessing.get_context("spawn").Process(
        target=write_shards, args=(files, folder, MEGABYTES)
    )
    started = time.perf_counter()
    writer.start()
    while not shards[len(shards) // 2 - 1].record.exists():
        time.sleep(0.05)
    writer.kill()
    writer.join()
    tell(f"{len(shards)} shards, killed after {len(shards) // 2}", started)
    written = {shard.path: shard.path.stat().st_ino for shard in shards if shard.record.exists()}
    started = time.perf_counter()
    index = write_shards(files, folder, MEGABYTES)
    tell("resume", started)
    if any(path.stat().st_ino != inode for path, inode in written.items()):
        raise AssertionError("a shard that was complete was written again")
    UTTERANCES.write(index, folder / INDEX, folder)


def compare_examples(files: pd.DataFrame, folder: Path) -> None:
    """Draw the first batches of two epochs from files and from shards."""
    utterances, _ = read_shards(folder, [SUBSET])
    from_files, from_shards = (
        TrainingExamples(table, None, 0.01, (1.0, 0.9, 1.1), seed=0) for table in (files, utterances)
    )
    order = UtteranceOrder(from_files.speakers, SamplingSettings(), BATCH, seed=0)
    batches = EpochBatches(order, BATCH, None)
    keys = np.concatenate([batches.batches(epoch)[:4].reshape(-1, 2) for epoch in (0, 1)])
    for pass_number, row in keys.tolist():
        one, other = from_files[pass_number, row, 160], from_shards[pass_number, row, 160]
        if one[1:] != other[1:] or not torch.equal(one[0], other[0]):
            raise AssertionError(f"example {pass_number}, {row} differs")
    say(f"{len(keys):,} training examples are equal to the last bit")


def by_wespeaker(clone: Path, paths: Sequence[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Keys, speakers and samples as wespeaker reads them from shards.

    Its torchaudio.load, which needs TorchCodec since torchaudio 2.9, is replaced by soundfile.
    """
    file = clone / "wespeaker" / "dataset" / "processor.py"
    specification = importlib.util.spec_from_file_location("processor", file)
    if specification is None or specification.loader is None:
        raise SystemExit(f"{file} is not there")
    processor = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(processor)
    processor.torchaudio.load = _loaded
    logging.getLogger().addHandler(_Refusing(logging.WARNING))
    for example in processor.tar_file_and_group(processor.url_opener({"src": path} for path in paths)):
        yield example["key"], example["spk"], example["wav"].numpy()[0]


class _Refusing(logging.Handler):
    """Raises what wespeaker only warns of."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage())


def _loaded(file: Any) -> tuple[torch.Tensor, int]:
    samples, rate = soundfile.read(io.BytesIO(file.read()), dtype="float32")
    return torch.from_numpy(samples)[None], rate


def by_webdataset(paths: Sequence[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Keys, speakers and samples as webdataset reads them."""
    import webdataset

    for example in webdataset.WebDataset(list(paths), shardshuffle=False, empty_check=False):
        samples, _ = soundfile.read(io.BytesIO(example["wav"]), dtype="float32")
        yield example["__key__"], example["spk"].decode(), samples


def compare_reader(name: str, read: Iterable[tuple[str, str, np.ndarray]], files: pd.DataFrame) -> None:
    """Compare all that another reader finds with the files, and say how long it takes."""
    keys = files["utterance_id"].map(utterance_key)
    facts = zip(files["speaker_id"], files["num_samples"], files["path"], strict=True)
    wanted = dict(zip(keys, facts, strict=True))
    started = time.perf_counter()
    found = 0
    for key, speaker, samples in read:
        *expected, path = wanted.pop(key)
        if [speaker, len(samples)] != expected:
            raise AssertionError(f"{name}: {key} has another speaker or length")
        found += 1
        if found % 1000 == 0:
            original, _ = soundfile.read(path, dtype="float32")
            np.testing.assert_array_equal(samples, original)
    if wanted:
        raise AssertionError(f"{name} found {found:,} utterances, and not {min(wanted)}")
    tell(f"{name} reads all {found:,}", started)


if __name__ == "__main__":
    main()
