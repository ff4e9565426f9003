from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from speaker_verification.errors import ParameterError
from speaker_verification.models.settings import MarginHeadSettings, ModelSettings

BASE = yaml.safe_load((Path(__file__).parents[2] / "conf/base/parameters_model.yml").read_text())


def test_base_spells_out_the_defaults() -> None:
    assert ModelSettings.parse(BASE["model"], "model") == ModelSettings()
    assert MarginHeadSettings.parse(BASE["head"], "head") == MarginHeadSettings()
    assert ModelSettings().model_dump() == BASE["model"]


def test_changing_the_kind_leaves_the_groups_of_the_others_in_place() -> None:
    changed = BASE["model"]["layer_aggregation"] | {"kind": "weighted_sum"}
    settings = ModelSettings.parse(BASE["model"] | {"layer_aggregation": changed}, "model")
    assert settings.layer_aggregation.lap.num_heads == 16
    assert settings.layer_aggregation.output_width(768) == 768
    assert ModelSettings().layer_aggregation.output_width(768) == 512


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"layer_aggregation": {"num_heads": 4}},
            r"unknown parameter 'model.layer_aggregation.num_heads': did you mean 'lap.num_heads'\?",
        ),
        (
            {"speaker_network": {"kind": "ecapa"}},
            "parameter 'model.speaker_network.kind' is 'ecapa': input should be 'astp', 'x_vector', ",
        ),
        (
            {"speaker_network": {"mhfa": {"heads": 4}}},
            r"unknown parameter 'model.speaker_network.mhfa.heads': did you mean 'num_heads'\?",
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
