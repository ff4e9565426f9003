"""Batches of a corpus that is used as it is, beside those of the converted one."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch

from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
from speaker_verification.corpora.conversion.sources import ArchiveSource
from speaker_verification.corpora.utterances import convert_subset
from speaker_verification.data.examples import TrainingExamples
from speaker_verification.data.loading import BatchLoader
from speaker_verification.data.sampling import EpochBatches, SamplingSettings, UtteranceOrder
from tests.support.corpora import flac, m4a, noise, tarred, wav, write_parts, zipped

NAMES = [f"id{speaker}/v/{number}" for speaker in range(4) for number in range(3)]
LENGTHS = range(9_000, 33_000, 2_000)  # samples: of less and of more than the crop of 1 s at any speed


def members(ending: str, encode: Callable[..., bytes]) -> dict[str, bytes]:
    folder = {"wav": "wav", "m4a": "dev/aac", "flac": "wav"}[ending]
    waves = (noise(seed, length) for seed, length in enumerate(LENGTHS))
    return {f"{folder}/{name}.{ending}": encode(wave) for name, wave in zip(NAMES, waves, strict=True)}


def in_parts(folder: Path) -> Sequence[Path]:
    """Parts of a zip archive of m4a, each of which but the last ends within a recording."""
    data = zipped(members("m4a", m4a), zipfile.ZIP_STORED)
    parts = write_parts(folder, "vox2_dev_aac_part", data, 4)
    assert all(b"PK\3\4" not in part.read_bytes()[-100:] for part in parts[:-1])
    return parts


def alone(name: str, data: Callable[[], bytes]) -> Callable[[Path], Sequence[Path]]:
    def write(folder: Path) -> Sequence[Path]:
        (folder / name).write_bytes(data())
        return [folder / name]

    return write


ARCHIVES = {
    "stored wav": alone("a.zip", lambda: zipped(members("wav", wav), zipfile.ZIP_STORED)),
    "deflated wav": alone("a.zip", lambda: zipped(members("wav", wav))),
    "tar of wav": alone("a.tar", lambda: tarred(members("wav", wav), "w")),
    "tar of flac": alone("a.tar", lambda: tarred(members("flac", flac), "w")),
    "tar of m4a": alone("a.tar", lambda: tarred(members("m4a", m4a), "w")),
    "deflated m4a": alone("a.zip", lambda: zipped(members("m4a", m4a))),
    "m4a in parts": in_parts,
}


@pytest.fixture
def loader_of(catalogs: tuple[pd.DataFrame, pd.DataFrame]) -> Callable[..., BatchLoader]:
    def make(utterances: pd.DataFrame, num_workers: int = 0, cache_megabytes: int = 0) -> BatchLoader:
        augmenter = Augmenter(*catalogs, AugmentationSettings())
        examples = TrainingExamples(utterances, augmenter, 1.0, (1.0, 0.9, 1.1), 7, cache_megabytes)
        order = UtteranceOrder(examples.speakers, SamplingSettings(), 4, seed=7)
        return BatchLoader(examples, EpochBatches(order, 4, 4), 4, num_workers, torch.device("cpu"))

    return make


@pytest.mark.parametrize("archive", ARCHIVES)
def test_batches_are_bit_for_bit_those_of_the_converted_corpus(
    tmp_path: Path, loader_of: Callable[..., BatchLoader], archive: str
) -> None:
    subset = "vox2-dev" if "m4a" in archive else "vox1-dev"
    source = ArchiveSource(ARCHIVES[archive](tmp_path))
    converted, _ = convert_subset(subset, source, tmp_path / "audio", 0.5, 0.0, 0)
    as_is, _ = convert_subset(subset, source, tmp_path / "audio", 0.5, 0.0, 0, "as_is")
    pd.testing.assert_series_equal(as_is["num_samples"], converted["num_samples"])
    expected = [batch for epoch in (0, 1) for batch in loader_of(converted).batches(epoch)]
    for num_workers, cache_megabytes in ((0, 0), (0, 1), (2, 0)):
        loader = loader_of(as_is, num_workers, cache_megabytes)
        batches = [batch for epoch in (0, 1) for batch in loader.batches(epoch)]
        for ours, theirs in zip(batches, expected, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
