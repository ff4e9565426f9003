"""Models small enough to run in a moment: architectures, settings, and a saved encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from speaker_verification.models.frontend import save_encoder
from speaker_verification.models.settings import FrontendSettings, ModelSettings
from tests.support.project import TINY_ENCODER

TINY_WAVLM = TINY_ENCODER | {"num_hidden_layers": 3}
TINY_LARGE = TINY_WAVLM | {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
TINY_W2V_BERT = {
    "model_type": "wav2vec2-bert",
    "num_hidden_layers": 3,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "conv_depthwise_kernel_size": 7,
    "left_max_position_embeddings": 6,
    "right_max_position_embeddings": 2,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}

AGGREGATIONS = ("weighted_sum", "lap")
NETWORKS = ("astp", "x_vector", "ecapa_tdnn", "mhfa")


def tiny_settings(
    architecture: dict[str, Any], aggregation: str = "lap", network: str = "astp", **frontend: Any
) -> ModelSettings:
    return ModelSettings.parse(
        {
            "frontend": {"checkpoint": None, "architecture": architecture, **frontend},
            "layer_aggregation": {
                "kind": aggregation,
                "lap": {"num_heads": 4, "output_width": 12},
                "adapter_mfa": {"adapter_width": 4},
            },
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
                "asp": {"embedding_size": 10, "attention_width": 6},
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
