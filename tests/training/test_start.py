from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models.frontend import save_encoder
from speaker_verification.models.heads.aam_softmax import SubcentreMarginHead
from speaker_verification.models.settings import ModelSettings
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.checkpoints import BestCheckpoints
from speaker_verification.training.start import start_phase
from tests.support.training import HEAD, MODEL, phase_settings

CPU = torch.device("cpu")
RUN: dict[str, Any] = {"speaker_ids": ["a", "b", "c"], "head": HEAD.model_dump()}


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    save_encoder(MODEL.frontend, tmp_path / "encoder", seed=1)
    return tmp_path / "encoder"


@pytest.fixture
def model(encoder: Path) -> SpeakerModel:
    return SpeakerModel.from_encoder(encoder, MODEL)


@pytest.fixture
def head() -> SubcentreMarginHead:
    return SubcentreMarginHead(10, 3, HEAD.chosen)


def test_after_an_encoder_there_is_a_class_for_every_speaker_at_every_speed(encoder: Path) -> None:
    phase = phase_settings(speed_factors=[1.0, 0.9, 1.1])
    torch.manual_seed(0)
    model, head = start_phase(encoder, phase, MODEL, HEAD, ["a", "b"], CPU)
    assert head.num_classes == 6
    again, _ = start_phase(encoder, phase, MODEL, HEAD, ["a", "b"], CPU)
    same = {name: torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items()}
    assert all(same[name] for name in same if name.startswith("frontend."))
    assert not same["speaker_network.projection.weight"]  # drawn anew


def test_after_a_phase_both_are_those_of_the_chosen_epoch(
    model: SpeakerModel, head: SubcentreMarginHead, tmp_path: Path
) -> None:
    kept = BestCheckpoints(tmp_path / "best", keep=2)
    for epoch, eer in ((1, 5.0), (2, 8.0)):
        torch.nn.init.constant_(head.weight, epoch)
        torch.nn.init.constant_(model.speaker_network.projection.weight, epoch)
        kept.save_if_best(epoch, eer, model, head, RUN)
    for choose_top, epoch in ((1, 1), (2, 2)):
        phase = phase_settings(choose_top=choose_top)
        chosen, its_head = start_phase(tmp_path / "best", phase, MODEL, HEAD, RUN["speaker_ids"], CPU)
        assert (chosen.speaker_network.projection.weight == epoch).all()
        assert (its_head.weight == epoch).all()


def test_other_speakers_than_the_phase_before_are_refused(
    model: SpeakerModel, head: SubcentreMarginHead, tmp_path: Path
) -> None:
    BestCheckpoints(tmp_path / "best", keep=1).save_if_best(1, 5.0, model, head, RUN)
    with pytest.raises(DataError, match="trained on 3 speakers that are not the 2 of today"):
        start_phase(tmp_path / "best", phase_settings(), MODEL, HEAD, ["a", "b"], CPU)
    with pytest.raises(ParameterError, match=r"'speed_factors' makes 2 classes of a speaker, .* made 1"):
        start_phase(
            tmp_path / "best", phase_settings(speed_factors=[1.0, 0.9]), MODEL, HEAD, ["a", "b", "c"], CPU
        )


def test_a_phase_does_not_start_from_another_recipes_model(
    model: SpeakerModel, head: SubcentreMarginHead, tmp_path: Path
) -> None:
    BestCheckpoints(tmp_path / "best", keep=1).save_if_best(1, 5.0, model, head, RUN)
    other = ModelSettings.model_validate({**MODEL.model_dump(), "speaker_network": {"kind": "mhfa"}})
    with pytest.raises(ParameterError, match=r"'model.speaker_network' is .*'mhfa'.* is of .*'astp'"):
        start_phase(tmp_path / "best", phase_settings(), other, HEAD, RUN["speaker_ids"], CPU)
