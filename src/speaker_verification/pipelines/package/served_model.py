"""MLflow model of a verifier, kept as this code and not as a pickle; `mlflow models serve` answers by it.

A row has `enrol`, a list of one or several recordings of one speaker, and `test`. A recording is an audio
file in base64. Where the variable SPEAKER_VERIFICATION_AUDIO names a folder, it may also be `path:NAME` of a
file below it. The answer to a row that is refused has `refused`, the reason in a word, and `message`.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from speaker_verification.common.errors import DataError
from speaker_verification.deployment.recordings import RecordingError
from speaker_verification.deployment.verifier import Verifier
from speaker_verification.scoring.metrics import OperatingPoint

ARTIFACT = "verifier"  # folder among the model's artifacts
AUDIO_VARIABLE = "SPEAKER_VERIFICATION_AUDIO"
DEVICE_VARIABLE = "SPEAKER_VERIFICATION_DEVICE"
PATH = "path:"  # no base64 has a colon


class ServedVerifier(PythonModel):
    """Decisions on rows of recordings."""

    verifier: Verifier

    def load_context(self, context: PythonModelContext) -> None:
        from speaker_verification.common.device import resolve_device

        device = resolve_device(os.environ.get(DEVICE_VARIABLE, "auto"))
        self.verifier = Verifier.from_pretrained(context.artifacts[ARTIFACT], device)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Answers to rows: a list of plain values.

        Args:
            context: MLflow's; not used.
            model_input: table with the columns `enrol` and `test`.
            params: `p_target` of the operating point, `prior` (by default the same) and `combining`.
        """
        values = {name: value for name, value in (params or {}).items() if value is not None}
        return [self._answer(row, values) for row in model_input.to_dict("records")]

    def _answer(self, row: Mapping[Any, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        enrol = [row["enrol"]] if isinstance(row["enrol"], str) else list(row["enrol"])
        try:
            compared = self.verifier.compare(
                [_audio(recording, f"enrol {number}") for number, recording in enumerate(enrol)],
                _audio(row["test"], "test"),
                operating_point=self._point(params.get("p_target")),
                prior=params.get("prior"),
                combining=params.get("combining", "mean"),
            )
        except RecordingError as error:
            return {"refused": error.reason, "message": str(error)}
        except DataError as error:
            return {"refused": "unusable", "message": str(error)}
        return {"refused": None, "message": None, **compared.to_dict()}

    def _point(self, p_target: float | None) -> OperatingPoint | None:
        """Operating point of a probability: the measured one, where there is one, with its costs."""
        if p_target is None:
            return None
        measured = (point for point in self.verifier.operating_points if point.p_target == p_target)
        return next(measured, OperatingPoint(p_target))


def _audio(recording: Any, name: str) -> bytes | Path:
    """Audio file of a value: its bytes, or its path below the allowed folder.

    Raises:
        RecordingError: it is neither base64 nor an allowed file.
    """
    if isinstance(recording, str) and recording.startswith(PATH):
        return _allowed(recording.removeprefix(PATH), name)
    try:
        return base64.b64decode(recording, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise RecordingError(name, "unreadable", "no base64: encode the audio file") from None


def _allowed(path: str, name: str) -> Path:
    folder = os.environ.get(AUDIO_VARIABLE)
    if not folder:
        raise RecordingError(name, "unreadable", f"files are read only where {AUDIO_VARIABLE} names a folder")
    root = Path(folder).resolve()
    file = (root / path).resolve()
    if not file.is_relative_to(root):
        raise RecordingError(name, "unreadable", f"{PATH}{path} is not below the folder of {AUDIO_VARIABLE}")
    return file


set_model(ServedVerifier())
