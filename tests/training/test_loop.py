from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch.nn.utils import parameters_to_vector

from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
from speaker_verification.audio.files import read_audio
from speaker_verification.common.errors import DataError
from speaker_verification.models.heads import HeadSettings
from speaker_verification.models.heads.aam_softmax import SubcentreMarginHead
from speaker_verification.models.heads.sphereface2 import SphereFace2Settings
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.checkpoints import load_head
from speaker_verification.training.classifier import SpeakerClassifier
from speaker_verification.training.failures import TrainingError
from speaker_verification.training.kept_epochs import RANKING_FILE, best_checkpoint
from speaker_verification.training.loop import TrainingLoop
from speaker_verification.training.resume import FINISHED_FILE
from speaker_verification.training.start import start_phase
from speaker_verification.training.validation import TrialSet, validate
from tests.support.training import HEAD, MODEL, DeviceReads, Watcher, phase_settings, training_loop


@pytest.fixture
def run_phase(utterances: pd.DataFrame, trials: pd.DataFrame, tmp_path: Path) -> Callable[..., Any]:
    def run(
        start: Path,
        name: str = "out",
        seed: int = 3,
        regularise: Callable[[Any], Any] = lambda loss: loss,
        augmenter: Augmenter | None = None,
        training_utterances: pd.DataFrame = utterances,
        head: HeadSettings = HEAD,
        **changes: Any,
    ) -> tuple[Path, pd.DataFrame, SpeakerModel]:
        phase = phase_settings(**changes)
        held_out = TrialSet.of(trials, utterances)
        logged: list[int] = []
        loop = training_loop(
            start,
            tmp_path / name,
            training_utterances,
            trials,
            phase,
            seed,
            augmenter,
            head=head,
            regularise=regularise,
            validate=lambda model: validate(model, held_out, TrialSet.of(trials.head(0), utterances)),
            tracker=Watcher(on_epoch=lambda epoch, _: logged.append(epoch)),
        )
        curve = loop.run()
        assert list(dict.fromkeys(logged)) == list(range(phase.epochs + 1))
        return tmp_path / name, curve, loop.classifier.model

    return run


def values_of(curve: pd.DataFrame, metric: str) -> list[float]:
    return curve.loc[curve["metric"] == metric, "value"].tolist()


def test_training_lowers_the_loss_and_ranks_its_epochs(run_phase: Callable[..., Any], encoder: Path) -> None:
    folder, curve, _ = run_phase(
        encoder, epochs=6, keep_checkpoints=2, margin={"final": 0.0, "growth_epochs": 0, "top_k": 0}
    )
    losses = values_of(curve, "loss")
    assert losses[-1] < 0.7 * losses[0]
    ranking = json.loads((folder / RANKING_FILE).read_text())
    eers = values_of(curve, "validation.eer")[1:]
    best = sorted(range(6, 0, -1), key=lambda epoch: eers[epoch - 1])[:2]
    assert [ranked["epoch"] for ranked in ranking] == best
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [RANKING_FILE, FINISHED_FILE, *(f"epoch_{epoch:02d}" for epoch in best)]
    )


@pytest.mark.parametrize("margin_type", ["A", "C"])
def test_sphereface2_trains_and_its_phase_can_be_continued(
    run_phase: Callable[..., Any], encoder: Path, margin_type: Literal["A", "C"]
) -> None:
    head = HeadSettings(kind="sphereface2", sphereface2=SphereFace2Settings(margin_type=margin_type))
    margin = {"final": 0.1, "growth_epochs": 0, "top_k": 0}
    folder, curve, _ = run_phase(encoder, epochs=8, margin=margin, head=head)
    losses = values_of(curve, "loss")
    assert losses[-1] < 0.9 * losses[0]
    _, more, _ = run_phase(folder, "more", epochs=1, margin=margin, head=head)
    assert values_of(more, "loss")[0] < losses[0]


def test_every_epoch_tells_waiting_for_data_from_computing(
    run_phase: Callable[..., Any], encoder: Path
) -> None:
    _, curve, _ = run_phase(encoder, epochs=2)
    waited, computed = values_of(curve, "data_seconds"), values_of(curve, "step_seconds")
    assert len(waited) == len(computed) == 2
    assert min(waited + computed) > 0


