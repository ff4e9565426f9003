"""Random streams of the data: `default_rng([seed, stream, ...])` separates draws that share a seed."""

from __future__ import annotations

from enum import IntEnum


class CorpusStream(IntEnum):
    """Draws over a prepared corpus, by `prepare.seed`."""

    VALIDATION_SPEAKERS = 0
    VALIDATION_TRIALS = 1
    TRIAL_LISTS = 2
    TEST_SPEAKERS = 3


class SyntheticStream(IntEnum):
    """Draws of a synthetic mirror, by the same seed, before those over its corpus."""

    VOICES = 0
    SPEAKERS = 1
    TRIALS = 2
    MUSAN = 3
    RIRS = 4
    CHANNELS = 5
