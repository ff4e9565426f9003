"""A phase that is interrupted, wherever, ends as if it had not been."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.locks import InUseError
from speaker_verification.models.frontend import save_encoder
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training import checkpoints, resume
from speaker_verification.training.failures import TrainingError
from speaker_verification.training.kept_epochs import RUN_FILE
from speaker_verification.training.resume import (
    FINISHED_FILE,
    RunFingerprint,
    is_interrupted,
    resume_path,
)
from speaker_verification.training.validation import TrialSet, validate
from tests.support.locking import held_by_another
from tests.support.tiny_models import TINY_WAVLM, tiny_settings
from tests.support.training import HEAD, Watcher, phase_settings, training_loop

# Dropouts and layer drop draw from torch, time masks from NumPy.
DRAWING = {"hidden_dropout": 0.1, "layerdrop": 0.3, "mask_time_prob": 0.4, "mask_time_length": 2}
MODEL = tiny_settings(TINY_WAVLM | DRAWING | {"num_hidden_layers": 2})
# Three steps of two passes an epoch, of which six go through the 24 utterances at both speeds.
CHANGES: dict[str, Any] = {
    "crop_seconds": [0.2, 0.3],
    "speed_factors": [1.0, 1.1],
    "sampling": {"every_speed": True},
    "steps_per_epoch": 3,
    "frontend": "trained",
    "frontend_mode": "training",
    "epochs": 3,
    "batch_size": 4,
    "accumulation_steps": 2,
    "average_best": 2,
    "averaging": {"last_epochs": 2},
    "save_every_steps": 2,
    "resume": True,
}
PASSES_OF_A_STEP = 2


@dataclass(frozen=True)
class Job:
    """A phase to train, in this process or in one that will be killed."""

    encoder: Path
    folder: Path
    utterances: pd.DataFrame
    trials: pd.DataFrame
    changes: dict[str, Any] = field(default_factory=dict)
    seed: int = 3
    catalogs: tuple[pd.DataFrame, pd.DataFrame] | None = None

    def train(
        self,
        regularise: Callable[[torch.Tensor], torch.Tensor] = lambda loss: loss,
        on_pass: Callable[[int], None] = lambda _: None,
        on_epoch: Callable[[int, Any], None] = lambda *_: None,
        on_validation: Callable[[], None] = lambda: None,
        on_start: Callable[[list[dict[str, Any]]], None] = lambda _: None,
    ) -> pd.DataFrame:
        """Train it; the callbacks are told the number of each pass, and of what follows."""
        phase = phase_settings(**CHANGES | self.changes)
        tables = {"training_utterances": self.utterances[["utterance_id", "num_samples"]]}
        if self.catalogs:
            noise_clips, rirs = self.catalogs
            tables["noise_clips"] = noise_clips[["clip_id", "num_samples"]]
            tables["rirs"] = rirs[["rir_id", "num_samples"]]
        eval_set = TrialSet.of(self.trials, self.utterances)
        num_passes = 0

        def counted(loss: torch.Tensor) -> torch.Tensor:
            nonlocal num_passes
            num_passes += 1
            on_pass(num_passes)
            return regularise(loss)

        def validated(model: SpeakerModel) -> dict[str, float]:
            on_validation()
            return validate(model, eval_set, TrialSet.of(self.trials.head(0), self.utterances))

        settings = {"phase": phase.model_dump(mode="json"), "head": HEAD.model_dump(mode="json")}
        speaker_ids = sorted(self.utterances["speaker_id"].unique())
        return training_loop(
            self.encoder,
            self.folder,
            self.utterances,
            self.trials,
            phase,
            self.seed,
            Augmenter(*self.catalogs, AugmentationSettings()) if self.catalogs else None,
            MODEL,
            regularise=counted,
            validate=validated,
            fingerprint=RunFingerprint("finetune", settings, str(self.encoder), speaker_ids, tables),
            tracker=Watcher(on_epoch, on_start),
        ).run()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(MODEL.frontend, folder, seed=1)
    return folder


@pytest.fixture
def job(encoder: Path, utterances: pd.DataFrame, trials: pd.DataFrame, tmp_path: Path) -> Job:
    return Job(encoder, tmp_path / "out", utterances, trials)


@pytest.fixture(scope="module")
def undisturbed(
    encoder: Path, utterances: pd.DataFrame, trials: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, pd.DataFrame]:
    """Folder and learning curve of a phase without interruption, which nobody changes."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    return folder, Job(encoder, folder, utterances, trials).train()


