"""W2V-BERT 2.0 beside transformers' own features and attention."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel, SeamlessM4TFeatureExtractor
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import _apply_relative_key_position_encoding

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models import SpeakerModel
from speaker_verification.models.encoders.log_mel import stacked_log_mel
from speaker_verification.models.encoders.w2v_bert_attention import (
    LOGITS_AT_ONCE,
    FusedW2vBertAttention,
    position_bias,
    table_rows,
)
from speaker_verification.models.frontend import Frontend, save_encoder
from speaker_verification.models.settings import FrontendSettings
from tests.support.tiny_models import TINY_W2V_BERT, tiny_settings


def build(**options: Any) -> PreTrainedModel:
    values = TINY_W2V_BERT | options
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    torch.manual_seed(2)
    return AutoModel.from_config(config, attn_implementation="eager")


def speech_like(num_samples: int, seed: int) -> np.ndarray:
    """Noise whose spectrum falls by 12 dB an octave and whose level changes: quiet bands beside loud ones."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    spectrum /= np.maximum(np.arange(len(spectrum)) * 8000 / len(spectrum) / 100, 1) ** 2
    wave = np.fft.irfft(spectrum, num_samples) * (1 + np.sin(np.arange(num_samples) / 900))
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def test_features_are_those_of_transformers_extractor_at_any_length() -> None:
    extractor = SeamlessM4TFeatureExtractor()
    for seed, num_samples in enumerate(np.random.default_rng(1).integers(720, 20_000, 60)):
        wave = speech_like(int(num_samples), seed)
        theirs = extractor(wave, sampling_rate=16_000, return_tensors="np")["input_features"][0]
        ours = stacked_log_mel(torch.from_numpy(wave)[None])[0].numpy()
        num_frames = (len(wave) - 400) // 160 + 1
        assert len(ours) == num_frames // 2  # an odd last frame, which they pad, is left out
        np.testing.assert_allclose(ours, theirs[: len(ours)], atol=1e-4)


def test_features_do_not_depend_on_the_batch_nor_on_the_gain() -> None:
    waves = torch.stack([torch.from_numpy(speech_like(9_000, seed)) for seed in range(3)])
    together = stacked_log_mel(waves)
    for row, wave in enumerate(waves):
        torch.testing.assert_close(stacked_log_mel(wave[None])[0], together[row], rtol=0, atol=0)
    torch.testing.assert_close(stacked_log_mel(0.25 * waves), together, rtol=0, atol=1e-4)


def test_states_and_gradients_are_those_of_transformers() -> None:
    encoder = build().double().train()
    encoder.config.conformer_conv_dropout = 0.0
    for block in encoder.encoder.layers:
        block.conv_module.dropout.p = 0.0
    reference = copy.deepcopy(encoder)
    frontend = Frontend(encoder)
    waves = torch.stack([torch.from_numpy(speech_like(12_000, seed)) for seed in range(2)])
    frontend.adapter.prepare = lambda waveforms: stacked_log_mel(waveforms).double()
    states = frontend(waves)
    theirs = reference(stacked_log_mel(waves).double(), output_hidden_states=True).hidden_states
    assert len(states) == len(theirs) == 4
    for ours, expected in zip(states, theirs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    torch.stack(states).square().mean().backward()
    torch.stack(theirs).square().mean().backward()
    for ours, expected in zip(encoder.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_frames", [1, 5, 40])
def test_position_biases_are_those_of_transformers(num_frames: int) -> None:
    attention = build().encoder.layers[0].self_attn
    query = torch.randn(2, 4, num_frames, 4)
    _, expected = _apply_relative_key_position_encoding(attention, query, query)
    rows = table_rows(attention, num_frames, query.device)
    torch.testing.assert_close(position_bias(attention, query, rows), expected, rtol=0, atol=1e-7)


def test_attention_over_a_long_utterance_some_queries_at_a_time_is_that_of_transformers() -> None:
    reference = build().encoder.layers[0].self_attn
    ours = copy.deepcopy(reference)
    ours.__class__ = FusedW2vBertAttention
    states = torch.randn(2, 1250, 16)
    assert ours.num_heads * 1250**2 > LOGITS_AT_ONCE
    torch.testing.assert_close(ours(states)[0], reference(states)[0], rtol=0, atol=1e-6)


def test_attention_hears_no_frame_behind_a_mask() -> None:
    reference = build().double().encoder.layers[0].self_attn
    ours = copy.deepcopy(reference)
    ours.__class__ = FusedW2vBertAttention
    states = torch.randn(2, 9, 16, dtype=torch.float64)
    mask = torch.zeros(2, 1, 9, 9, dtype=torch.float64)
    mask[1, ..., 6:] = -torch.inf
    mixed = ours(states, attention_mask=mask)[0]
    torch.testing.assert_close(mixed, reference(states, attention_mask=mask)[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed[1, :6], ours(states[1:, :6])[0][0], rtol=0, atol=1e-12)


def test_the_smallest_waveform_has_one_frame_and_its_input_is_the_first_state() -> None:
    frontend = Frontend(build()).eval()
    least = frontend.minimum_samples(1)
    waves = torch.from_numpy(speech_like(least, 0))[None]
    states = frontend(waves)
    assert [tuple(state.shape) for state in states] == [(1, 1, 16)] * 4
    torch.testing.assert_close(states[0], frontend.encoder.feature_projection(stacked_log_mel(waves))[0])
    assert frontend.minimum_samples(2) == least + 320


def test_a_block_that_layer_drop_skips_repeats_its_input() -> None:
    frontend = Frontend(build(layerdrop=0.99)).train()
    states = frontend(torch.from_numpy(speech_like(4_000, 0))[None])
    assert len(states) == 4
    assert torch.equal(states[1], states[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_projection_input_dim": 80}, "its input are 160 log-mel features"),
        ({"conv_depthwise_kernel_size": 8}, "it must be odd"),
        ({"num_attention_heads": 5}, "it must divide hidden_size 16"),
        ({"conformer_conv_dropout": 1.0}, "it must be at least 0 and below 1"),
        ({"add_adapter": True}, "it would change the last state's length"),
    ],
)
def test_encoders_that_the_model_cannot_serve_are_refused(options: dict[str, Any], message: str) -> None:
    settings = FrontendSettings(checkpoint=None, architecture=TINY_W2V_BERT | options)
    with pytest.raises((DataError, ParameterError), match=message):
        save_encoder(settings, Path("unused"), seed=0)


@pytest.mark.parametrize(
    ("aggregation", "network"), [("adapter_mfa", "asp"), ("lap", "astp"), ("weighted_sum", "mhfa")]
)
def test_every_backend_embeds_with_it_and_comes_back_from_its_folder(
    tmp_path: Path, aggregation: str, network: str
) -> None:
    settings = tiny_settings(TINY_W2V_BERT, aggregation, network)
    save_encoder(settings.frontend, tmp_path / "encoder", seed=0)
    model = SpeakerModel.from_encoder(tmp_path / "encoder", settings).eval()
    waves = torch.from_numpy(speech_like(8_000, 0))[None]
    embedding = model.embed(waves)
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(SpeakerModel.from_pretrained(tmp_path / "model").embed(waves), embedding)
