"""Speaker model: waveforms to embeddings, saved as config.json and model.safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from speaker_verification.audio.crops import WINDOW_SECONDS, even_windows
from speaker_verification.audio.files import read_audio
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models.encoders.configuration import build_encoder, configuration_of
from speaker_verification.models.encoders.lora import merged_state
from speaker_verification.models.frontend import Frontend, load_encoder
from speaker_verification.models.initialisation import Uninitialised, xavier_initialise
from speaker_verification.models.layer_aggregation import LayerAggregation, build_layer_aggregation
from speaker_verification.models.settings import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    ModelSettings,
    read_saved_configuration,
)
from speaker_verification.models.speaker_networks import build_speaker_network
from speaker_verification.models.waveforms import Lengths, Waveforms, as_batch, refuse_no_batch
from speaker_verification.models.weight_files import load_strictly, read_safetensors, with_optional

CHUNKED_SAMPLES = 30 * SAMPLE_RATE  # longer recordings are embedded one at a time and encoded in chunks


class SpeakerModel(nn.Module):
    """Encoder, layer aggregation and speaker network in one.

    Args:
        encoder: encoder of transformers for which there is an adapter.
        settings: settings of all parts.

    Raises:
        ParameterError: the settings do not fit the encoder.
        DataError: the model cannot serve the encoder.
    """

    def __init__(self, encoder: PreTrainedModel, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.frontend = Frontend(
            encoder,
            settings.frontend.last_state,
            settings.frontend.waveform_normalisation,
            settings.frontend.attention,
            settings.frontend.checkpoint_activations,
            settings.frontend.adapter,
        )
        aggregation = settings.layer_aggregation
        self.speaker_network = build_speaker_network(
            settings.speaker_network,
            aggregation.frame_width(self.frontend.num_states, self.frontend.width),
        )
        self.layer_aggregation = nn.ModuleDict(
            {
                name: build_layer_aggregation(aggregation, self.frontend.num_states, self.frontend.width)
                for name in self.speaker_network.inputs
            }
        )

    @classmethod
    def from_encoder(
        cls, folder: str | Path, settings: ModelSettings, options: Mapping[str, Any] | None = None
    ) -> SpeakerModel:
        """Model of a pre-trained encoder and randomly initialised other parts (torch's global generator).

        Args:
            folder: hub name or folder of the encoder, in Hugging Face format.
            settings: settings of all parts.
            options: see `load_encoder`.
        """
        frontend = settings.frontend
        model = cls(load_encoder(folder, frontend.regularisation, frontend.adapter, options), settings)
        if settings.initialisation == "xavier":
            xavier_initialise(model.layer_aggregation)
            xavier_initialise(model.speaker_network)
        return model

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        options: Mapping[str, Any] | None = None,
    ) -> SpeakerModel:
        """Load a model that `save_pretrained` wrote, in evaluation mode.

        Args:
            folder: of the model.
            device: device of its weights.
            options: options of the encoder's configuration that replace the saved ones.

        Raises:
            DataError: the folder holds no such model, or its weights do not fit its configuration; missing,
                unexpected and misshapen weights are listed.
        """
        folder = Path(folder)
        saved = read_saved_configuration(folder)
        where, adapter = f"'{folder / CONFIG_FILE}': encoder.", saved.model.frontend.adapter
        config = configuration_of({**saved.encoder, **(options or {})}, where, adapter=adapter)
        weights = read_safetensors(folder / WEIGHTS_FILE, device)
        try:
            with torch.device(device), Uninitialised():
                model = cls(build_encoder(config, where, adapter), saved.model)
        except ParameterError as error:
            raise DataError(f"'{folder / CONFIG_FILE}': {error}") from error
        if options:
            names = model.frontend.adapter.optional_weights
            weights = with_optional(model, weights, [f"frontend.encoder.{name}" for name in names])
        load_strictly(model, weights, folder / WEIGHTS_FILE)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, with LoRA merged, to a folder, which is created where it does not exist."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        encoder = {**self.frontend.config.to_dict(), "model_type": self.frontend.config.model_type}
        encoder.pop("_name_or_path", None)  # path on this machine
        config: dict[str, Any] = {"model": self.settings.model_dump(mode="json"), "encoder": encoder}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2))
        save_file({k: v.contiguous() for k, v in merged_state(self).items()}, folder / WEIGHTS_FILE)

    def copy(self) -> SpeakerModel:
        """A model of the same weights, which it shares with nobody, in evaluation mode."""
        config, adapter = deepcopy(self.frontend.config), self.settings.frontend.adapter
        with torch.device(self.device), Uninitialised():
            copy = type(self)(build_encoder(config, "encoder: ", adapter), self.settings)
        copy.to(next(self.parameters()).dtype).load_state_dict(self.state_dict())
        return copy.eval()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def embedding_size(self) -> int:
        """E."""
        return self.speaker_network.embedding_size

    @property
    def minimum_samples(self) -> int:
        """Smallest number of samples of a waveform with an embedding."""
        return self.frontend.minimum_samples(self.speaker_network.minimum_frames)

    def refuse_short(self, num_samples: int) -> None:
        """Refuse waveforms that are too short for the model in its mode.

        Raises:
            DataError: they are shorter than `minimum_samples`.
            ParameterError: they are shorter than a time mask, in training mode.
        """
        if num_samples < self.minimum_samples:
            raise DataError(
                f"a waveform of {num_samples} samples is too short: this model needs "
                f"{self.minimum_samples} ({self.minimum_samples / SAMPLE_RATE:.3f} s at 16 kHz)"
            )
        self.frontend.refuse_short(num_samples)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Embeddings of waveforms of equal length; in training mode, the input of the head.

        Args:
            waveforms: (B, samples) at 16 kHz.

        Returns:
            (B, E).

        Raises:
            DataError: the waveforms are no such batch, or shorter than `minimum_samples`.
        """
        embeddings = self.speaker_network(*self._aggregate(self._encode(waveforms)))
        return self.speaker_network.loss_input(embeddings) if self.training else embeddings

    @torch.inference_mode()
    def embed(
        self,
        waveforms: Waveforms,
        num_samples: Lengths | None = None,
        window_seconds: float = WINDOW_SECONDS,
    ) -> Tensor:
        """Embeddings in evaluation mode, in float32.

        Utterances of one length form a batch, so that neither padding nor the other utterances change an
        embedding. Memory beside the waveforms is bounded: utterances of more than 30 s are embedded one at a
        time and encoded in chunks; an utterance longer than the window has the mean of the embeddings of
        equal windows. The mean is of embeddings without length normalisation, so that subtracting a mean
        embedding later has the same effect on it as on the others.

        Args:
            waveforms: (B, samples) at 16 kHz, padded at the end in any way, or one waveform (samples,): a
                tensor on any device or a NumPy array, float32 or float64.
            num_samples: length of each waveform, (B,); None without padding.
            window_seconds: longest part of a recording that is embedded in one piece, at least 1.

        Returns:
            (B, E), on the model's device; (1, E) of one waveform.

        Raises:
            DataError: the waveforms or lengths are of another type or shape, or a waveform is not finite or
                shorter than `minimum_samples`.
            ParameterError: window_seconds is too small.
        """
        waveforms, lengths = as_batch(waveforms, num_samples, self.device)
        owners, windows = even_windows(np.array(lengths, dtype=np.int64), window_seconds)
        embeddings = torch.empty(len(waveforms), self.embedding_size, device=self.device)
        with _evaluating(self):
            for length in sorted(set(lengths)):
                rows = [row for row, own in enumerate(lengths) if own == length]
                parts = [slice(*bounds) for bounds in windows[owners == rows[0]].tolist()]
                for group in [rows] if length <= CHUNKED_SAMPLES else [[row] for row in rows]:
                    embedded = [self(waveforms[group, part]).float() for part in parts]  # (B, E) each
                    embeddings[group] = torch.stack(embedded).mean(dim=0)
        return embeddings

    def embed_file(self, source: str | Path | bytes | BinaryIO) -> Tensor:
        """Embedding (1, E) of a recording of any format, see `embed`.

        Args:
            source: see `read_audio`.

        Raises:
            DataError: the source is no recording, or shorter than `minimum_samples`.
        """
        return self.embed(read_audio(source))

    @torch.inference_mode()
    def attention(self, waveforms: Waveforms) -> dict[str, Tensor]:
        """Attention weights of the layer aggregations and of the speaker network, in evaluation mode.

        Args:
            waveforms: waveforms of equal length, see `embed`.

        Returns:
            Weights by the name of the module that has them. `layer_aggregation.frames` (with MHFA
            `layer_aggregation.key` and `layer_aggregation.value`): (L+1,) of a weighted sum,
            (B, heads, T, L+1) of LAP. `speaker_network`: (B, channels, T) of ASTP and ECAPA-TDNN,
            (B, heads, T) of MHFA; the x-vector has none.

        Raises:
            DataError: the waveforms are of another type or shape, not finite, shorter than `minimum_samples`,
                or longer than WINDOW_SECONDS, so that the weights would not fit in memory.
        """
        batch, _ = as_batch(waveforms, None, self.device)
        if batch.shape[1] > WINDOW_SECONDS * SAMPLE_RATE:
            raise DataError(
                f"attention weights are computed of at most {WINDOW_SECONDS:g} s, and these waveforms have "
                f"{batch.shape[1] / SAMPLE_RATE:.1f} s: take a part of them"
            )
        with _evaluating(self):
            states = self._encode(batch)
            found = {
                f"layer_aggregation.{name}": cast("LayerAggregation", aggregate).attention_weights(states)
                for name, aggregate in self.layer_aggregation.items()
            }
            found["speaker_network"] = self.speaker_network.attention_weights(*self._aggregate(states))
        return {name: weights for name, weights in found.items() if weights is not None}

    def _encode(self, waveforms: Tensor) -> tuple[Tensor, ...]:
        """L+1 states (B, T, D) of waveforms (B, samples); in inference mode, in bounded memory."""
        refuse_no_batch(waveforms)
        self.refuse_short(waveforms.shape[1])
        if waveforms.shape[1] > CHUNKED_SAMPLES and torch.is_inference_mode_enabled() and not self.training:
            return self.frontend.encode_in_chunks(waveforms)
        return self.frontend(waveforms)

    def _aggregate(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Sequences of frames (B, D', T) for the speaker network, from L+1 states (B, T, D)."""
        return [aggregate(states) for aggregate in self.layer_aggregation.values()]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; every module returns to its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Hexadecimal BLAKE2 checksum of names and values of weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
