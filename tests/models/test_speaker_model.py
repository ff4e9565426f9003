from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from transformers import WavLMConfig, WavLMModel

import speaker_verification
from speaker_verification.audio.files import read_audio
from speaker_verification.common.errors import DataError
from speaker_verification.models.settings import ModelSettings
from speaker_verification.models.speaker_model import SpeakerModel
from tests.support.tiny_models import AGGREGATIONS, NETWORKS, TINY_WAVLM, tiny_settings


@pytest.fixture(scope="module")
def built(encoder_folder: Path) -> SpeakerModel:
    torch.manual_seed(0)
    return SpeakerModel.from_encoder(encoder_folder, tiny_settings(TINY_WAVLM))


@pytest.fixture
def model(built: SpeakerModel) -> SpeakerModel:
    """The one model of all tests, which none changes, before draws that are the same in each."""
    torch.manual_seed(0)
    return built


LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
}


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


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_saved_model_gives_the_same_embeddings(
    encoder_folder: Path, aggregation: str, network: str, tmp_path: Path
) -> None:
    model = SpeakerModel.from_encoder(encoder_folder, tiny_settings(TINY_WAVLM, aggregation, network))
    waveforms = torch.randn(2, 5000)
    assert model.embed(waveforms).shape == (2, model.embedding_size) == (2, 10)
    model.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    loaded = speaker_verification.SpeakerModel.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)  # no weight is drawn before it is read
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
    model = deepcopy(model).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embeddings = model.embed(torch.randn(2, 4000))
    assert model.training
    assert not embeddings.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_wave_too_short_is_told_the_least_duration(model: SpeakerModel) -> None:
    with pytest.raises(DataError, match=r"719 samples is too short: this model needs 720 \(0.045 s"):
        model.embed(torch.randn(2, 4000), torch.tensor([4000, 719]))
    assert model.embed(torch.randn(1, 720)).isfinite().all()


@pytest.mark.parametrize(
    ("network", "least"), [("astp", 720), ("x_vector", 2640), ("ecapa_tdnn", 720), ("mhfa", 400)]
)
def test_every_speaker_network_knows_its_least_duration(
    encoder_folder: Path, network: str, least: int
) -> None:
    """A frame takes 400 samples, every further one 320."""
    model = SpeakerModel.from_encoder(encoder_folder, tiny_settings(TINY_WAVLM, network=network))
    assert model.minimum_samples == least
    assert model.embed(torch.randn(1, least)).isfinite().all()
    for use in (model, model.embed, model.attention):
        with pytest.raises(DataError, match=f"{least - 1} samples is too short: this model needs {least} "):
            use(torch.randn(2, least - 1))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(
    ("network", "frame_weights"),
    [("astp", (2, "width", 12)), ("x_vector", None), ("ecapa_tdnn", (2, 12, 12)), ("mhfa", (2, 5, 12))],
)
def test_attention_is_given_on_request(
    encoder_folder: Path, aggregation: str, network: str, frame_weights: tuple | None
) -> None:
    model = SpeakerModel.from_encoder(encoder_folder, tiny_settings(TINY_WAVLM, aggregation, network))
    model.train()
    model.frontend.eval()
    attention = model.attention(torch.randn(2, 4000))  # 12 frames
    assert model.training
    assert not model.frontend.training
    names = ("key", "value") if network == "mhfa" else ("frames",)
    frame_attention = attention.pop("speaker_network", None)
    assert sorted(attention) == [f"layer_aggregation.{name}" for name in names]
    for weights in attention.values():
        assert weights.shape == ((4,) if aggregation == "weighted_sum" else (2, 4, 12, 4))
        assert not weights.requires_grad
    if frame_weights is None:
        assert frame_attention is None
        return
    width = 16 if aggregation == "weighted_sum" else 12
    assert frame_attention is not None
    assert frame_attention.shape == tuple(width if size == "width" else size for size in frame_weights)
    torch.testing.assert_close(frame_attention.sum(dim=2), torch.ones(frame_attention.shape[:2]))


def test_only_the_x_vector_has_another_layer_before_its_loss(encoder_folder: Path) -> None:
    waveforms = torch.randn(2, 4000)
    for network in NETWORKS:
        model = SpeakerModel.from_encoder(encoder_folder, tiny_settings(TINY_WAVLM, network=network)).eval()
        embeddings = model.embed(waveforms)
        torch.testing.assert_close(model(waveforms), embeddings)
        model.training = True  # this module alone: those inside stay in evaluation mode
        expected = embeddings
        if network == "x_vector":
            layer = model.speaker_network.loss_projection
            expected = embeddings.relu() @ layer.weight.T + layer.bias
        torch.testing.assert_close(model(waveforms), expected)


