"""Phases that start from an encoder whose units have been cut off."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from speaker_verification.models.pruning import cut, sparsity_of
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.kept_epochs import best_checkpoint
from tests.support.pruning import FAMILIES, model_of, random_units
from tests.support.tiny_models import tiny_settings
from tests.support.training import phase_settings, training_loop


@pytest.mark.parametrize("family", ["WavLM", "W2V-BERT"])
@pytest.mark.parametrize(
    ("changes", "frontend"),
    [
        ({"frontend": "frozen", "lora": {"rank": 2}}, {}),
        ({"frontend": "no_convolutions", "lr_multipliers": {"block_decay": 0.5}}, {}),
        ({"frontend": "trained", "frontend_mode": "training"}, {"checkpoint_activations": True}),
        ({"frontend": "trained", "compile": True, "average_best": 2}, {}),
    ],
)
def test_a_cut_encoder_is_trained_as_any_other(
    family: str,
    changes: dict[str, Any],
    frontend: dict[str, Any],
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=CompileCounterWithBackend("eager")))
    model = model_of(family)
    cut(model, random_units(model))
    model.frontend.encoder.save_pretrained(tmp_path / "encoder")
    phase, folder = phase_settings(**changes), tmp_path / "phase"
    settings = tiny_settings(FAMILIES[family], **frontend)
    loop = training_loop(tmp_path / "encoder", folder, utterances, trials, phase, model=settings)
    assert loop.run()["value"].notna().all()
    trained = SpeakerModel.from_pretrained(best_checkpoint(folder))
    assert sparsity_of(trained) == sparsity_of(model) > 0.2
    before, after = model.frontend.encoder.state_dict(), trained.frontend.encoder.state_dict()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    # A block without heads, whose queries nothing computes, and one with some of them.
    queries = [name for name in sorted(before) if name.endswith(("q_proj.weight", "linear_q.weight"))]
    assert [name in changed for name in queries] == [False, True, True]
