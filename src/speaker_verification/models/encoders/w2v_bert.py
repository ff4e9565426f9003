"""Adapter of W2V-BERT 2.0: log-mel features, then conformer blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from speaker_verification.models.encoders.base import EncoderAdapter
from speaker_verification.models.encoders.unitless_modules import (
    ChannellessConvolution,
    HeadlessW2vBertAttention,
)
from speaker_verification.models.encoders.units import (
    UnitGroup,
    UnitRows,
    head_units,
    network_units,
    rows_of_layer,
)
from speaker_verification.models.faults import Fault

_FEATURES = 160  # of a frame: two frames of 80 mel bands
_DROPOUTS = (
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "feat_proj_dropout",
    "conformer_conv_dropout",
)


class W2vBertAdapter(EncoderAdapter):
    """W2V-BERT 2.0, whose features are computed on the device of the waveforms.

    Its states are the projected features and the output of every block; there is no norm behind the last one.
    A gain changes nothing in the features, so that waveforms need no normalisation.

    Source: Seamless Communication, Seamless: Multilingual Expressive and Streaming Speech Translation,
    arXiv 2312.05187, section 4.1.
    """

    default_width = 1024
    published_widths: ClassVar[Mapping[str, int]] = {"facebook/w2v-bert-2.0": 1024}
    counts = (*EncoderAdapter.counts, "conv_depthwise_kernel_size", "mask_time_length")
    regularisation: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **EncoderAdapter.regularisation,
        "dropout": _DROPOUTS,
    }
    lora_targets = ("linear_q", "linear_v")

    @classmethod
    def option_faults(cls, options: Mapping[str, Any]) -> Iterator[Fault]:
        yield from super().option_faults(options)
        if options["feature_projection_input_dim"] != _FEATURES:
            remedy = f"its input are {_FEATURES} log-mel features"
            yield Fault("feature_projection_input_dim", options["feature_projection_input_dim"], remedy)
        if options["conv_depthwise_kernel_size"] % 2 == 0:
            yield Fault("conv_depthwise_kernel_size", options["conv_depthwise_kernel_size"], "it must be odd")
        for name in (*_DROPOUTS, "layerdrop"):
            if not 0 <= options[name] < 1:
                yield Fault(name, options[name], "it must be at least 0 and below 1")
        for name in ("mask_time_prob", "mask_feature_prob"):
            if not 0 <= options[name] <= 1:
                yield Fault(name, options[name], "it must be 0 to 1")

    @property
    def blocks(self) -> nn.ModuleList:
        encoder: Any = self.encoder
        return encoder.encoder.layers

    def prepare(self, waveforms: Tensor) -> Tensor:
        from speaker_verification.models.encoders.log_mel import stacked_log_mel

        return stacked_log_mel(waveforms)

    def minimum_samples(self, num_frames: int) -> int:
        from speaker_verification.models.encoders.log_mel import FRAME_SAMPLES, HOP_SAMPLES

        return FRAME_SAMPLES + (2 * num_frames - 1) * HOP_SAMPLES

    def choose_attention(self, attention: Literal["sdpa", "original"]) -> None:
        """Compute attention without embeddings of all pairs of frames (`sdpa`), or as transformers does."""
        from speaker_verification.models.encoders.w2v_bert_attention import FusedW2vBertAttention

        block: Any
        for block in self.blocks:
            relative = block.self_attn.position_embeddings_type == "relative_key"
            if attention == "sdpa" and relative and block.self_attn.num_heads:
                block.self_attn.__class__ = FusedW2vBertAttention  # the same parameters, the same names

    def units_of(self, index: int, block: Any) -> Iterator[UnitGroup]:
        config, attention, convolution = self.encoder.config, block.self_attn, block.conv_module
        projections, others = [attention.linear_q, attention.linear_k, attention.linear_v], []
        if attention.position_embeddings_type == "relative":
            projections.append(attention.linear_pos)
            others = [UnitRows(attention, name) for name in ("pos_bias_u", "pos_bias_v")]
        yield head_units(
            index,
            attention,
            config.num_attention_heads,
            projections,
            attention.linear_out,
            attention.head_size,
            others,
        )
        yield network_units(index, block.ffn1, config.intermediate_size)
        yield network_units(index, block.ffn2, config.intermediate_size)
        output, norm = convolution.pointwise_conv2, convolution.depthwise_layer_norm
        rows = (
            *rows_of_layer(convolution.pointwise_conv1, copies=2),  # inputs, then gates, of the GLU
            *rows_of_layer(convolution.depthwise_conv),
            *rows_of_layer(norm),
            UnitRows(output, "weight", dim=1),
        )
        yield UnitGroup(index, "convolution", convolution, config.hidden_size, rows, output, norm)

    def keep_units(self, group: UnitGroup, units: Sequence[int]) -> None:
        super().keep_units(group, units)
        owner: Any = group.owner
        if group.kind == "attention_heads" and not units:
            owner.__class__ = HeadlessW2vBertAttention
        elif group.kind == "convolution" and not units:
            owner.__class__ = ChannellessConvolution
