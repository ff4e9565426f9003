"""Scores as text files that other toolkits read."""

from speaker_verification.pipelines.export.pipeline import create_pipeline

__all__ = ["create_pipeline"]
