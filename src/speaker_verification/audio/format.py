"""Sampling rate and shape of all audio in the project."""

from typing import Literal

SAMPLE_RATE = 16_000  # Hz; every stored utterance is mono, 16-bit
AudioFormat = Literal["wav", "flac"]  # of stored utterances; also the extension of their files
AS_IS = "as_is"
CorpusFormat = Literal["wav", "flac", "as_is"]  # of a corpus; as_is: recordings as they came, where they are
