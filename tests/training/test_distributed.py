"""Several processes train as one process does, end together, and resume with any number."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
from speaker_verification.common.distributed import processes
from speaker_verification.models.frontend import Frontend, load_encoder, save_encoder
from speaker_verification.models.heads import HeadSettings
from speaker_verification.training import exchange
from speaker_verification.training.checkpoints import load_head
from speaker_verification.training.kept_epochs import best_checkpoint
from speaker_verification.training.loop import StepResult, TrainingLoop
from speaker_verification.training.phase import PretrainedDistanceSettings
from speaker_verification.training.regularisation import PretrainedDistance
from speaker_verification.training.resume import resume_path
from tests.support.processes import run_processes, values_of
from tests.support.tiny_models import TINY_WAVLM, tiny_settings
from tests.support.training import HEAD, phase_settings, training_loop

# Without dropouts, which N processes draw otherwise.
TINY = TINY_WAVLM | {
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
}
NUM_STEPS = 20


@dataclass(frozen=True)
class Job:
    """A phase to train in one process or in several."""

    encoder: Path
    folder: Path
    utterances: pd.DataFrame
    trials: pd.DataFrame
    catalogs: tuple[pd.DataFrame, pd.DataFrame]
    network: str = "astp"
    aggregation: str = "lap"
    head: HeadSettings = HEAD
    architecture: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        settings = tiny_settings(TINY | self.architecture, self.aggregation, self.network)
        values = settings.model_dump()
        values["layer_aggregation"]["lap"]["dropout"] = 0.0
        values["speaker_network"]["astp"]["dropout"] = 0.0
        return type(settings).model_validate(values)

    def loop(self, double: bool, **changes: Any) -> Recorded:
        settings: dict[str, Any] = {
            "frontend": "trained",
            "frontend_mode": "training",
            "epochs": 1,
            "steps_per_epoch": NUM_STEPS,
            "learning_rate": {"maximum": 1e-3, "minimum": 1e-3},
            "resume": True,
            "save_every_steps": None,
        }
        if not double:
            # Adam makes whole steps of gradients that are rounding alone, such as a bias's before a norm; and
            # long steps of untrained weights enlarge the rounding of float32 from step to step.
            settings |= {"optimiser": {"kind": "sgd", "weight_decay": 0.0}, "gradient_clip_norm": 1.0}
            settings["learning_rate"] = {"maximum": 1e-4, "minimum": 1e-4}
        phase = phase_settings(**settings | self.changes)
        loop = training_loop(
            self.encoder,
            self.folder,
            self.utterances,
            self.trials,
            phase,
            augmenter=Augmenter(*self.catalogs, AugmentationSettings(probability=0.7)),
            model=self.model,
            head=self.head,
            **changes,
        )
        if double:
            model = loop.classifier.double().model
            model.register_forward_pre_hook(lambda _, waves: (waves[0].double(),))
            loop.validate = lambda _: {"validation.eer": 1.0}
        distance = PretrainedDistance(loop.classifier.model.frontend, self.encoder, phase.pretrained_distance)
        values = {known.name: getattr(loop, known.name) for known in fields(loop)}
        return Recorded(**values | {"regularise": distance} | changes)


class Recorded(TrainingLoop):
    """Loop that keeps the loss, the gradient norm and the utterances of every step.

    Attributes:
        steps: loss, gradient norm, and keys of all processes in the order of one, by step.
    """

    steps: list[tuple[float, float, list[list[int]]]]

    def train_step(self, batches: Any) -> StepResult:
        passes: list[list[list[int]]] = []

        def noted() -> Any:
            for batch in batches:
                shares = processes().gather(batch.keys.tolist())
                passes.append([key for share in shares for key in share])
                yield batch

        result = super().train_step(noted())
        if not hasattr(self, "steps"):
            self.steps = []
        self.steps.append((result.loss, result.gradient_norm, passes))
        return result


def train(job: Job) -> dict[str, Any]:
    """Steps in float64, then steps, curve and embeddings in float32."""
    precise = job.loop(double=True)
    precise.run()
    processes().wait()
    if processes().is_first:
        shutil.rmtree(job.folder)
    processes().wait()
    plain = job.loop(double=False)
    curve = plain.run()
    model = plain.classifier.model.eval()
    waves = torch.randn(4, 4000, generator=torch.Generator().manual_seed(5))
    return {
        "steps": precise.steps,
        "curve": curve[~curve["metric"].str.endswith("seconds")],
        "embeddings": model.embed(waves),
        "statistics": dict(precise.classifier.named_buffers()),
    }


@pytest.fixture
def job(
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    catalogs: tuple[pd.DataFrame, pd.DataFrame],
    tmp_path: Path,
) -> Job:
    save_encoder(tiny_settings(TINY).frontend, tmp_path / "encoder", seed=1)
    return Job(tmp_path / "encoder", tmp_path / "out", utterances, trials, catalogs)


def made(job: Job, **values: Any) -> Job:
    """The job with other settings, whose encoder has the architecture's options."""
    new = replace(job, **values)
    save_encoder(new.model.frontend, new.encoder, seed=1)
    return new