def test_what_lies_behind_the_encoder_starts_as_asked(encoder_folder: Path) -> None:
    """torch draws a linear layer within 1/sqrt(fan in) and biases too, Xavier within sqrt(6 / both fans)."""
    settings = tiny_settings(TINY_WAVLM, network="mhfa")
    for initialisation in ("xavier", "torch"):
        chosen = settings.model_copy(update={"initialisation": initialisation})
        model = SpeakerModel.from_encoder(encoder_folder, chosen)
        projection = model.speaker_network.projection  # 30 -> 10
        bound = math.sqrt(6 / 40) if initialisation == "xavier" else 1 / math.sqrt(30)
        assert bound * 0.9 < float(projection.weight.detach().abs().max()) <= bound
        assert bool(projection.bias.any()) == (initialisation == "torch")
        squeeze = model.layer_aggregation["key"].squeeze_weight.detach()  # (4, 4, 2): never torch's to draw
        assert 0.5 < float(squeeze.abs().max()) <= math.sqrt(6 / (4 * 2 + 4 * 2))


def test_a_chosen_regularisation_and_normalisation_are_saved(encoder_folder: Path, tmp_path: Path) -> None:
    settings = tiny_settings(TINY_WAVLM, regularisation={"layer_drop": 0.5}, waveform_normalisation="always")
    SpeakerModel.from_encoder(encoder_folder, settings).save_pretrained(tmp_path)
    loaded = SpeakerModel.from_pretrained(tmp_path)
    assert loaded.frontend.config.layerdrop == 0.5
    waveforms = torch.randn(1, 4000)
    torch.testing.assert_close(
        loaded.embed(waveforms * 0.1 + 0.2), loaded.embed(waveforms), atol=1e-4, rtol=1e-3
    )


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
    with pytest.raises(DataError, match=r"nothing' is no folder: .* a saved speaker model"):
        SpeakerModel.from_pretrained(tmp_path / "nothing")
    (tmp_path / "config.json").write_text(json.dumps({"model": {}}))
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match=r"is not a saved speaker model .*missing 'encoder'"):
        SpeakerModel.from_pretrained(tmp_path)


WAVES = torch.randn(2, 4000, generator=torch.Generator().manual_seed(8))
NOT_FINITE = torch.where(torch.arange(4000) == 7, torch.nan, WAVES)


