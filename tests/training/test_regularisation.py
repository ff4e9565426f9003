from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from speaker_verification.common.errors import DataError
from speaker_verification.models.frontend import Frontend, load_encoder
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.phase import PretrainedDistanceSettings
from speaker_verification.training.regularisation import PretrainedDistance
from tests.support.tiny_models import TINY_WAVLM, tiny_settings


@pytest.fixture
def frontend(encoder_folder: Path) -> Frontend:
    """The pre-trained encoder, two of its tensors moved by (3, 4, 0, ...) and by 2 in one place."""
    frontend = Frontend(load_encoder(encoder_folder).double())
    projection = frontend.encoder.feature_projection.projection
    with torch.no_grad():
        projection.bias[:2] += torch.tensor([3.0, 4.0])
        projection.weight[1, 1] += 2.0
    return frontend


def gradients(frontend: Frontend) -> tuple[torch.Tensor, torch.Tensor]:
    projection = frontend.encoder.feature_projection.projection
    return projection.bias.grad, projection.weight.grad


def distance_from(frontend: Frontend, folder: Path, **settings: Any) -> PretrainedDistance:
    return PretrainedDistance(frontend, folder, PretrainedDistanceSettings.parse(settings, "distance"))


def test_the_normalised_distance_pulls_by_hand(frontend: Frontend, encoder_folder: Path) -> None:
    """Distance 5 + 2: its gradient is each tensor's unit vector, times weight / (7 + 1e-5)."""
    margin_loss = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    total = distance_from(frontend, encoder_folder, kind="normalised", weight=0.7)(margin_loss)
    assert float(total.detach()) == pytest.approx(1 + 0.7 * 7 / (7 + 1e-5))
    total.backward()
    assert float(margin_loss.grad) == pytest.approx(1 / 4)
    bias, weight = gradients(frontend)
    pull = 0.7 / (7 + 1e-5)
    assert bias.tolist() == pytest.approx([0.6 * pull, 0.8 * pull, *[0.0] * (len(bias) - 2)])
    assert float(weight[1, 1]) == pytest.approx(pull)
    assert float(weight.abs().sum()) == pytest.approx(pull)


def test_l2_sp_pulls_in_proportion_to_the_difference(frontend: Frontend, encoder_folder: Path) -> None:
    """Squared distance 25 + 4: its gradient is twice the difference."""
    margin_loss = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    total = distance_from(frontend, encoder_folder, kind="l2_sp", weight=0.1)(margin_loss)
    assert float(total.detach()) == pytest.approx(4 + 0.1 * 29)
    total.backward()
    assert float(margin_loss.grad) == 1
    bias, weight = gradients(frontend)
    assert bias[:3].tolist() == pytest.approx([0.6, 0.8, 0.0])
    assert float(weight[1, 1]) == pytest.approx(0.4)


def test_a_saved_model_is_the_reference_with_its_encoder(
    frontend: Frontend, encoder_folder: Path, tmp_path: Path
) -> None:
    SpeakerModel.from_encoder(encoder_folder, tiny_settings(TINY_WAVLM)).save_pretrained(tmp_path)
    total = distance_from(frontend, tmp_path, kind="l2_sp", weight=0.1)(torch.tensor(4.0))
    assert float(total.detach()) == pytest.approx(4 + 0.1 * 29)


@pytest.mark.parametrize("kind", ["normalised", "l2_sp"])
def test_at_the_pretrained_weights_nothing_pulls(kind: str, encoder_folder: Path) -> None:
    frontend = Frontend(load_encoder(encoder_folder))
    loss = torch.tensor(4.0, requires_grad=True)
    distance_from(frontend, encoder_folder, kind=kind)(loss).backward()
    assert all(float(p.grad.abs().max()) == 0 for p in frontend.parameters())


def test_without_a_distance_the_loss_is_the_same_and_no_encoder_is_read(frontend: Frontend) -> None:
    loss = torch.tensor(4.0)
    assert distance_from(frontend, Path("nowhere"), kind="none")(loss) is loss


def test_another_encoder_than_the_one_training_began_with_is_refused(encoder_folder: Path) -> None:
    other = Frontend(AutoModel.from_config(AutoConfig.for_model(**TINY_WAVLM | {"hidden_size": 32})))
    with pytest.raises(DataError, match=r"'pretrained_distance' needs the encoder .* of shape"):
        distance_from(other, encoder_folder, kind="l2_sp")
