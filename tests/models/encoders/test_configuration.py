from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models import import_checkpoint, import_encoder
from speaker_verification.models.encoders.configuration import (
    build_encoder,
    configuration_of,
    read_configuration,
)
from speaker_verification.models.frontend import Frontend, load_encoder, save_encoder
from speaker_verification.models.layer_aggregation.layer_pooling import (
    LapParameters,
    Standardisation,
    moments,
    pool_states,
    state_weights,
)
from speaker_verification.models.settings import FrontendSettings
from speaker_verification.models.speaker_model import SpeakerModel
from tests.support import public_systems as systems
from tests.support.tiny_models import AGGREGATIONS, TINY_LARGE, TINY_WAVLM, tiny_settings

WAV2VEC2 = TINY_WAVLM | {"model_type": "wav2vec2"}
# An option that cannot be served, and what a message says of it.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"add_adapter": True}, "add_adapter is True: .* set it to false"),
    ({"add_adapter": True, "output_hidden_size": 32}, "add_adapter is True"),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0: it must be 1 to 255"),
    ({"num_hidden_layers": 256}, "num_hidden_layers is 256: it must be 1 to 255"),
    ({"hidden_size": 0}, "hidden_size is 0: it must be at least 1"),
    ({"hidden_size": "wide"}, "'hidden_size' expected int, got str"),
    ({"num_attention_heads": 3}, "num_attention_heads is 3: it must divide hidden_size 16"),
    ({"num_attention_heads": 0}, "num_attention_heads is 0: it must be at least 1"),
    (
        {"num_conv_pos_embedding_groups": 5},
        "num_conv_pos_embedding_groups is 5: it must divide hidden_size 16",
    ),
    ({"num_conv_pos_embeddings": 0}, "num_conv_pos_embeddings is 0: it must be at least 1"),
    ({"intermediate_size": -1}, "intermediate_size is -1: it must be at least 1"),
    ({"conv_dim": [8] * 6}, r"`len\(config.conv_dim\) = 6`"),
    ({"conv_dim": [8] * 6 + [0]}, r"conv_dim is .*0\]: it must hold a number of at least 1"),
    ({"conv_stride": [5, 2, 2, 2, 2, 2, 0]}, r"conv_stride is .*0\]: it must hold a number of at least 1"),
    ({"conv_kernel": [10, 3, 3, 3, 3, 2, 0]}, r"conv_kernel is .*0\]: it must hold a number of at least 1"),
    ({"feat_extract_norm": "batch"}, "feat_extract_norm is 'batch': use group or layer"),
    ({"hidden_act": "geluu"}, "hidden_act is 'geluu': use one of gelu"),
    ({"feat_extract_activation": "geluu"}, "feat_extract_activation is 'geluu': use one of gelu"),
    ({"layerdrop": 1.0}, "layerdrop is 1.0: it must be at least 0 and below 1"),
    ({"attention_dropout": -0.1}, "attention_dropout is -0.1: it must be at least 0"),
    ({"mask_time_prob": 1.5}, "mask_time_prob is 1.5: it must be 0 to 1"),
    ({"mask_time_length": 0}, "mask_time_length is 0: it must be at least 1"),
    ({"mask_feature_prob": 0.1}, "mask_feature_prob is 0.1: .*mask_feature_min_masks"),
    ({"layer_norm_eps": 0.0}, "layer_norm_eps is 0.0: it must be above 0"),
    ({"num_buckets": 2}, "num_buckets is 2: it must be at least 4"),
    ({"max_bucket_distance": 80}, "max_bucket_distance is 80: it must exceed a quarter of num_buckets 320"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ({"dtype": "float61"}, "float61"),
]
# Options out of the ordinary that are served.
SERVED: list[dict[str, Any]] = [
    {"feat_extract_norm": "layer", "conv_bias": True},
    {"do_stable_layer_norm": True, "adapter_attn_dim": 4, "model_type": "wav2vec2"},
    {"conv_pos_batch_norm": True, "feat_proj_layer_norm": False, "model_type": "hubert"},
    {"conv_dim": [8, 6], "conv_kernel": [400, 1], "conv_stride": [160, 2]},
    {"conv_dim": [8], "conv_kernel": [400], "conv_stride": [320]},
    {"num_conv_pos_embeddings": 7, "hidden_act": "silu", "feat_extract_activation": "relu"},
    {"num_hidden_layers": 1},
    {"output_hidden_size": 32},
    {"return_dict": False, "output_attentions": True, "output_hidden_states": True},
    {"return_dict": False, "output_attentions": True, "model_type": "hubert"},
    {"dtype": "float16"},
    {"num_buckets": 5, "max_bucket_distance": 2},
    {"mask_feature_prob": 0.1, "mask_feature_min_masks": 0, "mask_feature_length": 2},
]


