"""Sampling rate and shape of all audio in the project."""

SAMPLE_RATE = 16_000  # Hz; every stored utterance is mono, 16-bit