CASES: dict[str, dict[str, Any]] = {
    "LAP and ASTP": {"changes": {"gradient_clip_norm": 0.5, "frontend_grad_scale": 0.5}},
    "layer drop, time masks and MHFA": {
        "network": "mhfa",
        "aggregation": "weighted_sum",
        "architecture": {"layerdrop": 0.5, "mask_time_prob": 0.4, "mask_time_length": 2},
    },
    "accumulation, the distance and ECAPA-TDNN": {
        "network": "ecapa_tdnn",
        "aggregation": "weighted_sum",
        "changes": {
            "accumulation_steps": 2,
            "crop_seconds": [0.2, 0.3],
            "averaging": {"last_epochs": 1},
            "average_best": 2,
            "pretrained_distance": {"kind": "l2_sp"},
        },
    },
    "LoRA": {
        "changes": {
            "frontend": "frozen",
            "lora": {"rank": 2},
            "averaging": {"last_epochs": 1},
            "average_best": 2,
            "pretrained_distance": {"kind": "l2_sp"},
        },
    },
    "different speakers, every speed and the x-vector": {
        "network": "x_vector",
        "changes": {
            "sampling": {"unique_speakers": True, "every_speed": True},
            "speed_factors": [1.0, 1.1],
            "frontend": "frozen",
        },
    },
}


@pytest.mark.project
@pytest.mark.parametrize("case", CASES)
def test_two_and_three_processes_train_as_one(job: Job, case: str) -> None:
    job = made(job, **CASES[case])
    one = train(job)
    assert len(one["steps"]) == NUM_STEPS
    for size in (2, 3):
        shutil.rmtree(job.folder)
        found = values_of(run_processes(size, train, job))
        for values in found:
            for (loss, norm, keys), (own_loss, own_norm, own_keys) in zip(
                one["steps"], values["steps"], strict=True
            ):
                assert own_keys == keys
                assert (own_loss, own_norm) == pytest.approx((loss, norm), rel=1e-6)
            torch.testing.assert_close(values["embeddings"], one["embeddings"], rtol=1e-4, atol=1e-4)
            for name, value in one["statistics"].items():
                torch.testing.assert_close(values["statistics"][name], value, rtol=1e-6, atol=1e-6)
        for name in ("loss", "accuracy", "macro_f1", "validation.eer"):
            own, all_of_one = (
                curve.loc[curve["metric"] == name, "value"].tolist()
                for curve in (found[-1]["curve"], one["curve"])
            )
            assert own == pytest.approx(all_of_one, rel=1e-3), name
        assert all(values["curve"].equals(found[0]["curve"]) for values in found)


def normalised_gradient(encoder: Path) -> float:
    """Mean gradient at 1 of the losses p + 1 and 3 p of two processes, each over that of both."""
    group, parameter = processes(), nn.Parameter(torch.ones(()))
    settings = PretrainedDistanceSettings(kind="normalised")
    regularise = PretrainedDistance(Frontend(load_encoder(encoder)), encoder, settings)
    regularise((parameter + 1, 3 * parameter)[group.rank]).backward()
    assert parameter.grad is not None
    return float(group.mean(parameter.grad))


@pytest.mark.project
def test_a_normalised_loss_is_over_the_value_of_the_whole_batch(job: Job) -> None:
    """(1 + 3) / 2 over (2 + 3) / 2."""
    assert values_of(run_processes(2, normalised_gradient, job.encoder)) == pytest.approx([0.8, 0.8])


