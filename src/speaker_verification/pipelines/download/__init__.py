"""Download of corpora and the pre-trained encoder to the raw layer."""

from speaker_verification.pipelines.download.pipeline import create_pipeline

__all__ = ["create_pipeline"]
