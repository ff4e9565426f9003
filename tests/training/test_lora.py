"""A phase with LoRA trains it alone, keeps ordinary models, and resumes and averages as any other."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from speaker_verification.models.encoders.lora import lora_layers, merged_state
from speaker_verification.models.frontend import load_encoder
from speaker_verification.models.settings import WEIGHTS_FILE
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.averaging import MovingAverage
from speaker_verification.training.checkpoints import AVERAGE_FOLDER
from speaker_verification.training.kept_epochs import best_checkpoint
from speaker_verification.training.loop import TrainingLoop
from speaker_verification.training.phase import PretrainedDistanceSettings
from speaker_verification.training.regularisation import PretrainedDistance
from speaker_verification.training.resume import is_interrupted
from speaker_verification.training.start import start_from_model
from tests.support.training import HEAD, Watcher, phase_settings, training_loop

RANK = 2
PREFIX = "frontend.encoder."
WEIGHT = f"{PREFIX}encoder.layers.0.attention.v_proj.weight"
TARGETS = {f"encoder.layers.{block}.attention.{name}" for block in (0, 1) for name in ("q_proj", "v_proj")}


@dataclass(frozen=True)
class Job:
    """A phase with LoRA, by default of two epochs with four steps each."""

    encoder: Path
    folder: Path
    utterances: pd.DataFrame
    trials: pd.DataFrame
    changes: dict[str, Any] = field(default_factory=dict)

    def loop(self, on_pass: Callable[[int], None] = lambda _: None, **arguments: Any) -> TrainingLoop:
        phase = phase_settings(**{"lora": {"rank": RANK, "alpha": 4}} | self.changes)
        passes: list[int] = []

        def counted(loss: Tensor) -> Tensor:
            passes.append(1)
            on_pass(len(passes))
            return loss

        arguments = {"regularise": counted} | arguments
        return training_loop(self.encoder, self.folder, self.utterances, self.trials, phase, **arguments)


@pytest.fixture
def make_job(
    encoder: Path, utterances: pd.DataFrame, trials: pd.DataFrame, tmp_path: Path
) -> Callable[..., Job]:
    def make(name: str = "out", start: Path = encoder, **changes: Any) -> Job:
        return Job(start, tmp_path / name, utterances, trials, changes)

    return make


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS_FILE)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_kept_epoch_is_an_ordinary_model_from_which_the_next_phase_trains_all(
    make_job: Callable[..., Job], encoder: Path, precision: str
) -> None:
    job = make_job(precision=precision)
    start = load_encoder(encoder).state_dict()
    loop = job.loop(validate=lambda _: {"validation.eer": 1.0})
    loop.run()
    kept = best_checkpoint(job.folder)  # the last epoch
    weights = weights_of(kept)
    found = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    assert found.keys() == start.keys()
    learnt = {f"{name}.weight" for name in TARGETS}
    for name, before in start.items():
        if name in learnt:
            strengths = torch.linalg.svdvals(found[name].double() - before.double())
            assert strengths[RANK - 1] > 1e-3
            assert strengths[RANK] < 1e-6
        else:
            assert torch.equal(found[name], before), name
    model = loop.classifier.model
    assert {name.removeprefix(PREFIX) for name in lora_layers(model)} == TARGETS
    waves = 0.1 * torch.randn(3, 5000, generator=torch.Generator().manual_seed(5))
    merged = SpeakerModel.from_pretrained(kept)
    torch.testing.assert_close(merged.embed(waves), model.embed(waves), rtol=1e-6, atol=1e-6)

    after = make_job("after", job.folder, frontend="trained", epochs=1, lora={"rank": 0}).loop()
    assert not lora_layers(after.classifier)
    assert torch.equal(after.classifier.model.embed(waves), merged.embed(waves))
    after.run()
    name = f"{PREFIX}encoder.layers.1.attention.k_proj.weight"
    assert not torch.equal(after.classifier.state_dict()[f"model.{name}"], weights[name])


def test_the_rest_of_the_model_starts_as_without_lora(make_job: Callable[..., Job]) -> None:
    own, plain = (job.loop().classifier for job in (make_job(), make_job("plain", lora={"rank": 0})))
    for name, value in merged_state(own).items():
        assert torch.equal(value, plain.state_dict()[name]), name
    untrained = make_job("untrained", epochs=0).loop().classifier
    assert not lora_layers(untrained)


def test_a_phase_that_starts_from_a_saved_model_has_its_own_updates(make_job: Callable[..., Job]) -> None:
    job = make_job(epochs=1)
    job.loop().run()
    phase = phase_settings(lora={"rank": 1}, start=str(job.folder))
    model, *_ = start_from_model(job.folder, phase, HEAD, ["id00000", "new"], torch.device("cpu"))
    assert {layer.lora_A["default"].weight.shape for layer in lora_layers(model).values()} == {(1, 16)}
    saved = SpeakerModel.from_pretrained(best_checkpoint(job.folder))
    assert torch.equal(merged_state(model)[WEIGHT], saved.state_dict()[WEIGHT])


def test_averages_are_of_merged_weights(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.75 x the newest + 0.25 x the one before; then the mean of both averages that are kept."""
    averaging = {"last_epochs": 2, "newest_weight": 0.75}
    merged: list[dict[str, Tensor]] = []
    job = make_job(averaging=averaging, average_best=2)

    class Watched(MovingAverage):
        def update(self, module: nn.Module) -> None:
            merged.append({name: value.clone() for name, value in merged_state(module).items()})
            super().update(module)

    monkeypatch.setattr("speaker_verification.training.loop.MovingAverage", Watched)
    job.loop().run()
    first, second = (state[f"model.{WEIGHT}"] for state in merged)
    last = 0.25 * first + 0.75 * second
    expected = {"epoch_01": first, "epoch_02": last, AVERAGE_FOLDER: (first + last) / 2}
    assert float((first - second).abs().max()) > 1e-3
    for folder, weight in expected.items():
        torch.testing.assert_close(weights_of(job.folder / folder)[WEIGHT], weight, rtol=0, atol=1e-7)


