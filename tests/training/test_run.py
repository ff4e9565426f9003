from __future__ import annotations

import pandas as pd
import pytest

from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
from speaker_verification.training.run import PhaseJob, PhaseTables
from tests.support.training import HEAD, MODEL, phase_settings


@pytest.mark.parametrize(
    ("augment", "probability", "augmented"), [(True, 0.6, True), (False, 0.6, False), (True, 0.0, False)]
)
def test_a_phase_augments_its_crops_unless_it_or_the_recipe_says_no(
    augment: bool,
    probability: float,
    augmented: bool,
    catalogs: tuple[pd.DataFrame, pd.DataFrame],
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
) -> None:
    settings = AugmentationSettings(probability=probability)
    job = PhaseJob("lmft", phase_settings(augment=augment), MODEL, HEAD, settings, seed=3)
    tables = PhaseTables(utterances, utterances, trials, utterances, trials, *catalogs)
    assert isinstance(tables.augmenter(job), Augmenter) == augmented
