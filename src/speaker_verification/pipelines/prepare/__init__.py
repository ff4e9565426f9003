"""Data preparation: manifests, trials and augmentation catalogs from a mirror of archives."""

from speaker_verification.pipelines.prepare.pipeline import create_pipeline

__all__ = ["create_pipeline"]
