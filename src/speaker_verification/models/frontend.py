"""The self-supervised encoder: waveform in, all of its hidden states out."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
)
from transformers.utils import logging as transformers_logging

from speaker_verification.errors import DataError, ParameterError
from speaker_verification.models.settings import SUPPORTED_ENCODERS, FrontendSettings, RegularisationSettings
from speaker_verification.models.wavlm_attention import FusedWavLMAttention

# Only used while training with time masks; published checkpoints may lack it.
OPTIONAL_WEIGHTS = {"masked_spec_embed"}
# What a parameter of the regularisation is called in an encoder's configuration.
REGULARISATION = {
    "dropout": ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"),
    "layer_drop": ("layerdrop",),
    "mask_time_probability": ("mask_time_prob",),
}
NORMALISATION_FLOOR = 1e-7  # under the variance, as in transformers' feature extractor

transformers_logging.disable_progress_bar()  # its bars tear the console's own


def save_encoder(settings: FrontendSettings, folder: Path, seed: int) -> None:
    """Write the encoder that a model starts from to a folder in Hugging Face format.

    Args:
        settings: a hub name or a folder; or a transformers configuration (with its `model_type`) whose
            weights are drawn at random.
        folder: where `config.json` and `model.safetensors` go.
        seed: of the random weights.

    Raises:
        ParameterError: the architecture is unknown to transformers or not supported here.
        DataError: the checkpoint cannot be read or lacks weights.
    """
    if settings.checkpoint is not None:
        load_encoder(settings.checkpoint).save_pretrained(folder)
        return
    architecture = dict(settings.architecture or {})
    model_type = _supported(str(architecture.pop("model_type", "")), "model.frontend.architecture.model_type")
    config = AutoConfig.for_model(model_type, **architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModel.from_config(config).save_pretrained(folder)


def load_encoder(
    checkpoint: str | Path, regularisation: RegularisationSettings | None = None
) -> PreTrainedModel:
    """Load an encoder by hub name or folder, in the class that its configuration names.

    Whether it wants normalised waveforms, which the hub keeps in a file beside, becomes part of its
    configuration (`do_normalize`, absent where the checkpoint says nothing).

    Args:
        checkpoint: hub name or folder.
        regularisation: in place of the checkpoint's own, where it is not None.

    Raises:
        ParameterError: its `model_type` is not one of SUPPORTED_ENCODERS.
        DataError: it cannot be read, or weights are missing.
    """
    try:
        config = AutoConfig.from_pretrained(checkpoint, **_overrides(regularisation))
        if not hasattr(config, "do_normalize"):
            with suppress(OSError):
                config.do_normalize = Wav2Vec2FeatureExtractor.from_pretrained(checkpoint).do_normalize
        _supported(config.model_type, f"encoder {checkpoint}: model_type")
        encoder, report = AutoModel.from_pretrained(
            checkpoint, config=config, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        if isinstance(error, ParameterError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"encoder '{checkpoint}' cannot be loaded (hub name or folder?): {reason}") from error
    missing = sorted(set(report["missing_keys"]) - OPTIONAL_WEIGHTS)
    if missing:
        raise DataError(f"encoder '{checkpoint}' lacks {len(missing)} weights, the first: {missing[:5]}")
    return encoder


def _overrides(regularisation: RegularisationSettings | None) -> dict[str, float]:
    values = regularisation.model_dump(exclude_none=True) if regularisation else {}
    return {field: value for name, value in values.items() for field in REGULARISATION[name]}


def _supported(model_type: str, where: str) -> str:
    if model_type not in SUPPORTED_ENCODERS:
        raise ParameterError(f"{where} is '{model_type}': use one of {', '.join(SUPPORTED_ENCODERS)}")
    return model_type


class Frontend(nn.Module):
    """An encoder that gives L+1 hidden states whatever happens inside it.

    transformers 5 records nothing for a block that layer drop skips, and records the last state of a
    stable-layer-norm encoder before its final LayerNorm; the published systems saw a repeated input and the
    state after that LayerNorm, as transformers 4 gave them. Both are restored here by watching the blocks.

    Args:
        encoder: a WavLM, HuBERT or wav2vec 2.0 model.
        last_state: take the last state `after` (as published) or `before` the final LayerNorm of a
            stable-layer-norm (Large) encoder; the same thing in the others.
        waveform_normalisation: give every waveform zero mean and unit variance `always`, or where the
            `checkpoint` says so.
        attention: through torch's fused product (`sdpa`) or step by step, as the `original` does.
        checkpoint_activations: keep the input of every block alone and compute the block again in the
            backward pass; in training mode.

    Raises:
        ParameterError: the checkpoint does not say.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        last_state: Literal["after", "before"] = "after",
        waveform_normalisation: Literal["none", "checkpoint", "always"] = "none",
        attention: Literal["sdpa", "original"] = "sdpa",
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if waveform_normalisation == "checkpoint" and not hasattr(encoder.config, "do_normalize"):
            raise ParameterError(
                "parameter 'model.frontend.waveform_normalisation' is 'checkpoint', which has no "
                "preprocessor_config.json: use none or always"
            )
        self.encoder = encoder
        self.normalises = waveform_normalisation == "always" or (
            waveform_normalisation == "checkpoint" and encoder.config.do_normalize
        )
        self.last_state = last_state
        self._block_inputs: dict[int, Tensor] = {}
        _choose_attention(encoder, attention)
        if checkpoint_activations:
            encoder.gradient_checkpointing_enable({"use_reentrant": False})
        # In training mode transformers else asks for the waveform's gradient, and so keeps the whole graph.
        convolutions: Any = encoder.feature_extractor
        convolutions._requires_grad = False
        blocks: Any = encoder.encoder
        for index, block in enumerate(blocks.layers):
            block.register_forward_pre_hook(self._remember(index), with_kwargs=True)
        if encoder.config.do_stable_layer_norm:
            blocks.layer_norm.register_forward_pre_hook(self._remember(self.num_blocks), with_kwargs=True)

    @property
    def config(self) -> PreTrainedConfig:
        return self.encoder.config

    @property
    def num_blocks(self) -> int:
        return self.config.num_hidden_layers

    @property
    def num_states(self) -> int:
        """L+1: the input of the first block and the output of every block."""
        return self.num_blocks + 1

    @property
    def width(self) -> int:
        """D, the number of channels of a state."""
        return self.config.hidden_size

    def minimum_samples(self, num_frames: int) -> int:
        """Fewest waveform samples that give so many frames."""
        length = num_frames
        strides_and_kernels = zip(self.config.conv_stride, self.config.conv_kernel, strict=True)
        for stride, kernel in reversed(list(strides_and_kernels)):
            length = (length - 1) * stride + kernel
        return length

    def compile_blocks(self) -> None:
        """Compile attention and feed-forward network of every block, which share what is compiled.

        Raises:
            ParameterError: nothing can be compiled here.
        """
        try:
            torch.compile(torch.sin)(torch.ones(2, device=self.encoder.device))
        except Exception as error:  # dynamo, inductor and their compilers each raise their own
            reason = str(error).strip().splitlines()[0]
            raise ParameterError(
                f"parameter 'compile' is true, but torch.compile fails here ({reason}): "
                "install a C++ compiler or set it to false"
            ) from error
        blocks: Any = self.encoder.encoder
        for block in blocks.layers:
            block.attention.compile()
            block.feed_forward.compile()

    def normalise(self, waveforms: Tensor) -> Tensor:
        """Waveforms (B, samples) as the encoder wants them."""
        if not self.normalises:
            return waveforms
        return functional.layer_norm(waveforms, waveforms.shape[1:], eps=NORMALISATION_FLOOR)

    def forward(self, waveforms: Tensor) -> tuple[Tensor, ...]:
        """Encode waveforms of equal length.

        Args:
            waveforms: (B, samples) at 16 kHz.

        Returns:
            L+1 states of shape (B, T, D); the first is the input of the first block.
        """
        self._block_inputs.clear()
        output = self.encoder(self.normalise(waveforms)).last_hidden_state
        inputs, self._block_inputs = self._block_inputs, {}
        if self.last_state == "before":
            output = inputs.get(self.num_blocks, output)
        return _fill_dropped(inputs, output, self.num_blocks)

    def _remember(self, index: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._block_inputs[index] = args[0] if args else kwargs["hidden_states"]

        return hook


def _fill_dropped(inputs: dict[int, Tensor], output: Tensor, num_blocks: int) -> tuple[Tensor, ...]:
    """A dropped block hands its input on, so its input is the next remembered one."""
    following = inputs.get(num_blocks, output)
    states: list[Tensor] = [output]
    for index in reversed(range(num_blocks)):
        following = inputs.get(index, following)
        states.append(following)
    return tuple(reversed(states))


def _choose_attention(encoder: PreTrainedModel, attention: Literal["sdpa", "original"]) -> None:
    """transformers knows a fused attention of HuBERT and wav2vec 2.0, but not of WavLM."""
    if encoder.config.model_type != "wavlm":
        encoder.set_attn_implementation("sdpa" if attention == "sdpa" else "eager")
    elif attention == "sdpa":
        blocks: Any = encoder.encoder
        for block in blocks.layers:
            block.attention.__class__ = FusedWavLMAttention  # the same parameters in the same places
