"""Samples of utterances, from prepared files and from recordings as they came, in files and in archives."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from speaker_verification.audio.cache import AudioCache
from speaker_verification.audio.files import SCALE, decode_audio, read_segment
from speaker_verification.audio.places import Place
from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import UTTERANCES

_BYTES_OF_SAMPLE = 2  # of a decoded recording


class UtteranceAudio:
    """The samples of a table's utterances, by row.

    Of a prepared file only the segment is read, of one in a shard the whole file. Any other recording is
    decoded from its start to the end of the segment, since a decoder that starts in the middle gives other
    samples, and then cut: the samples are those of the converted file.
    """

    def __init__(self, utterances: pd.DataFrame, cache_megabytes: int = 0) -> None:
        """Keep what the table says of its recordings; no audio is read yet.

        Args:
            utterances: UTTERANCES table; columns that have defaults may be absent.
            cache_megabytes: memory for decoded recordings; prepared files are not kept.
        """

        def column(name: str) -> pd.Series:
            return utterances[name] if name in utterances else _default(name, utterances.index)

        self._cache = AudioCache(cache_megabytes * 2**20)
        # Arrow keeps a million strings in one block, that of the table, which forked workers share.
        self._utterance_ids = pa.array(utterances["utterance_id"], pa.large_string())
        self._paths = pa.array(utterances["path"], pa.large_string()).dictionary_encode()
        self._codecs = pa.array(column("codec"), pa.string()).dictionary_encode()
        self._offsets, self._num_bytes, self._checksums, self._first_samples = (
            column(name).to_numpy(np.int64) for name in ("offset", "num_bytes", "crc32", "first_sample")
        )
        self._deflated = column("deflated").to_numpy(bool)
        self.num_samples: npt.NDArray[np.int64] = utterances["num_samples"].to_numpy(np.int64)

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.num_samples)

    def utterance_id(self, row: int) -> str:
        """Id of an utterance."""
        return str(self._utterance_ids[row].as_py())

    def place(self, row: int) -> Place:
        """Place of an utterance's recording."""
        return Place(
            self._paths[row].as_py(),
            int(self._offsets[row]),
            int(self._num_bytes[row]),
            bool(self._deflated[row]),
            int(self._checksums[row]),
        )

    def is_file(self, row: int) -> bool:
        """Whether an utterance is a prepared file of its own."""
        return not (self._num_bytes[row] or self._codecs[row].as_py())

    def read(self, row: int, start: int = 0, num_samples: int | None = None) -> npt.NDArray[np.float32]:
        """Samples of an utterance in [-1, 1), shape (num_samples,).

        Args:
            row: row of the table.
            start: first sample.
            num_samples: number of samples; None: to the end of the utterance.

        Raises:
            DataError: the recording cannot be read, or has fewer samples than the table says; it is named.
        """
        if num_samples is None:
            num_samples = int(self.num_samples[row]) - start
        if not self._codecs[row].as_py():
            place = self.place(row)
            return read_segment(place if place.num_bytes else place.path, start, num_samples)
        first = int(self._first_samples[row]) + start
        samples = self._decoded(row, first + num_samples)
        if len(samples) < first + num_samples:
            raise DataError(
                f"{self._name(row)}: the recording has {len(samples)} samples, and {first} to "
                f"{first + num_samples} are wanted of it: it is not the one that was prepared; run first: "
                "kedro run --pipeline=prepare"
            )
        return samples[first : first + num_samples] * SCALE

    def _decoded(self, row: int, least_samples: int) -> npt.NDArray[np.int16]:
        """The recording of an utterance, up to some samples at least if it has them."""
        key = self._paths[row].as_py(), int(self._offsets[row])
        if (kept := self._cache.get(key)) is not None:
            return kept
        is_kept = self._cache.has_room(least_samples * _BYTES_OF_SAMPLE)
        try:
            encoded = self.place(row).read()
        except DataError as error:
            raise DataError(f"{self.utterance_id(row)}: {error}") from error
        samples = decode_audio(encoded, self._name(row), None if is_kept else least_samples)
        if is_kept:
            self._cache.keep(key, samples)
        return samples

    def _name(self, row: int) -> str:
        return f"{self.utterance_id(row)} ({self.place(row)})"


def _default(name: str, index: pd.Index) -> pd.Series:
    return pd.Series(UTTERANCES.defaults[name], index=index)
