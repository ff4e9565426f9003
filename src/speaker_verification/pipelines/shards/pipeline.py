"""Wiring of the `shards` pipeline."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.config.phases import DISTRIBUTED_TAG
from speaker_verification.pipelines.shards.nodes import write_corpus_shards


def create_pipeline(**kwargs: Any) -> Pipeline:
    """The manifest in, shards and their index out."""
    inputs = ["utterances", "shards_folder", "params:shards"]
    node = Node(write_corpus_shards, inputs, "shard_index", name="write_shards", tags=DISTRIBUTED_TAG)
    return Pipeline([node])
