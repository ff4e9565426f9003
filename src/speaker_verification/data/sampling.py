"""Order of the training utterances: a pure function of seed and epoch, from metadata alone."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import numpy.typing as npt
from pydantic import Field

from speaker_verification.common.errors import ParameterError
from speaker_verification.common.settings_base import Settings

Rows = npt.NDArray[np.int64]
# (..., 2): pass through the corpus and row in it (see UtteranceOrder), unique over a whole training. An array
# takes a tenth of the memory of tuples.
Keys = npt.NDArray[np.int64]


class SamplingSettings(Settings):
    """Choice of the utterances of an epoch and of a batch."""

    every_speed: bool = False
    """Each utterance at every speed factor in a pass through the corpus, instead of at one that is drawn."""
    unique_speakers: bool = False
    """No speaker twice in a forward pass; with every_speed none twice at one speed."""
    max_utterances_per_speaker: int | None = Field(None, ge=1)
    """Utterances of a speaker in a pass through the corpus, with every_speed at each speed; null: all."""


class UtteranceOrder:
    """Utterance rows of a pass through the corpus, shuffled anew for every pass.

    With `every_speed` the N utterances have N rows for each speed, one speed after the other, and a speaker
    at another speed counts as another one. With `max_utterances_per_speaker` a pass holds at most so many of
    a speaker, drawn anew. With `unique_speakers` every `batch_size` rows from the start are of as many
    speakers; a pass has as many such batches as can be made, and drops what is over.
    """

    def __init__(
        self, speakers: Rows, sampling: SamplingSettings, batch_size: int, seed: int, num_speeds: int = 1
    ) -> None:
        """Count the rows of a pass.

        Args:
            speakers: speaker number of every utterance, from 0.
            sampling: settings.
            batch_size: examples of a forward pass.
            seed: seed of the shuffling.
            num_speeds: number of speeds that an utterance has rows for, if it has them for every speed.

        Raises:
            ParameterError: there are fewer speakers than a batch of different ones needs.
        """
        self._speakers = speakers
        self._num_speeds = num_speeds if sampling.every_speed else 1
        self._unique = sampling.unique_speakers
        self._batch_size = batch_size
        self._seed = seed
        counts = np.tile(np.bincount(speakers), self._num_speeds)
        self._num_classes = len(counts)
        self._cap = int(counts.max())
        if sampling.max_utterances_per_speaker is not None:
            self._cap = min(self._cap, sampling.max_utterances_per_speaker)
        if self._unique:
            self._num_batches = _most_batches(np.minimum(counts, self._cap), batch_size)
            if not self._num_batches:
                times = f" times {self._num_speeds} speeds" if self._num_speeds > 1 else ""
                raise ParameterError(
                    f"parameter 'batch_size' is {batch_size}: with sampling.unique_speakers it must not "
                    f"exceed the {np.unique(speakers).size} training speakers{times}"
                )
            self._cap = min(self._cap, self._num_batches)
        self._length = (
            self._num_batches * batch_size if self._unique else int(np.minimum(counts, self._cap).sum())
        )

    def __len__(self) -> int:
        """Number of rows of a pass."""
        return self._length

    def rows(self, pass_number: int) -> Rows:
        """Rows of a pass in order, (len(self),)."""
        # A spawn key keeps these draws apart from the examples', whose seeds are [seed, pass, row].
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(pass_number,)))
        order = rng.permutation(len(self._speakers) * self._num_speeds)
        if self._length < len(order):
            order = order[_occurrence(self.classes(order)) < self._cap]
        return self._deal(order, rng) if self._unique else order

    def classes(self, rows: Rows) -> Rows:
        """Numbers of the speakers of rows, at another speed other numbers."""
        if self._num_speeds == 1:
            return self._speakers[rows]
        speeds, utterances = np.divmod(rows, len(self._speakers))
        return self._speakers[utterances] + speeds * (self._num_classes // self._num_speeds)

    def _deal(self, order: Rows, rng: np.random.Generator) -> Rows:
        """Deal rows to batches, none of which gets a speaker twice.

        The rows of one speaker after another fill the batches' first places, then their second places, and
        so on; at every place the batches take their turns at random. A speaker has no more rows than there
        are batches, so that it could meet itself only where it continues in the next place: there the batches
        that it has had already come after it.
        """
        turns = rng.permutation(self._num_classes)
        grouped = order[np.argsort(turns[self.classes(order)], kind="stable")]
        places = grouped[: self._length].reshape(self._batch_size, self._num_batches)
        batches = np.empty((self._num_batches, self._batch_size), dtype=np.int64)
        turn = rng.permutation(self._num_batches)
        batches[turn, 0] = places[0]
        for place in range(1, self._batch_size):
            before, after = self.classes(places[place - 1]), self.classes(places[place])
            had = turn[before == after[0]]
            free = rng.permutation(np.setdiff1d(turn, had))
            first = free[: np.count_nonzero(after == after[0])] if len(had) else free[:0]
            turn = np.concatenate([first, rng.permutation(np.setdiff1d(turn, first))])
            batches[turn, place] = places[place]
        return batches.ravel()


class EpochBatches:
    """Batches of (pass, row) keys for each epoch.

    Without `steps_per_epoch` an epoch is a pass, less an incomplete last batch. With it an epoch has that
    many batches and continues, through one pass after another, from the end of the last one.
    """

    def __init__(self, order: UtteranceOrder, batch_size: int, steps_per_epoch: int | None) -> None:
        """Plan the epochs.

        Args:
            order: order of the utterances.
            batch_size: number of keys in a batch.
            steps_per_epoch: batches in an epoch; None for a pass through the corpus.

        Raises:
            ParameterError: a pass does not fill a single batch.
        """
        if steps_per_epoch is None and len(order) < batch_size:
            raise ParameterError(
                f"parameter 'batch_size' makes steps of {batch_size} examples, more than the {len(order)} "
                "training utterances of a pass: lower it, or set steps_per_epoch, which lets batches run on "
                "into the next pass"
            )
        self._order = order
        self._batch_size = batch_size
        if steps_per_epoch is None:
            self._num_batches = len(order) // batch_size
            self._keys_between_epochs = len(order)
        else:
            self._num_batches = steps_per_epoch
            self._keys_between_epochs = steps_per_epoch * batch_size

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self._num_batches

    def batches(self, epoch: int) -> Keys:
        """Batches of an epoch, computed without those before it.

        Args:
            epoch: counted from 0.

        Returns:
            Keys, (number of batches, batch_size, 2): pass numbers and rows.
        """
        num_keys = self._num_batches * self._batch_size
        keys = np.empty((num_keys, 2), dtype=np.int64)
        done = 0
        while done < num_keys:
            number, place = divmod(epoch * self._keys_between_epochs + done, len(self._order))
            rows = self._order.rows(number)[place : place + num_keys - done]
            keys[done : done + len(rows), 0] = number
            keys[done : done + len(rows), 1] = rows
            done += len(rows)
        return keys.reshape(self._num_batches, self._batch_size, 2)


def _most_batches(counts: Rows, batch_size: int) -> int:
    """Most batches of different speakers: k of them need k x batch_size rows, at most k from a speaker."""
    possible = range(1, int(counts.sum()) // batch_size + 1)
    return bisect_right(possible, False, key=lambda k: int(np.minimum(counts, k).sum()) < k * batch_size)


def _occurrence(speakers: Rows) -> Rows:
    """Number of earlier rows of the same speaker, for each row."""
    by_speaker = np.argsort(speakers, kind="stable")
    _, first, counts = np.unique(speakers[by_speaker], return_index=True, return_counts=True)
    occurrence = np.empty(len(speakers), dtype=np.int64)
    occurrence[by_speaker] = np.arange(len(speakers)) - np.repeat(first, counts)
    return occurrence
