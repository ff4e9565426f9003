"""Embeddings of the utterances of trials, cohort, calibration and adaptation."""

from speaker_verification.pipelines.embed.pipeline import create_pipeline

__all__ = ["create_pipeline"]
