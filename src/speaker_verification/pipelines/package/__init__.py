"""Verifier folder of the trained model, proven against the scores table."""

from speaker_verification.pipelines.package.mlflow_model import load_verifier
from speaker_verification.pipelines.package.pipeline import create_pipeline

__all__ = ["create_pipeline", "load_verifier"]
