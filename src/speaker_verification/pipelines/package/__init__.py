"""Verifier folder of the trained model, proven against the scores table."""

from speaker_verification.pipelines.package.pipeline import create_pipeline

__all__ = ["create_pipeline"]
