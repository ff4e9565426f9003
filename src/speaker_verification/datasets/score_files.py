"""Folders of score files in the field's text format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from kedro_datasets._typing import TablePreview

from speaker_verification.datasets.previews import table_preview
from speaker_verification.datasets.versioned import AtomicDataset
from speaker_verification.scoring.score_files import read_score_file, write_score_file

SHOWN_TRIALS = 5  # of a file


class ScoreFilesDataset(AtomicDataset[Mapping[str, pd.DataFrame]]):
    """Folder of text files by name, one trial a line: `ENROLL_ID TEST_ID SCORE [target|nontarget]`.

    Saving replaces the whole folder, so that all its files belong to one evaluation.
    """

    def _write(self, path: Path, data: Mapping[str, pd.DataFrame]) -> None:
        path.mkdir()
        for name, scores in data.items():
            write_score_file(path / f"{name}.txt", scores)

    def _read(self, path: Path) -> Mapping[str, pd.DataFrame]:
        return {file.stem: read_score_file(file) for file in sorted(path.glob("*.txt"))}

    def preview(self) -> TablePreview:
        """First trials of each file, for Kedro-Viz."""
        firsts = [scores.head(SHOWN_TRIALS).assign(file=name) for name, scores in self.load().items()]
        return table_preview(pd.concat(firsts)[["file", *firsts[0].columns.drop("file")]])