def test_a_frozen_frontend_stays_as_it_was_and_a_trained_one_moves(
    run_phase: Callable[..., Any], encoder: Path
) -> None:
    untouched = SpeakerModel.from_encoder(encoder, MODEL).frontend.state_dict()
    frozen = run_phase(encoder, frontend="frozen", epochs=1)[2].frontend.state_dict()
    trained = run_phase(encoder, frontend="trained", frontend_mode="training", epochs=1)[
        2
    ].frontend.state_dict()
    assert all(torch.equal(frozen[name], untouched[name]) for name in untouched)
    assert any(not torch.equal(trained[name], untouched[name]) for name in untouched)


def test_the_same_seed_gives_the_same_weights_whatever_the_workers(
    run_phase: Callable[..., Any], encoder: Path
) -> None:
    changes: dict[str, Any] = {
        "frontend": "trained",
        "frontend_mode": "training",
        "epochs": 1,
        "speed_factors": [1.0, 0.9],
    }
    first = run_phase(encoder, **changes)[2].state_dict()
    again = run_phase(encoder, num_workers=2, **changes)[2].state_dict()
    other = run_phase(encoder, seed=4, **changes)[2].state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_shortest_crop_that_may_be_drawn_is_refused_before_the_first_step(
    run_phase: Callable[..., Any], encoder: Path
) -> None:
    losses: list[Any] = []
    with pytest.raises(DataError, match="waveform of 160 samples is too short"):
        run_phase(encoder, crop_seconds=[0.01, 0.25], regularise=losses.append)
    assert losses == []


def test_accumulated_passes_make_the_step_of_one_large_batch(
    utterances: pd.DataFrame, trials: pd.DataFrame, encoder: Path, tmp_path: Path
) -> None:
    """Without batch statistics the two are one: batch norm is held in evaluation mode."""
    weights = []
    for batch_size, accumulation_steps in ((12, 1), (4, 3)):
        phase = phase_settings(
            epochs=1,
            batch_size=batch_size,
            accumulation_steps=accumulation_steps,
            margin={"final": 0.2, "growth_epochs": 0, "top_k": 1},
        )
        torch.manual_seed(0)
        model = SpeakerModel.from_encoder(encoder, MODEL).double().eval()
        model.train = lambda mode=True, model=model: model  # type: ignore[method-assign]
        head = SubcentreMarginHead(10, 6, HEAD.chosen).double()
        model.forward = lambda waves, forward=model.forward: forward(waves.double())  # type: ignore[method-assign]
        training_loop(
            encoder,
            tmp_path / "x",
            utterances,
            trials,
            phase,
            seed=0,
            classifier=SpeakerClassifier(model, head),
            validate=lambda _: {"validation.eer": 1.0},
        ).run()
        weights.append(head.weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=1e-9)


def test_a_step_waits_for_the_device_once(
    utterances: pd.DataFrame, trials: pd.DataFrame, encoder: Path, tmp_path: Path
) -> None:
    counts: list[int] = []

    class Counted(TrainingLoop):
        def train_step(self, batches: Any) -> Any:
            with DeviceReads() as reads:
                result = super().train_step(batches)
            counts.append(reads.count)
            return result

    changes = {"frontend": "trained", "frontend_grad_scale": 0.5, "gradient_clip_norm": 1.0}
    phase = phase_settings(batch_size=4, accumulation_steps=2, **changes)
    loop = training_loop(encoder, tmp_path / "out", utterances, trials, phase)
    Counted(**{field.name: getattr(loop, field.name) for field in dataclasses.fields(loop)}).run()
    assert counts == [1] * 6


