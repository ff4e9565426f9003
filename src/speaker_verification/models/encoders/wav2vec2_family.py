"""Adapters of wav2vec 2.0, HuBERT and WavLM: convolutions over the waveform, then transformer blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from speaker_verification.common.errors import ParameterError
from speaker_verification.models.encoders.base import EncoderAdapter
from speaker_verification.models.encoders.unitless_modules import HeadlessAttention
from speaker_verification.models.encoders.units import UnitGroup, UnitRows, head_units, network_units
from speaker_verification.models.faults import Fault
from speaker_verification.models.pruning.kept_units import KEPT_UNITS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONVOLUTIONS = ("conv_dim", "conv_kernel", "conv_stride")
DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop")
MASKS = ("mask_time_prob", "mask_feature_prob")
ACTIVATIONS = ("hidden_act", "feat_extract_activation")
_NEEDS_FUSED = (
    "parameter 'model.frontend.attention' is 'original': WavLM's original attention cannot be pruned, set it "
    "to sdpa"
)


class Wav2Vec2Adapter(EncoderAdapter):
    """wav2vec 2.0 and HuBERT.

    Served are any width, depth and convolutions, both norms of the convolutions, both orders of layer norm,
    every activation, attention adapters inside the blocks, HuBERT's batch norm before the positional
    convolution, dropouts, layer drop and masks. Refused is what would change the length or the width of the
    states, and what transformers itself fails or computes nonsense with.
    """

    default_width = 768
    published_widths: ClassVar[Mapping[str, int]] = {
        "facebook/wav2vec2-base": 768,
        "facebook/hubert-base-ls960": 768,
        "facebook/wav2vec2-large": 1024,
        "facebook/wav2vec2-large-lv60": 1024,
        "facebook/hubert-large-ll60k": 1024,
    }
    counts = (
        *EncoderAdapter.counts,
        "num_conv_pos_embeddings",
        "num_conv_pos_embedding_groups",
        "mask_time_length",
        "mask_feature_length",
    )
    width_divisors = (*EncoderAdapter.width_divisors, "num_conv_pos_embedding_groups")
    weight_prefixes = ("feature_extractor.", *EncoderAdapter.weight_prefixes)
    lora_targets = ("q_proj", "v_proj")

    @classmethod
    def option_faults(cls, options: Mapping[str, Any]) -> Iterator[Fault]:
        from transformers.activations import ACT2FN

        yield from super().option_faults(options)
        for name in CONVOLUTIONS:
            if not options[name] or min(options[name]) < 1:
                yield Fault(name, options[name], "it must hold a number of at least 1 for every convolution")
        for name in DROPOUTS:
            if not 0 <= options[name] < 1:
                yield Fault(name, options[name], "it must be at least 0 and below 1")
        for name in MASKS:
            if not 0 <= options[name] <= 1:
                yield Fault(name, options[name], "it must be 0 to 1")
        for name in ACTIVATIONS:
            if options[name] not in ACT2FN:
                yield Fault(name, options[name], f"use one of {', '.join(ACT2FN)}")
        if options["feat_extract_norm"] not in ("group", "layer"):
            yield Fault("feat_extract_norm", options["feat_extract_norm"], "use group or layer")
        if not options["layer_norm_eps"] > 0:
            yield Fault("layer_norm_eps", options["layer_norm_eps"], "it must be above 0")
        if options.get("adapter_attn_dim") is not None and options["adapter_attn_dim"] < 1:
            yield Fault("adapter_attn_dim", options["adapter_attn_dim"], "it must be at least 1, or null")

    @classmethod
    def combination_faults(cls, config: PreTrainedConfig) -> Iterator[Fault]:
        yield from super().combination_faults(config)
        if _masks_features(config) and config.mask_feature_length > config.hidden_size:
            yield Fault(
                "mask_feature_length",
                config.mask_feature_length,
                f"it must not exceed hidden_size {config.hidden_size}",
            )

    @classmethod
    def normalises_waveforms(cls, checkpoint: str | Path) -> bool | None:
        from transformers import Wav2Vec2FeatureExtractor

        with suppress(OSError):
            return Wav2Vec2FeatureExtractor.from_pretrained(checkpoint).do_normalize
        return None

    @property
    def _layers(self) -> Any:
        return self.encoder

    @property
    def norm_first(self) -> bool:
        """Layer norm before attention and feed-forward network (Large) instead of behind them (Base)."""
        return self.encoder.config.do_stable_layer_norm

    @property
    def convolutions(self) -> Any:
        """Convolutional layers over the waveform, in their order."""
        return self._layers.feature_extractor.conv_layers

    @property
    def stack(self) -> Any:
        """Positional convolution, blocks and the layer norm before or behind them."""
        return self._layers.encoder

    @property
    def stem(self) -> tuple[nn.Module, ...]:
        return (self._layers.feature_extractor,)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.stack.layers

    @property
    def final_norm(self) -> nn.Module | None:
        return self.stack.layer_norm if self.norm_first else None

    def project(self, features: Tensor) -> Tensor:
        """Projection (B, T, D) of the last convolution's output (B, C, T)."""
        projected = self._layers.feature_projection(features.transpose(1, 2))
        return projected[0] if isinstance(projected, tuple) else projected  # a tensor in HuBERT

    def num_frames(self, num_samples: int) -> int:
        """T, number of frames of a waveform."""
        config, length = self.encoder.config, num_samples
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            length = (length - kernel) // stride + 1
        return length

    def minimum_samples(self, num_frames: int) -> int:
        config, length = self.encoder.config, num_frames
        layers = enumerate(zip(config.conv_stride, config.conv_kernel, strict=True))
        for index, (stride, kernel) in reversed(list(layers)):
            if index == 0 and config.feat_extract_norm == "group":
                length = max(length, 2)  # over a single step the group norm is zero
            length = (length - 1) * stride + kernel
        return length

    def compiled_parts(self, block: Any) -> tuple[nn.Module, ...]:
        return block.attention, block.feed_forward

    def units_of(self, index: int, block: Any) -> Iterator[UnitGroup]:
        config, attention = self.encoder.config, block.attention
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        yield head_units(
            index,
            attention,
            config.num_attention_heads,
            projections,
            attention.out_proj,
            attention.head_dim,
            self._rows_of_heads(attention),
        )
        yield network_units(index, block.feed_forward, config.intermediate_size)

    def _rows_of_heads(self, _attention: Any) -> tuple[UnitRows, ...]:
        """Parameters of heads beside the projections and the output."""
        return ()

    def keep_units(self, group: UnitGroup, units: Sequence[int]) -> None:
        super().keep_units(group, units)
        attention: Any = group.owner
        if group.kind == "attention_heads" and not units:
            attention.__class__ = HeadlessAttention

    def position_biases(self, _num_frames: int) -> Tensor | None:
        """Attention biases by the offset of key from query, (h, 2T - 1); None where attention has none."""
        return None

    def encode_in_chunks(
        self, waveforms: Tensor, last_state: Literal["after", "before"]
    ) -> tuple[Tensor, ...]:
        from speaker_verification.models.encoders.chunked_encoding import encode_in_chunks

        return encode_in_chunks(self, waveforms, last_state)


