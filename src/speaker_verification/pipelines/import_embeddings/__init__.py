"""Embeddings of another toolkit, with their utterances and trials."""

from speaker_verification.pipelines.import_embeddings.pipeline import create_pipeline

__all__ = ["create_pipeline"]
