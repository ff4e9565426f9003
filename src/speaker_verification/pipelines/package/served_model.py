"""MLflow model of a verifier, kept as this code and not as a pickle; `mlflow models serve` answers by it.

A row has `enrol`, a recording or a list of several of one speaker, and `test`. A recording is an audio file
in base64. Where the variable SPEAKER_VERIFICATION_AUDIO names a folder, it may also be `path:NAME` of a file
below it. The answer to a row that is refused has `refused`, the reason in a word, and `message`.
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.deployment.recordings import Recording, RecordingError, read_recording
from speaker_verification.deployment.verifier import Verifier
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.metrics import OperatingPoint

ARTIFACT = "verifier"  # folder among the model's artifacts
AUDIO_VARIABLE = "SPEAKER_VERIFICATION_AUDIO"
DEVICE_VARIABLE = "SPEAKER_VERIFICATION_DEVICE"
PATH = "path:"  # no base64 has a colon
MAX_RECORDINGS = 1000  # of a request

logger = logging.getLogger(__name__)


class ServedVerifier(PythonModel):
    """Decisions on rows of recordings.

    The server calls `predict` in many threads. One thread of the model's own embeds for all of them, a
    recording at a time: memory is that of one recording whatever the requests, and the rows of a long request
    take turns with the others'.
    """

    verifier: Verifier

    def load_context(self, context: PythonModelContext) -> None:
        from speaker_verification.common.device import resolve_device

        device = resolve_device(os.environ.get(DEVICE_VARIABLE, "auto"))
        self.verifier = Verifier.from_pretrained(context.artifacts[ARTIFACT], device)
        self._worker = ThreadPoolExecutor(1)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Answers to rows: a list of plain values.

        Args:
            context: MLflow's; not used.
            model_input: table with the columns `enrol` and `test`.
            params: `p_target` of the operating point, `prior` (by default the same) and `combining`.

        Raises:
            MlflowException: too many recordings, or a parameter is out of range; the server answers with 400.
        """
        rows = [(_listed(row["enrol"]), row["test"]) for row in model_input.to_dict("records")]
        if (number := sum(len(enrol) + 1 for enrol, _ in rows)) > MAX_RECORDINGS:
            raise MlflowException.invalid_parameter_value(
                f"{number} recordings in one request: send at most {MAX_RECORDINGS} at once"
            )
        options = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            options["operating_point"] = self._point(options.pop("p_target", None))
            return [self._worker.submit(self._answer, *row, options).result() for row in rows]
        except ParameterError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _answer(self, enrol: list[Any], test: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        remarks: list[str] = []

        def embedding(value: Any, name: str) -> EmbeddingStore:
            recording = self._read(value, name)
            remarks.extend(f"{name}: {remark}" for remark in recording.remarks)
            return self.verifier.embed([recording])

        try:
            if not enrol:
                raise RecordingError("enrol", "unreadable", "an empty list: give one or several recordings")
            known = [embedding(value, f"enrol {number}") for number, value in enumerate(enrol, start=1)]
            compared = self.verifier.compare_embeddings(
                EmbeddingStore.joined(known), embedding(test, "test"), **options
            )
        except RecordingError as error:
            return {"refused": error.reason, "message": str(error)}
        except DataError as error:
            return {"refused": "unusable", "message": str(error)}
        except ParameterError:
            raise
        except Exception:  # of whatever library: other rows have their answers nevertheless
            logger.exception("a row could not be answered")
            return {"refused": "failed", "message": "the service failed on this row; its log has the error"}
        return {"refused": None, "message": None, **replace(compared, remarks=tuple(remarks)).to_dict()}

    def _read(self, value: Any, name: str) -> Recording:
        return read_recording(_audio(value, name), self.verifier.settings.limits, name)

    def _point(self, p_target: float | None) -> OperatingPoint | None:
        """Operating point of a probability: the measured one, where there is one, with its costs."""
        if p_target is None:
            return None
        measured = (point for point in self.verifier.operating_points if point.p_target == p_target)
        return next(measured, OperatingPoint(p_target))


def _listed(enrol: Any) -> list[Any]:
    return list(enrol) if isinstance(enrol, list | tuple | np.ndarray) else [enrol]


def _audio(recording: Any, name: str) -> bytes | Path:
    """Audio file of a value: its bytes, or its path below the allowed folder.

    Raises:
        RecordingError: it is neither base64 nor an allowed file.
    """
    if not isinstance(recording, str):
        is_missing = recording is None or recording != recording  # pandas makes NaN of an absent value
        found = "missing" if is_missing else f"no string but {type(recording).__name__}"
        raise RecordingError(name, "unreadable", f"{found}: give the audio file in base64")
    if recording.startswith(PATH):
        return _allowed(recording.removeprefix(PATH), name)
    try:
        return base64.b64decode(recording, validate=True)
    except ValueError:
        raise RecordingError(name, "unreadable", "no base64: encode the audio file") from None


def _allowed(path: str, name: str) -> Path:
    folder = os.environ.get(AUDIO_VARIABLE)
    if not folder:
        raise RecordingError(name, "unreadable", f"files are read only where {AUDIO_VARIABLE} names a folder")
    root = Path(folder).resolve()
    try:
        file = (root / path).resolve()
        is_file = file.is_relative_to(root) and file.is_file()
    except (OSError, ValueError, RuntimeError):  # too long a name, a null byte, a loop of links
        is_file = False
    if not is_file:
        raise RecordingError(
            name, "unreadable", f"there is no file {PATH}{path} below the folder of {AUDIO_VARIABLE}"
        )
    return file


set_model(ServedVerifier())