@pytest.mark.parametrize(
    "given",
    [
        WAVES.double(),
        WAVES.numpy(),
        WAVES.double().numpy(),
        WAVES.numpy().astype(">f4"),
        WAVES.numpy().astype(np.longdouble),
        WAVES.flip(1).numpy()[:, ::-1],
        WAVES.T.contiguous().T,
        WAVES.clone().requires_grad_(),
    ],
    ids=["float64", "numpy", "numpy64", "other-endian", "longdouble", "reversed", "strided", "with-gradient"],
)
def test_waveforms_are_taken_as_people_have_them(model: SpeakerModel, given: Any) -> None:
    expected = model.embed(WAVES)
    for lengths in (None, torch.tensor([4000, 4000]), np.array([4000, 4000]), [4000, 4000], (4000, 4000)):
        torch.testing.assert_close(model.embed(given, lengths), expected)
    torch.testing.assert_close(model.embed(given[1]), expected[1:])
    torch.testing.assert_close(model.embed(given[1], 3000), model.embed(WAVES[1:, :3000]))
    for name, weights in model.attention(WAVES).items():
        torch.testing.assert_close(model.attention(given)[name], weights)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((WAVES * 32768).short(), "torch.int16: .* divide 16-bit samples by 32768"),
        ((WAVES * 32768).short().numpy(), "torch.int16: .* divide 16-bit samples by 32768"),
        (WAVES.int(), "torch.int32: give float samples"),
        (WAVES > 0, "torch.bool: give float samples"),
        (WAVES.half(), "torch.float16.* give float32"),
        (WAVES.bfloat16(), "torch.bfloat16.* give float32"),
        (WAVES.half().numpy(), "torch.float16.* give float32"),
        (WAVES.to(torch.complex64), "torch.complex64"),
        (WAVES.numpy().astype(complex), "complex128"),
        (np.array([["a", "b"]]), "<U1"),
        (WAVES[None], r"shape \(1, 2, 4000\): give \(B, samples\)"),
        (torch.tensor(1.0), r"shape \(\): give \(B, samples\)"),
        (WAVES[:0], r"shape \(0, 4000\)"),
        (WAVES[:, :0], r"shape \(2, 0\)"),
        (np.zeros((0, 4000)), r"shape \(0, 4000\)"),
        (WAVES[:, :719], "719 samples is too short: this model needs 720"),
        (NOT_FINITE, "waveform 0 has nan at sample 7"),
        (torch.cat([WAVES, -torch.inf * WAVES.abs()]), "waveform 2 has -inf at sample 0"),
        (torch.cat([WAVES, 1e25 * WAVES.abs().clamp(min=1)]), "waveform 2 has .*e.* at sample 0"),
        ((WAVES.double() * 1e300).numpy(), "waveform 0 has -?inf at sample 0"),
        ([WAVES[0], WAVES[1]], "are a list: .* pad .* and give num_samples"),
        (WAVES.tolist(), "are a list"),
        (None, "are a NoneType"),
        ("one.wav", "are a str"),
        (WAVES.to("meta"), "without data"),
        (WAVES.to_sparse(), "sparse"),
    ],
)
def test_waveforms_that_mean_nothing_certain_are_refused_in_one_line(
    model: SpeakerModel, given: Any, message: str
) -> None:
    for use in (model.embed, model.attention):
        with pytest.raises(DataError, match=message) as error:
            use(given)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("num_samples", "message"),
    [
        ([4000], r"shape \(1,\) for 2 waveforms"),
        ([4000, 4000, 4000], r"shape \(3,\) for 2 waveforms"),
        (4000, r"shape \(\) for 2 waveforms"),
        ([[4000], [4000]], r"shape \(2, 1\) for 2 waveforms"),
        ([], "num_samples"),
        ([4000, [1]], "num_samples is a list of mixed types"),
        ([4000, 4001], "waveform 1 is 4001: it must be 1 to 4000"),
        (torch.tensor([0, 4000]), "waveform 0 is 0: it must be 1 to 4000"),
        (np.array([4000, -5]), "waveform 1 is -5: it must be 1 to 4000"),
        ([4000, 719], "719 samples is too short: this model needs 720"),
        ([4000.0, 3000.0], "num_samples is of float64: give whole numbers"),
        (torch.ones(2), "num_samples is of float32: give whole numbers"),
        ([True, True], "num_samples is of bool: give whole numbers"),
        ("44", "num_samples is of <U2: give whole numbers"),
    ],
)
def test_lengths_that_do_not_fit_the_waveforms_are_refused_in_one_line(
    model: SpeakerModel, num_samples: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        model.embed(WAVES, num_samples)
    assert "\n" not in str(error.value)


def test_padding_may_be_anything_and_is_not_looked_at(model: SpeakerModel) -> None:
    padded = torch.where(torch.arange(4000) >= 3000, torch.nan, WAVES)
    torch.testing.assert_close(model.embed(padded, [3000, 3000]), model.embed(WAVES[:, :3000]))
    with pytest.raises(DataError, match="waveform 1 has nan at sample 3000"):
        model.embed(padded, [3000, 3001])


def test_training_takes_batches_alone(model: SpeakerModel) -> None:
    for given, message in (
        (WAVES[0], r"shape \(4000,\): give \(B, samples\)"),
        (WAVES[:0], r"shape \(0, 4000\)"),
        (WAVES.short(), "torch.int16"),
    ):
        with pytest.raises(DataError, match=message):
            model(given)


def test_a_file_of_any_format_has_an_embedding(model: SpeakerModel, tmp_path: Path) -> None:
    wave = np.random.default_rng(0).uniform(-0.3, 0.3, (12_000, 2))
    soundfile.write(tmp_path / "call.mp3", wave, 8_000)
    embedding = model.embed_file(tmp_path / "call.mp3")
    assert embedding.shape == (1, model.embedding_size)
    assert torch.equal(embedding, model.embed(torch.from_numpy(read_audio(tmp_path / "call.mp3"))[None]))
    with pytest.raises(DataError, match=r"absent\.wav: no such file$"):
        model.embed_file(tmp_path / "absent.wav")
