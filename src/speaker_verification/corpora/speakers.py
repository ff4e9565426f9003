"""Speakers table: genders and nationalities that the corpora publish."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from speaker_verification.common.tables import SPEAKERS
from speaker_verification.corpora.mirror import Mirror
from speaker_verification.corpora.registry import corpora

UNKNOWN = "unknown"


def read_speakers(mirror: Mirror, subsets: Sequence[str]) -> pd.DataFrame:
    """Read the published facts about a mirror's speakers.

    Args:
        mirror: mirror with the corpora's metadata files and archives, as far as it has them.
        subsets: the subsets in use; files of other corpora are not read.

    Returns:
        The speakers table, without rows where nothing is known.

    Raises:
        DataError: a file is of another form, or an archive is not whole.
    """
    tables = [SPEAKERS.empty()]
    for corpus in corpora():
        sources = {name: mirror.source(name) for name in subsets if name in corpus.subsets}
        if sources and corpus.read_speakers is not None:
            table = corpus.read_speakers(mirror.folder, sources)
            tables += [] if table is None else [table]
    table = pd.concat(tables, ignore_index=True)
    gender = table["gender"].str.strip().str.lower()
    nationality = table["nationality"].str.strip()
    return SPEAKERS.conform(
        table.assign(
            gender=gender.where(gender.isin(["f", "m"]), UNKNOWN),
            nationality=nationality.where(nationality != "", UNKNOWN),
        )
    )
