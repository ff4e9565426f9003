"""Models small enough to run in a moment: architectures, settings, and a saved encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from speaker_verification.models.frontend import save_encoder
from speaker_verification.models.settings import FrontendSettings, ModelSettings

TINY_WAVLM: dict[str, Any] = {
    "model_type": "wavlm",
    "num_hidden_layers": 3,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
}
TINY_LARGE = TINY_WAVLM | {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}


AGGREGATIONS = ("weighted_sum", "lap")
NETWORKS = ("astp", "x_vector", "ecapa_tdnn", "mhfa")


def tiny_settings(
    architecture: dict[str, Any], aggregation: str = "lap", network: str = "astp", **frontend: Any
) -> ModelSettings:
    return ModelSettings.parse(
        {
            "frontend": {"checkpoint": None, "architecture": architecture, **frontend},
            "layer_aggregation": {"kind": aggregation, "lap": {"num_heads": 4, "output_width": 12}},
            "speaker_network": {
                "kind": network,
                "astp": {"embedding_size": 10},
                "x_vector": {"embedding_size": 10, "channels": 8, "pooled_channels": 12},
                "ecapa_tdnn": {
                    "embedding_size": 10,
                    "channels": 16,
                    "pooled_channels": 12,
                    "bottleneck_channels": 6,
                },
                "mhfa": {"embedding_size": 10, "num_heads": 5, "compressed_width": 6},
            },
        },
        "model",
    )


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(FrontendSettings(checkpoint=None, architecture=TINY_WAVLM), folder, seed=1)
    return folder
