"""Utterance ids of one source among those of another: exactly, or by a rule for their usual variants."""

from __future__ import annotations

import difflib
import logging
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from speaker_verification.common.errors import DataError, listed

logger = logging.getLogger(__name__)

_ENDING = re.compile(r"\.[A-Za-z]\w{1,4}$")
_SPEAKER_TWICE = re.compile(r"([^-]+)-\1-")
_NUM_COMPARED = 500  # ids that a name is compared with to find the nearest one


def match_ids(asked: Sequence[str], known: Sequence[str], where: str) -> np.ndarray:
    """Row of each id among the known ones, (len(asked),); -1 where there is none.

    An id that is not known exactly is looked for by its form: the ending of its file (`.wav`) does not count,
    `/`, `-` and `_` are the same, and a speaker whom Kaldi's ids name twice (`SPEAKER-SPEAKER-...`) counts
    once. Where that finds nothing, folders in front do not count either, on both sides.

    Args:
        asked: distinct ids.
        known: distinct ids.
        where: file or table of the known ids, for messages and the log.

    Raises:
        DataError: an id has the form of several known ones, or two ids of different forms that of one.
    """
    rows = pd.Index(known).get_indexer(pd.Index(asked))
    left = np.flatnonzero(rows < 0)
    if not len(left):
        return rows
    rows[left] = found = _match_forms([asked[place] for place in left.tolist()], known, where)
    if (found >= 0).any():
        _refuse_shared(asked, known, rows, where)
        first = int(left[(found >= 0).argmax()])
        logger.info(
            "%s: %d of %d ids are found by their form, such as %s as %s",
            *(where, (found >= 0).sum(), len(asked), asked[first], known[int(rows[first])]),
        )
    return rows


def _match_forms(asked: Sequence[str], known: Sequence[str], where: str) -> np.ndarray:
    """Rows of ids by their forms alone."""
    forms_of_asked, forms_of_known = [*map(_form, asked)], [*map(_form, known)]
    rows_of: dict[str, list[int]] = {}
    for row, form in enumerate(forms_of_known):
        rows_of.setdefault(form, []).append(row)
    candidates = [rows_of.get(form, []) for form in forms_of_asked]
    unknown = [place for place, rows in enumerate(candidates) if not rows]
    if unknown:
        places_of: dict[str, list[int]] = {}
        for place in unknown:
            places_of.setdefault(forms_of_asked[place], []).append(place)
            candidates[place] = [
                row for form in _without_folders(asked[place]) for row in rows_of.get(form, ())
            ]
        for row, name in enumerate(known):
            for form in _without_folders(name):
                for place in places_of.get(form, ()):
                    candidates[place].append(row)
    for name, rows in zip(asked, candidates, strict=True):
        if len(rows) > 1:
            raise DataError(
                f"{where}: '{name}' could be {listed([known[row] for row in rows])}: name it in full"
            )
    return np.array([rows[0] if rows else -1 for rows in candidates])


def _form(name: str) -> str:
    """An id without the ending of its file, in the spelling by which variants of it are the same."""
    stem = _ENDING.sub("", name).replace("\\", "/").removeprefix("./")
    spelt = stem.replace("/", "-").replace("_", "-")
    return _SPEAKER_TWICE.sub(r"\1-", spelt, count=1) if _SPEAKER_TWICE.match(spelt) else spelt


def _without_folders(name: str) -> Iterator[str]:
    """Forms of an id without the folders in front, one folder after the other."""
    rest = name.replace("\\", "/")
    while "/" in rest:
        rest = rest.partition("/")[2]
        yield _form(rest)


def _refuse_shared(asked: Sequence[str], known: Sequence[str], rows: np.ndarray, where: str) -> None:
    """Refuse ids of different forms that are found as one known id."""
    shared = pd.Series(rows).duplicated(keep=False).to_numpy() & (rows >= 0)
    first_of_row: dict[int, tuple[str, str]] = {}
    for place in np.flatnonzero(shared).tolist():
        name, row = asked[place], int(rows[place])
        form = _form(name)
        other, form_of_other = first_of_row.setdefault(row, (name, form))
        if form != form_of_other:
            raise DataError(f"{where}: '{known[row]}' could be '{other}' or '{name}': name both in full")


def nearest_id(name: str, known: Sequence[str]) -> str:
    """The known id that is most like a name.

    Args:
        name: the name.
        known: at least one id; ids far from it in alphabetical order are not compared where there are many.
    """
    rising = sorted(known)
    begin = max(0, bisect_left(rising, name) - _NUM_COMPARED // 2)
    last = _form(name).rpartition("-")[2]
    alike = [other for other in rising if last in other][:_NUM_COMPARED]
    near = [*rising[begin : begin + _NUM_COMPARED], *alike]
    return difflib.get_close_matches(name, near, n=1, cutoff=0)[0]
