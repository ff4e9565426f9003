"""Conversion of vox2-dev beside the published way: one ffmpeg process a file.

    python -m benchmarks.conversion MIRROR [--workers 2] [--copies 4] [--repeats 5] [--ffmpeg PROGRAM]

Both convert the same files with the same number of workers, in turns; every file counts several times, so
that starting the workers weighs little, as it does with a million files. Ours reads the archive within the
time; ffmpeg finds the m4a files unpacked. On a busy machine CPU time tells more than the clock. Then the
samples are compared; those past the end of the shorter one, the encoder's padding, are counted apart. The
libav versions of both are printed: another one may round otherwise.
PROGRAM is ffmpeg on the path, or else the one that the package imageio-ffmpeg contains.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import soundfile

from speaker_verification.corpora.conversion.sources import ArchiveSource, Source
from speaker_verification.corpora.mirror import Mirror
from speaker_verification.corpora.utterances import convert_subset
from speaker_verification.corpora.voxceleb import VOXCELEB

SUBSET = "vox2-dev"
LIBRARIES = ("libavcodec", "libavformat", "libswresample")


def main() -> None:
    arguments = parse()
    source = Mirror(arguments.mirror).source(SUBSET)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        archive, packed = repack(source, arguments.copies, folder)
        ours, theirs = [], []
        for repeat in range(arguments.repeats):
            ours.append(time_ours(archive, folder / f"ours{repeat}", arguments.workers))
            theirs.append(
                time_ffmpeg(arguments.ffmpeg, packed, folder / f"ffmpeg{repeat}", arguments.workers)
            )
        sys.stdout.write(
            f"{len(packed)} files, {arguments.workers} workers, median of {arguments.repeats}\n"
            f"{'':26} {'files/s':>8} {'CPU ms a file':>14}\n"
        )
        for name, times in (("ours", ours), ("one ffmpeg process a file", theirs)):
            wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
            sys.stdout.write(f"{name:26} {len(packed) / wall:8.1f} {1000 * cpu / len(packed):14.1f}\n")
        wall, cpu = (
            statistics.median(slow[column] / fast[column] for slow, fast in zip(theirs, ours, strict=True))
            for column in (0, 1)
        )
        sys.stdout.write(f"{'ratio':26} {wall:8.2f} {cpu:14.2f}\n")
        compare(folder / "ours0" / SUBSET, folder / "ffmpeg0", sorted(packed))
    libraries = " ".join(f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in LIBRARIES)
    sys.stdout.write(f"ours:   PyAV {av.__version__}, {libraries}\nffmpeg: {version(arguments.ffmpeg)}\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("mirror", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ffmpeg", default=None)
    parser.add_argument(
        "--folder", type=Path, default=None, help="for what is converted; a temporary one else"
    )
    arguments = parser.parse_args()
    if arguments.ffmpeg is None:
        arguments.ffmpeg = shutil.which("ffmpeg") or bundled_ffmpeg()
    return arguments


def bundled_ffmpeg() -> str:
    from imageio_ffmpeg import get_ffmpeg_exe

    return get_ffmpeg_exe()


def repack(source: Source, num_copies: int, folder: Path) -> tuple[list[Path], dict[str, Path]]:
    """An archive with so many copies of every recording, and the same m4a files unpacked, by utterance."""
    archive, packed = folder / "archive.zip", {}
    with zipfile.ZipFile(archive, "w") as writer:
        for member in source.members():
            parsed = VOXCELEB.layout.parse(member.name)
            for copy in range(num_copies if parsed else 0):
                name = f"copy{copy}-{parsed.file_id}".removesuffix(".wav")
                path = packed[f"{name}.wav"] = folder / "packed" / f"{name}.m4a"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(member.read())
                writer.write(path, f"dev/aac/{name}.m4a")
    return [archive], packed


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that passed, and that this process and its children computed."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    work()
    return time.perf_counter() - wall, sum(os.times()[:4]) - cpu


def time_ours(archive: Sequence[Path], folder: Path, num_workers: int) -> tuple[float, float]:
    return timed(lambda: convert_subset(SUBSET, ArchiveSource(archive), folder, 0.0, 0.0, num_workers))


def time_ffmpeg(
    program: str, packed: Mapping[str, Path], folder: Path, num_workers: int
) -> tuple[float, float]:
    for utterance_id in packed:
        (folder / utterance_id).parent.mkdir(parents=True, exist_ok=True)

    def convert(utterance_id: str) -> None:
        source, target = str(packed[utterance_id]), str(folder / utterance_id)
        options = ["-y", "-loglevel", "error", "-i", source, "-vn", "-ac", "1", "-ar", "16000"]
        subprocess.run([program, *options, "-acodec", "pcm_s16le", target], check=True)

    with ThreadPoolExecutor(num_workers) as pool:
        return timed(lambda: list(pool.map(convert, packed)))


def compare(ours: Path, theirs: Path, utterance_ids: Sequence[str]) -> None:
    num_samples = num_different = num_beyond = largest = num_files = 0
    for utterance_id in utterance_ids:
        one = soundfile.read(ours / utterance_id, dtype="int16")[0].astype(int)
        other = soundfile.read(theirs / utterance_id, dtype="int16")[0].astype(int)
        common = min(len(one), len(other))
        differences = np.abs(one[:common] - other[:common])
        num_samples += common
        num_different += np.count_nonzero(differences)
        largest = max(largest, int(differences.max(initial=0)))
        num_beyond += max(len(one), len(other)) - common
        num_files += len(one) != len(other)
    sys.stdout.write(
        f"samples: {num_different} of {num_samples} differ, by {largest} at most (of 32,768); "
        f"{num_files} of {len(utterance_ids)} files differ in length, by {num_beyond} samples in all\n"
    )


def version(program: str) -> str:
    lines = subprocess.run(
        [program, "-version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    libraries = [" ".join(line.split("/")[0].split()) for line in lines if line.startswith(LIBRARIES)]
    return "; ".join([lines[0], *libraries])


if __name__ == "__main__":
    main()
