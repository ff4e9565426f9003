"""Comparison of trial lists with the published ones, and their oddities."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from speaker_verification.common.tables import TRIAL_LISTS
from speaker_verification.corpora.conversion.sources import TextFile
from speaker_verification.corpora.corpus import PublishedList
from speaker_verification.corpora.registry import trial_lists

DRAWN = "drawn"  # in place of the file name of a drawn list
logger = logging.getLogger(__name__)


def describe_lists(
    trials: pd.DataFrame, files: Mapping[str, TextFile], utterances: pd.DataFrame
) -> pd.DataFrame:
    """Describe each list in a table and in the log: whether it is official, its size, its oddities.

    Args:
        trials: the trials table.
        files: files of the lists that were read, by name; the others were drawn.
        utterances: the manifest, with columns utterance_id and speaker_id, of all their utterances.

    Returns:
        The trial_lists table.
    """
    rows = []
    known = trial_lists()
    speaker_of = dict(zip(utterances["utterance_id"], utterances["speaker_id"], strict=True))
    for name, of_list in trials.groupby("trial_list", sort=False, observed=True):
        path = files.get(str(name))
        text = path.read_bytes() if path else _as_text(of_list)
        unix = text.replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n"  # copies differ in how their lines end
        num_target = int((of_list["label"] == 1).sum())
        entry = known.get(str(name))
        published = entry if isinstance(entry, PublishedList) else None
        row = {
            "trial_list": str(name),
            "file": path.name if path else DRAWN,
            "md5": _md5(unix),
            "num_target": num_target,
            "num_nontarget": len(of_list) - num_target,
            "official": published is not None
            and (
                published.md5 in (_md5(text), _md5(unix))
                if published.md5
                else published.num_trials == len(of_list)
            ),
            **_oddities(of_list, speaker_of),
        }
        logger.info("%s", _description(row, published))
        rows.append(row)
    return TRIAL_LISTS.conform(pd.DataFrame(rows, columns=TRIAL_LISTS.columns.names))


def _as_text(trials: pd.DataFrame) -> bytes:
    return trials[["label", "enroll_id", "test_id"]].to_csv(sep=" ", header=False, index=False).encode()


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _oddities(trials: pd.DataFrame, speaker_of: Mapping[str, str]) -> dict[str, int]:
    """Counts of a list's repeated and self trials, and of those that contradict their speakers."""
    sides, ids = pd.factorize(pd.concat([trials["enroll_id"], trials["test_id"]]))
    speakers, _ = pd.factorize(pd.Series(ids).map(speaker_of))
    enroll, test = np.split(sides, 2)
    pairs = np.minimum(enroll, test) * len(ids) + np.maximum(enroll, test)
    return {
        "num_repeated": len(pairs) - len(np.unique(pairs)),
        "num_self": int((enroll == test).sum()),
        "num_mislabelled": int(((speakers[enroll] == speakers[test]) != (trials["label"] == 1)).sum()),
    }


def _description(row: Mapping[str, Any], published: PublishedList | None) -> str:
    """A row of the trial_lists table as a line to read."""
    num_trials = row["num_target"] + row["num_nontarget"]
    text = f"{row['trial_list']}: {num_trials:,} trials, {row['num_target']:,} of them targets, {row['file']}"
    if row["official"]:
        text += ", the official list"
        text += " by its number of trials" if published is not None and published.md5 is None else ""
    elif published is not None and published.num_trials == num_trials:
        text += ", as many as the official list, but not the same (MD5)"
    elif published is not None:
        text += f", not the official list of {published.num_trials:,}"
    oddities = {
        "repeated": row["num_repeated"],
        "of an utterance with itself": row["num_self"],
        "labelled against their speakers": row["num_mislabelled"],
    }
    return "; ".join([text, *(f"{count:,} {what}" for what, count in oddities.items() if count)])