def averaged_gradients() -> list[list[float] | None]:
    """Averages of a gradient of all, of the first process alone, and of none; in buckets of one."""
    parameters = [nn.Parameter(torch.zeros(count)) for count in (3, 2, 4)]
    rank = processes().rank
    parameters[0].grad = torch.full((3,), rank + 1.0)
    if rank == 0:
        parameters[1].grad = torch.tensor([1.0, 2.0])
    exchange.BUCKET_BYTES = 1
    exchange.GradientExchange(parameters).average()
    return [None if parameter.grad is None else parameter.grad.tolist() for parameter in parameters]


@pytest.mark.project
def test_gradients_are_averaged_where_any_process_has_one() -> None:
    for gradients in values_of(run_processes(2, averaged_gradients)):
        assert gradients == [[1.5, 1.5, 1.5], [0.5, 1.0], None]


def clipped(apart: bool) -> tuple[float, list[float]]:
    """Norm and clipped gradients of a parameter that both processes have, and of one that is sharded."""
    whole, part = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    whole.grad, part.grad = torch.tensor([8.0]), torch.tensor([(2.0, 8.0)[processes().rank]])
    gradients = exchange.GradientExchange([whole, part], sharded=[part])
    gradients.average()
    norm = gradients.clip(4.5, *([[whole], [part]] if apart else [[whole, part]]))
    return float(norm), [float(whole.grad), float(part.grad)]


@pytest.mark.project
def test_a_sharded_parameter_counts_in_the_common_norm_with_all_its_parts() -> None:
    """The root of 64 + 1 + 16, of which half is left; sums over all examples are halved to means."""
    for (norm, gradients), own in zip(values_of(run_processes(2, clipped, False)), (0.5, 2.0), strict=True):
        assert (norm, gradients) == (9, pytest.approx([4, own]))


@pytest.mark.project
def test_a_sharded_parameter_that_is_clipped_apart_has_the_norm_of_all_its_parts() -> None:
    """Of the norms 8 and the root of 17, of (1, 4), the first alone is above 4.5; both together are 9."""
    for (norm, gradients), own in zip(values_of(run_processes(2, clipped, True)), (1.0, 4.0), strict=True):
        assert (norm, gradients) == (9, pytest.approx([4.5, own]))


def fail(job: Job, how: str) -> tuple[list[Any], list[Any]]:
    """Steps and curve of training in float64; in step 3 of the second process something happens."""

    def spoil(loss: Tensor) -> Tensor:
        if loop.progress.step != 3 or processes().rank != 1:
            return loss
        if how == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if how in ("SIGKILL", "SIGTERM"):
            os.kill(os.getpid(), getattr(signal, how))
        return loss * torch.nan if how == "not finite" else loss

    loop = job.loop(double=True, regularise=spoil)
    curve = loop.run()
    curve = curve[~curve["metric"].str.endswith("seconds")]
    return loop.steps, list(curve.itertuples(index=False, name=None))


@pytest.mark.project
@pytest.mark.parametrize(
    ("how", "first", "second"),
    [
        (
            "memory",
            "PeerError: rank 0 .*: rank 1 on host {0}: out of memory at step 3",
            "TrainingError: rank 1 on",
        ),
        (
            "not finite",
            "TrainingError: rank 0 on host {0}: the loss is nan at step 3",
            "TrainingError: rank 1 ",
        ),
        ("unreadable", "rank . on host {0}: .*none.wav", "rank . on host {0}: .*none.wav"),
        ("SIGKILL", "PeerError: rank 0 on host {0} ends .* (no answer|rank 1 on host {0} has died)", ""),
    ],
)
def test_what_happens_to_one_process_ends_all(job: Job, how: str, first: str, second: str) -> None:
    if how == "unreadable":
        paths = [*job.utterances["path"][:-1], "/nowhere/none.wav"]
        job = replace(job, utterances=job.utterances.assign(path=paths))
    outcomes = run_processes(2, fail, job, how)
    for outcome, message in zip(outcomes, (first, second), strict=True):
        assert re.search(message.format(socket.gethostname()), outcome.error), outcome
        assert outcome.exit_code not in (0, None)