@pytest.fixture
def finished(job: Job, undisturbed: tuple[Path, pd.DataFrame]) -> Job:
    """A phase that has been trained to its end."""
    shutil.copytree(undisturbed[0], job.folder)
    return job


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(job: Job, moment: str) -> None:
    """In a process of its own: train, and die at a moment."""
    if moment == "in a step after a save":
        job.train(on_pass=lambda number: die() if number == 2 * PASSES_OF_A_STEP + 2 else None)
    elif moment == "half of the file written":

        def write_half(path: Path, write: Callable[[Any], object]) -> None:
            with path.open("wb") as file:
                write(file)
            os.truncate(path, path.stat().st_size // 2)
            die()

        resume.write_through = write_half
        job.train()
    elif moment == "an epoch told":
        job.train(on_epoch=die)
    elif moment == "a model written without its head":
        checkpoints.save_file = die
        job.train()
    elif moment == "validating averaged weights":
        job.train(on_validation=die)
    elif moment == "the average of the best told":
        job.train(on_epoch=lambda _, metrics: die() if "average.validation.eer" in metrics else None)
    elif moment == "the end recorded":
        resume.discard = die
        job.train()


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a folder: bytes, or of run.json the values without the timings."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content: Any = file.read_bytes()
        if file.name == FINISHED_FILE:
            content = json.loads(content)
            rows = content["progress"]["curve"]
            content["progress"]["curve"] = [row for row in rows if not row["metric"].endswith("seconds")]
            for harmless in ("num_workers", "save_every_steps"):
                del content["fingerprint"]["settings"][f"phase.{harmless}"]
        if file.name == RUN_FILE:
            content = json.loads(content)
            del content["phase"]
            for timing in [name for name in content["metrics"] if name.endswith("seconds")]:
                del content["metrics"][timing]
        found[str(file.relative_to(folder))] = content
    return found


def without_timings(curve: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(curve[~curve["metric"].str.endswith("seconds")].itertuples(index=False, name=None))


def test_a_phase_that_cuts_its_head_is_resumed_with_the_classes_that_are_left(
    job: Job, tmp_path: Path
) -> None:
    before = replace(job, folder=tmp_path / "before", changes={"epochs": 0, "speed_factors": [1.0, 0.9, 1.1]})
    before.train()
    cut = replace(job, encoder=before.folder, changes={"cut_head": True, "speed_factors": [1.0, 1.1]})
    undisturbed = replace(cut, folder=tmp_path / "undisturbed")
    expected = undisturbed.train()

    def stop(epoch: int, _: Any) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.train(on_epoch=stop)
    assert without_timings(cut.train()) == without_timings(expected)
    assert contents(cut.folder) == contents(undisturbed.folder)


@pytest.mark.project
def test_a_phase_killed_at_every_kind_of_moment_ends_as_if_it_had_not_been(
    job: Job, undisturbed: tuple[Path, pd.DataFrame]
) -> None:
    folder, expected = undisturbed
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for moment in (
        "in a step after a save",
        "half of the file written",
        "an epoch told",
        "a model written without its head",
        "validating averaged weights",
        "the average of the best told",
        "the end recorded",
    ):
        process = context.Process(target=train_until_killed, args=(job, moment))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, moment
        assert is_interrupted(job.folder)
    # Neither workers nor how often it is saved make a difference.
    curve = replace(job, changes={"num_workers": 1, "save_every_steps": None}).train()
    assert without_timings(curve) == without_timings(expected)
    assert contents(job.folder) == contents(folder)


def interrupt(job: Job, after_steps: int) -> None:
    """Stop a phase in the step that follows."""

    def stop(number: int) -> None:
        if number == after_steps * PASSES_OF_A_STEP + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.train(on_pass=stop)


def test_what_a_validation_draws_changes_no_step(job: Job, undisturbed: tuple[Path, pd.DataFrame]) -> None:
    job.train(on_validation=lambda: torch.rand(3))
    assert contents(job.folder) == contents(undisturbed[0])


def test_a_state_of_an_earlier_version_is_refused_by_its_format(job: Job) -> None:
    interrupt(job, after_steps=2)
    path = resume_path(job.folder)
    torch.save(torch.load(path, weights_only=True) | {"format": 2, "random": {}}, path)
    with pytest.raises(
        DataError, match=r"out.resume' has format 2.* reads format 3: .*finetune.resume=false"
    ):
        job.train()


def test_only_the_steps_after_the_save_are_taken_again(job: Job) -> None:
    interrupt(job, after_steps=5)  # saved after steps 2, 3 (an epoch) and 4
    passes: list[int] = []
    epochs: list[int] = []
    job.train(on_pass=passes.append, on_epoch=lambda epoch, _: epochs.append(epoch))
    assert len(passes) == (9 - 4) * PASSES_OF_A_STEP
    assert epochs == [2, 3, 3]  # the average of the best is told with the last one


def test_an_epoch_is_saved_before_it_is_told(job: Job) -> None:
    def break_down(epoch: int, _: Any) -> None:
        if epoch == 1:
            raise ConnectionError("the server is gone")

    with pytest.raises(ConnectionError):
        job.train(on_epoch=break_down)
    passes: list[int] = []
    told: list[tuple[int, str]] = []
    job.train(
        on_pass=passes.append,
        on_start=lambda rows: told.extend((row["epoch"], row["metric"]) for row in rows),
    )
    assert len(passes) == (9 - 3) * PASSES_OF_A_STEP
    assert {(0, "validation.eer"), (1, "validation.eer"), (1, "loss")} <= set(told)


def test_what_has_changed_since_is_refused_by_name(job: Job) -> None:
    interrupt(job, after_steps=3)
    changed = replace(
        job, changes={"learning_rate": {"maximum": 2e-2, "minimum": 1e-3}, "num_workers": 1}, seed=4
    )
    message = (
        r"finetune was interrupted after 3 steps .*parameter 'finetune.learning_rate.maximum' was 0.01, is "
        r"0.02\. Undo it, or start anew with finetune.resume=false"
    )
    with pytest.raises(ParameterError, match=message):
        changed.train()
    fewer = replace(job, utterances=job.utterances.drop(index=[2, 5]).reset_index(drop=True))
    message = r"'training_utterances': 2 rows removed \(id00000/video0/00002.wav,6000 id00001/video1/"
    with pytest.raises(DataError, match=message):
        fewer.train()
    shorter = replace(
        job, utterances=job.utterances.assign(num_samples=[5000, *job.utterances["num_samples"][1:]])
    )
    with pytest.raises(DataError, match=r"1 rows removed \(\S+,6000\), 1 rows added \(\S+,5000\)"):
        shorter.train()
    reversed_rows = replace(job, utterances=job.utterances[::-1].reset_index(drop=True))
    with pytest.raises(DataError, match="rows are in another order"):
        reversed_rows.train()
    with pytest.raises(DataError, match=r"other weights to start from: .*encoder.* then, .*encoder.* now"):
        replace(job, seed=4).train()
    anew = replace(changed, changes=changed.changes | {"resume": False, "epochs": 1}, seed=3)
    assert anew.train()["epoch"].max() == 1


def test_a_phase_resumes_with_mended_augmentation_only_where_that_is_allowed(
    job: Job, catalogs: tuple[pd.DataFrame, pd.DataFrame], caplog: pytest.LogCaptureFixture
) -> None:
    clips, rooms = catalogs
    more = clips.iloc[:1].assign(clip_id="bad.wav")
    first = replace(job, catalogs=(pd.concat([clips, more], ignore_index=True), rooms))
    interrupt(first, after_steps=3)
    mended = replace(job, catalogs=catalogs)
    message = (
        r"finetune was interrupted after 3 steps .*'noise_clips': 1 rows removed \(bad\.wav,2000\)\. Undo "
        r"it, or start anew with finetune\.resume=false, or let the rest of the phase draw "
        r"from the new ones with finetune\.allow_changed_augmentation=true$"
    )
    with pytest.raises(DataError, match=message):
        mended.train()
    allowed = replace(mended, changes={"allow_changed_augmentation": True})
    fewer = replace(allowed, utterances=job.utterances.drop(index=[2]).reset_index(drop=True))
    with pytest.raises(DataError, match=r"'training_utterances': 1 rows removed .*resume=false$"):
        fewer.train()
    caplog.clear()
    passes: list[int] = []
    allowed.train(on_pass=passes.append)
    assert len(passes) == (9 - 3) * PASSES_OF_A_STEP
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "finetune: resuming from step 3 with changed augmentation" in warning
    assert "bad.wav" in warning


def test_once_resumed_with_mended_augmentation_a_phase_resumes_without_leave(
    job: Job, catalogs: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    clips, rooms = catalogs
    interrupt(replace(job, catalogs=(clips, rooms.iloc[::-1])), after_steps=3)
    mended = replace(job, catalogs=catalogs)
    interrupt(replace(mended, changes={"allow_changed_augmentation": True}), after_steps=2)
    passes: list[int] = []
    mended.train(on_pass=passes.append)
    assert len(passes) == (9 - 4) * PASSES_OF_A_STEP


def test_a_finished_phase_is_not_trained_again_until_its_folder_is_moved(
    finished: Job, undisturbed: tuple[Path, pd.DataFrame]
) -> None:
    folder, curve = undisturbed
    assert is_interrupted(folder)
    assert not resume_path(folder).exists()
    passes: list[int] = []
    logged: list[Any] = []
    again = finished.train(on_pass=passes.append, on_start=logged.extend)
    assert passes == []
    assert again.equals(curve)
    assert len(logged) == len(curve)
    assert contents(finished.folder) == contents(folder)
    finished.folder.rename(finished.folder.with_name("moved"))
    assert not is_interrupted(finished.folder)
    interrupt(finished, after_steps=1)


def test_a_finished_phase_is_not_handed_on_for_other_settings_or_data(finished: Job) -> None:
    with pytest.raises(
        ParameterError, match=r"after 9 steps .*'finetune.crop_seconds' was \[0.2, 0.3\], is 0.3"
    ):
        replace(finished, changes={"crop_seconds": 0.3}).train()
    fewer = replace(finished, utterances=finished.utterances.drop(index=[2, 5]).reset_index(drop=True))
    with pytest.raises(DataError, match=r"'training_utterances': its rows have changed"):
        fewer.train()
    interrupt(replace(finished, changes={"resume": False}), after_steps=1)


def test_a_full_disk_costs_no_earlier_state_and_says_which(
    job: Job, undisturbed: tuple[Path, pd.DataFrame]
) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(number: int) -> None:
        if number == 3 * PASSES_OF_A_STEP + 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, unlimited[1]))

    try:
        with pytest.raises(DataError, match=r"cannot write '.*out.resume': .* holds .* after 3 steps: make"):
            job.train(on_pass=fill_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    job.train()
    assert contents(job.folder) == contents(undisturbed[0])


def test_a_scheduler_s_warning_is_heeded_after_the_step(job: Job) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with pytest.raises(SystemExit):
            job.train(on_pass=lambda number: signal.raise_signal(signal.SIGTERM) if number == 9 else None)
    finally:
        signal.signal(signal.SIGTERM, before)
    passes: list[int] = []
    job.train(on_pass=passes.append)
    assert len(passes) == (9 - 5) * PASSES_OF_A_STEP


def test_a_loss_that_is_not_finite_names_the_last_good_state(job: Job) -> None:
    interrupt(job, after_steps=2)
    message = r"loss is nan at step 2 \('.*out.resume' holds the phase after 2 steps\): .* id0000\d/"
    with pytest.raises(TrainingError, match=message):
        job.train(lambda loss: loss * torch.nan)


def test_a_state_that_cannot_be_read_is_named(job: Job) -> None:
    interrupt(job, after_steps=2)
    path = resume_path(job.folder)
    for spoilt in (b"not a state", b"", path.read_bytes()[:1000]):
        path.write_bytes(spoilt)
        with pytest.raises(
            DataError, match=r"out.resume' cannot be read: start anew with finetune.resume=false"
        ) as error:
            job.train()
        assert "\n" not in str(error.value)
    torch.save({"model": {}}, path)
    with pytest.raises(
        DataError, match=r"out.resume' has format 1, and this version reads format 3: .*finetune.resume=false"
    ):
        job.train()


def test_a_folder_that_another_process_trains_in_is_left_as_it_is(job: Job) -> None:
    job.folder.mkdir()
    (job.folder / "epoch_01").touch()
    resume_path(job.folder).touch()
    anew = replace(job, changes={"resume": False})
    with held_by_another(job.folder, what="train") as other:
        with pytest.raises(InUseError, match=rf"train is running since .*process {other.pid} on host"):
            anew.train()
        assert (job.folder / "epoch_01").exists()
        assert resume_path(job.folder).exists()
