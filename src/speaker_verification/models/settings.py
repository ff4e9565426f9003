"""Settings of the speaker model, and checks of its folders that read no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import field_validator, model_validator

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.settings_base import LocalPath, Settings
from speaker_verification.models.encoder_settings import RegularisationSettings
from speaker_verification.models.encoders import ENCODERS, AdapterChoice, adapter_class
from speaker_verification.models.encoders.base import is_count
from speaker_verification.models.layer_aggregation import LayerAggregationSettings
from speaker_verification.models.speaker_networks import SpeakerNetworkSettings
from speaker_verification.models.weight_files import read_json

CONFIG_FILE = "config.json"  # of a saved model, as of an encoder
WEIGHTS_FILE = "model.safetensors"
SAVED_PARTS = ("model", "encoder")  # of the configuration of a saved model


class FrontendSettings(Settings):
    """Encoder to start from: a checkpoint, or a random one of a given architecture."""

    checkpoint: LocalPath | None = "microsoft/wavlm-large"
    """Encoder, WavLM, HuBERT, wav2vec 2.0 or W2V-BERT 2.0: hub name or folder; null with an architecture."""
    architecture: dict[str, Any] | None = None
    """transformers configuration with its model_type, initialised at random; null with a checkpoint."""
    adapter: str | None = None
    """Adapter of another encoder, also the dotted name of a class; null: by the encoder's model_type."""
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

    @field_validator("adapter")
    @classmethod
    def _known_adapter(cls, adapter: str | None) -> str | None:
        if adapter is not None:
            ENCODERS.find(adapter)
        return adapter

    @model_validator(mode="after")
    def _one_source(self) -> FrontendSettings:
        if (self.checkpoint is None) == (self.architecture is None):
            raise ValueError("give either a checkpoint or an architecture to initialise at random, not both")
        if self.checkpoint is None and self.waveform_normalisation == "checkpoint":
            raise ValueError("waveform_normalisation is 'checkpoint' without one: use none or always")
        return self


def encoder_width(settings: FrontendSettings) -> int | None:
    """D, width of the encoder's states; None where it is not known without a download, or is no width.

    Raises:
        DataError: the encoder's configuration is no JSON.
    """
    config = Path(str(settings.checkpoint)) / CONFIG_FILE
    if settings.architecture is not None:
        width = settings.architecture.get("hidden_size", _default_width(settings))
    elif config.is_file():
        width = read_json(config).get("hidden_size")
    else:
        published = (family.published_widths.get(str(settings.checkpoint)) for family in ENCODERS.values())
        width = next(filter(None, published), None)
    return width if is_count(width) else None


def _default_width(settings: FrontendSettings) -> int | None:
    """D of an architecture that does not give it; None for an encoder without an adapter."""
    try:
        return adapter_class((settings.architecture or {}).get("model_type"), settings.adapter).default_width
    except ParameterError:
        return None


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


class SavedConfiguration(NamedTuple):
    """Content of a saved model's `config.json`."""

    model: ModelSettings
    encoder: dict[str, Any]
    """Configuration of the encoder, as transformers writes it."""


def is_saved_model(folder: Path) -> bool:
    """Whether a folder is a saved speaker model, by the parts of its configuration."""
    config = folder / CONFIG_FILE
    return config.is_file() and {*SAVED_PARTS} <= read_json(config).keys()


def read_saved_configuration(folder: Path) -> SavedConfiguration:
    """Configuration of a saved speaker model, whose weights are not read.

    Raises:
        DataError: the folder holds no saved speaker model; the message names what is missing or wrong.
    """
    saved = f"a saved speaker model ({CONFIG_FILE}, {WEIGHTS_FILE})"
    if not folder.is_dir():
        raise DataError(f"'{folder}' is no folder: give the folder of {saved}")
    epochs = sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))
    if epochs and not (folder / CONFIG_FILE).is_file():
        raise DataError(f"'{folder}' holds several models: give one of them, such as '{epochs[0]}'")
    absent = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if CONFIG_FILE in absent:
        raise DataError(f"'{folder}' is not {saved}: missing {', '.join(absent)}")
    config = read_json(folder / CONFIG_FILE)
    if "model_type" in config:
        raise DataError(
            f"'{folder}' is an encoder ({config['model_type']}), not {saved}: to train from it, set "
            "model.frontend.checkpoint"
        )
    missing = [WEIGHTS_FILE] if absent else []
    parts = (part for part in SAVED_PARTS if not isinstance(config.get(part), dict))
    missing += [f"'{part}' in {folder / CONFIG_FILE}" for part in parts]
    if missing:
        raise DataError(f"'{folder}' is not {saved}: missing {', '.join(missing)}")
    try:
        model = ModelSettings.parse(config["model"], f"{folder / CONFIG_FILE}: model")
    except ParameterError as error:
        raise DataError(f"'{folder}' is not {saved} of this version: {error}") from error
    return SavedConfiguration(model, config["encoder"])


def check_encoder_folder(checkpoint: str, adapter: AdapterChoice = None) -> None:
    """Refuse a path that is not the folder of an encoder; a hub name is not looked up.

    Args:
        checkpoint: hub name or folder.
        adapter: see `adapter_class`.

    Raises:
        DataError: the message names what is missing or wrong.
    """
    path = Path(checkpoint)
    if not (path.is_absolute() or checkpoint.startswith(".") or path.exists()):
        return
    if not path.is_dir():
        raise DataError(f"'{path}' is no folder: give a hub name, or a folder in Hugging Face format")
    if not (path / CONFIG_FILE).is_file():
        raise DataError(f"'{path}' holds no encoder in Hugging Face format: missing {CONFIG_FILE}")
    config = read_json(path / CONFIG_FILE)
    try:
        adapter_class(config.get("model_type"), adapter)
    except ParameterError as error:
        raise DataError(f"{path / CONFIG_FILE}: {error}; give the folder of an encoder") from error
