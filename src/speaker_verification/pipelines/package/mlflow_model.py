"""Verifiers as models of MLflow: saved without a pickle, and found by their URI."""

from __future__ import annotations

import base64
import json
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from speaker_verification.audio.files import encode_audio
from speaker_verification.audio.format import SAMPLE_RATE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model, ModelSignature

    from speaker_verification.deployment.verifier import Verifier

ARTIFACT = "verifier"  # folder among the model's artifacts, as in served_model.py
CODE_FILE = Path(__file__).with_name("served_model.py")


def load_verifier(uri: str, device: str = "cpu") -> Verifier:
    """Load a verifier of MLflow's artifacts or registry.

    Args:
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN/verifier` or another URI of a model.
        device: device of the model.

    Raises:
        DataError: the model holds no verifier.
    """
    from mlflow.artifacts import download_artifacts

    from speaker_verification.deployment.verifier import Verifier

    return Verifier.from_pretrained(download_artifacts(uri), device)


def log_verifier(
    client: MlflowClient,
    run_id: str,
    verifier: Path,
    registered: str | None,
    alias: str | None,
    made: dict[str, str],
) -> None:
    """Log a verifier as a model of a run, and register it.

    Args:
        client: client of the store.
        run_id: run that it belongs to.
        verifier: folder that `Verifier.save_pretrained` wrote.
        registered: name of the registered model that gets a version of it; None: it is not registered.
        alias: alias that moves to this version; None: none.
        made: ids of what an earlier try has made; filled in.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    if "model" not in made:
        experiment = client.get_run(run_id).info.experiment_id
        made["model"] = client.create_logged_model(experiment, ARTIFACT, run_id).model_id
    model_id = made["model"]
    if "uploaded" not in made:
        with TemporaryDirectory() as folder:
            saved = Path(folder, ARTIFACT)
            save_mlflow_model(verifier, saved, Model(model_id=model_id, run_id=run_id))
            client.log_model_artifacts(model_id, str(saved))
        client.finalize_logged_model(model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
        made["uploaded"] = model_id
    if registered is None:
        return
    try:
        client.create_registered_model(registered)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if "version" not in made:
        source = client.get_logged_model(model_id).artifact_location
        version = client.create_model_version(registered, source, run_id, model_id=model_id)
        made["version"] = str(version.version)
    if alias is not None:
        client.set_registered_model_alias(registered, alias, made["version"])


def save_mlflow_model(verifier: Path, folder: Path, model: Model) -> None:
    """Write a verifier as a model of MLflow, with this package's code and without a pickle.

    Args:
        verifier: folder that `Verifier.save_pretrained` wrote.
        folder: folder to make.
        model: ids that the model gets.
    """
    import mlflow.pyfunc

    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(CODE_FILE),
        artifacts={ARTIFACT: str(verifier)},
        signature=_signature(json.loads((verifier / "calibration.json").read_text())),
        input_example=_example(),
        pip_requirements=_requirements(),
        code_paths=[str(Path(__file__).parents[2])],
        mlflow_model=model,
    )


def _requirements() -> list[str]:
    """The library's requirements and, where speech is measured, the versions that measure it."""
    library = [line for line in requires("speaker-verification") or () if "extra ==" not in line]
    measuring = [name for name in ("onnxruntime", "silero-vad") if find_spec(name.replace("-", "_"))]
    return [*library, *(f"{name}=={version(name)}" for name in measuring)]


def _signature(calibration: dict[str, Any]) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    # MLflow would copy an array of strings at four bytes a character, and refuse all rows for one of them.
    rows = Schema([ColSpec(AnyType(), "enrol"), ColSpec(AnyType(), "test")])
    p_target = calibration["operating_points"][0]["p_target"]
    options = ParamSchema(
        [
            ParamSpec("p_target", DataType.double, p_target),
            ParamSpec("prior", DataType.double, None),
            ParamSpec("combining", DataType.string, "mean"),
        ]
    )
    return ModelSignature(inputs=rows, params=options)


def _example() -> dict[str, Any]:
    """A row of tones, which shows its form and is refused for want of speech."""
    time = np.arange(SAMPLE_RATE // 4) / SAMPLE_RATE
    tone = (8000 * np.sin(2 * np.pi * 220 * time)).astype(np.int16)
    encoded = base64.b64encode(encode_audio(tone, "flac")).decode()
    return {"enrol": [encoded], "test": encoded}