@pytest.mark.parametrize("spoilt_pass", [1, 2])
def test_weights_are_those_before_the_step_where_a_loss_or_gradient_is_not_finite(
    utterances: pd.DataFrame, trials: pd.DataFrame, encoder: Path, tmp_path: Path, spoilt_pass: int
) -> None:
    """A loss that is not finite is named with the utterances of its pass and those before it, of the step."""
    passes: list[int] = []

    def spoil(loss: torch.Tensor) -> torch.Tensor:
        passes.append(1)
        return loss * torch.nan if len(passes) == spoilt_pass else loss

    phase = phase_settings(batch_size=3, accumulation_steps=2)
    loop = training_loop(encoder, tmp_path / "out", utterances, trials, phase, regularise=spoil)
    before = {
        name: value.clone()
        for name, value in loop.classifier.state_dict().items()
        if "running" not in name and "tracked" not in name
    }
    with pytest.raises(TrainingError, match=r"loss is nan at step 0") as caught:
        loop.run()
    assert str(caught.value).count("(crop from sample") == 3 * spoilt_pass
    after = loop.classifier.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_gradient_that_is_not_finite_stops_before_the_step(
    utterances: pd.DataFrame, trials: pd.DataFrame, encoder: Path, tmp_path: Path
) -> None:
    """The root of zero is finite, its slope is not."""
    phase = phase_settings(batch_size=6)
    loop = training_loop(
        encoder, tmp_path / "out", utterances, trials, phase, regularise=lambda loss: (0 * loss).sqrt()
    )
    before = loop.classifier.head.weight.clone()
    with pytest.raises(TrainingError, match=r"gradient is nan at step 0"):
        loop.run()
    assert torch.equal(loop.classifier.head.weight, before)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_last_epochs_hand_on_their_average_while_training_continues(
    run_phase: Callable[..., Any], encoder: Path
) -> None:
    """The weights of epochs 2 and 3 are the same without averaging, whose mean is taken explicitly."""
    plain, _, _ = run_phase(encoder, "plain", epochs=3, keep_checkpoints=3)
    averaging = {"last_epochs": 2, "newest_weight": 0.7}
    folder, _, model = run_phase(encoder, "averaged", epochs=3, keep_checkpoints=3, averaging=averaging)
    own = [weights_of(plain / f"epoch_0{epoch}") for epoch in (1, 2, 3)]
    first, second, third = (weights_of(folder / f"epoch_0{epoch}") for epoch in (1, 2, 3))
    for name in (name for name in own[0] if "running" not in name and "tracked" not in name):
        torch.testing.assert_close(first[name], own[0][name])
        torch.testing.assert_close(second[name], own[1][name])
        torch.testing.assert_close(third[name], 0.7 * own[2][name] + 0.3 * own[1][name])
        torch.testing.assert_close(model.state_dict()[name], own[2][name])


def test_a_phase_can_hand_on_the_average_of_its_best(run_phase: Callable[..., Any], encoder: Path) -> None:
    folder, curve, _ = run_phase(encoder, epochs=4, keep_checkpoints=3, average_best=2)
    ranking = json.loads((folder / RANKING_FILE).read_text())
    assert [ranked["folder"] for ranked in ranking] == ["average", *(r["folder"] for r in ranking[1:])]
    assert len(ranking) == 4
    assert best_checkpoint(folder).name == "average"
    assert ranking[0]["eer"] == values_of(curve, "average.validation.eer")[0]
    average, *best = (weights_of(folder / ranked["folder"]) for ranked in ranking[:3])
    for name in (name for name in average if "running" not in name and "tracked" not in name):
        torch.testing.assert_close(average[name], (best[0][name] + best[1][name]) / 2)
    start_phase(
        folder,
        phase_settings(),
        MODEL,
        HEAD,
        load_head(best_checkpoint(folder), "cpu")[2]["speaker_ids"],
        torch.device("cpu"),
    )


def test_gradients_of_the_frontend_are_scaled_before_they_are_clipped(
    run_phase: Callable[..., Any], encoder: Path
) -> None:
    """With plain descent, one step moves the frontend in proportion to the factor and the rest alike."""
    changes: dict[str, Any] = {
        "frontend": "trained",
        "epochs": 1,
        "steps_per_epoch": 1,
        "optimiser": {"kind": "sgd", "sgd": {"momentum": 0.0, "nesterov": False}},
        "learning_rate": {"maximum": 1e-2, "minimum": 1e-2},
    }
    start = SpeakerModel.from_encoder(encoder, MODEL).frontend.state_dict()
    whole = run_phase(encoder, **changes)[2].state_dict()
    scaled = run_phase(encoder, frontend_grad_scale=0.5, **changes)[2].state_dict()
    name = "encoder.feature_projection.projection.weight"
    moved = whole[f"frontend.{name}"] - start[name]
    assert moved.abs().max() > 1e-6
    torch.testing.assert_close(scaled[f"frontend.{name}"] - start[name], moved / 2, rtol=1e-2, atol=1e-7)
    projection = "speaker_network.projection.weight"
    torch.testing.assert_close(scaled[projection], whole[projection])


