"""Plain values as a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kedro_datasets._typing import JSONPreview

from speaker_verification.datasets.previews import json_preview
from speaker_verification.datasets.versioned import AtomicDataset


class JsonDataset(AtomicDataset[dict[str, Any]]):
    """JSON file of plain values; non-finite numbers are an error."""

    def _write(self, path: Path, data: dict[str, Any]) -> None:
        path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")

    def _read(self, path: Path) -> dict[str, Any]:
        return json.loads(path.read_text())

    def preview(self) -> JSONPreview:
        """JSON preview of the newest version in Kedro-Viz."""
        return json_preview(self.load() if self.exists() else {})
