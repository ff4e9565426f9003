"""Trial lists: read, checked against the manifest, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from speaker_verification.errors import DataError
from speaker_verification.tables import TRIALS


def read_trial_list(path: Path, trial_list: str) -> pd.DataFrame:
    """Read one list in VoxCeleb's format, `LABEL ENROLL_ID TEST_ID` on each line.

    Args:
        path: the list; blank lines are passed over.
        trial_list: its name in the table (vox1_o, ...).

    Returns:
        The trials table.

    Raises:
        DataError: a line is of another form (file and line are named), or there is none.
    """
    rows: list[tuple[int, str, str]] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 3 or fields[0] not in ("0", "1"):
                raise DataError(
                    f"{path}, line {number}: {line.strip()!r} is not 'LABEL ENROLL_ID TEST_ID', LABEL 0 or 1"
                )
            rows.append((int(fields[0]), fields[1], fields[2]))
    if not rows:
        raise DataError(f"{path}: holds no trials")
    table = pd.DataFrame(rows, columns=["label", "enroll_id", "test_id"])
    return TRIALS.conform(table.assign(trial_list=trial_list))


def read_trials(files: Mapping[str, Path], utterances: pd.DataFrame) -> pd.DataFrame:
    """Read several lists and make sure that every utterance they name is there.

    Args:
        files: the file of each trial list, by the list's name.
        utterances: the manifest.

    Returns:
        The trials table, list after list, each in its file's order.

    Raises:
        DataError: a malformed line, or utterances that the manifest lacks, with their count and the first
            ten.
    """
    trials = pd.concat([read_trial_list(path, name) for name, path in files.items()], ignore_index=True)
    sides = trials.melt("trial_list", ["enroll_id", "test_id"], value_name="utterance_id")
    absent = sides[~sides["utterance_id"].isin(utterances["utterance_id"])]
    if len(absent):
        ids = absent["utterance_id"].unique()
        raise DataError(
            f"trials of {', '.join(absent['trial_list'].unique())} name {len(ids)} utterances that are "
            f"missing or were rejected; the first: {', '.join(ids[:10])}"
        )
    return TRIALS.conform(trials)


def draw_trials(
    utterances: pd.DataFrame, num_target: int, num_nontarget: int, trial_list: str, rng: np.random.Generator
) -> pd.DataFrame:
    """Draw trials at random; no pair of utterances comes twice.

    Target trials spread over the speakers as evenly as their utterances allow, non-target trials over the
    pairs of utterances. Where there are fewer pairs than asked for, all of them are taken.

    Args:
        utterances: the manifest to draw from, with columns utterance_id and speaker_id.
        num_target: trials of one speaker.
        num_nontarget: trials of two speakers.
        trial_list: name in the table.
        rng: source of all randomness.

    Returns:
        The trials table, target trials first.
    """
    table = utterances.sort_values("utterance_id")  # so that the draw depends on the set, not on its order
    ids = table["utterance_id"].to_numpy()
    speakers = pd.factorize(table["speaker_id"])[0]
    target = _target_pairs(speakers, num_target, rng)
    nontarget = _nontarget_pairs(speakers, num_nontarget, rng)
    pairs = np.concatenate([target, nontarget])  # (trials, 2)
    pairs = rng.permuted(pairs, axis=1)  # either of the two may be the enrolment
    labels = np.repeat([1, 0], [len(target), len(nontarget)])
    trials = pd.DataFrame({"label": labels, "enroll_id": ids[pairs[:, 0]], "test_id": ids[pairs[:, 1]]})
    return TRIALS.conform(trials.assign(trial_list=trial_list))


def _target_pairs(speakers: np.ndarray, num_pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Pairs of one speaker's utterances, (pairs, 2): first one of every speaker, then another, and so on."""
    drawn, rounds = [np.empty((0, 2), dtype=int)], [np.empty(0, dtype=int)]
    for speaker in range(speakers.max() + 1):
        own = np.flatnonzero(speakers == speaker)
        pairs = rng.permutation(np.stack(np.triu_indices(len(own), k=1), axis=1))[:num_pairs]
        drawn.append(own[pairs])
        rounds.append(np.arange(len(pairs)))
    order = np.concatenate(rounds)
    chosen = np.lexsort((rng.random(len(order)), order))[:num_pairs]
    return np.concatenate(drawn)[chosen]


def _nontarget_pairs(speakers: np.ndarray, num_pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Pairs of two speakers' utterances, (pairs, 2)."""
    counts = np.bincount(speakers)
    num_available = (len(speakers) ** 2 - int((counts**2).sum())) // 2
    if num_available <= 2 * num_pairs:
        first, second = np.triu_indices(len(speakers), k=1)
        pairs = np.stack([first, second], axis=1)[speakers[first] != speakers[second]]
        return rng.permutation(pairs)[:num_pairs]
    chosen: dict[tuple[int, int], None] = {}  # a set that keeps its order
    while len(chosen) < num_pairs:
        for pair in np.sort(rng.integers(len(speakers), size=(num_pairs, 2)), axis=1).tolist():
            if speakers[pair[0]] != speakers[pair[1]]:
                chosen[pair[0], pair[1]] = None
    return np.array(list(chosen)[:num_pairs], dtype=int).reshape(-1, 2)
