"""Which lists have names, and which subsets they need."""

from __future__ import annotations

from typing import get_args

from speaker_verification.corpora.mirror import ARCHIVES
from speaker_verification.corpora.settings import Subset, TrialList
from speaker_verification.corpora.trial_lists import PUBLISHED_LISTS, TRIAL_SUBSETS


def test_only_e_and_h_need_the_development_speakers() -> None:
    assert TRIAL_SUBSETS["vox1_o_original"] == ("vox1-test",)
    assert TRIAL_SUBSETS["vox1_e"] == TRIAL_SUBSETS["vox1_h_original"] == ("vox1-dev", "vox1-test")


def test_parameters_know_all_lists_and_subsets() -> None:
    assert get_args(TrialList) == tuple(TRIAL_SUBSETS)
    assert get_args(Subset) == tuple(ARCHIVES)
    assert {subset for subsets in TRIAL_SUBSETS.values() for subset in subsets} <= {*ARCHIVES}


def test_the_cleaned_lists_are_the_shorter_ones() -> None:
    sizes = {name: published.num_trials for name, published in PUBLISHED_LISTS.items()}
    assert [sizes[name] for name in ("vox1_o", "vox1_e", "vox1_h")] == [37_611, 579_818, 550_894]
    assert all(sizes[name] < sizes[f"{name}_original"] for name in ("vox1_o", "vox1_e", "vox1_h"))
