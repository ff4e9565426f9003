"""Ids of the runs that made a checkpoint or embeddings, in small files beside them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import CatalogProtocol, DatasetError

from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.errors import UserError
from speaker_verification.config.phases import LAST_CHECKPOINT

if TYPE_CHECKING:
    from speaker_verification.scoring.settings import EmbedSettings

logger = logging.getLogger(__name__)

IDS_FILE = "tracking.json"  # in a phase's workspace, and beside what an evaluation saves


def best_of(catalog: CatalogProtocol, checkpoint: str, rank: int) -> Path | None:
    """Folder of the rank-th best epoch of a phase; None where there is none."""
    from speaker_verification.training.kept_epochs import best_checkpoint

    try:
        return best_checkpoint(_saved_folder(catalog, checkpoint), rank)
    except (UserError, DatasetError):
        return None


def model_to_evaluate(catalog: CatalogProtocol, settings: EmbedSettings) -> Path | None:
    """Folder of the model to evaluate; None where there is none."""
    from speaker_verification.training.kept_epochs import evaluated_model

    try:
        return evaluated_model(settings, lambda: _saved_folder(catalog, LAST_CHECKPOINT))
    except (UserError, DatasetError):
        return None


def _saved_folder(catalog: CatalogProtocol, dataset_name: str) -> Path:
    return Path(catalog[dataset_name]._get_load_path())


def ids_of_model(folder: Path | None) -> dict[str, str]:
    """Ids of the runs that trained a model, as saved in its folder."""
    if folder is None:
        return {}
    from speaker_verification.training.kept_epochs import RUN_FILE

    ids = _read_json(folder / RUN_FILE).get("tracking")
    return _texts(ids) if isinstance(ids, dict) else {}


def beside(catalog: CatalogProtocol, dataset_name: str) -> Path:
    """File with the run ids of a version of a dataset."""
    return Path(catalog[dataset_name]._get_load_path()).with_name(IDS_FILE)


def read_ids(file: Path) -> dict[str, str]:
    return _texts(_read_json(file))


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a small file; a failure is logged and does not stop the tracked run."""
    try:
        with atomic_write(file) as part:
            part.write_text(json.dumps(values, indent=2), encoding="utf-8")
    except OSError as error:
        logger.warning("cannot write '%s': %s; later runs will not find this run in MLflow", file, error)
