"""Recordings of any length, in bounded memory: states in chunks, embeddings of windows."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AutoConfig, AutoModel, WavLMConfig, WavLMModel

from speaker_verification.audio.crops import WINDOW_SECONDS
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models import speaker_model
from speaker_verification.models.encoders import chunked_encoding
from speaker_verification.models.frontend import Frontend
from speaker_verification.models.speaker_model import SpeakerModel
from tests.support.tiny_models import AGGREGATIONS, NETWORKS, TINY_LARGE, TINY_WAVLM, tiny_settings

SMALLEST = TINY_WAVLM | {"num_hidden_layers": 1, "num_attention_heads": 1}
# Widths of whole vector registers, as those of all published encoders.
EVEN = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "conv_dim": [32] * 7}


def frontend_of(architecture: dict[str, Any], **options: Any) -> Frontend:
    values = dict(architecture)
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    for parameter in encoder.parameters():  # norms are of no use at the start, and WavLM's gates are 1
        parameter.data += torch.randn_like(parameter) * 0.1
    return Frontend(encoder, **options).eval()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_encoding, "CHUNK_ELEMENTS", {"cpu": 200})
    monkeypatch.setattr(chunked_encoding, "QUERY_BLOCK", 2)


VARIANTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (TINY_WAVLM, {}),
    (TINY_WAVLM | {"conv_bias": True}, {"attention": "original", "waveform_normalisation": "always"}),
    (TINY_LARGE, {"last_state": "before"}),
    (TINY_LARGE, {"checkpoint_activations": True}),
    (TINY_WAVLM | {"model_type": "hubert", "feat_proj_layer_norm": False}, {}),
    (TINY_LARGE | {"model_type": "hubert"}, {"attention": "original"}),
    (TINY_WAVLM | {"model_type": "wav2vec2"}, {}),
    (TINY_LARGE | {"model_type": "wav2vec2", "adapter_attn_dim": 4}, {"waveform_normalisation": "always"}),
]


@pytest.mark.parametrize(("architecture", "options"), VARIANTS)
def test_states_in_chunks_are_those_of_the_whole(
    architecture: dict[str, Any], options: dict[str, Any], small_chunks: None
) -> None:
    frontend = frontend_of(architecture, **options).double()
    for num_samples in (400, 4000, 7531):  # 1, 12 and 23 frames
        waveforms = torch.randn(2, num_samples).double() + 0.1
        with torch.no_grad():
            expected = frontend(waveforms)
            states = frontend.encode_in_chunks(waveforms)
        assert len(states) == frontend.num_states
        for state, wanted in zip(states, expected, strict=True):
            torch.testing.assert_close(state, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("base", "model_type", "threads"),
    [
        (TINY_WAVLM, "wavlm", 1),
        (TINY_WAVLM, "wav2vec2", 1),
        (TINY_LARGE, "wavlm", 1),
        (TINY_LARGE, "wav2vec2", 1),
        (TINY_LARGE, "wavlm", 2),
    ],
    ids=["base-wavlm", "base-wav2vec2", "large-wavlm", "large-wav2vec2", "threads"],
)
def test_states_in_chunks_are_the_same_to_the_last_digit_on_one_thread(
    base: dict[str, Any], model_type: str, threads: int
) -> None:
    """Several threads part a matrix by its size, and sums then differ by rounding."""
    frontend = frontend_of(base | EVEN | {"model_type": model_type})
    waveforms = torch.randn(1, 32 * SAMPLE_RATE)  # 1,599 frames: two chunks of a block
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            chunked, whole = frontend.encode_in_chunks(waveforms), frontend(waveforms)
    finally:
        torch.set_num_threads(before)
    for state, wanted in zip(chunked, whole, strict=True):
        assert threads > 1 or torch.equal(state, wanted)
        torch.testing.assert_close(state, wanted, rtol=1e-4, atol=1e-5)


def test_compiled_blocks_run_in_chunks_too(small_chunks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, compiled = frontend_of(SMALLEST), frontend_of(SMALLEST)
    graphs = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=graphs))
    compiled.compile_blocks()
    waveforms = torch.randn(1, 4000)
    with torch.inference_mode():
        expected = plain(waveforms)
        for state, wanted in zip(compiled.encode_in_chunks(waveforms), expected, strict=True):
            torch.testing.assert_close(state, wanted)
    assert graphs.frame_count > 1


@contextmanager
def memory_limit(megabytes: int) -> Iterator[None]:
    """Let this process have so much address space beside what it has now, and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 1_000_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def model_of(aggregation: str = "lap", network: str = "astp") -> SpeakerModel:
    torch.manual_seed(0)
    values = {name: value for name, value in SMALLEST.items() if name != "model_type"}
    return SpeakerModel(
        WavLMModel(WavLMConfig(**values)), tiny_settings(SMALLEST, aggregation, network)
    ).eval()


