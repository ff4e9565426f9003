"""Trial lists: reading, checking against the manifest, drawing."""

from __future__ import annotations

import difflib
import io
import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import TRIALS
from speaker_verification.corpora.conversion.archives import plain_name
from speaker_verification.corpora.conversion.sources import TextFile
from speaker_verification.corpora.corpus import DrawnList, PublishedList
from speaker_verification.corpora.mirror import Mirror
from speaker_verification.corpora.random_streams import CorpusStream
from speaker_verification.corpora.registry import corpora, corpus_of, trial_lists
from speaker_verification.corpora.texts import decode_text

if TYPE_CHECKING:
    from speaker_verification.corpora.settings import PrepareSettings

_COLUMNS = ["label", "enroll_id", "test_id"]
_KALDI_COLUMNS = ["enroll_id", "test_id", "label"]
_LABELS = {"0": 0, "1": 1}
_KALDI_LABELS = {"nontarget": 0, "target": 1}
_NUM_COMPARED = 500  # ids that a name is compared with to find the nearest one


def gather_trials(
    prepare: PrepareSettings,
    mirror: Path,
    utterances: pd.DataFrame,
    speakers: pd.DataFrame,
    own_names: Mapping[str, Mapping[str, str]] | None = None,
) -> pd.DataFrame:
    """Read the published lists and the user's own, and draw the others.

    Args:
        prepare: names of the lists, and size and seed of the drawn ones.
        mirror: folder of the mirror.
        utterances: columns utterance_id, speaker_id and subset at least.
        speakers: the speakers table; same-sex lists need the genders in it.
        own_names: for lists of own corpora, utterance ids by the names that the list may call them.

    Returns:
        The trials table: the published lists, the user's own, the drawn ones.

    Raises:
        DataError: as `read_trials`, or a subset does not allow trials of both kinds.
    """
    files = {name: Mirror(mirror).list_file(file) for name, file in prepare.list_files.items()}
    tables = [read_trials(files, utterances, own_names)]
    genders = dict(zip(speakers["speaker_id"], speakers["gender"], strict=True))
    size = prepare.drawn_trials
    for number, name, drawn in _drawn_lists():
        if name not in prepare.list_names:
            continue
        trials = draw_trials(
            utterances[utterances["subset"] == drawn.subset],
            size.target_trials,
            size.nontarget_trials,
            name,
            np.random.default_rng([prepare.seed, CorpusStream.TRIAL_LISTS, number]),
            across_sessions=True,
            genders=genders if drawn.same_sex else None,
        )
        if trials["label"].nunique() < 2:
            of_one_sex = " of one sex, by the speakers table," if drawn.same_sex else ""
            raise DataError(
                f"{name}: {drawn.subset} gives no target or no non-target trials: 2 speakers{of_one_sex} "
                "and 2 utterances of a speaker are needed"
            )
        tables.append(trials)
    return TRIALS.concat(tables)


def _drawn_lists() -> Iterator[tuple[int, str, DrawnList]]:
    """Number of the random stream, name and facts of each drawn list; every corpus counts its own."""
    for corpus in corpora():
        drawn = {name: entry for name, entry in corpus.trial_lists.items() if isinstance(entry, DrawnList)}
        yield from ((number, name, entry) for number, (name, entry) in enumerate(drawn.items()))


def read_trial_list(path: TextFile, trial_list: str) -> pd.DataFrame:
    """Read one list: `LABEL ENROLL_ID TEST_ID` on each line, or a published list's own columns and names.

    A list in Kaldi's format, `ENROLL_ID TEST_ID LABEL` with the labels target and nontarget, is read too.

    Args:
        path: file in UTF-8 or UTF-16; blank lines are skipped, ids normalised as the names in archives are.
        trial_list: name of the list in the table (vox1_o, ...).

    Returns:
        The trials table.

    Raises:
        DataError: a line is of another form (file and line are named), or there is none.
    """
    known = trial_lists().get(trial_list)
    published = known if isinstance(known, PublishedList) else None
    columns = list(published.columns) if published else _COLUMNS
    table = _read_evenly_spaced(path, columns)
    if table is None:
        table = _read_evenly_spaced(path, _KALDI_COLUMNS)
    if table is None:
        table = _read_line_by_line(path, columns)
    trials = TRIALS.conform(table.assign(trial_list=trial_list))
    for side in ("enroll_id", "test_id"):
        names = trials[side].cat.categories
        if (ids := names.map(partial(_utterance_id, published))).equals(names):
            continue
        trials[side] = trials[side].astype(object).map(dict(zip(names, ids, strict=True)))
    return TRIALS.conform(trials)


