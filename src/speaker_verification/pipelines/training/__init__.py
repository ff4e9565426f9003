"""The three training phases, one pipeline in three namespaces, and the compression."""

from speaker_verification.pipelines.training.pipeline import (
    create_compression_pipeline,
    create_phase_pipeline,
)

__all__ = ["create_compression_pipeline", "create_phase_pipeline"]
