"""Wiring of the download."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.pipelines.download.nodes import bring_files


def create_pipeline(**kwargs: Any) -> Pipeline:
    """From a base URL, or the official hosts, to a mirror in the raw layer."""
    return Pipeline(
        [
            Node(
                bring_files,
                inputs=[
                    "params:prepare",
                    "params:augmentation",
                    "params:download",
                    "download_credentials",
                    "mirror_folder",
                ],
                outputs=None,
                name="bring_files",
            ),
        ],
        namespace="download",
        parameters={"params:prepare", "params:augmentation", "params:download"},
        prefix_datasets_with_namespace=False,
    )
