"""Error rates of another toolkit's scores."""

from speaker_verification.pipelines.measure.pipeline import create_pipeline

__all__ = ["create_pipeline"]