def _utterance_id(published: PublishedList | None, name: str) -> str:
    """Id of the utterance that a list names; the name itself where no layout of its subsets parses it."""
    if published is None or published.member_of is None:
        return plain_name(name)
    member = plain_name(published.member_of(name))
    parsed = (corpus_of(subset).layout_of(subset).parse(member) for subset in published.subsets)
    return next((found.file_id for found in parsed if found), name)


def _read_evenly_spaced(path: TextFile, columns: list[str]) -> pd.DataFrame | None:
    """All lines at once, as long as each is three fields with one space between them; else None."""
    from pyarrow import csv

    try:
        table = csv.read_csv(
            path if isinstance(path, Path) else pa.BufferReader(path.read_bytes()),
            csv.ReadOptions(column_names=columns),
            csv.ParseOptions(delimiter=" ", quote_char=False),
            csv.ConvertOptions(column_types={name: pa.string() for name in columns}),
        ).to_pandas()
    except pa.ArrowInvalid:
        return None
    table["label"] = table["label"].map(_labels_in(columns))
    regular = table["label"].notna() & (table["enroll_id"] != "") & (table["test_id"] != "")
    return table.astype({"label": "int8"}) if len(table) and regular.all() else None


def _labels_in(columns: list[str]) -> dict[str, int]:
    """Spellings of labels; words stand last."""
    return {**_LABELS, **_KALDI_LABELS} if columns[-1] == "label" else _LABELS


def _read_line_by_line(path: TextFile, columns: list[str]) -> pd.DataFrame:
    """Slower, for unevenly spaced lines; names a malformed one."""
    rows: list[list[str]] = []
    lines = io.StringIO(decode_text(path.read_bytes()), newline=None)
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        if not rows and fields[-1] in _KALDI_LABELS:
            columns = _KALDI_COLUMNS
        if len(fields) != 3 or fields[columns.index("label")] not in _labels_in(columns):
            form = " ".join(columns).upper()
            raise DataError(f"{path}, line {number}: {line.strip()!r} is not '{form}', LABEL 0 or 1")
        rows.append(fields)
    if not rows:
        raise DataError(f"{path}: holds no trials")
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(label=table["label"].map(_labels_in(columns)))


def read_trials(
    files: Mapping[str, TextFile],
    utterances: pd.DataFrame,
    own_names: Mapping[str, Mapping[str, str]] | None = None,
) -> pd.DataFrame:
    """Read several lists and check that the manifest has all their utterances.

    Args:
        files: the file of each trial list, by the list's name.
        utterances: the manifest.
        own_names: for some lists, utterance ids by other names that the list may call them.

    Returns:
        The trials table, list after list, each in its file's order.

    Raises:
        DataError: malformed lines (the first of each list is named), or utterances that the manifest lacks,
            with their count, the first ten and the id that is nearest to the first.
    """
    tables, malformed = [], []
    for name, path in files.items():
        try:
            trials = read_trial_list(path, name)
            tables.append(_with_ids(trials, (own_names or {}).get(name, {})))
        except DataError as error:
            malformed.append(str(error))
    if malformed:
        raise DataError("; ".join(malformed))
    trials = TRIALS.concat(tables)
    sides = trials.melt("trial_list", ["enroll_id", "test_id"], value_name="utterance_id")
    absent = sides[~sides["utterance_id"].isin(utterances["utterance_id"])]
    if len(absent):
        ids = absent["utterance_id"].unique()
        raise DataError(
            f"trials of {', '.join(absent['trial_list'].unique())} name {len(ids)} utterances that are "
            f"missing or were rejected; the first: {', '.join(ids[:10])}; "
            f"{_describe_ids(str(ids[0]), utterances['utterance_id'])}"
        )
    return TRIALS.conform(trials)


def _with_ids(trials: pd.DataFrame, ids: Mapping[str, str]) -> pd.DataFrame:
    """The trials table with utterance ids in place of the names that are among `ids`."""
    if not ids:
        return trials
    sides = {
        side: [ids.get(name, name) for name in trials[side].astype(str)] for side in ("enroll_id", "test_id")
    }
    return TRIALS.conform(trials.assign(**sides))


def _describe_ids(name: str, ids: pd.Series) -> str:
    """Hint on the form of ids, with the nearest one."""
    form = "an id begins with the speaker and ends in .wav (SPEAKER/SESSION/UTTERANCE.wav)"
    known = np.array(sorted(ids), dtype=str)
    if not len(known):
        return form
    parts = plain_name(name).split("/")
    parts[-1] = os.path.splitext(parts[-1])[0]
    stem = "/".join(parts)
    place = np.arange(len(known)) - bisect_left(known.tolist(), stem)
    likeliest = (
        known == "/".join(parts[-3:]) + ".wav",  # the name has folders in front or another ending
        np.char.endswith(known, f"/{stem}.wav"),  # it lacks the speaker, or also the session
        np.char.startswith(known, f"{parts[0]}/") & (len(parts) > 1),
        np.abs(place) <= _NUM_COMPARED // 2,
        np.ones(len(known), bool),
    )
    near = next(known[is_likely] for is_likely in likeliest if is_likely.any())[:_NUM_COMPARED]
    (nearest,) = difflib.get_close_matches(stem, near.tolist(), n=1, cutoff=0)
    return f"{form}, the nearest to '{name}' is '{nearest}'"