@pytest.fixture
def model() -> SpeakerModel:
    return model_of()


def test_a_long_recording_is_embedded_within_a_memory_limit(model: SpeakerModel) -> None:
    """Relative positions of all 10,000 frames alone take 800 MB."""
    waveforms = torch.randn(1, 200 * SAMPLE_RATE)
    with memory_limit(250):
        assert model.embed(waveforms).isfinite().all()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_recording_within_the_window_is_encoded_whole(
    network: str, aggregation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speaker_model, "CHUNKED_SAMPLES", 3 * SAMPLE_RATE)
    model = model_of(aggregation, network)
    waveforms = torch.randn(2, 4 * SAMPLE_RATE)
    embeddings = model.embed(waveforms)
    assert torch.equal(embeddings[1:], model.embed(waveforms[1:]))  # whatever the company
    with torch.no_grad():
        torch.testing.assert_close(embeddings[:1], model(waveforms[:1]), rtol=1e-4, atol=1e-5)


def test_short_recordings_take_the_way_that_they_took(
    model: SpeakerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    waveforms = torch.randn(3, speaker_model.CHUNKED_SAMPLES // 6)
    monkeypatch.setattr(speaker_model, "CHUNKED_SAMPLES", waveforms.shape[1])
    with torch.no_grad():
        assert torch.equal(model.embed(waveforms), model(waveforms))


def test_a_recording_beyond_the_window_has_the_mean_of_equal_windows(
    model: SpeakerModel, caplog: pytest.LogCaptureFixture
) -> None:
    waveforms = torch.randn(3, 40_001) + torch.linspace(-1, 1, 40_001)
    lengths = torch.tensor([40_001, 16_000, 40_001])
    with caplog.at_level(logging.INFO):
        embeddings = model.embed(waveforms, lengths, window_seconds=1.0)
    assert [record.getMessage()[:63] for record in caplog.records] == [
        "2 of 3 recordings are longer than window_seconds, 1: each gets "
    ]
    windows = torch.stack(
        [model.embed(waveforms[:, start : start + 13_334]) for start in (0, 13_333, 26_667)]
    )
    torch.testing.assert_close(embeddings[[0, 2]], windows.mean(dim=0)[[0, 2]], rtol=1e-5, atol=1e-6)
    assert torch.equal(embeddings[1:2], model.embed(waveforms[1:2, :16_000]))
    caplog.clear()
    model.embed(waveforms[:, :16_000], window_seconds=1.0)
    assert not caplog.records
    with pytest.raises(ParameterError, match=r"window_seconds is 0.5: .* at least 1"):
        model.embed(waveforms, window_seconds=0.5)


def test_attention_is_refused_beyond_the_window(model: SpeakerModel) -> None:
    too_long = torch.zeros(1, round(WINDOW_SECONDS * SAMPLE_RATE) + 1)
    with pytest.raises(DataError, match=r"at most 150 s, .* 150\.0 s: take a part"):
        model.attention(too_long)
    with memory_limit(250):
        weights = model.attention(torch.randn(1, 60 * SAMPLE_RATE))
    assert weights["layer_aggregation.frames"].shape == (1, 4, 2999, 2)
