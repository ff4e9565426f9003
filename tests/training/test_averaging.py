from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from speaker_verification.models.frontend import save_encoder
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.averaging import MovingAverage, mean_state, reestimate_statistics
from tests.support.tiny_models import TINY_WAVLM, tiny_settings

MODEL = tiny_settings(TINY_WAVLM)


@pytest.fixture
def model(tmp_path: Path) -> SpeakerModel:
    save_encoder(MODEL.frontend, tmp_path, seed=1)
    torch.manual_seed(0)
    return SpeakerModel.from_encoder(tmp_path, MODEL)


def test_a_moving_average_is_the_explicit_sum() -> None:
    """After 1, 4 and 6: 0.9 x 6 + 0.1 x (0.9 x 4 + 0.1 x 1)."""
    module, average = nn.BatchNorm1d(2), MovingAverage(newest_weight=0.9)
    for value in (1.0, 4.0, 6.0):
        nn.init.constant_(module.weight, value)
        module.running_var.fill_(10 * value)
        module.num_batches_tracked.add_(7)
        average.update(module)
    with average.applied(module):
        assert module.weight.tolist() == pytest.approx([5.77, 5.77])
        assert module.running_var.tolist() == pytest.approx([57.7, 57.7])
        assert int(module.num_batches_tracked) == 21
        nn.init.constant_(module.weight, -1.0)
    assert module.weight.tolist() == [6.0, 6.0]


def test_a_module_gets_its_weights_back_when_something_fails() -> None:
    module, average = nn.Linear(1, 1), MovingAverage(0.5)
    own = module.weight.detach().clone()
    average.update(module)

    def fail_on_the_way() -> None:
        with average.applied(module):
            nn.init.zeros_(module.weight)
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail_on_the_way()
    assert torch.equal(module.weight, own)


def test_the_mean_of_states_is_taken_weight_by_weight() -> None:
    states = [
        {"weight": torch.tensor([1.0, 2.0]), "count": torch.tensor(3)},
        {"weight": torch.tensor([4.0, 6.0]), "count": torch.tensor(8)},
        {"weight": torch.tensor([1.0, 1.0]), "count": torch.tensor(5)},
    ]
    mean = mean_state(states)
    assert mean["weight"].tolist() == [2.0, 3.0]
    assert int(mean["count"]) == 5


def test_batch_statistics_are_measured_again(model: SpeakerModel) -> None:
    """The first BatchNorm sees the frontend's states, whose moments are computed directly."""
    waveforms = [torch.randn(size, 4000, generator=torch.Generator().manual_seed(size)) for size in (4, 6)]
    norm = model.layer_aggregation["frames"].in_norm
    for other in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
        other.running_mean.fill_(99.0)
        other.running_var.fill_(99.0)
    reestimate_statistics(model, waveforms)

    means, variances = [], []
    with torch.no_grad():
        for batch in waveforms:
            states = torch.stack(model.frontend(batch)).double().flatten(0, 2).numpy()  # (L+1 x B x T, D)
            means.append(states.mean(axis=0))
            variances.append(states.var(axis=0, ddof=1))
    np.testing.assert_allclose(norm.running_mean.numpy(), np.mean(means, axis=0), atol=1e-5)
    np.testing.assert_allclose(norm.running_var.numpy(), np.mean(variances, axis=0), rtol=1e-4)
    assert norm.momentum == 0.1
    assert not any(module.training for module in model.modules())