class WavLMAdapter(Wav2Vec2Adapter):
    """WavLM: wav2vec 2.0 with gated relative position biases in its attention."""

    published_widths: ClassVar[Mapping[str, int]] = {
        "microsoft/wavlm-base": 768,
        "microsoft/wavlm-base-plus": 768,
        "microsoft/wavlm-large": 1024,
    }
    undeclared_options = frozenset({"mask_feature_min_masks"})
    _original_attention = False

    @classmethod
    def combination_faults(cls, config: PreTrainedConfig) -> Iterator[Fault]:
        yield from super().combination_faults(config)
        if _masks_features(config) and not hasattr(config, "mask_feature_min_masks"):
            yield Fault(
                "mask_feature_prob",
                config.mask_feature_prob,
                "transformers' WavLM also needs mask_feature_min_masks: set that, to 0, or this to 0",
            )
        if config.num_buckets < 4:
            yield Fault("num_buckets", config.num_buckets, "it must be at least 4")
        elif config.max_bucket_distance <= config.num_buckets // 4:
            yield Fault(
                "max_bucket_distance",
                config.max_bucket_distance,
                f"it must exceed a quarter of num_buckets {config.num_buckets}",
            )

    def choose_attention(self, attention: Literal["sdpa", "original"]) -> None:
        """Compute attention by torch's fused product, which transformers does not offer for WavLM."""
        from speaker_verification.models.encoders.wavlm_attention import FusedWavLMAttention

        self._original_attention = attention == "original"
        if self._original_attention and getattr(self.encoder.config, KEPT_UNITS, None):
            raise ParameterError(_NEEDS_FUSED)
        if attention == "sdpa":
            for block in self.stack.layers:
                block.attention.__class__ = FusedWavLMAttention  # the same parameters under the same names

    def units_of(self, index: int, block: Any) -> Iterator[UnitGroup]:
        if self._original_attention:  # it reads the weights of its layers past hooks
            raise ParameterError(_NEEDS_FUSED)
        return super().units_of(index, block)

    def _rows_of_heads(self, attention: Any) -> tuple[UnitRows, ...]:
        return (UnitRows(attention, "gru_rel_pos_const", dim=1),)

    def keep_units(self, group: UnitGroup, units: Sequence[int]) -> None:
        """Keep the numbers of the heads too: the table of position biases stays whole, all blocks read it."""
        from speaker_verification.models.encoders.wavlm_attention import keep_heads

        EncoderAdapter.keep_units(self, group, units)
        attention: Any = group.owner
        if group.kind == "attention_heads":
            keep_heads(attention, units)

    def position_biases(self, num_frames: int) -> Tensor:
        from speaker_verification.models.encoders.wavlm_attention import offset_biases

        return offset_biases(self.stack.layers[0].attention, num_frames)


def _masks_features(config: PreTrainedConfig) -> bool:
    return config.apply_spec_augment and config.mask_feature_prob > 0