def one_line(error: pytest.ExceptionInfo[Exception]) -> bool:
    return "\n" not in str(error.value)


@pytest.fixture(scope="module")
def saved_model(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    SpeakerModel.from_encoder(encoder_folder, tiny_settings(TINY_WAVLM)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_an_option_that_cannot_be_served_is_named_wherever_the_encoder_comes_from(
    change: dict[str, Any], message: str, encoder_folder: Path, saved_model: Path, tmp_path: Path
) -> None:
    values = {"checkpoint": None, "architecture": TINY_WAVLM | change}
    with pytest.raises(ParameterError, match=rf"model\.frontend\.architecture\..*{message}") as error:
        save_encoder(FrontendSettings.parse(values, "model.frontend"), tmp_path / "encoder", seed=1)
    assert one_line(error)
    assert not (tmp_path / "encoder").exists()
    config = json.loads((encoder_folder / "config.json").read_text()) | change
    folder = shutil.copytree(encoder_folder, tmp_path / "folder")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=rf"folder.*{message}") as error:
        load_encoder(folder)
    assert one_line(error)
    shutil.copytree(saved_model, tmp_path / "saved")
    values = json.loads((tmp_path / "saved" / "config.json").read_text())
    values["encoder"] |= change
    (tmp_path / "saved" / "config.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=rf"saved.*config\.json.*encoder\..*{message}") as error:
        SpeakerModel.from_pretrained(tmp_path / "saved")
    assert one_line(error)


@pytest.mark.parametrize("change", SERVED, ids=str)
def test_an_unusual_encoder_is_served_alone_and_in_company(change: dict[str, Any], tmp_path: Path) -> None:
    architecture = TINY_WAVLM | change
    flags = ("return_dict", "output_attentions", "output_hidden_states")
    plain = {name: value for name, value in architecture.items() if name not in (*flags, "dtype")}
    save_encoder(FrontendSettings(checkpoint=None, architecture=plain), tmp_path / "encoder", seed=1)
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config | change))
    for network in ("astp", "mhfa"):
        settings = tiny_settings(architecture, network=network)
        model = SpeakerModel.from_encoder(tmp_path / "encoder", settings)
        waveforms = torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
        states = model.frontend(waveforms)
        assert {state.shape for state in states} == {states[0].shape}
        assert model.train()(waveforms).isfinite().all()
        together = model.embed(waveforms, [8000, 5000])
        alone = torch.cat([model.embed(waveforms[:1]), model.embed(waveforms[1:, :5000])])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        assert model.embed(torch.randn(1, model.minimum_samples)).isfinite().all()
    model.save_pretrained(tmp_path / "saved")
    again = SpeakerModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.embed(waveforms), model.embed(waveforms))


def test_an_adapter_is_refused_in_an_encoder_that_is_at_hand() -> None:
    options = {name: value for name, value in WAV2VEC2.items() if name != "model_type"}
    encoder = AutoModel.from_config(AutoConfig.for_model("wav2vec2", **options, add_adapter=True))
    for aggregation in AGGREGATIONS:
        with pytest.raises(DataError, match="add_adapter is True"):
            SpeakerModel(encoder, tiny_settings(WAV2VEC2, aggregation))
    encoder.config.add_adapter = False  # the module is still there
    with pytest.raises(DataError, match=r"state 3 is of shape \(2, 2, 16\), not \(2, 12, 16\)"):
        Frontend(encoder).eval()(torch.randn(2, 4000))


