"""Results as a table and as figures."""

from speaker_verification.pipelines.report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
