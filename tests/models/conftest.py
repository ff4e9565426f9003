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


def tiny_settings(architecture: dict[str, Any], **frontend: Any) -> ModelSettings:
    return ModelSettings.parse(
        {
            "frontend": {"checkpoint": None, "architecture": architecture, **frontend},
            "layer_aggregation": {"lap": {"num_heads": 4, "output_width": 12}},
            "speaker_network": {"astp": {"embedding_size": 10}},
        },
        "model",
    )


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(FrontendSettings(checkpoint=None, architecture=TINY_WAVLM), folder, seed=1)
    return folder
