"""The examples of docs/extending train, embed, are saved and load again, named from outside the package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models.heads import HeadSettings
from speaker_verification.models.settings import ModelSettings
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.checkpoints import best_checkpoint, load_head
from tests.support.tiny_models import TINY_WAVLM, tiny_settings
from tests.support.training import HEAD, phase_settings, training_loop

PAGES = Path(__file__).parents[2] / "docs" / "extending"
KINDS = {"speaker_network": "pooling", "layer_aggregation": "aggregation", "head": "heads"}


def block(page: str, language: str) -> str:
    return (PAGES / page).read_text().split(f"```{language}\n", 1)[1].split("```", 1)[0]


@pytest.fixture
def my_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Package on the import path that holds the examples."""
    folder = tmp_path / "path" / "my_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    for part, module in KINDS.items():
        (folder / f"{module}.py").write_text(block(f"{part}.md", "python"))
    monkeypatch.syspath_prepend(str(folder.parent))
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def settings_with(part: str) -> tuple[ModelSettings, HeadSettings]:
    """Settings of the tiny model and of the head, with what the page says of one part."""
    values = yaml.safe_load(block(f"{part}.md", "yaml"))
    if part == "head":
        return tiny_settings(TINY_WAVLM), HeadSettings.parse(values["head"], "head")
    tiny = tiny_settings(TINY_WAVLM).model_dump(mode="json")
    return ModelSettings.parse(tiny | values["model"], "model"), HEAD


@pytest.mark.parametrize("part", KINDS)
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
    my_package: Path, encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = settings_with("speaker_network")
    SpeakerModel.from_encoder(encoder_folder, model).save_pretrained(tmp_path / "model")
    kind = json.loads((tmp_path / "model" / "config.json").read_text())["model"]["speaker_network"]["kind"]
    assert kind == "my_package.pooling.MeanMaxPooling"
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(my_package.parent)])
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
