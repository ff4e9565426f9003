"""Evaluations in data roots: the scores of a version, and the verdict of the report on them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import SCORES
from speaker_verification.models.weight_files import read_json
from speaker_verification.reporting.comparison import ComparedRun
from speaker_verification.reporting.verdict import Verdict, equal_error_rates
from speaker_verification.scoring.calibration import Calibration

# Below the data root, as in the catalog.
SCORES_FILE = Path("07_model_output/scores.parquet")
CALIBRATION_FILE = Path("07_model_output/calibration.json")
METRICS_FILE = Path("08_reporting/metrics.json")
VERDICT_FILE = Path("08_reporting/verdict.json")
UTTERANCES_FILE = Path("02_intermediate/utterances.parquet")


class EvaluationAddress(NamedTuple):
    """Evaluation in a data root.

    Attributes:
        root: data root.
        version: version of the scores; None: the newest.
        system: name of the evaluated system; None: that of its recipe or model.
    """

    root: Path
    version: str | None = None
    system: str | None = None


class EvaluationFiles(NamedTuple):
    """Files of an evaluation."""

    root: Path
    version: str
    scores: Path
    calibration: Path
    verdict: Path
    utterances: Path


def find_evaluation(root: Path, version: str | None) -> EvaluationFiles:
    """Files of an evaluation in a data root.

    Args:
        root: data root.
        version: version of the scores; None: the newest.

    Raises:
        DataError: there are no scores, or no report on them.
    """
    versions = _versions(root / SCORES_FILE)
    if not versions:
        raise DataError(f"compare_runs: '{root}' holds no {SCORES_FILE}: run evaluate and report there")
    if version is None:
        version = versions[0]
    if version not in versions:
        raise DataError(
            f"compare_runs: '{root}' has no scores of version '{version}': the newest are "
            f"{', '.join(versions[:3])}"
        )
    rates = equal_error_rates(read_json(_file(root / METRICS_FILE, version)))
    for found in _versions(root / VERDICT_FILE):
        verdict = _file(root / VERDICT_FILE, found)
        if read_json(verdict)["eer"] == rates:
            break
    else:
        raise DataError(
            f"compare_runs: no report on the scores {root}@{version}: run "
            f"--pipeline=report --load-versions=scores:{version},metrics:{version},calibration:{version}"
        )
    scores, calibration = (_file(root / file, version) for file in (SCORES_FILE, CALIBRATION_FILE))
    return EvaluationFiles(root, version, scores, calibration, verdict, root / UTTERANCES_FILE)


def read_evaluation(files: EvaluationFiles, system: str | None = None) -> ComparedRun:
    """Evaluation for a comparison.

    Args:
        files: files of the evaluation.
        system: name of the evaluated system; None: that of its recipe or model.

    Raises:
        DataError: a file is missing or does not fit this version.
    """
    if not files.utterances.is_file():
        raise DataError(f"'{files.utterances}' is missing, which names the speakers of the trials")
    verdict = {name: value for name, value in read_json(files.verdict).items() if name != "eer"}
    root = files.root.relative_to(Path.cwd()) if files.root.is_relative_to(Path.cwd()) else files.root
    return ComparedRun(
        f"{root}@{files.version}",
        Verdict.from_dict(verdict),
        SCORES.conform(pd.read_parquet(files.scores)),
        Calibration.read(files.calibration),
        pd.read_parquet(files.utterances, columns=["utterance_id", "speaker_id"]),
        system,
    )


def newest_version(folder: Path) -> Path:
    """File or folder of the newest version of a data set, in the folder of its versions."""
    return _file(folder, _versions(folder)[0])


def _versions(folder: Path) -> list[str]:
    """Versions of a data set, the newest first."""
    if not folder.is_dir():
        return []
    found = (path.name for path in folder.iterdir() if not path.name.startswith("."))
    return sorted((name for name in found if _file(folder, name).exists()), reverse=True)


def _file(folder: Path, version: str) -> Path:
    return folder / version / folder.name