@pytest.mark.parametrize("apart", [False, True])
def test_model_and_head_are_clipped_together_or_each_by_its_own_norm(
    apart: bool, encoder: Path, utterances: pd.DataFrame, trials: pd.DataFrame, tmp_path: Path
) -> None:
    """One step of plain descent at rate 1 moves what is clipped together by the norm that is clipped to."""
    phase = phase_settings(
        epochs=1,
        steps_per_epoch=1,
        optimiser={"kind": "sgd", "weight_decay": 0.0, "sgd": {"momentum": 0.0, "nesterov": False}},
        learning_rate={"maximum": 1.0, "minimum": 1.0},
        gradient_clip_norm=1e-2,
        gradient_clip_apart=apart,
    )
    loop = training_loop(encoder, tmp_path / "out", utterances, trials, phase)
    before = parameters_to_vector(loop.classifier.parameters())
    curve = loop.run().set_index("metric")["value"]
    moved = parameters_to_vector(loop.classifier.parameters()) - before
    in_head = loop.classifier.head.weight.numel()
    of_model, of_head = (float(part.norm()) for part in moved.detach().split([len(moved) - in_head, in_head]))
    if apart:
        assert (of_model, of_head) == (pytest.approx(1e-2, rel=1e-3), pytest.approx(1e-2, rel=1e-3))
    else:
        assert math.hypot(of_model, of_head) == pytest.approx(1e-2, rel=1e-3)
        assert min(of_model, of_head) < 9e-3
    assert curve["gradient_norm"] > 2e-2  # of both, before they are clipped


def test_the_loss_that_is_descended_is_the_regularised_one_and_the_head_s_is_told(
    run_phase: Callable[..., Any], encoder: Path
) -> None:
    _, plain, untouched = run_phase(encoder, epochs=1, learning_rate={"maximum": 1e-9, "minimum": 1e-9})
    _, curve, model = run_phase(encoder, epochs=1, regularise=lambda loss: 0 * loss)
    assert values_of(curve, "gradient_norm") == [0.0]
    assert values_of(curve, "loss") == pytest.approx(values_of(plain, "loss"), rel=1e-4)
    name = "speaker_network.projection.weight"
    torch.testing.assert_close(model.state_dict()[name], untouched.state_dict()[name])


def test_a_phase_starts_from_the_best_of_the_one_before(run_phase: Callable[..., Any], encoder: Path) -> None:
    first, _, _ = run_phase(encoder, "first", epochs=2, speed_factors=[1.0, 0.9, 1.1])
    second, _, model = run_phase(first, "second", epochs=0)
    best = SpeakerModel.from_pretrained(best_checkpoint(first))
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), best.state_dict().values(), strict=True)
    )
    assert best_checkpoint(second).name == "epoch_00"
    handed_on, _, _ = load_head(best_checkpoint(second), "cpu")
    assert (handed_on.num_classes, handed_on.class_speeds) == (6 * 3, (1.0, 0.9, 1.1))
    third, _, _ = run_phase(second, "third", epochs=1, cut_head=True, speed_factors=[1.0, 1.1])
    cut, _, _ = load_head(best_checkpoint(third), "cpu")
    assert (cut.num_classes, cut.class_speeds) == (6 * 2, (1.0, 1.1))


def test_a_loss_that_is_not_finite_names_the_utterances(
    run_phase: Callable[..., Any], encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpeakerModel, "forward", lambda self, waves: torch.full((len(waves), 10), torch.nan))
    monkeypatch.setattr(f"{__name__}.validate", lambda *_: {"validation.eer": 50.0})
    with pytest.raises(
        TrainingError,
        match=r"loss is nan at step 0 \(nothing was saved before\): .*: id0000\d/video\d/0000\d.wav "
        r"\(crop from sample \d+ at speed 1; peak 0\.\d+\), id",
    ):
        run_phase(encoder)


