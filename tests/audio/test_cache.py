from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speaker_verification.audio import cache as cache_module
from speaker_verification.audio.cache import AudioCache
from speaker_verification.audio.files import read_segment
from speaker_verification.audio.format import SAMPLE_RATE


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int, int]]:
    """Segments read from files: name, start, number of samples, channel."""
    seen: list[tuple[str, int, int, int]] = []

    def read(path: str, start: int, num_samples: int, channel: int) -> np.ndarray:
        seen.append((Path(path).name, start, num_samples, channel))
        return read_segment(path, start, num_samples, channel)

    monkeypatch.setattr(cache_module, "read_segment", read)
    return seen


def ramp(folder: Path, name: str, num_samples: int) -> str:
    wave = np.stack([np.arange(num_samples), -np.arange(num_samples)], axis=1) / 2**15
    soundfile.write(folder / name, wave, SAMPLE_RATE, subtype="PCM_16")
    return str(folder / name)


def test_a_kept_file_is_read_once_and_gives_the_samples_of_the_file(
    tmp_path: Path, reads: list[tuple[str, int, int, int]]
) -> None:
    path = ramp(tmp_path, "a.wav", 100)
    cache = AudioCache(10_000, 100)
    for channel, start in ((0, 0), (0, 7), (1, 7), (0, 93), (1, 0)):
        wave = cache.read(path, 100, start, 7, channel)
        np.testing.assert_array_equal(wave, read_segment(path, start, 7, channel))
        assert wave.dtype == np.float32
    assert reads == [("a.wav", 0, 100, 0), ("a.wav", 0, 100, 1)]


def test_what_is_in_memory_cannot_be_changed(tmp_path: Path) -> None:
    wave = AudioCache(10_000, 100).read(ramp(tmp_path, "a.wav", 100), 100, 0, 7, 0)
    with pytest.raises(ValueError, match="read-only"):
        wave += 1


def test_of_a_file_that_is_not_kept_only_the_segment_is_read(
    tmp_path: Path, reads: list[tuple[str, int, int, int]]
) -> None:
    path = ramp(tmp_path, "a.wav", 100)
    for cache in (AudioCache(0, 100), AudioCache(10_000, 99), AudioCache(399, 100)):
        assert [cache.read(path, 100, 3, 7, 0)[0] for _ in range(2)] == [3 / 2**15] * 2
    assert reads == [("a.wav", 3, 7, 0)] * 6


def test_the_bytes_are_bounded_and_the_first_files_stay(
    tmp_path: Path, reads: list[tuple[str, int, int, int]]
) -> None:
    names = ["a.wav", "b.wav", "c.wav"]
    paths = [ramp(tmp_path, name, 100) for name in names]
    cache = AudioCache(2 * 100 * 4 + 399, 100)  # two files of 100 float32 samples, and not quite a third
    for _ in range(3):
        for path in paths:
            cache.read(path, 100, 10, 20, 0)
    assert reads[:3] == [("a.wav", 0, 100, 0), ("b.wav", 0, 100, 0), ("c.wav", 10, 20, 0)]
    assert reads[3:] == [("c.wav", 10, 20, 0)] * 2
