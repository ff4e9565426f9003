"""Comparison of evaluations that are there."""

from speaker_verification.pipelines.compare_runs.pipeline import create_pipeline

__all__ = ["create_pipeline"]
