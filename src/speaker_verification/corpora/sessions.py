"""Sessions that a corpus lists and that a mirror does not have, counted by speaker."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pandas as pd

from speaker_verification.common.tables import MISSING_SESSIONS
from speaker_verification.corpora.mirror import Mirror
from speaker_verification.corpora.registry import corpora

_COLUMNS = ["speaker_id", "session_id"]
logger = logging.getLogger(__name__)


def count_missing_sessions(mirror: Mirror, utterances: pd.DataFrame, subsets: Sequence[str]) -> pd.DataFrame:
    """Compare the sessions of utterances with those that their corpora list, and tell the difference.

    Args:
        mirror: mirror with the corpora's lists, as far as it has them.
        utterances: columns speaker_id, session_id and subset at least.
        subsets: the subsets in use.

    Returns:
        The missing_sessions table: rows of the speakers that lack any.

    Raises:
        DataError: a list is of another form.
    """
    tables = [MISSING_SESSIONS.empty()]
    for corpus in corpora():
        names = [name for name in subsets if name in corpus.subsets]
        listed = corpus.read_sessions(mirror.folder) if names and corpus.read_sessions else None
        if listed is None:
            continue
        own = utterances.loc[utterances["subset"].isin(names), _COLUMNS].drop_duplicates()
        sessions = listed.drop_duplicates().merge(own, how="left", on=_COLUMNS, indicator="side")
        sessions["is_missing"] = sessions["side"] == "left_only"
        counts = sessions.groupby("speaker_id", sort=True)["is_missing"].agg(["size", "sum"])
        counts = counts.set_axis(["num_listed", "num_missing"], axis=1).reset_index()
        absent = counts["num_missing"] == counts["num_listed"]
        num_listed, num_missing = counts["num_listed"].sum(), counts["num_missing"].sum()
        logger.info(
            "%s: %d of %d sessions that its list has are missing here, and all of %d of %d speakers",
            *(corpus.name, num_missing, num_listed, absent.sum(), len(counts)),
        )
        tables.append(counts[counts["num_missing"] > 0])
    return MISSING_SESSIONS.conform(pd.concat(tables, ignore_index=True))
