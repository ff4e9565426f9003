"""Scores in the field's text format."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from speaker_verification.datasets.versioned import AtomicDataset
from speaker_verification.scoring.score_files import read_score_file, write_score_file


class ScoreFileDataset(AtomicDataset[pd.DataFrame]):
    """Text file with a trial on each line, `ENROLL_ID TEST_ID SCORE [target|nontarget]`."""

    def _write(self, path: Path, data: pd.DataFrame) -> None:
        write_score_file(path, data)

    def _read(self, path: Path) -> pd.DataFrame:
        return read_score_file(path)
