"""Embeddings of the trials' and of the cohort's utterances."""

from speaker_verification.pipelines.embed.pipeline import create_pipeline

__all__ = ["create_pipeline"]
