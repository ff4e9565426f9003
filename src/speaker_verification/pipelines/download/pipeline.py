"""Wiring of the download."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.pipelines.download.nodes import download_corpora, download_pretrained_encoder


def create_pipeline(**kwargs: Any) -> Pipeline:
    """From the hub, a base URL or the official hosts to encoder and mirror in the raw layer."""
    return Pipeline(
        [
            Node(
                download_pretrained_encoder,  # by its name before the other: a mistake in it shows at once
                inputs=["params:model", "encoders_folder"],
                outputs=None,
                name="download_encoder",
            ),
            Node(
                download_corpora,
                inputs=[
                    "params:prepare",
                    "params:augmentation",
                    "params:download",
                    "download_credentials",
                    "mirror_folder",
                ],
                outputs=None,
                name="download_files",
            ),
        ],
        namespace="download",
        parameters={"params:prepare", "params:augmentation", "params:download", "params:model"},
        prefix_datasets_with_namespace=False,
    )
