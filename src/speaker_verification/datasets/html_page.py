"""HTML pages, with their summary as a preview."""

from __future__ import annotations

import re
from pathlib import Path

from kedro_datasets._typing import HTMLPreview

from speaker_verification.datasets.previews import html_preview
from speaker_verification.datasets.versioned import AtomicDataset


class HtmlPageDataset(AtomicDataset[str]):
    """HTML file in UTF-8; Kedro-Viz shows its element with the id `summary`, without styles and programs."""

    def _write(self, path: Path, data: str) -> None:
        path.write_text(data, encoding="utf-8")

    def _read(self, path: Path) -> str:
        return path.read_text(encoding="utf-8")

    def preview(self) -> HTMLPreview:
        """Summary of the newest version in Kedro-Viz."""
        page = self.load() if self.exists() else ""
        found = re.search(r'<section id="summary".*?</section>', page, flags=re.DOTALL)
        return html_preview(found[0] if found else "")
