"""Training examples: which utterance comes when, and the wave and class that it gives.

The order touches no audio, and an example is a pure function of (seed, pass, row): neither the number of
workers nor a resumed run changes what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from speaker_verification.audio.augmentation import Augmenter
from speaker_verification.audio.crops import draw_crop_start, wrap
from speaker_verification.audio.files import read_audio
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.audio.speed import change_speed, changed_length, source_span, speed_class_offsets
from speaker_verification.errors import DataError, ParameterError

Key = tuple[int, int]  # pass through the corpus, utterance row: unique over a whole training


class TrainingExamples(Dataset[tuple[torch.Tensor, int, int]]):
    """Augmented crops with their classes, asked for by (pass, row) keys."""

    def __init__(
        self,
        training_utterances: pd.DataFrame,
        augmenter: Augmenter | None,
        crop_seconds: float,
        speed_factors: Sequence[float],
        seed: int,
    ) -> None:
        """Take the manifest; no audio is read yet.

        Args:
            training_utterances: UTTERANCES table.
            augmenter: what is done to the crops; None leaves them clean.
            crop_seconds: length of every crop.
            speed_factors: one is drawn for each example; each distinct one makes classes of its own.
            seed: of all draws.

        Raises:
            DataError: there are no utterances.
            ParameterError: the speed factors lack 1.0.
        """
        if training_utterances.empty:
            raise DataError("table 'training_utterances': no utterance to train on")
        # Arrow keeps a million paths in one block, which forked workers share instead of copying.
        self._paths = pa.array(training_utterances["path"], pa.string())
        self._utterance_ids = pa.array(training_utterances["utterance_id"], pa.string())
        self._num_samples = training_utterances["num_samples"].to_numpy()
        self._speaker_ids, self._speakers = np.unique(
            training_utterances["speaker_id"].to_numpy(dtype=object), return_inverse=True
        )
        self._augmenter = augmenter
        self._crop_samples = round(crop_seconds * SAMPLE_RATE)
        self._speed_factors = tuple(speed_factors)
        self._class_offsets = speed_class_offsets(speed_factors)
        self._seed = seed

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self._num_samples)

    def utterance_ids(self, rows: Sequence[int]) -> list[str]:
        """Names of the utterances of some rows."""
        return [self._utterance_ids[row].as_py() for row in rows]

    @property
    def speaker_ids(self) -> list[str]:
        """Speakers in the order of their labels at speed 1: sorted."""
        return list(self._speaker_ids)

    @property
    def num_speakers(self) -> int:
        """Distinct speakers of the table."""
        return len(self._speaker_ids)

    @property
    def num_classes(self) -> int:
        """Speakers x distinct speed factors."""
        return self.num_speakers * len(self._class_offsets)

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, int, int]:
        """Draw the example of an utterance in one pass through the corpus.

        Args:
            key: pass number and utterance row.

        Returns:
            Wave, float32 of shape (samples,); label; utterance row.

        Raises:
            DataError: a file cannot be read; it is named.
        """
        pass_number, row = key
        rng = np.random.default_rng([self._seed, pass_number, row])
        factor = self._speed_factors[rng.integers(len(self._speed_factors))]
        wave = self._read_crop(row, factor, rng)
        if self._augmenter is not None:
            wave = self._augmenter(wave, rng)
        label = int(self._speakers[row]) + self._class_offsets[factor] * self.num_speakers
        return torch.from_numpy(wave), label, row

    def _read_crop(self, row: int, factor: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Read the source of a random crop of the speed-changed utterance, and nothing beside it."""
        source_length = int(self._num_samples[row])
        available = changed_length(source_length, factor)
        start = draw_crop_start(available, self._crop_samples, rng)
        num_samples = min(self._crop_samples, available)
        span = source_span(start, num_samples, factor, source_length)
        source = read_audio(self._paths[row].as_py(), span.start, span.num_samples)
        crop = change_speed(source, factor)[span.lead : span.lead + num_samples]
        return wrap(crop, self._crop_samples)


class EpochBatches:
    """Batches of (pass, row) keys for each epoch.

    The corpus is shuffled anew for every pass through it. Without `steps_per_epoch` an epoch is a pass, less
    an incomplete last batch. With it an epoch has that many batches and goes on where the last one stopped.
    """

    def __init__(self, num_utterances: int, batch_size: int, steps_per_epoch: int | None, seed: int) -> None:
        """Plan the epochs.

        Args:
            num_utterances: rows of the training table.
            batch_size: keys in a batch.
            steps_per_epoch: batches in an epoch; None for a pass through the corpus.
            seed: of the shuffling.

        Raises:
            ParameterError: a pass does not fill a single batch.
        """
        if steps_per_epoch is None and num_utterances < batch_size:
            raise ParameterError(
                f"batch_size {batch_size} is more than the {num_utterances} training utterances: "
                "lower it, or set steps_per_epoch to let batches run on into the next pass"
            )
        self._num_utterances = num_utterances
        self._batch_size = batch_size
        if steps_per_epoch is None:
            self._num_batches = num_utterances // batch_size
            self._keys_between_epochs = num_utterances
        else:
            self._num_batches = steps_per_epoch
            self._keys_between_epochs = steps_per_epoch * batch_size
        self._seed = seed

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._num_batches

    def batches(self, epoch: int) -> list[list[Key]]:
        """Batches of an epoch; earlier epochs are not gone through.

        Args:
            epoch: counted from 0.

        Returns:
            Lists of `batch_size` keys, (pass number, row).
        """
        num_keys = self._num_batches * self._batch_size
        first = epoch * self._keys_between_epochs
        passes, places = np.divmod(np.arange(first, first + num_keys), self._num_utterances)
        rows = np.concatenate([self._order(number)[places[passes == number]] for number in np.unique(passes)])
        keys = list(zip(passes.tolist(), rows.tolist(), strict=True))
        return [keys[at : at + self._batch_size] for at in range(0, num_keys, self._batch_size)]

    def _order(self, pass_number: int) -> npt.NDArray[np.int64]:
        # A spawn key keeps these draws apart from the examples', whose seeds are [seed, pass, row].
        sequence = np.random.SeedSequence(self._seed, spawn_key=(int(pass_number),))
        return np.random.default_rng(sequence).permutation(self._num_utterances)
