"""Validation speakers held out of the training set, and trials among them to rank checkpoints by."""

from __future__ import annotations

import numpy as np
import pandas as pd

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.settings_base import number_of
from speaker_verification.corpora.random_streams import CorpusStream
from speaker_verification.corpora.trials.trials import draw_trials


def hold_out_speakers(
    utterances: pd.DataFrame, validation_speakers: int | float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split off speakers for validation, drawn among those with two utterances or more.

    Args:
        utterances: the training set.
        validation_speakers: number of held-out speakers, or their share of all.
        seed: seed of the data.

    Returns:
        The utterances of the other speakers and those of the held-out ones, each in the manifest's order.

    Raises:
        ParameterError: too few speakers have two utterances, or fewer than two would be left to train on.
    """
    counts = utterances["speaker_id"].value_counts()
    eligible = np.array(sorted(counts.index[counts >= 2]))
    asked = f"parameter 'validation_speakers' is {validation_speakers}"
    number = number_of(validation_speakers, len(counts))
    if number > len(eligible):
        raise ParameterError(
            f"{asked}, but only {len(eligible)} of the {len(counts)} training speakers have two utterances "
            "or more"
        )
    if len(counts) - number < 2:
        raise ParameterError(
            f"{asked}, which leaves {len(counts) - number} of {len(counts)} speakers to train "
            "on: at least 2 are needed"
        )
    chosen = np.random.default_rng([seed, CorpusStream.VALIDATION_SPEAKERS]).choice(
        eligible, number, replace=False
    )
    held_out = utterances["speaker_id"].isin(chosen)
    return utterances[~held_out].reset_index(drop=True), utterances[held_out].reset_index(drop=True)


def draw_validation_trials(validation: pd.DataFrame, num_trials: int, seed: int) -> pd.DataFrame:
    """Draw trials among held-out speakers, half of them target trials.

    Args:
        validation: the held-out utterances.
        num_trials: number of trials; fewer are drawn where the utterances do not allow as many.
        seed: seed of the data.

    Returns:
        The trials table, trial list "validation".

    Raises:
        DataError: there are no pairs of one speaker, or none of two.
    """
    num_target = num_trials // 2
    rng = np.random.default_rng([seed, CorpusStream.VALIDATION_TRIALS])
    trials = draw_trials(validation, num_target, num_trials - num_target, "validation", rng)
    if trials["label"].nunique() < 2:
        raise DataError(
            f"{validation['speaker_id'].nunique()} held-out speakers with {len(validation)} utterances give "
            "no target or no non-target trials: hold out 2 speakers or more, of 2 utterances or more"
        )
    return trials
