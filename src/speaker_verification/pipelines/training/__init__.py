"""The three training phases: one pipeline in three namespaces."""

from speaker_verification.pipelines.training.pipeline import create_phase_pipeline

__all__ = ["create_phase_pipeline"]
