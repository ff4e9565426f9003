"""Downloading: a mirror's or the official hosts' files, brought to the raw layer."""

from speaker_verification.pipelines.download.pipeline import create_pipeline

__all__ = ["create_pipeline"]
