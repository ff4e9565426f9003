"""Three scorings of the trials and their error rates."""

from speaker_verification.pipelines.score.pipeline import create_pipeline

__all__ = ["create_pipeline"]
