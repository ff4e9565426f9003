from __future__ import annotations

from speaker_verification.config.differences import differing_parameters
from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.settings import CONFIG_LOADER_ARGS
from tests.support.config import CONF


def test_differences_are_named_in_order_and_those_without_effect_left_out() -> None:
    published = {
        "seed": 42,
        "model": {"frontend": {"checkpoint": "wavlm", "architecture": None}},
        "score": {"top_n": 600, "p_targets": [0.01, 0.05], "num_threads": None, "plda": {"rank": 1}},
        "device": "auto",
    }
    used = {
        "seed": 42,
        "model": {"frontend": {"checkpoint": None, "architecture": {"model_type": "wavlm", "blocks": 3}}},
        "score": {"top_n": 20, "p_targets": [0.01], "num_threads": 2, "extra": True},
        "device": "cpu",
    }
    found = differing_parameters(published, used, ("seed", "model", "score"))
    assert [tuple(difference) for difference in found] == [
        ("model.frontend.checkpoint", "wavlm", "null"),
        ("model.frontend.architecture", "null", "{model_type: wavlm, blocks: 3}"),
        ("score.top_n", "600", "20"),
        ("score.p_targets", "[0.01, 0.05]", "[0.01]"),
        ("score.plda", "{rank: 1}", ""),
        ("score.extra", "", "true"),
    ]


def test_the_recipe_alone_knows_neither_the_environment_nor_the_command_line() -> None:
    given = {"recipe": "mhfa_wespeaker", "score": {"top_n": 7}}
    loader = RecipeConfigLoader(str(CONF), env="demo", runtime_params=given, **CONFIG_LOADER_ARGS)
    alone, used = loader.parameters_of_recipe("mhfa_wespeaker"), loader["parameters"]
    assert (alone["recipe"], alone["score"]["top_n"], used["score"]["top_n"]) == ("mhfa_wespeaker", 300, 7)
    assert alone["model"]["frontend"]["checkpoint"] == "microsoft/wavlm-base-plus"
    assert used["model"]["frontend"]["checkpoint"] is None
