"""Data preparation: from a mirror of archives to manifests, trials and augmentation catalogs."""

from speaker_verification.pipelines.prepare.pipeline import create_pipeline

__all__ = ["create_pipeline"]
