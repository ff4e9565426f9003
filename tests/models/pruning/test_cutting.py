"""Encoders without units: equal to masked ones, smaller by what was expected, saved and loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models import SpeakerModel
from speaker_verification.models.encoders import chunked_encoding, log_mel
from speaker_verification.models.frontend import Frontend, load_encoder
from speaker_verification.models.pruning import GateSettings, KeptUnits, PruningGates, cut, sparsity_of
from tests.support.pruning import FAMILIES, model_of, random_units, set_gates, states_of


def parameters_of(model: SpeakerModel) -> int:
    return sum(parameter.numel() for parameter in model.frontend.encoder.parameters())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_model_is_the_masked_one(
    family: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = log_mel.stacked_log_mel
    monkeypatch.setattr(log_mel, "stacked_log_mel", lambda waveforms: features(waveforms).to(dtype))
    model = model_of(family).to(dtype)
    whole, kept = parameters_of(model), random_units(model)
    waveforms = 0.1 * torch.randn(2, 6000, dtype=dtype)
    unpruned = states_of(model, waveforms)
    gates = PruningGates(model.frontend.adapter, GateSettings()).double()
    set_gates(gates, kept)
    assert gates.kept_units() == kept
    gates.close_least()
    masked = states_of(model, waveforms)
    gates.detach()
    torch.testing.assert_close(states_of(model, waveforms), unpruned, rtol=0, atol=0)
    expected = gates.expected_sparsity().item()

    cut(model, kept)
    for found, wanted, before in zip(states_of(model, waveforms), masked, unpruned, strict=True):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
        assert wanted is masked[0] or (wanted - before).abs().max() > 1e-3
    assert round(whole * (1 - expected)) == parameters_of(model)
    assert sparsity_of(model) == pytest.approx(1 - parameters_of(model) / whole, abs=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_model_is_saved_and_loaded_whole_and_as_an_encoder(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    cut(model, random_units(model))
    waveforms = 0.1 * torch.randn(2, 6000)
    expected = states_of(model, waveforms)

    model.save_pretrained(tmp_path / "model")
    loaded = SpeakerModel.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(states_of(loaded, waveforms), expected, rtol=0, atol=0)
    assert sparsity_of(loaded) == sparsity_of(model)

    model.frontend.encoder.save_pretrained(tmp_path / "encoder")
    encoder = load_encoder(tmp_path / "encoder")
    again = SpeakerModel(encoder, model.settings).eval()
    torch.testing.assert_close(states_of(again, waveforms)[:-1], expected[:-1], rtol=0, atol=0)
    with pytest.raises(RuntimeError):  # transformers alone, which would draw the weights that are gone
        AutoModel.from_pretrained(tmp_path / "encoder")


@pytest.mark.parametrize("family", ["WavLM", "wav2vec 2.0 Large", "W2V-BERT"])
def test_a_cut_model_is_cut_again(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    whole = parameters_of(model)
    waveforms = 0.1 * torch.randn(2, 6000)
    for seed in (0, 1):
        cut(model, random_units(model, seed))
    assert sparsity_of(model) == pytest.approx(1 - parameters_of(model) / whole, abs=1e-12)
    gates = PruningGates(model.frontend.adapter, GateSettings())
    gates.draw()
    states_of(model, waveforms)
    gates.detach()
    direct = model_of(family)
    cut(direct, KeptUnits.from_config(model.frontend.config.kept_units))
    torch.testing.assert_close(states_of(model, waveforms), states_of(direct, waveforms), rtol=0, atol=0)


def test_kept_units_of_another_encoder_are_refused(tmp_path: Path) -> None:
    model = model_of("WavLM")
    with pytest.raises(DataError, match=r"'convolution': 3.*the encoder has.*'feed_forward': 3"):
        cut(model, random_units(model_of("W2V-BERT")))
    kept = random_units(model)
    too_many = replace(kept, attention_heads=((0, 4), *kept.attention_heads[1:]))
    with pytest.raises(DataError, match="block 0 have attention_heads 4, of 4 from 0"):
        cut(model, too_many)
    assert sparsity_of(model) == 0
    cut(model, kept)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["encoder"]["kept_units"]["feed_forward"].pop()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"config\.json': encoder\.kept units are of"):
        SpeakerModel.from_pretrained(tmp_path)


def test_the_original_attention_of_wavlm_is_refused_where_units_are_gone(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="'original'"):
        cut(model_of("WavLM", attention="original"), random_units(model_of("WavLM")))
    model = model_of("WavLM")
    cut(model, random_units(model))
    model.frontend.encoder.save_pretrained(tmp_path)
    with pytest.raises(ParameterError, match=r"model\.frontend\.attention' is 'original'"):
        Frontend(load_encoder(tmp_path), attention="original")


@pytest.mark.parametrize("family", ["HuBERT", "wav2vec 2.0 Large", "W2V-BERT"])
def test_the_original_attention_of_other_families_is_cut_too(family: str) -> None:
    outputs = []
    for attention in ("sdpa", "original"):
        model = model_of(family, attention=attention)
        cut(model, random_units(model))
        torch.manual_seed(7)
        outputs.append(states_of(model, 0.1 * torch.randn(2, 6000)))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["WavLM", "WavLM Large", "HuBERT", "wav2vec 2.0 Large"])
def test_long_recordings_are_encoded_in_chunks(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_encoding, "CHUNK_ELEMENTS", {"cpu": 200})
    monkeypatch.setattr(chunked_encoding, "QUERY_BLOCK", 2)
    model = model_of(family).double()
    cut(model, random_units(model))
    waveforms = torch.randn(2, 7531).double()
    with torch.no_grad():
        states = model.frontend.encode_in_chunks(waveforms)
    torch.testing.assert_close(states, states_of(model, waveforms)[:-1], rtol=1e-9, atol=1e-9)
