"""Wiring of data preparation."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.config.phases import DISTRIBUTED_TAG, MIRROR
from speaker_verification.pipelines.prepare.nodes import (
    convert_utterances,
    extract_augmentation,
    hold_out_validation,
    list_missing_sessions,
    list_speakers,
    list_trials,
    provide_mirror,
)


def create_pipeline(**kwargs: Any) -> Pipeline:
    """From a mirror of archives to manifests, trials and augmentation catalogs."""
    return Pipeline(
        [
            Node(
                provide_mirror,
                inputs=["params:prepare", "params:augmentation", "mirror_folder", "audio_folder"],
                outputs=MIRROR,
                name="provide_mirror",
            ),
            Node(
                convert_utterances,
                inputs=["mirror", "audio_folder", "params:prepare"],
                outputs=["utterances", "rejected_utterances"],
                name="convert_utterances",
                tags=DISTRIBUTED_TAG,
            ),
            Node(
                list_speakers,
                inputs=["mirror", "params:prepare"],
                outputs="speakers",
                name="list_speakers",
            ),
            Node(
                list_missing_sessions,
                inputs=["mirror", "utterances", "params:prepare"],
                outputs="missing_sessions",
                name="list_missing_sessions",
            ),
            Node(
                list_trials,
                inputs=["mirror", "utterances", "speakers", "params:prepare"],
                outputs=["trials", "trial_lists"],
                name="list_trials",
            ),
            Node(
                extract_augmentation,
                inputs=["mirror", "augmentation_folder", "params:prepare", "params:augmentation"],
                outputs=["noise_clips", "rirs", "rejected_augmentation"],
                name="extract_augmentation",
                tags=DISTRIBUTED_TAG,
            ),
            Node(
                hold_out_validation,
                inputs=["utterances", "trials", "params:prepare"],
                outputs=["training_utterances", "validation_utterances", "validation_trials"],
                name="hold_out_validation",
            ),
        ],
        namespace="prepare",
        parameters={"params:prepare", "params:augmentation"},
        prefix_datasets_with_namespace=False,
    )
