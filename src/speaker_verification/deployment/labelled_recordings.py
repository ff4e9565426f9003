"""Recordings whose speakers are known, for a verifier: a table, a manifest, or a folder of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.corpora.manifests import check_table, read_manifest


def label_recordings(source: pd.DataFrame | str | Path) -> pd.DataFrame:
    """Recordings with their speakers: columns utterance_id, speaker_id, session_id and path.

    Ids of utterances are the files as they are named, ids of sessions empty where sessions are not known.

    Args:
        source: table with the columns file and speaker and maybe session, whose files are relative to the
            working directory; or a manifest or folder, see `read_manifest`.

    Raises:
        DataError: see `read_manifest`; or segments of recordings are listed.
    """
    if isinstance(source, pd.DataFrame):
        manifest = check_table(source, "the table of recordings", Path.cwd())
    else:
        manifest = read_manifest(source)
    table = manifest.recordings
    timed = ((table["start"] > 0) | table["end"].notna()).to_numpy()
    if timed.any():
        raise DataError(
            f"{manifest.where(int(timed.argmax()))}: start and end cut a segment out of a recording, and a "
            "verifier is built of whole ones: write it to a file of its own"
        )
    columns = {"file": "utterance_id", "speaker": "speaker_id", "session": "session_id", "path": "path"}
    return table[list(columns)].rename(columns=columns)
