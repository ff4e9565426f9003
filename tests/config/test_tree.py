from __future__ import annotations

from typing import Any

import pytest

from speaker_verification.common.errors import ParameterError
from speaker_verification.config.tree import check_parameters
from tests.support.config import CONF, parameters


@pytest.mark.parametrize(
    ("env", "changes", "message"),
    [
        (
            "mini",
            {"model": {"layer_aggregation": {"lap": {"num_heads": 5}}}},
            "parameter 'model.layer_aggregation.lap.num_heads' is 5: it must divide the encoder's width 96",
        ),
        (
            "local",
            {"model": {"layer_aggregation": {"lap": {"num_heads": 48}}}},
            "parameter 'model.layer_aggregation.lap.num_heads' is 48: .* width 1024",
        ),
        (
            "mini",
            {"model": {"frontend": {"architecture": {"num_attention_heads": 5}}}},
            "parameter 'model.frontend.architecture.num_attention_heads' is 5: .* width 96",
        ),
        (
            "mini",
            {"model": {"frontend": {"architecture": {"num_conv_pos_embedding_groups": 0}}}},
            "parameter 'model.frontend.architecture.num_conv_pos_embedding_groups' is 0: give a whole",
        ),
        (
            "mini",
            {"model": {"frontend": {"architecture": {"num_attention_heads": "four"}}}},
            "parameter 'model.frontend.architecture.num_attention_heads' is 'four': give a whole",
        ),
        (
            "mini",
            {"model": {"frontend": {"architecture": {"model_type": "whisper"}}}},
            "parameter 'model.frontend.architecture': model_type is 'whisper': use one of wavlm, hubert",
        ),
        (
            "local",
            {"head": {"aam_softmax": {"num_subcentres": 0}}},
            "parameter 'head.aam_softmax.num_subcentres' is 0: .* equal to 1",
        ),
        (
            "local",
            {"model": {"speaker_network": {"ecapa_tdnn": {"channels": 100}}}},
            "parameter 'model.speaker_network.ecapa_tdnn.channels' is 100: .* multiple of 8",
        ),
        (
            "local",
            {"pretrain": {"monitor": ["vox1_x"]}},
            "parameter 'pretrain.monitor' holds vox1_x: known are",
        ),
        (
            "local",
            {"prepare": {"trial_lists": ["vox1_e"]}, "lmft": {"rank_by": "vox1_o"}},
            "parameter 'lmft.rank_by' is 'vox1_o': prepare.trial_lists must hold it",
        ),
        (
            "librispeech",
            {"embed": {"cohort_set": "librispeech-dev-clean"}},
            "parameter 'embed': cohort_set 'librispeech-dev-clean' holds the speakers of libri",
        ),
        (
            "local",
            {"finetune": {"speed_factors": [1.0, 0.8, 0.9, 1.1]}},
            "parameter 'finetune.speed_factors' has classes at 1.0, 0.8, 0.9, 1.1, and .* at 1.0, 0.9, 1.1: ",
        ),
        (
            "local",
            {"finetune": {"speed_factors": [1.0, 1.1]}},
            "parameter 'finetune.speed_factors' has classes at 1.0, 1.1, .* at 1.0, 0.9, 1.1: .* cut_head",
        ),
        (
            "local",
            {"finetune": {"cut_head": True}, "lmft": {"speed_factors": [1.0, 0.9]}},
            "parameter 'lmft.speed_factors' has classes at 1.0, 0.9, and .* at 1.0: ",
        ),
        (
            "local",
            {
                "finetune": {"start": "saved", "speed_factors": [1.0, 0.9]},
                "lmft": {"speed_factors": [1.0, 0.9, 1.1]},
            },
            "parameter 'lmft.speed_factors' has classes at 1.0, 0.9, 1.1, and .* at 1.0, 0.9: ",
        ),
        (
            "local",
            {"finetune": {"start": "saved", "choose_top": 9}, "lmft": {"choose_top": 3}},
            "parameter 'lmft.choose_top' is 3: finetune keeps 2 checkpoints$",
        ),
        (
            "local",
            {"finetune": {"choose_top": 3}, "embed": {"choose_top": 4}},
            "parameter 'finetune.choose_top' is 3: pretrain keeps 2 .*; parameter 'embed.choose_top' is 4",
        ),
        (
            "local",
            {"embed": {"cohort_set": "voxceleb1-dev"}},
            "parameter 'embed': cohort_set 'voxceleb1-dev' holds the speakers of vox1_e, vox1_h",
        ),
        (
            "local",
            {"embed": {"cohort_set": "voxceleb2"}},
            "parameter 'embed.cohort_set' .* did you mean 'voxceleb2-",
        ),
        (
            "local",
            {
                "prepare": {
                    "training_set": "voxceleb1-dev",
                    "subsets": ["vox1-dev", "vox1-test"],
                    "trial_lists": ["vox1_o"],
                }
            },
            "parameter 'embed.cohort_set' is 'voxceleb2-dev': prepare.subsets must hold vox2-dev",
        ),
        (
            "local",
            {"embed": {"calibration_set": "voxceleb1-dev", "adaptation_set": "voxceleb"}},
            "parameter 'embed': calibration_set 'voxceleb1-dev' holds the speakers of vox1_e, .*; "
            "parameter 'embed.adaptation_set' is 'voxceleb': .* did you mean",
        ),
        (
            "local",
            {"score": {"adaptation": "coral"}},
            "parameter 'score.adaptation' is 'coral': embed.adaptation_set must name",
        ),
        (
            "local",
            {"prepare": {"training_set": "voxceleb12-dev"}},
            "parameter 'prepare': training_set 'voxceleb12-dev' holds the speakers of vox1_e, vox1_h",
        ),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(
    env: str, changes: dict[str, Any], message: str
) -> None:
    check_parameters(parameters(CONF, env))
    with pytest.raises(ParameterError, match=f"^{message}") as caught:
        check_parameters(parameters(CONF, env, **changes))
    assert "\n" not in str(caught.value)


def test_a_phase_may_be_ranked_by_a_list_of_the_user_s_own() -> None:
    asked = {"monitor": ["mine"], "rank_by": "mine"}
    with pytest.raises(ParameterError, match=r"'finetune\.monitor' holds mine: known are vox1_o"):
        check_parameters(parameters(CONF, finetune=asked))
    check_parameters(parameters(CONF, finetune=asked, prepare={"other_trial_lists": {"mine": "mine.txt"}}))


def test_seen_speakers_are_allowed_where_asked_for_by_name() -> None:
    asked = {"cohort_set": "voxceleb1-dev", "allow_seen_speakers": True}
    assert check_parameters(parameters(CONF, embed=asked)).embed.allow_seen_speakers


@pytest.mark.parametrize(
    ("changes", "meant"),
    [
        ({"epochs": 3}, "'pretrain.epochs', 'finetune.epochs', 'lmft.epochs' or 'compress.epochs'"),
        ({"epoch": 3}, "'pretrain.epochs', 'finetune.epochs', 'lmft.epochs' or 'compress.epochs'"),
        ({"finetune": {"epoch": 3}}, "'finetune.epochs'"),
        ({"finetune": {"final": 0.2}}, "'finetune.margin.final'"),
        ({"score": {"num_crops": 3}}, "'embed.num_crops'"),
        ({"fintune": {"epochs": 3}}, "'finetune'"),
    ],
)
def test_a_suggestion_is_the_whole_name_that_must_be_typed(changes: dict[str, Any], meant: str) -> None:
    with pytest.raises(ParameterError) as caught:
        check_parameters(parameters(CONF, **changes))
    assert str(caught.value).endswith(f"did you mean {meant}?")


@pytest.mark.parametrize("width", [0, True, "96", 96.0])
def test_an_architecture_s_sizes_are_counts(width: Any) -> None:
    for name in ("hidden_size", "num_attention_heads", "num_conv_pos_embedding_groups"):
        changed = parameters(CONF, "mini")
        changed["model"]["frontend"]["architecture"][name] = width
        with pytest.raises(ParameterError, match=rf"architecture\.{name}' is {width!r}: give a whole number"):
            check_parameters(changed)


def test_a_phase_goes_on_with_the_model_that_training_began_with() -> None:
    tree = check_parameters(parameters(CONF, "mini", finetune={"start": "saved"}))
    assert [tree.origin(phase) for phase in ("pretrain", "finetune", "lmft")] == [
        "pretrain", "finetune", "finetune",
    ]  # fmt: skip
    assert [tree.job(phase).origin for phase in ("pretrain", "finetune", "lmft")] == [None, "saved", "saved"]
