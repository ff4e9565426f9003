"""Settings of the speaker model.

A part that comes in several kinds has a group of parameters for each of them and uses the group of the chosen
one, so that a recipe may change the kind without clearing away the parameters of another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from speaker_verification.common.errors import DataError
from speaker_verification.common.settings_base import LocalPath, Settings
from speaker_verification.models.layer_aggregation import LayerAggregationSettings
from speaker_verification.models.speaker_networks import SpeakerNetworkSettings
from speaker_verification.models.weight_files import read_json

CONFIG_FILE = "config.json"  # of a saved model, as of an encoder
WEIGHTS_FILE = "model.safetensors"

SUPPORTED_ENCODERS = ("wavlm", "hubert", "wav2vec2")

COUNTS = (  # of an architecture: those that others are computed from
    "hidden_size",
    "num_attention_heads",
    "num_hidden_layers",
    "intermediate_size",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
)

PUBLISHED_WIDTHS = {
    **dict.fromkeys(
        (
            "facebook/wav2vec2-base",
            "facebook/hubert-base-ls960",
            "microsoft/wavlm-base",
            "microsoft/wavlm-base-plus",
        ),
        768,
    ),
    **dict.fromkeys(
        (
            "facebook/wav2vec2-large",
            "facebook/wav2vec2-large-lv60",
            "facebook/hubert-large-ll60k",
            "microsoft/wavlm-large",
        ),
        1024,
    ),
}


class RegularisationSettings(Settings):
    """Regularisation of an encoder in training mode; None keeps the value of its checkpoint."""

    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout rate in all places."""
    layer_drop: float | None = Field(None, ge=0, lt=1)
    """Probability of skipping a block."""
    mask_time_probability: float | None = Field(None, ge=0, lt=1)
    """Share of masked frames."""


class FrontendSettings(Settings):
    """Encoder to start from: a checkpoint, or a random one of a given architecture."""

    checkpoint: LocalPath | None = "microsoft/wavlm-large"
    """Encoder, WavLM, HuBERT or wav2vec 2.0: hub name or folder; null with an architecture."""
    architecture: dict[str, Any] | None = None
    """transformers configuration with its model_type, initialised at random; null with a checkpoint."""
    last_state: Literal["after", "before"] = "after"
    """Last state of a Large encoder: before or after the final LayerNorm."""
    waveform_normalisation: Literal["none", "checkpoint", "always"] = "none"
    """Normalisation to zero mean and unit variance; checkpoint: as the checkpoint says."""
    attention: Literal["sdpa", "original"] = "sdpa"
    """Attention: torch's fused, or the encoder's original, which is slower."""
    checkpoint_activations: bool = False
    """Recompute blocks in the backward pass: less memory, more time."""
    regularisation: RegularisationSettings = RegularisationSettings()
    """Regularisation of the encoder in training mode; null: as the checkpoint says."""

    @model_validator(mode="after")
    def _one_source(self) -> FrontendSettings:
        if (self.checkpoint is None) == (self.architecture is None):
            raise ValueError("give either a checkpoint or an architecture to initialise at random, not both")
        for name in COUNTS:
            value = (self.architecture or {}).get(name, 1)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"architecture.{name} is {value!r}: give a whole number from 1")
        if self.checkpoint is None and self.waveform_normalisation == "checkpoint":
            raise ValueError("waveform_normalisation is 'checkpoint' without one: use none or always")
        return self


def encoder_width(settings: FrontendSettings) -> int | None:
    """D, or None where only a hub could tell, or where what is said is no width.

    Raises:
        DataError: the encoder's configuration is no JSON.
    """
    config = Path(str(settings.checkpoint)) / CONFIG_FILE
    if settings.architecture is not None:
        width = settings.architecture.get("hidden_size", 768)  # transformers' own default
    elif config.is_file():
        width = read_json(config).get("hidden_size")
    else:
        width = PUBLISHED_WIDTHS.get(str(settings.checkpoint))
    return width if isinstance(width, int) and width > 0 else None


class ModelSettings(Settings):
    """Frontend, layer aggregation and speaker network."""

    frontend: FrontendSettings = FrontendSettings()
    """Pre-trained encoder."""
    layer_aggregation: LayerAggregationSettings = LayerAggregationSettings()
    """From the encoder's layers to one sequence of frames."""
    speaker_network: SpeakerNetworkSettings = SpeakerNetworkSettings()
    """From frames to an embedding."""
    initialisation: Literal["xavier", "torch"] = "xavier"
    """Initial weights of all behind the encoder: Xavier, or torch's own."""


def check_saved_model(folder: Path) -> None:
    """Refuse a folder that holds no saved speaker model; its weights are not read.

    Raises:
        DataError: naming what is missing or wrong.
    """
    saved = f"a saved speaker model ({CONFIG_FILE}, {WEIGHTS_FILE})"
    if not folder.is_dir():
        raise DataError(f"'{folder}' is no folder: give that of {saved}")
    epochs = sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))
    if epochs and not (folder / CONFIG_FILE).is_file():
        raise DataError(f"'{folder}' holds several models: give one of them, such as '{epochs[0]}'")
    absent = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if CONFIG_FILE in absent:
        raise DataError(f"'{folder}' is not {saved}: {', '.join(absent)} is not there")
    config = read_json(folder / CONFIG_FILE)
    if "model_type" in config:
        raise DataError(
            f"'{folder}' is an encoder ({config['model_type']}), not {saved}: to train from it, set "
            "model.frontend.checkpoint"
        )
    if absent or not isinstance(config.get("model"), dict) or not isinstance(config.get("encoder"), dict):
        wrong = f"{WEIGHTS_FILE} is not there" if absent else f"{CONFIG_FILE} lacks 'model' or 'encoder'"
        raise DataError(f"'{folder}' is not {saved}: {wrong}")
    ModelSettings.parse(config["model"], f"{folder / CONFIG_FILE}: model")


def check_encoder_folder(checkpoint: str) -> None:
    """Refuse the path of something that is no encoder's folder; the name of one on a hub is not looked up.

    Raises:
        DataError: naming what is missing or wrong.
    """
    path = Path(checkpoint)
    if not (path.is_absolute() or checkpoint.startswith(".") or path.exists()):
        return
    if not path.is_dir():
        raise DataError(f"'{path}' is no folder: give a hub name, or a folder in Hugging Face format")
    if not (path / CONFIG_FILE).is_file():
        raise DataError(f"'{path}' holds no encoder in Hugging Face format: {CONFIG_FILE} is not there")
    config = read_json(path / CONFIG_FILE)
    if config.get("model_type") not in SUPPORTED_ENCODERS:
        raise DataError(
            f"{path / CONFIG_FILE}: model_type is {config.get('model_type')!r}: give an encoder's folder, "
            f"one of {', '.join(SUPPORTED_ENCODERS)}"
        )
