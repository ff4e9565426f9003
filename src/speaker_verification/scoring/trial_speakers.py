"""Speakers of trials: from a table of utterances, or parsed from ids if the labels agree."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from speaker_verification.scoring.embeddings import rows_of_ids

SIDES = ("enroll_id", "test_id")

_TOLERATED = 0.2  # share of a class's labels against given speakers; above it, the speakers are wrong
_EXTENSION = re.compile(r"\.[A-Za-z]\w{1,4}$")


@dataclass(frozen=True, eq=False)
class TrialSpeakers:
    """Speakers of both sides of each trial (trials,), numbered by name from 0, and their count."""

    enroll: np.ndarray
    test: np.ndarray
    number: int

    def contradictions(self, labels: np.ndarray) -> np.ndarray:
        """Rows of mislabelled trials: targets between two speakers, non-targets within one.

        Args:
            labels: (trials,), 1 target, 0 non-target.
        """
        return np.flatnonzero((self.enroll == self.test) != (labels == 1))


@dataclass(frozen=True)
class SpeakerSearch:
    """Speakers of a trial list and their source.

    Attributes:
        speakers: speakers of the trials; None if uncertain.
        note: one line on their source, or on the contradiction.
        num_contradicting: trials whose labels contradict these speakers.
    """

    speakers: TrialSpeakers | None
    note: str
    num_contradicting: int = 0


def speakers_of_trials(trials: pd.DataFrame, utterances: pd.DataFrame) -> TrialSpeakers:
    """Speakers of trials by a table of utterances.

    Args:
        trials: columns enroll_id and test_id.
        utterances: columns utterance_id and speaker_id, of all utterances of the trials.

    Raises:
        DataError: utterances of the trials are not in the table; they are counted, the first ten named.
    """
    of_row, names = pd.factorize(utterances["speaker_id"], sort=True)
    of_row = of_row.astype(np.int32)
    what = "of the trials are not in the table of speakers"
    enroll, test = (of_row[rows_of_ids(trials[side], utterances, what)] for side in SIDES)
    in_list = np.zeros(len(names), dtype=bool)
    in_list[enroll] = in_list[test] = True
    number = np.cumsum(in_list, dtype=np.int32) - 1
    return TrialSpeakers(number[enroll], number[test], int(in_list.sum()))


def judge_given_speakers(trials: pd.DataFrame, utterances: pd.DataFrame) -> SpeakerSearch:
    """Speakers of trials by a table of utterances, checked against the labels.

    A few labels may be wrong, as in published lists; if more than a fifth of either class contradicts the
    table, the speakers are taken for wrong.

    Args:
        trials: columns enroll_id, test_id and label.
        utterances: as for `speakers_of_trials`.

    Raises:
        DataError: as `speakers_of_trials`.
    """
    speakers = speakers_of_trials(trials, utterances)
    labels = trials["label"].to_numpy()
    rows = speakers.contradictions(labels)
    if not len(rows):
        return SpeakerSearch(speakers, f"{speakers.number} speakers, as given")
    note = f"{_count(rows, trials)} contradict the speakers given, the first: {_trial(trials, rows[0])}"
    shares = [(labels[rows] == label).sum() / max(1, (labels == label).sum()) for label in (0, 1)]
    return SpeakerSearch(speakers if max(shares) <= _TOLERATED else None, note, len(rows))


def find_speakers(trials: pd.DataFrame) -> SpeakerSearch:
    """Speakers parsed from the ids, by the one id format that no label contradicts.

    A format agrees if every target has one speaker on both sides and every non-target two. If none agrees, or
    several do that group the utterances differently, the speakers are uncertain.

    Args:
        trials: columns enroll_id, test_id and label, both classes.
    """
    ids = {side: trials[side].astype("category").cat.remove_unused_categories() for side in SIDES}
    sides = pd.DataFrame(ids, copy=False)
    names = pd.Index(sides["enroll_id"].cat.categories).union(sides["test_id"].cat.categories)
    labels = trials["label"].to_numpy()
    agreeing: dict[str, list[str]] = {}  # by reading, the speaker of each name
    found: TrialSpeakers | None = None
    nearest: tuple[str, np.ndarray] | None = None
    for reading, speaker_of in READINGS.items():
        read = [speaker_of(name.replace("\\", "/").strip("/")) for name in names]
        if not all(read):
            continue
        table = pd.DataFrame({"utterance_id": names, "speaker_id": read})
        speakers = speakers_of_trials(sides, table)
        rows = speakers.contradictions(labels)
        if not len(rows):
            agreeing[reading] = read
            found = found or speakers
        elif nearest is None or len(rows) < len(nearest[1]):
            nearest = reading, rows
    if found is not None:
        doubt = _ambiguity(agreeing)
        note = doubt or f"{found.number} speakers, read from ids {next(iter(agreeing))}"
        return SpeakerSearch(None if doubt else found, note)
    assert nearest is not None  # some formats parse any id
    reading, rows = nearest
    return SpeakerSearch(
        None,
        f"the ids do not tell the speakers: read as {reading}, {_count(rows, trials)} contradict their "
        f"labels, the first: {_trial(trials, rows[0])}",
    )


def _ambiguity(agreeing: Mapping[str, list[str]]) -> str:
    """One line on two id formats that group the ids differently; empty if there are none."""
    (reading, read), *others = agreeing.items()
    for other, another in others:
        numbers = len(set(read)), len(set(another))
        if len(set(zip(read, another, strict=True))) != numbers[0] or numbers[0] != numbers[1]:
            return (
                f"the ids do not tell the speakers for certain: {reading} gives {numbers[0]} of them, "
                f"{other} {numbers[1]}, and the labels agree with both"
            )
    return ""


def _count(rows: np.ndarray, trials: pd.DataFrame) -> str:
    return f"{len(rows):,} of {len(trials):,} trials"


def _trial(trials: pd.DataFrame, row: int) -> str:
    """Trial as in a line of a score file."""
    enroll, test, label = (trials[name].iloc[row] for name in (*SIDES, "label"))
    return f"'{enroll} {test} {'target' if label == 1 else 'nontarget'}'"


def _folder(place: int) -> Callable[[str], str]:
    """Parser of one part of a path, by its index; empty for a shorter path."""

    def read(utterance_id: str) -> str:
        parts = utterance_id.split("/")
        return parts[place] if len(parts) >= abs(place) else ""

    return read


def _before(separator: str, *, last: bool) -> Callable[[str], str]:
    """Parser of a file name up to its first or last separator; the whole name without one."""

    def read(utterance_id: str) -> str:
        name = _EXTENSION.sub("", utterance_id.rpartition("/")[2])
        return (name.rpartition(separator)[0] if last else name.partition(separator)[0]) or name

    return read


# Parsers by id format; the first two allow any folders in front.
READINGS: Mapping[str, Callable[[str], str]] = {
    "SPEAKER/SESSION/UTTERANCE": _folder(-3),
    "SPEAKER/UTTERANCE": _folder(-2),
    "SPEAKER/...": lambda utterance_id: utterance_id.partition("/")[0],
    "SPEAKER-...": _before("-", last=False),
    "SPEAKER_...": _before("_", last=False),
    "SPEAKER-UTTERANCE": _before("-", last=True),
    "SPEAKER_UTTERANCE": _before("_", last=True),
}
