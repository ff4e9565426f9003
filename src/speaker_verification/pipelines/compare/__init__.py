"""Training of several systems with several seeds, and the comparison of their error rates."""

from speaker_verification.pipelines.compare.pipeline import create_pipeline

__all__ = ["create_pipeline"]