def test_a_module_gets_its_updates_back_from_an_average(make_job: Callable[..., Job]) -> None:
    loop = make_job(epochs=1).loop()
    loop.run()
    module, average = loop.classifier, MovingAverage(0.5)
    own = {name: value.clone() for name, value in module.state_dict().items()}
    average.update(module)
    with average.applied(module):
        assert not any(layer.lora_B["default"].weight.any() for layer in lora_layers(module).values())
    assert any(layer.lora_B["default"].weight.any() for layer in lora_layers(module).values())
    assert all(torch.equal(value, own[name]) for name, value in module.state_dict().items())


def test_the_pretrained_distance_is_that_of_the_merged_weights(
    make_job: Callable[..., Job], encoder: Path
) -> None:
    """Four updates with a second matrix of ones: 2 x the sums of A's columns in each of 16 rows."""
    model = make_job().loop().classifier.model
    layers = lora_layers(model).values()
    for layer in layers:
        nn.init.ones_(layer.lora_B["default"].weight)
    distance = PretrainedDistance(
        model.frontend, encoder, PretrainedDistanceSettings(kind="l2_sp", weight=0.5)
    )
    columns = [2 * layer.lora_A["default"].weight.detach().sum(dim=0) for layer in layers]
    expected = 0.5 * 16 * float(sum(column.square().sum() for column in columns))
    found = distance(torch.tensor(1.0))
    assert float(found.detach()) == pytest.approx(1 + expected, rel=1e-5)
    found.backward()
    first = next(iter(layers))
    # By B, 0.5 |2 B A|^2 has the gradient 2 (2 B A) A^T.
    pull = 2 * (columns[0] @ first.lora_A["default"].weight.detach().T)
    gradient = first.lora_B["default"].weight.grad
    torch.testing.assert_close(gradient, pull.expand(16, RANK), rtol=1e-4, atol=1e-6)


def test_gradients_of_lora_are_scaled_as_the_frontend_s(make_job: Callable[..., Job]) -> None:
    """With plain descent, one step from zero moves the second matrix in proportion to the factor."""
    changes: dict[str, Any] = {
        "epochs": 1,
        "steps_per_epoch": 1,
        "optimiser": {"kind": "sgd", "weight_decay": 0.0, "sgd": {"momentum": 0.0, "nesterov": False}},
    }
    moved = []
    for factor in (1.0, 0.5):
        loop = make_job(frontend_grad_scale=factor, **changes).loop()
        loop.run()
        layers = lora_layers(loop.classifier).values()
        moved.append([layer.lora_B["default"].weight.detach() for layer in layers])
    for whole, half in zip(*moved, strict=True):
        assert float(whole.abs().max()) > 1e-7
        torch.testing.assert_close(half, whole / 2, rtol=1e-4, atol=1e-10)


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(job: Job, moment: str) -> None:
    """In a process of its own: train, and die at a moment."""
    if moment == "in a step after a save":
        job.loop(on_pass=lambda number: die() if number == 4 else None).run()
    elif moment == "validating averaged weights":
        job.loop(validate=die).run()
    elif moment == "the average of the best told":
        tracker = Watcher(lambda _, metrics: die() if "average.validation.eer" in metrics else None)
        job.loop(tracker=tracker).run()


@pytest.mark.project
def test_a_phase_killed_at_any_moment_ends_as_if_it_had_not_been(make_job: Callable[..., Job]) -> None:
    changes: dict[str, Any] = {
        "lora": {"rank": RANK, "dropout": 0.3},
        "frontend_mode": "training",
        "averaging": {"last_epochs": 2},
        "average_best": 2,
        "save_every_steps": 1,
        "resume": True,
    }
    undisturbed, job = make_job("undisturbed", **changes), make_job(**changes)
    expected = undisturbed.loop().run()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for moment in ("in a step after a save", "validating averaged weights", "the average of the best told"):
        process = context.Process(target=train_until_killed, args=(job, moment))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, moment
        assert is_interrupted(job.folder)
    curve = job.loop().run()
    for name in ("loss", "gradient_norm", "validation.eer", "average.validation.eer"):
        own, uninterrupted = (
            table.loc[table["metric"] == name, "value"].tolist() for table in (curve, expected)
        )
        assert own == uninterrupted
        assert own
    for folder in ("epoch_01", "epoch_02", AVERAGE_FOLDER):
        own_weights, weights = weights_of(job.folder / folder), weights_of(undisturbed.folder / folder)
        assert own_weights.keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in own_weights.items())