def draw_trials(
    utterances: pd.DataFrame,
    num_target: int,
    num_nontarget: int,
    trial_list: str,
    rng: np.random.Generator,
    across_sessions: bool = False,
    genders: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Draw trials at random, without duplicate pairs of utterances.

    Target trials spread over the speakers as evenly as their utterances allow, non-target trials over the
    pairs of utterances. Where there are fewer pairs than asked for, all of them are taken.

    Args:
        utterances: the manifest to draw from, with columns utterance_id and speaker_id.
        num_target: trials of one speaker.
        num_nontarget: trials of two speakers.
        trial_list: name in the table.
        rng: random generator of all draws.
        across_sessions: whether a speaker with several sessions gives target trials across sessions only.
        genders: f or m by speaker; where given, non-target trials pair speakers of one gender, and those of
            unknown gender occur in none.

    Returns:
        The trials table, target trials first.
    """
    table = utterances.sort_values("utterance_id")  # so that the draw depends on the set, not on its order
    ids = table["utterance_id"].to_numpy()
    speakers = pd.factorize(table["speaker_id"])[0]
    sessions = groups = np.zeros(len(table), dtype=int)
    if across_sessions:
        sessions = pd.factorize(table["utterance_id"].str.rpartition("/")[0])[0]
    if genders is not None:
        groups = table["speaker_id"].map(genders).map({"f": 0, "m": 1}).fillna(-1).to_numpy(dtype=int)
    target = _target_pairs(speakers, sessions, num_target, rng)
    known = np.flatnonzero(groups >= 0)
    nontarget = known[_nontarget_pairs(speakers[known], groups[known], num_nontarget, rng)]
    pairs = np.concatenate([target, nontarget])  # (trials, 2)
    pairs = rng.permuted(pairs, axis=1)  # either of the two may be the enrolment
    labels = np.repeat([1, 0], [len(target), len(nontarget)])
    trials = pd.DataFrame({"label": labels, "enroll_id": ids[pairs[:, 0]], "test_id": ids[pairs[:, 1]]})
    return TRIALS.conform(trials.assign(trial_list=trial_list))


def _target_pairs(
    speakers: np.ndarray, sessions: np.ndarray, num_pairs: int, rng: np.random.Generator
) -> np.ndarray:
    """Pairs of one speaker's utterances, (pairs, 2): first one of every speaker, then another, and so on."""
    drawn, rounds = [np.empty((0, 2), dtype=int)], [np.empty(0, dtype=int)]
    for speaker in np.unique(speakers):
        own = np.flatnonzero(speakers == speaker)
        pairs = own[np.stack(np.triu_indices(len(own), k=1), axis=1)]
        across = sessions[pairs[:, 0]] != sessions[pairs[:, 1]]
        pairs = rng.permutation(pairs[across] if across.any() else pairs)[:num_pairs]
        drawn.append(pairs)
        rounds.append(np.arange(len(pairs)))
    order = np.concatenate(rounds)
    chosen = np.lexsort((rng.random(len(order)), order))[:num_pairs]
    return np.concatenate(drawn)[chosen]


def _nontarget_pairs(
    speakers: np.ndarray, groups: np.ndarray, num_pairs: int, rng: np.random.Generator
) -> np.ndarray:
    """Pairs of two speakers' utterances, both speakers of one group, (pairs, 2)."""
    sizes, counts = np.bincount(groups), np.bincount(speakers)
    num_available = (int((sizes**2).sum()) - int((counts**2).sum())) // 2
    if num_available <= 2 * num_pairs:
        first, second = np.triu_indices(len(speakers), k=1)
        fitting = (speakers[first] != speakers[second]) & (groups[first] == groups[second])
        return rng.permutation(np.stack([first, second], axis=1)[fitting])[:num_pairs]
    chosen: dict[tuple[int, int], None] = {}  # a set that keeps its order
    while len(chosen) < num_pairs:
        drawn = np.sort(rng.integers(len(speakers), size=(num_pairs, 2)), axis=1)  # (pairs, 2)
        first, second = drawn.T
        fitting = (speakers[first] != speakers[second]) & (groups[first] == groups[second])
        chosen.update(dict.fromkeys(map(tuple, drawn[fitting].tolist())))
    return np.array(list(chosen)[:num_pairs], dtype=int).reshape(-1, 2)
