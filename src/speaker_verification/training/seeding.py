"""Random state as a pure function of the seed and the optimiser step, so that resuming needs none saved."""

from __future__ import annotations

import numpy as np


def seed_step(seed: int, step: int) -> None:
    """Seed the global generators of torch (all devices), NumPy and Python for one optimiser step.

    Dropouts and layer drop draw from torch's, time masks from NumPy's. Nothing drawn between steps, such as
    in a validation, changes what a step draws.

    Args:
        seed: seed of the phase.
        step: optimiser step, from 0.
    """
    from transformers import set_seed

    # Two keys keep these draws apart from the order of the utterances, which has one.
    sequence = np.random.SeedSequence(seed, spawn_key=(0, step))
    set_seed(int(sequence.generate_state(1)[0]))
