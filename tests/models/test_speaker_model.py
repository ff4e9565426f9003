from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WavLMConfig, WavLMModel

import speaker_verification
from speaker_verification.errors import DataError
from speaker_verification.models.settings import ModelSettings
from speaker_verification.models.speaker_model import SpeakerModel
from tests.models.conftest import TINY_WAVLM, tiny_settings


@pytest.fixture
def model(encoder_folder: Path) -> SpeakerModel:
    torch.manual_seed(0)
    return SpeakerModel.from_encoder(encoder_folder, tiny_settings(TINY_WAVLM))


LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
}


NETWORKS = ("astp", "x_vector", "ecapa_tdnn", "mhfa")


@pytest.mark.parametrize(
    ("encoder", "aggregation", "counts"),
    [
        ({}, "weighted_sum", (1_480_141, 6_378_913, 7_952_013, 2_302_554)),
        ({}, "lap", (1_714_480, 6_713_220, 8_286_320, 4_216_352)),
        (LARGE, "weighted_sum", (2_497_625, 7_034_285, 8_607_385, 2_368_114)),
        (LARGE, "lap", (2_312_464, 7_311_204, 8_884_304, 5_412_320)),
    ],
    ids=["base-weighted_sum", "base-lap", "large-weighted_sum", "large-lap"],
)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_backend_has_the_published_number_of_parameters(
    encoder: dict, aggregation: str, counts: tuple[int, ...], network: str
) -> None:
    count = counts[NETWORKS.index(network)]
    values = {"layer_aggregation": {"kind": aggregation}, "speaker_network": {"kind": network}}
    with torch.device("meta"):
        model = SpeakerModel(WavLMModel(WavLMConfig(**encoder)), ModelSettings.parse(values, "model"))
    backend = (*model.layer_aggregation.parameters(), *model.speaker_network.parameters())
    assert sum(parameter.numel() for parameter in backend) == count


def test_a_saved_model_gives_the_same_embeddings(model: SpeakerModel, tmp_path: Path) -> None:
    waveforms = torch.randn(2, 5000)
    model.save_pretrained(tmp_path)
    loaded = speaker_verification.SpeakerModel.from_pretrained(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded.embed(waveforms), model.embed(waveforms))
    assert loaded.settings == model.settings


def test_padding_and_company_change_no_embedding(model: SpeakerModel) -> None:
    long, short = torch.randn(6000), torch.randn(3000)
    padded = torch.stack([long, torch.cat([short, torch.full((3000,), 0.7)]), long.flip(0)])
    together = model.embed(padded, torch.tensor([6000, 3000, 6000]))
    alone = torch.cat([model.embed(wave[None]) for wave in (long, short, long.flip(0))])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_nothing_learns_while_embedding(model: SpeakerModel) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embeddings = model.embed(torch.randn(2, 4000))
    assert model.training
    assert not embeddings.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_wave_too_short_is_told_the_least_duration(model: SpeakerModel) -> None:
    with pytest.raises(DataError, match=r"719 samples is too short: this model needs 720 \(0.045 s"):
        model.embed(torch.randn(2, 4000), torch.tensor([4000, 719]))
    assert model.embed(torch.randn(1, 720)).isfinite().all()


def test_weights_that_do_not_fit_are_listed(model: SpeakerModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["stranger"] = weights.pop("speaker_network.projection.bias")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(
        DataError, match=r"missing \['speaker_network.projection.bias'\], unexpected \['stranger'\]"
    ):
        SpeakerModel.from_pretrained(tmp_path)


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no saved speaker model"):
        SpeakerModel.from_pretrained(tmp_path / "nothing")
    (tmp_path / "config.json").write_text(json.dumps({"model": {}}))
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match="holds no saved speaker model"):
        SpeakerModel.from_pretrained(tmp_path)
