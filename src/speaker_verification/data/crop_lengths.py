"""Lengths of the crops of optimiser steps: one number, or drawn anew for every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speaker_verification.audio.format import SAMPLE_RATE


@dataclass(frozen=True)
class CropLengths:
    """Lengths of training crops in samples, both limits included; all crops of an optimiser step have one.

    A drawn length is a function of seed and step, whatever the number of processes and of forward passes of a
    step. (Public code draws one for each process and forward pass.)

    Attributes:
        shortest: lowest length.
        longest: highest length.
        seed: seed of the draws.
    """

    shortest: int
    longest: int
    seed: int

    @classmethod
    def of(cls, seconds: float | tuple[float, float], seed: int) -> CropLengths:
        """Lengths of a number of seconds, or of a range of them.

        Args:
            seconds: length, or lowest and highest length.
            seed: seed of the draws.
        """
        limits = seconds if isinstance(seconds, tuple) else (seconds, seconds)
        shortest, longest = (round(limit * SAMPLE_RATE) for limit in limits)
        return cls(shortest, longest, seed)

    def of_step(self, step: int) -> int:
        """Length of the crops of an optimiser step, counted from 0."""
        if self.shortest == self.longest:
            return self.shortest
        # The keys keep these draws apart from those of the order (one key) and of the model (0 first).
        sequence = np.random.SeedSequence(self.seed, spawn_key=(1, step))
        return int(np.random.default_rng(sequence).integers(self.shortest, self.longest, endpoint=True))
