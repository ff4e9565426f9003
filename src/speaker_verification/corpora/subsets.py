"""Named sets of subsets, and refusal of training sets and cohorts that hold speakers of the trials."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.corpora.registry import named_subsets, trial_lists, unknown_name


def subsets_of(name: str) -> tuple[str, ...]:
    """The subsets that a named set is made of; several sets are joined by `+`.

    Raises:
        ParameterError: a name is unknown; the nearest known one is named.
    """
    known = named_subsets()
    parts: list[str] = []
    for part in name.split("+"):
        if part not in known:
            raise ParameterError(unknown_name("subset", part, known))
        parts += known[part]
    return tuple(dict.fromkeys(parts))


def select_subset(utterances: pd.DataFrame, name: str, per_speaker: int | None = None) -> pd.DataFrame:
    """Select the utterances of a named set, in the manifest's order.

    Args:
        utterances: manifest.
        name: named set.
        per_speaker: utterances of a speaker, at most, spread evenly over all that it has, and so over its
            sessions; None: all.

    Raises:
        ParameterError: the name is unknown; the nearest known one is named.
        DataError: the manifest holds no utterance of it, or lacks a part of it.
    """
    parts = subsets_of(name)
    absent = [part for part in parts if not (utterances["subset"] == part).any()]
    if absent:
        raise DataError(
            f"no utterances of {', '.join(absent)}, which '{name}' needs: "
            "add it to the subsets and prepare again"
        )
    selected = utterances[utterances["subset"].isin(parts)]
    if per_speaker is not None:
        speakers = selected.groupby("speaker_id", sort=False)["speaker_id"]
        place, count = speakers.cumcount(), speakers.transform("size")
        # One in each of `per_speaker` equal parts of a speaker's utterances; all where there are no more.
        selected = selected[(place + 1) * per_speaker // count > place * per_speaker // count]
    return selected.reset_index(drop=True)


def refuse_tested_subsets(role: str, name: str, lists: Iterable[str], allowed: bool) -> None:
    """Refuse a training set or cohort with subsets that trial lists test, before any table is there.

    Args:
        role: name of the argument or parameter that chose the set, for the message.
        name: named set.
        lists: names of trial lists; lists of the user's own are left out.
        allowed: the user asked for it by name: nothing is refused.

    Raises:
        ParameterError: the trial lists are named; or the name is unknown, and the nearest known one is named.
    """
    known, parts = trial_lists(), {*subsets_of(name)}
    tested = [entry for entry in lists if entry in known and parts & {*known[entry].subsets}]
    if tested and not allowed:
        raise ParameterError(
            f"{role} '{name}' holds the speakers of {', '.join(tested)}: take another one, drop these "
            "trial_lists, or set allow_seen_speakers"
        )


def refuse_seen_speakers(
    trials: pd.DataFrame, utterances: pd.DataFrame, subset_name: str, parameter: str, allowed: bool
) -> None:
    """Refuse a training set or cohort with speakers that the trials will test.

    Args:
        trials: the trials table.
        utterances: the manifest.
        subset_name: the named set to look at.
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