@pytest.mark.project
def test_a_phase_of_two_processes_goes_on_with_any_number(job: Job) -> None:
    """SIGTERM reaches one of them, and both stop after the same step, which is saved."""
    jobs = [replace(job, folder=job.folder.with_name(f"out{number}")) for number in range(4)]
    undisturbed, _ = values_of(run_processes(2, fail, jobs[0], ""))
    first, second = run_processes(2, fail, jobs[1], "SIGTERM")
    assert (first.exit_code, second.exit_code) == (128 + signal.SIGTERM, -signal.SIGTERM)
    for other in jobs[2:]:
        shutil.copytree(jobs[1].folder, other.folder)
        shutil.copy(resume_path(jobs[1].folder), resume_path(other.folder))
    alone = fail(jobs[1], "")
    of_two = values_of(run_processes(2, fail, jobs[2], ""))
    of_three = values_of(run_processes(3, fail, jobs[3], ""))
    assert [steps for steps, _ in of_two] == [undisturbed[0][4:]] * 2  # to the last bit
    for steps, curve in (alone, *of_two, *of_three):
        assert len(steps) == NUM_STEPS - 4
        assert [row[:2] for row in curve] == [row[:2] for row in undisturbed[1]]
        assert [row[2] for row in curve] == pytest.approx([row[2] for row in undisturbed[1]], rel=1e-6)
        for (loss, norm, keys), own in zip(undisturbed[0][4:], steps, strict=True):
            assert own == (pytest.approx(loss, rel=1e-6), pytest.approx(norm, rel=1e-6), keys)


def started(job: Job, start: Path) -> tuple[int, Tensor]:
    """Number of own classes, and weights of all, of the head that a phase after another starts from."""
    loop = replace(job, encoder=start).loop(double=False)
    return loop.classifier.head.weight.shape[2], loop.classifier.head.state_dict()["weight"]


@pytest.mark.project
def test_a_sharded_head_trains_is_kept_and_resumes_as_the_whole_one(job: Job) -> None:
    """Five classes, which neither two nor three processes share evenly, in chunks of two."""
    known = job.utterances["speaker_id"] != job.utterances["speaker_id"].iloc[0]
    ids = job.utterances["utterance_id"][known]
    whole = replace(
        job,
        utterances=job.utterances[known].reset_index(drop=True),
        trials=job.trials[job.trials["enroll_id"].isin(ids) & job.trials["test_id"].isin(ids)],
        changes={
            "epochs": 2,
            "steps_per_epoch": 5,
            "accumulation_steps": 2,
            "gradient_clip_norm": 0.5,
            "gradient_clip_apart": True,
            "averaging": {"last_epochs": 1},
            "average_best": 2,
        },
    )
    sharded = replace(whole, head=HEAD.model_copy(update={"sharded": True, "classes_per_chunk": 2}))
    folders = [job.folder.with_name(f"out{number}") for number in range(4)]
    steps, curve = fail(replace(whole, folder=folders[0]), "")
    undisturbed = values_of(run_processes(2, fail, replace(sharded, folder=folders[1]), ""))
    first, _ = run_processes(2, fail, replace(sharded, folder=folders[2]), "SIGTERM")
    assert first.exit_code == 128 + signal.SIGTERM
    shutil.copytree(folders[2], folders[3])
    shutil.copy(resume_path(folders[2]), resume_path(folders[3]))
    resumed = [fail(replace(whole, folder=folders[2]), "")]
    resumed += values_of(run_processes(3, fail, replace(sharded, folder=folders[3]), ""))
    for own_steps, own_curve in (*undisturbed, *resumed):
        for (loss, norm, keys), own in zip(steps[-len(own_steps) :], own_steps, strict=True):
            assert own == (pytest.approx(loss, rel=1e-9), pytest.approx(norm, rel=1e-9), keys)
        assert [row[2] for row in own_curve] == pytest.approx([row[2] for row in curve], rel=1e-9)
    assert [len(own_steps) for own_steps, _ in resumed] == [6] * 4
    weights, *others = (load_head(best_checkpoint(folder), "cpu")[0].weight for folder in folders)
    for weight in others:
        torch.testing.assert_close(weight, weights)
    (two, of_first), (three, of_second) = values_of(run_processes(2, started, sharded, folders[0]))
    assert (two, three) == (2, 3)
    torch.testing.assert_close((of_first, of_second), (weights.detach(), weights.detach()))
