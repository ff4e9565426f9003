"""The prepared corpus in tar archives, for file systems that many small files slow down."""

from speaker_verification.pipelines.shards.pipeline import create_pipeline

__all__ = ["create_pipeline"]
