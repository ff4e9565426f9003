"""Seconds and memory of a manifest over many small files.

    python -m benchmarks.manifest [--files 300000] [--folder FOLDER]

Writes a zip archive of short utterances and the folder that its conversion would leave (4 KiB of disk a
file), builds the manifest twice, each time in a process of its own, and removes all: first from the files'
headers, as after a conversion that was killed, then from the record that the first time leaves.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

from speaker_verification.audio.files import encode_audio
from speaker_verification.corpora.conversion.convert import ConvertedFolder
from speaker_verification.corpora.conversion.sources import ArchiveSource
from speaker_verification.corpora.utterances import convert_subset

SUBSET = "vox2-dev"
FILES_OF_A_SPEAKER = 200
FILES_OF_A_SESSION = 5
NUM_SAMPLES = 160


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=300_000)
    parser.add_argument("--folder", type=Path, default=None, help="for the files; a temporary one else")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        write_corpus(Path(folder), arguments.files)
        sys.stdout.write(f"{'manifest from':14} {'files':>9} {'seconds':>8} {'peak MiB':>9}\n")
        for source in ("headers", "record"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                num_files, seconds, peak = pool.apply(build_manifest, [Path(folder)])
            sys.stdout.write(f"{source:14} {num_files:9,} {seconds:8.1f} {peak:9.0f}\n")


def write_corpus(folder: Path, num_files: int) -> None:
    """An archive, and the folder of what an earlier run converted of it before it was killed."""
    data = encode_audio(np.ones(NUM_SAMPLES, np.int16), "wav")
    ids = [
        f"id{number // FILES_OF_A_SPEAKER:05d}/s{number // FILES_OF_A_SESSION:07d}/{number:05d}.wav"
        for number in range(num_files)
    ]
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        for utterance_id in ids:
            archive.writestr(f"wav/{utterance_id}", data)
    audio = folder / SUBSET
    audio.mkdir()
    # From now on, files count as converted from the archive.
    ConvertedFolder(audio, ArchiveSource([folder / "archive.zip"]), "wav")
    for utterance_id in ids:
        path = audio / utterance_id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def build_manifest(folder: Path) -> tuple[int, float, float]:
    """Number of utterances, seconds and peak memory in MiB."""
    start = time.perf_counter()
    utterances, _ = convert_subset(
        SUBSET, ArchiveSource([folder / "archive.zip"]), folder, 0.0, 0.0, num_workers=0
    )
    seconds = time.perf_counter() - start
    return len(utterances), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
