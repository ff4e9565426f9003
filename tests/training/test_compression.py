"""Compression to a smaller encoder, by a teacher or by the margin, interrupted or not."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from speaker_verification.common.distributed import processes
from speaker_verification.common.errors import ParameterError
from speaker_verification.data.loading import Batch
from speaker_verification.models.frontend import Frontend, save_encoder
from speaker_verification.models.heads.base import Margins
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.classifier import SpeakerClassifier
from speaker_verification.training.compression.distillation import Distillation
from speaker_verification.training.compression.pruning import Pruning
from speaker_verification.training.kept_epochs import RANKING_FILE, best_checkpoint
from speaker_verification.training.loop import TrainingLoop
from speaker_verification.training.objective import Objective
from speaker_verification.training.start import start_phase
from tests.support.processes import run_processes, values_of
from tests.support.tiny_models import TINY_WAVLM, tiny_settings
from tests.support.training import HEAD, compress_settings, training_loop

MODEL = tiny_settings(TINY_WAVLM | {"num_hidden_layers": 2, "layerdrop": 0.2}, "weighted_sum", "mhfa")
HALF_HEAD = (8 * (3 * (16 + 1) + 16) + 1) / 7596 / 2  # share of the encoder's parameters
CHANGES: dict[str, Any] = {
    "steps_per_epoch": 250,
    "growth_steps": 250,
    "gate_learning_rate": 0.05,
    "margin": {"final": 0.2, "top_k": 0},
    "keep_checkpoints": 4,
}


def in_double(frontend: Frontend) -> Frontend:
    """A frontend that takes waveforms of float32 to float64."""
    frontend.register_forward_pre_hook(lambda _, waves: (waves[0].double(),))
    return frontend


@dataclass(frozen=True)
class Compression:
    """A compression to train; `start` is an encoder, of whose model the layers behind it are drawn."""

    start: Path
    folder: Path
    utterances: pd.DataFrame
    trials: pd.DataFrame

    def loop(
        self, on_pass: Callable[[int], None] = lambda _: None, double: bool = False, **changes: Any
    ) -> TrainingLoop:
        """Loop of it, in float64 if asked; the callback is told the number of each forward pass, from 1."""
        phase = compress_settings(**CHANGES | changes)
        torch.manual_seed(3)
        speaker_ids = sorted(self.utterances["speaker_id"].unique())
        model, head = start_phase(self.start, phase, MODEL, HEAD, speaker_ids, torch.device("cpu"))
        if double:
            in_double(model.double().frontend)
            head.double()
        teacher = model.copy().frontend
        guide = Distillation(in_double(teacher) if double else teacher)
        pruning = Pruning(phase, guide if phase.guide == "teacher" else Objective(), seed=3)
        numbers = itertools.count(1)

        def counted(loss: Tensor) -> Tensor:
            on_pass(next(numbers))
            return pruning.penalise(loss)

        return training_loop(
            self.start,
            self.folder,
            self.utterances,
            self.trials,
            phase,
            classifier=SpeakerClassifier(model, head),
            objective=pruning,
            regularise=counted,
        )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(MODEL.frontend, folder, seed=1)
    return folder


@pytest.fixture
def compression(encoder: Path, utterances: pd.DataFrame, trials: pd.DataFrame, tmp_path: Path) -> Compression:
    return Compression(encoder, tmp_path / "out", utterances, trials)


def by_epoch(curve: pd.DataFrame, metric: str) -> dict[int, float]:
    rows = curve[curve["metric"] == metric]
    return dict(zip(rows["epoch"].tolist(), rows["value"].tolist(), strict=True))


def size_of(model: SpeakerModel) -> int:
    return sum(parameter.numel() for parameter in model.frontend.encoder.parameters())


def test_a_teacher_guides_the_gates_to_their_target_and_epochs_before_it_are_not_kept(
    compression: Compression, caplog: pytest.LogCaptureFixture
) -> None:
    loop = compression.loop()
    whole = size_of(loop.classifier.model)
    with caplog.at_level("INFO"):
        curve = loop.run()
    expected, removed = by_epoch(curve, "expected_sparsity"), by_epoch(curve, "sparsity")
    assert by_epoch(curve, "wanted_sparsity") == {1: 0.3, 2: 0.3}
    assert list(by_epoch(curve, "lambda_1")) == list(expected) == [1, 2]
    assert expected[1] < 0.29
    assert expected[2] == pytest.approx(0.3, abs=0.01)
    assert removed[2] == removed[3] == pytest.approx(0.3, abs=HALF_HEAD)
    epochs = [ranked["epoch"] for ranked in json.loads((compression.folder / RANKING_FILE).read_text())]
    assert sorted(epochs) == [2, 3]
    for epoch in epochs:
        kept = SpeakerModel.from_pretrained(compression.folder / f"epoch_{epoch:02d}")
        assert 1 - size_of(kept) / whole == pytest.approx(removed[epoch], abs=1e-9)
    first = next(line for line in caplog.messages if line.startswith("phase  1/3"))
    assert "best" not in first
    assert f"sparsity {removed[1]:.3f}" in first
    assert (
        f"{100 * removed[2]:.1f} % of the encoder's {whole / 1e6:.2f} M parameters are removed" in caplog.text
    )
    trained = loop.classifier.model.eval()
    waves = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    last = SpeakerModel.from_pretrained(compression.folder / "epoch_03")
    torch.testing.assert_close(last.embed(waves), trained.embed(waves))


def test_the_margin_guides_the_gates_too_and_moves_all_of_the_model(compression: Compression) -> None:
    before = compression.loop(guide="margin").classifier
    loop = compression.loop(guide="margin", steps_per_epoch=10, growth_steps=10)
    curve = loop.run()
    assert by_epoch(curve, "margin") == {1: 0.2, 2: 0.2, 3: 0.2}
    assert list(by_epoch(curve, "accuracy")) == [1, 2, 3]
    after = loop.classifier.state_dict()
    for name in ("head.weight", "model.speaker_network.projection.weight"):
        assert not torch.equal(before.state_dict()[name], after[name]), name
    assert size_of(loop.classifier.model) < size_of(before.model)


def test_a_teacher_moves_the_encoder_alone_and_recovery_goes_on_with_what_pruning_left(
    compression: Compression,
) -> None:
    before = compression.loop().classifier
    loop = compression.loop(epochs=4, recovery_epochs=3, steps_per_epoch=20, growth_steps=20)
    curve = loop.run()
    after = loop.classifier
    for name, value in before.state_dict().items():
        if not name.startswith("model.frontend."):
            assert torch.equal(value, after.state_dict()[name]), name
    losses = by_epoch(curve, "loss")
    assert losses[4] < losses[3] < losses[2]
    assert "accuracy" not in set(curve["metric"])


def test_gates_that_miss_the_target_are_told_and_the_last_epoch_meets_it(
    compression: Compression, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"epochs": 2, "recovery_epochs": 0, "target_sparsity": 0.4, "gate_learning_rate": 1e-3}
    curve = compression.loop(**changes, steps_per_epoch=5, growth_steps=5).run()
    reached = by_epoch(curve, "expected_sparsity")[2]
    assert reached < 0.3
    assert f"{reached:.3f} after 2 epochs, and units are removed to the target of 0.400 all" in caplog.text
    assert by_epoch(curve, "sparsity")[2] == pytest.approx(0.4, abs=HALF_HEAD)
    ranking = json.loads((compression.folder / RANKING_FILE).read_text())
    assert [ranked["epoch"] for ranked in ranking] == [2]


def test_a_target_beyond_all_gated_units_is_refused(compression: Compression) -> None:
    changes = {"target_sparsity": 0.9, "gates": {"units": ["attention_heads"]}}
    message = r"'compress\.target_sparsity' is 0\.9: the units that compress\.gates\.units names have"
    with pytest.raises(ParameterError, match=message):
        compression.loop(**changes).run()


@pytest.mark.parametrize("step", [4, 7, 12, 13, 17])
def test_a_compression_that_is_stopped_at_any_step_ends_as_if_it_had_not_been(
    compression: Compression, step: int
) -> None:
    """Steps 1 to 12 prune, and 13 to 18 train what is left."""
    changes = {"steps_per_epoch": 6, "growth_steps": 6, "save_every_steps": 1}
    undisturbed = replace(compression, folder=compression.folder.with_name("undisturbed"))
    expected = undisturbed.loop(**changes).run()

    def stop(number: int) -> None:
        if number == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compression.loop(on_pass=stop, **changes).run()
    curve = compression.loop(resume=True, **changes).run()
    timed = curve["metric"].str.endswith("seconds")
    pd.testing.assert_frame_equal(curve[~timed], expected[~timed])
    for name in ("config.json", "model.safetensors"):
        own, others = (best_checkpoint(one.folder) / name for one in (compression, undisturbed))
        assert own.read_bytes() == others.read_bytes()


def test_growth_that_outlasts_pruning_is_refused_with_both_numbers(compression: Compression) -> None:
    with pytest.raises(ParameterError, match="'growth_steps' is 11: pruning has 10 steps, 2 epochs of 5"):
        compression.loop(steps_per_epoch=5, growth_steps=11).run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recovery_epochs": 3}, "recovery_epochs 3 of 3 epochs leave none"),
        ({"frontend": "frozen"}, "frontend 'frozen'"),
        ({"compile": True}, "compile is true"),
        ({"pretrained_distance": {"kind": "l2_sp"}}, "pretrained_distance.kind 'l2_sp'"),
        ({"average_best": 2}, "set average_best to 1"),
        ({"averaging": {"last_epochs": 2}}, "averaging.last_epochs to at most recovery_epochs 1"),
    ],
)
def test_settings_that_cannot_prune_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        compress_settings(**changes)


class States(torch.nn.Module):
    """Frontend that gives the same states whatever it hears."""

    def __init__(self, *states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, waveforms: Tensor) -> tuple[Tensor, ...]:
        return self.states


def test_the_distance_is_the_mean_difference_less_the_mean_cosine_of_all_states() -> None:
    """Differences 1, 1 | 0, 2 and cosines 0 | 3/5: mean difference 1 and mean cosine 0.3."""
    teacher = States(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[3.0, 4.0]]]))
    student = torch.nn.Module()
    student.model = torch.nn.Module()
    student.model.frontend = States(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[3.0, 0.0]]]))
    batch = Batch(torch.zeros(1, 8), torch.zeros(1, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long))
    loss, predictions = Distillation(teacher).loss(student, batch, Margins(0, 0, 0), autocast=False)
    assert loss.item() == pytest.approx((1 + 1 + 0 + 4) / 4 - (0 + 0.6) / 2)
    assert predictions is None


def test_the_multipliers_ascend_the_penalty_and_the_gates_descend_it(compression: Compression) -> None:
    """The first step of Adam changes a parameter by its rate, whatever its gradient."""
    loop = compression.loop()
    pruning = loop.objective
    pruning.begin(loop.classifier, 250, lambda: None)
    pruning.begin_epoch(1)
    pruning.begin_pass(step=24, index=0)
    zero = torch.zeros(())
    before = pruning.metrics()
    assert before["wanted_sparsity"] == pytest.approx(0.3 * 25 / 250)
    excess = before["expected_sparsity"] - 0.03
    assert excess > 0  # half of the networks' units
    loop.regularise(zero).backward()
    pruning.update()
    pruning.begin_pass(step=300, index=0)
    after = pruning.metrics()
    assert [after["lambda_1"], after["lambda_2"]] == pytest.approx([0.05, 0.05], abs=1e-5)
    assert after["expected_sparsity"] == before["expected_sparsity"]  # multipliers of 0 give no gradient
    excess = after["expected_sparsity"] - 0.3
    penalty = loop.regularise(zero)
    assert penalty.item() == pytest.approx(0.05 * excess + 0.05 * excess**2, abs=1e-6)
    penalty.backward()
    pruning.update()
    assert (pruning.metrics()["expected_sparsity"] < after["expected_sparsity"]) == (0.05 + 0.1 * excess > 0)


def trained_in_double(compression: Compression, guide: str) -> pd.DataFrame:
    """Learning curve of training in float64, without timings."""
    loop = compression.loop(double=True, guide=guide, steps_per_epoch=6, growth_steps=6)
    loop.validate = lambda _: {"validation.eer": 1.0}
    curve = loop.run()
    processes().wait()
    return curve[~curve["metric"].str.endswith("seconds")].reset_index(drop=True)


@pytest.mark.project
@pytest.mark.parametrize("guide", ["teacher", "margin"])
def test_two_processes_compress_as_one(compression: Compression, guide: str) -> None:
    one = trained_in_double(compression, guide)
    shutil.rmtree(compression.folder)
    for curve in values_of(run_processes(2, trained_in_double, compression, guide)):
        assert curve["metric"].tolist() == one["metric"].tolist()
        assert curve["value"].tolist() == pytest.approx(one["value"].tolist(), rel=1e-5)
