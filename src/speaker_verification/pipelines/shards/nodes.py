"""Nodes that write shards."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from speaker_verification.corpora.shards import ShardSettings, write_shards


def write_corpus_shards(utterances: pd.DataFrame, shards_folder: Path, shards: ShardSettings) -> pd.DataFrame:
    """Write the recordings of all subsets as shards.

    Args:
        utterances: the manifest.
        shards_folder: folder of the shards.
        shards: settings of the shards.

    Returns:
        The manifest of the shards.
    """
    return write_shards(utterances, shards_folder, shards.megabytes)
