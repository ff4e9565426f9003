"""In-memory cache of recordings."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

from speaker_verification.audio.files import read_segment

BYTES_OF_SAMPLE = 4


class AudioCache:
    """Samples of whole recordings, up to a number of bytes.

    What comes first stays: recordings that are drawn evenly are worth the same, so that nothing would be
    gained by making room for the next. Samples are the same from memory and from the file.
    """

    def __init__(self, max_bytes: int, longest_samples: int = 0) -> None:
        """Create an empty cache.

        Args:
            max_bytes: of all that is kept; 0 keeps nothing.
            longest_samples: length of a file above which `read` never keeps it.
        """
        self._bytes_left = max_bytes
        self._longest_samples = longest_samples
        self._kept: dict[Hashable, npt.NDArray[Any]] = {}

    def get(self, key: Hashable) -> npt.NDArray[Any] | None:
        """Samples of a recording, not to be changed; None where it is not kept."""
        return self._kept.get(key)

    def has_room(self, num_bytes: int) -> bool:
        """Whether so many bytes more would be kept."""
        return 0 < num_bytes <= self._bytes_left

    def keep(self, key: Hashable, samples: npt.NDArray[Any]) -> None:
        """Keep a recording; the first one without room closes the cache to all that follow."""
        if not self.has_room(samples.nbytes):
            self._bytes_left = 0
            return
        samples.flags.writeable = False
        self._kept[key] = samples
        self._bytes_left -= samples.nbytes

    def read(
        self, path: str, file_samples: int, start: int, num_samples: int, channel: int
    ) -> npt.NDArray[np.float32]:
        """Read a segment of a 16 kHz file, from memory if it is cached; of a long file nothing else is read.

        Args:
            path: a 16 kHz file.
            file_samples: its length.
            start: first sample of the segment.
            num_samples: length of the segment.
            channel: which channel, from 0.

        Returns:
            Shape (num_samples,), not to be changed.

        Raises:
            AudioError: see `read_segment`.
        """
        kept = self.get((path, channel))
        if kept is None:
            if file_samples > self._longest_samples or not self.has_room(file_samples * BYTES_OF_SAMPLE):
                return read_segment(path, start, num_samples, channel)
            kept = read_segment(path, 0, file_samples, channel)
            self.keep((path, channel), kept)
        return kept[start : start + num_samples]
