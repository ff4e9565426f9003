"""Entry point of `speaker-verification`: the command of deployment/command.py, with models of MLflow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.deployment import command

if TYPE_CHECKING:
    from speaker_verification.deployment.verifier import Verifier


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, as `deployment.command.main`."""
    return command.main(arguments, _load_verifier)


def _load_verifier(model: str, device: Any) -> Verifier:
    """Verifier of a folder or of a URI of MLflow.

    Raises:
        UserError: there is no such verifier, or MLflow is not installed.
    """
    if "://" not in model and not model.startswith(("models:/", "runs:/")):
        from speaker_verification.deployment.verifier import Verifier

        return Verifier.from_pretrained(model, device)
    try:
        from mlflow.exceptions import MlflowException

        from speaker_verification.pipelines.package import load_verifier
    except ImportError as error:
        raise ParameterError(
            f"--model {model} needs MLflow: pip install 'speaker-verification[pipelines]'"
        ) from error
    try:
        return load_verifier(model, device)
    except MlflowException as error:
        raise DataError(
            f"--model {model} cannot be loaded from the store of MLFLOW_TRACKING_URI: {error.message}"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
