"""Named subsets of VoxCeleb and LibriSpeech, and the speakers that training must not have heard."""

from __future__ import annotations

import difflib

import pandas as pd

from speaker_verification.common.errors import DataError, ParameterError

NAMED_SUBSETS = {
    "voxceleb1-dev": ("vox1-dev",),
    "voxceleb2-dev": ("vox2-dev",),
    "voxceleb2-test": ("vox2-test",),
    "voxceleb12-dev": ("vox1-dev", "vox2-dev"),
    "librispeech-train-clean-100": ("librispeech-train-clean-100",),
    "librispeech-dev-clean": ("librispeech-dev-clean",),
    "librispeech-test-clean": ("librispeech-test-clean",),
}


def subsets_of(name: str) -> tuple[str, ...]:
    """The archives' subsets that a named subset is made of.

    Raises:
        ParameterError: the name is unknown; the nearest known one is named.
    """
    if name not in NAMED_SUBSETS:
        nearest = difflib.get_close_matches(name, NAMED_SUBSETS, n=1, cutoff=0.0)[0]
        raise ParameterError(f"unknown subset '{name}': did you mean '{nearest}'?")
    return NAMED_SUBSETS[name]


def select_subset(utterances: pd.DataFrame, name: str) -> pd.DataFrame:
    """The utterances of a named subset, in the manifest's order.

    Raises:
        ParameterError: the name is unknown; the nearest known one is named.
        DataError: the manifest holds no utterance of it, or lacks a part of it.
    """
    parts = subsets_of(name)
    absent = [part for part in parts if not (utterances["subset"] == part).any()]
    if absent:
        raise DataError(
            f"no utterances of {', '.join(absent)}, which '{name}' needs: "
            "add it to prepare.subsets and prepare again"
        )
    return utterances[utterances["subset"].isin(parts)].reset_index(drop=True)


def refuse_seen_speakers(
    trials: pd.DataFrame, utterances: pd.DataFrame, subset_name: str, parameter: str, allowed: bool
) -> None:
    """Refuse a training set or cohort with speakers that the trials will test.

    Args:
        trials: the trials table.
        utterances: the manifest.
        subset_name: the named subset to look at.
        parameter: dotted name of the parameter that chose it, for the message.
        allowed: the user asked for it by name: nothing is refused.

    Raises:
        ParameterError: speakers occur in both; the trial lists and the number of speakers are named.
    """
    if allowed:
        return
    known = set(select_subset(utterances, subset_name)["speaker_id"])
    seen: set[str] = set()
    lists: list[str] = []
    for name, rows in trials.groupby("trial_list", sort=True, observed=True):
        ids = pd.concat([rows["enroll_id"], rows["test_id"]]).unique()
        shared = known & set(utterances.loc[utterances["utterance_id"].isin(ids), "speaker_id"])
        if shared:
            seen |= shared
            lists.append(str(name))
    if seen:
        group = parameter.rpartition(".")[0]
        raise ParameterError(
            f"{parameter} = '{subset_name}' holds {len(seen)} speakers of the trials {', '.join(lists)}: "
            f"take another subset, drop these lists, or set {group}.allow_seen_speakers"
        )