def damaged(catalogs: tuple[pd.DataFrame, pd.DataFrame], folder: Path, what: str) -> Any:
    """The catalogs with a file of one kind in which a value is not finite."""
    tables = [table.copy() for table in catalogs]
    table = tables[what == "response"]
    for row in table.index[table["kind"] == "noise"] if what == "noise" else table.index:
        samples = read_audio(table.loc[row, "path"]).copy()
        samples[len(samples) // 2] = np.nan
        path = folder / f"bad_{row}.wav"
        soundfile.write(path, samples, 16_000, subtype="FLOAT")
        table.loc[row, "path"] = str(path)
    return tables


@pytest.mark.parametrize("on_training_device", [False, True])
@pytest.mark.parametrize(
    ("what", "kinds", "drawn"),
    [
        (
            "noise",
            {"reverb": 0},
            r"noise: noise\.wav channel 0 samples \d+ to \d+, SNR \d+\.\d dB, from sample",
        ),
        ("response", {"noise": 0}, r"reverb: \d00\.wav channel 0; peak nan"),
    ],
)
def test_a_clip_or_room_that_is_not_finite_is_blamed_with_what_was_drawn_and_not_the_rate(
    run_phase: Callable[..., Any],
    encoder: Path,
    catalogs: tuple[pd.DataFrame, pd.DataFrame],
    tmp_path: Path,
    what: str,
    kinds: dict[str, float],
    drawn: str,
    on_training_device: bool,
) -> None:
    weights = {"reverb": 1, "noise": 1, "music": 0, "babble": 0, "television": 0, **kinds}
    settings = AugmentationSettings.parse(
        {"probability": 0.5, "kinds": weights, "on_training_device": on_training_device}, "augmentation"
    )
    augmenter = Augmenter(*damaged(catalogs, tmp_path, what), settings)
    with pytest.raises(TrainingError) as caught:
        run_phase(encoder, augmenter=augmenter, batch_size=12)
    message = str(caught.value)
    assert re.search(
        rf"loss is nan at step 0 .*: the waveform of id0000\d/video\d/0000\d\.wav \(crop from sample \d+ at "
        rf"speed 1; {drawn}.* is not finite because of \S+/bad_\d\.wav: mend that file",
        message,
    ), message
    assert "learning rate" not in message
    assert "\n" not in message


def test_a_recording_that_is_not_finite_is_blamed_itself(
    run_phase: Callable[..., Any], encoder: Path, utterances: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "bad.wav"
    soundfile.write(path, np.full(6_000, np.inf), 16_000, subtype="FLOAT")
    damaged = utterances.assign(path=[*utterances["path"][:-1], str(path)])
    last = utterances["utterance_id"].iloc[-1]
    with pytest.raises(
        TrainingError, match=rf"the waveform of {last} \(crop .* because of \S+/bad\.wav: mend"
    ):
        run_phase(encoder, training_utterances=damaged, epochs=1)


def test_of_a_large_step_the_first_examples_are_told_and_all_of_them_logged(
    run_phase: Callable[..., Any],
    encoder: Path,
    catalogs: tuple[pd.DataFrame, pd.DataFrame],
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = AugmentationSettings(probability=1.0)
    with pytest.raises(TrainingError, match=r"and 12 more, all of them in the log$") as caught:
        run_phase(
            encoder,
            regularise=lambda loss: loss * torch.nan,
            augmenter=Augmenter(*catalogs, settings),
            batch_size=20,
            speed_factors=[1.0, 0.9, 1.1],
        )
    assert str(caught.value).count("(crop from sample") == 8
    lines = [record.getMessage() for record in caplog.records if "step 0, example" in record.getMessage()]
    assert len(lines) == 20
    assert {re.search(r"at speed (\S+);", line)[1] for line in lines} == {"1", "0.9", "1.1"}
    kinds = {re.search(r"speed \S+ (\w+):", line)[1] for line in lines}
    assert kinds <= {"reverb", "noise", "music", "babble", "television"}
    assert len(kinds) > 2
    babble = next(line for line in lines if "; babble: " in line)
    assert 4 <= babble.count("speech.wav channel 0 samples") <= 7


def test_the_same_weights_have_the_same_error_rates_at_the_end_of_a_phase_and_the_start_of_the_next(
    run_phase: Callable[..., Any], encoder: Path
) -> None:
    """To the last digit, also through a phase that is skipped."""
    first, trained, _ = run_phase(encoder, "first", frontend="trained", epochs=2)
    skipped, handed_on, _ = run_phase(first, "skipped", epochs=0)
    _, started, _ = run_phase(skipped, "started", epochs=1)
    best = json.loads((first / RANKING_FILE).read_text())[0]["epoch"]
    for metric in ("validation.eer", "validation.min_dcf_p01"):
        figures = {
            values_of(trained, metric)[best],
            values_of(handed_on, metric)[0],
            values_of(started, metric)[0],
        }
        assert len(figures) == 1
