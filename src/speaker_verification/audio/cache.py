"""In-memory cache of short recordings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from speaker_verification.audio.files import read_segment

BYTES_OF_SAMPLE = 4


class AudioCache:
    """Whole channels of short files, up to a number of bytes; of other files nothing but the segment is read.

    What comes first stays: files that are drawn evenly are worth the same, so that nothing would be gained by
    making room for the next. Samples are the same from memory and from the file.
    """

    def __init__(self, max_bytes: int, longest_samples: int) -> None:
        """Create an empty cache.

        Args:
            max_bytes: of all that is kept; 0 keeps nothing.
            longest_samples: length of a file above which it is never kept.
        """
        self._bytes_left = max_bytes
        self._longest_samples = longest_samples
        self._kept: dict[tuple[str, int], npt.NDArray[np.float32]] = {}

    def read(
        self, path: str, file_samples: int, start: int, num_samples: int, channel: int
    ) -> npt.NDArray[np.float32]:
        """Read a segment, from memory if it is cached.

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
        kept = self._kept.get((path, channel))
        if kept is None:
            num_bytes = file_samples * BYTES_OF_SAMPLE
            if file_samples > self._longest_samples or num_bytes > self._bytes_left:
                return read_segment(path, start, num_samples, channel)
            kept = read_segment(path, 0, file_samples, channel)
            kept.flags.writeable = False
            self._kept[path, channel] = kept
            self._bytes_left -= num_bytes
        return kept[start : start + num_samples]
