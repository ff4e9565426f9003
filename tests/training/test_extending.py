"""The examples of docs/extending train, embed, are saved and load again, named from outside the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
import yaml

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models.encoder_settings import RegularisationSettings
from speaker_verification.models.encoders.wav2vec2_family import Wav2Vec2Adapter
from speaker_verification.models.frontend import Frontend, load_encoder, save_encoder
from speaker_verification.models.heads import HeadSettings
from speaker_verification.models.settings import ModelSettings
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.checkpoints import load_head
from speaker_verification.training.kept_epochs import best_checkpoint
from tests.support.imports import forget_modules
from tests.support.tiny_models import TINY_WAVLM, tiny_settings
from tests.support.training import HEAD, phase_settings, training_loop

PAGES = Path(__file__).parents[2] / "docs" / "extending"
KINDS = {"speaker_network": "pooling", "layer_aggregation": "aggregation", "head": "heads"}
MODULES = KINDS | {"encoder": "encoder"}


def block(page: str, language: str) -> str:
    return (PAGES / page).read_text().split(f"```{language}\n", 1)[1].split("```", 1)[0]


@pytest.fixture
def my_package(import_folder: Path) -> Path:
    """Package on the import path that holds the examples."""
    folder = import_folder / "my_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for part, module in MODULES.items():
        (folder / f"{module}.py").write_text(block(f"{part}.md", "python"))
    return folder


def settings_with(part: str) -> tuple[ModelSettings, HeadSettings]:
    """Settings of the tiny model and of the head, with what the page says of one part."""
    values = yaml.safe_load(block(f"{part}.md", "yaml"))
    if part == "head":
        return tiny_settings(TINY_WAVLM), HeadSettings.parse(values["head"], "head")
    tiny = tiny_settings(TINY_WAVLM).model_dump(mode="json")
    return ModelSettings.parse(tiny | values["model"], "model"), HEAD


@pytest.mark.parametrize("part", MODULES)
def test_an_example_is_under_40_lines(part: str) -> None:
    assert len(block(f"{part}.md", "python").splitlines()) < 40


@pytest.mark.parametrize("part", KINDS)
def test_an_example_trains_embeds_is_saved_and_loads(
    part: str,
    my_package: Path,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    encoder_folder: Path,
    tmp_path: Path,
) -> None:
    model, head = settings_with(part)
    phase = phase_settings(epochs=1, margin={"final": 0.1, "growth_epochs": 0, "top_k": 0})
    folder = tmp_path / "phase"
    loop = training_loop(encoder_folder, folder, utterances, trials, phase, model=model, head=head)
    assert loop.run()["value"].notna().all()
    checkpoint = best_checkpoint(folder)
    again, waveforms = SpeakerModel.from_pretrained(checkpoint), torch.randn(2, 8000)
    torch.testing.assert_close(again.embed(waveforms), loop.classifier.model.embed(waveforms))
    kept, settings, _ = load_head(checkpoint, "cpu")
    assert settings == head
    assert torch.equal(kept.weight, loop.classifier.head.weight)


def test_a_saved_model_whose_package_is_missing_names_it(
    my_package: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    model, _ = settings_with("speaker_network")
    SpeakerModel.from_encoder(encoder_folder, model).save_pretrained(tmp_path / "model")
    kind = json.loads((tmp_path / "model" / "config.json").read_text())["model"]["speaker_network"]["kind"]
    assert kind == "my_package.pooling.MeanMaxPooling"
    forget_modules(my_package)
    shutil.rmtree(my_package)
    with pytest.raises(DataError, match=r"speaker_network\.kind.*no module 'my_package'.*PYTHONPATH"):
        SpeakerModel.from_pretrained(tmp_path / "model")


def test_parameters_of_an_example_are_checked(my_package: Path) -> None:
    model, _ = settings_with("layer_aggregation")
    values = {"kind": "my_package.aggregation.TopLayers", "custom": {"output_width": 20}}
    wide = ModelSettings.parse(model.model_dump(mode="json") | {"layer_aggregation": values}, "model")
    assert [str(fault) for fault in wide.layer_aggregation.faults(16)] == [
        "parameter 'custom.output_width' is 20: it must not exceed the encoder's width 16"
    ]
    values["custom"] = {"num_state": 2}
    with pytest.raises(ParameterError, match="'num_states'"):
        ModelSettings.parse(model.model_dump(mode="json") | {"layer_aggregation": values}, "model")


def encoder_settings(folder: Path, **frontend: Any) -> ModelSettings:
    """Settings of a tiny encoder with the adapter of the page, whose random weights are in the folder."""
    adapter = yaml.safe_load(block("encoder.md", "yaml"))["model"]["frontend"]["adapter"]
    others = ("num_conv_pos_embeddings", "feat_extract_norm")
    architecture = {name: value for name, value in TINY_WAVLM.items() if name not in others}
    architecture |= {"model_type": "data2vec-audio", "conv_pos_kernel_size": 3}
    settings = tiny_settings(architecture, adapter=adapter)
    save_encoder(settings.frontend, folder, seed=1)
    values = settings.model_dump(mode="json")
    values["frontend"] |= {"checkpoint": str(folder), "architecture": None, **frontend}
    return ModelSettings.parse(values, "model")


def test_an_encoder_of_another_family_trains_embeds_is_saved_and_loads(
    my_package: Path, utterances: pd.DataFrame, trials: pd.DataFrame, tmp_path: Path
) -> None:
    encoder, folder = tmp_path / "encoder", tmp_path / "phase"
    model = encoder_settings(encoder, regularisation={"layer_drop": 0.2})
    phase = phase_settings(epochs=1, frontend="no_convolutions", frontend_mode="training")
    loop = training_loop(encoder, folder, utterances, trials, phase, model=model)
    assert loop.run()["value"].notna().all()
    again, waveforms = SpeakerModel.from_pretrained(best_checkpoint(folder)), torch.randn(2, 8000)
    torch.testing.assert_close(again.embed(waveforms), loop.classifier.model.embed(waveforms))
    before = load_encoder(encoder, adapter=model.frontend.adapter).state_dict()
    for name, weight in again.frontend.encoder.state_dict().items():
        if name.startswith(("feature_extractor.", "encoder.layers.0.attention.v_proj.")):
            assert torch.equal(weight, before[name]) == name.startswith("feature_extractor."), name
    assert again.embed(torch.randn(1, 31 * 16_000)).isfinite().all()  # has no encoding in chunks


def test_states_of_an_encoder_of_another_family_are_those_that_transformers_tells(
    my_package: Path, tmp_path: Path
) -> None:
    adapter = encoder_settings(tmp_path / "encoder").frontend.adapter
    encoder, waveforms = load_encoder(tmp_path / "encoder", adapter=adapter).eval(), torch.randn(2, 4000)
    with torch.no_grad():
        expected = encoder(waveforms, output_hidden_states=True).hidden_states
        frontend = Frontend(encoder, adapter=adapter).eval()
        states = frontend(waveforms)
        assert frontend.minimum_samples(2) == 720  # 25 ms window and 20 ms step at 16 kHz: 400 + 320
        assert [frontend(torch.randn(1, length))[0].shape[1] for length in (720, 719)] == [2, 1]
    assert len(states) == len(expected) == 4
    for state, wanted in zip(states, expected, strict=True):
        torch.testing.assert_close(state, wanted)


def test_an_encoder_named_as_a_registered_family_takes_its_adapter(tmp_path: Path) -> None:
    architecture = TINY_WAVLM | {"model_type": "unispeech-sat"}
    with pytest.raises(ParameterError, match=r"'unispeech-sat': use one of wavlm, .*, or name an adapter"):
        save_encoder(tiny_settings(architecture).frontend, tmp_path, seed=1)
    settings = tiny_settings(architecture, adapter="wav2vec2")
    save_encoder(settings.frontend, tmp_path, seed=1)
    frontend = SpeakerModel.from_encoder(tmp_path, settings).frontend.eval()
    waveforms = torch.randn(1, 8000)
    with torch.no_grad():
        for state, wanted in zip(frontend.encode_in_chunks(waveforms), frontend(waveforms), strict=True):
            torch.testing.assert_close(state, wanted)


def test_an_adapter_that_is_none_is_named(my_package: Path, encoder_folder: Path) -> None:
    for name, message in (
        ("wavlmm", "frontend.adapter.*'wavlmm': did you mean 'wavlm'"),
        ("my_package.encoder.Data2Vec", "no 'Data2Vec': it has Data2VecAdapter"),
        ("my_package.pooling.MeanMaxPooling", "not a subclass of .*EncoderAdapter"),
    ):
        with pytest.raises(ParameterError, match=message):
            tiny_settings(TINY_WAVLM, adapter=name)


def test_regularisation_that_an_encoder_lacks_is_refused(encoder_folder: Path) -> None:
    class WithoutLayerDrop(Wav2Vec2Adapter):
        regularisation: ClassVar[dict[str, tuple[str, ...]]] = {"dropout": ("hidden_dropout",)}

    with pytest.raises(ParameterError, match=r"regularisation\.layer_drop' is 0\.1.*wavlm"):
        load_encoder(encoder_folder, RegularisationSettings(layer_drop=0.1), WithoutLayerDrop)
