from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models.heads import HeadSettings
from speaker_verification.models.settings import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    ModelSettings,
    check_encoder_folder,
    encoder_width,
    read_saved_configuration,
)

BASE = yaml.safe_load((Path(__file__).parents[2] / "conf/base/parameters_model.yml").read_text())


def test_base_spells_out_the_defaults() -> None:
    assert ModelSettings.parse(BASE["model"], "model") == ModelSettings()
    assert HeadSettings.parse(BASE["head"], "head") == HeadSettings()
    assert ModelSettings().model_dump() == BASE["model"]


def test_changing_the_kind_leaves_the_groups_of_the_others_in_place() -> None:
    changed = BASE["model"]["layer_aggregation"] | {"kind": "weighted_sum"}
    settings = ModelSettings.parse(BASE["model"] | {"layer_aggregation": changed}, "model")
    assert settings.layer_aggregation.lap.num_heads == 16
    assert settings.layer_aggregation.frame_width(13, 768) == 768
    assert ModelSettings().layer_aggregation.frame_width(13, 768) == 512


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"layer_aggregation": {"num_heads": 4}},
            r"unknown parameter 'model.layer_aggregation.num_heads': "
            r"did you mean 'model.layer_aggregation.lap.num_heads'\?",
        ),
        (
            {"speaker_network": {"kind": "ecapa"}},
            "parameter 'model.speaker_network.kind': .*'ecapa': did you mean 'ecapa_tdnn'",
        ),
        (
            {"speaker_network": {"mhfa": {"heads": 4}}},
            r"unknown parameter 'model.speaker_network.mhfa.heads': "
            r"did you mean 'model.speaker_network.mhfa.num_heads'\?",
        ),
        (
            {"speaker_network": {"ecapa_tdnn": {"channels": 100}}},
            "parameter 'model.speaker_network.ecapa_tdnn.channels' is 100: input should be a multiple of 8",
        ),
        (
            {"frontend": {"regularisation": {"layer_drop": 1}}},
            "parameter 'model.frontend.regularisation.layer_drop' is 1: input should be less than 1",
        ),
    ],
)
def test_what_no_model_could_be_made_of_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}"):
        ModelSettings.parse(values, "model")


def saved_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    model = ModelSettings().model_dump(mode="json")
    (folder / CONFIG_FILE).write_text(json.dumps({"model": model, "encoder": {"model_type": "wavlm"}}))
    (folder / WEIGHTS_FILE).write_bytes(b"")
    return folder


def test_a_folder_of_a_saved_model_is_told_from_others(tmp_path: Path) -> None:
    saved = read_saved_configuration(saved_model(tmp_path / "checkpoint/epoch_01"))
    assert saved.model == ModelSettings()
    assert saved.encoder == {"model_type": "wavlm"}
    (tmp_path / "empty").mkdir()
    (saved_model(tmp_path / "light") / WEIGHTS_FILE).unlink()
    (saved_model(tmp_path / "cut") / CONFIG_FILE).write_text("{")
    (saved_model(tmp_path / "foreign") / CONFIG_FILE).write_text("{}")
    (saved_model(tmp_path / "encoder") / CONFIG_FILE).write_text('{"model_type": "wavlm"}')
    for name, message in (
        ("absent", "'.*absent' is no folder"),
        ("empty", f"missing {CONFIG_FILE}, {WEIGHTS_FILE}"),
        ("light", f"missing {WEIGHTS_FILE}"),
        ("cut", rf"{CONFIG_FILE}.* cannot be read as JSON"),
        ("foreign", f"missing 'model' in .*{CONFIG_FILE}, 'encoder' in .*{CONFIG_FILE}"),
        ("encoder", r"is an encoder \(wavlm\), .* model\.frontend\.checkpoint"),
        ("checkpoint", "holds several models: give one of them, such as '.*epoch_01'"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            read_saved_configuration(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_folder_of_an_encoder_is_told_from_others_and_a_hub_s_name_is_left_alone(tmp_path: Path) -> None:
    check_encoder_folder("microsoft/wavlm-large")
    (tmp_path / "WavLM-Large.pt").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    saved_model(tmp_path / "model")
    (saved_model(tmp_path / "encoder") / CONFIG_FILE).write_text('{"model_type": "hubert"}')
    check_encoder_folder(str(tmp_path / "encoder"))
    for name, message in (
        ("absent", "is no folder"),
        ("WavLM-Large.pt", "is no folder"),
        ("empty", f"missing {CONFIG_FILE}"),
        ("model", "model_type is 'None': use one of wavlm.*give the folder of an encoder"),
    ):
        with pytest.raises(DataError, match=message):
            check_encoder_folder(str(tmp_path / name))


def test_the_width_of_a_broken_folder_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(DataError, match=rf"{CONFIG_FILE}.* cannot be read as JSON"):
        encoder_width(ModelSettings.parse({"frontend": {"checkpoint": str(tmp_path)}}, "model").frontend)