def test_states_of_several_shapes_are_never_pooled() -> None:
    """torch.sub resizes what it writes to, and what should have been written stays as it was."""
    torch.manual_seed(0)
    parameters = LapParameters(
        torch.ones(16),
        torch.zeros(16),
        torch.eye(16),
        torch.zeros(16),
        torch.randn(4, 3, 1),
        torch.zeros(4, 1, 1),
        torch.randn(4, 1, 3),
        torch.zeros(4, 1, 3),
    )
    standardisation = Standardisation(torch.zeros(16), torch.ones(16), 0)
    whole = torch.randn(24, 16)
    for odd in (torch.randn(4, 16), torch.randn(24, 1), torch.randn(24, 32)):
        for states in ([whole, whole, odd], [odd, odd, odd] if odd.shape[1] != 16 else [odd, whole, whole]):
            with pytest.raises(ValueError, match="shape"):
                pool_states(states, standardisation, parameters, 0.0)
            with pytest.raises(ValueError, match="shape"):
                state_weights(states, standardisation, parameters)
        with pytest.raises(ValueError, match="shape"):
            moments([whole, whole, odd])


def test_options_of_an_architecture_are_those_of_its_encoder(tmp_path: Path) -> None:
    for name, message in (
        ("hiden_size", "hiden_size is no option of wavlm: did you mean hidden_size"),
        ("adapter_attn_dim", "adapter_attn_dim is no option of wavlm"),
    ):
        settings = FrontendSettings(checkpoint=None, architecture=TINY_WAVLM | {name: 4})
        with pytest.raises(ParameterError, match=message):
            save_encoder(settings, tmp_path, seed=1)
    settings = FrontendSettings(checkpoint=None, architecture={"hidden_size": 4})
    with pytest.raises(ParameterError, match="model_type is 'None': use one of wavlm, hubert, wav2vec2"):
        save_encoder(settings, tmp_path, seed=1)


def test_a_random_encoder_is_of_float32_whatever_its_configuration_says() -> None:
    encoder = build_encoder(configuration_of(TINY_LARGE | {"dtype": "float16"}, ""), "")
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_encoders_of_public_checkpoints_are_checked_too(tmp_path: Path) -> None:
    cfg = systems.ORIGINAL_BASE | {"encoder_attention_heads": 5}
    torch.save({"cfg": cfg, "model": {}}, tmp_path / "WavLM.pt")
    with pytest.raises(DataError, match=r"WavLM\.pt': num_attention_heads is 5: it must divide hidden_size"):
        import_encoder(tmp_path / "WavLM.pt")
    torch.save({"cfg": [1], "model": {}}, tmp_path / "WavLM.pt")
    with pytest.raises(DataError, match=r"WavLM\.pt': its cfg is no dictionary but list"):
        import_encoder(tmp_path / "WavLM.pt")
    torch.save({"cfg": cfg, "model": {"step": 7}}, tmp_path / "WavLM.pt")
    with pytest.raises(DataError, match=r"WavLM\.pt' is no state dict: step is no tensor but int"):
        import_encoder(tmp_path / "WavLM.pt")
    system = systems.KEPT_LAP_SYSTEMS[0]
    (tmp_path / "encoder").mkdir()
    config = {**systems.ENCODERS[system.encoder], "add_adapter": True}
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config))
    folder = systems.write_lap_folder(tmp_path / "lap", system.options(tmp_path / "encoder"), {})
    with pytest.raises(DataError, match=r"add_adapter is True.*pass encoder="):
        import_checkpoint(folder)


def test_a_folder_that_is_no_encoder_says_what_it_is(encoder_folder: Path, tmp_path: Path) -> None:
    SpeakerModel.from_encoder(encoder_folder, tiny_settings(TINY_WAVLM)).save_pretrained(tmp_path / "saved")
    with pytest.raises(DataError, match=r"saved' is a saved speaker model, not an encoder"):
        load_encoder(tmp_path / "saved")
    with pytest.raises(DataError, match=r"is an encoder \(wavlm\)"):
        SpeakerModel.from_pretrained(encoder_folder)
    with pytest.raises(DataError, match="it is a file"):
        read_configuration(encoder_folder / "config.json")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"config\.json' is not of an encoder: it lacks model_type"):
        load_encoder(tmp_path)


def test_waveforms_shorter_than_a_time_mask_are_refused_in_training() -> None:
    masked = TINY_WAVLM | {"mask_time_prob": 0.5, "mask_time_length": 20}
    model = SpeakerModel(build_encoder(configuration_of(masked, ""), ""), tiny_settings(masked))
    with pytest.raises(
        ParameterError, match=r"\(mask_time_length\), which takes 6480 samples: 6479 are too few"
    ):
        model(torch.randn(2, 6479))
    assert model(torch.randn(2, 6480)).isfinite().all()
    assert model.embed(torch.randn(2, 6479)).isfinite().all()
