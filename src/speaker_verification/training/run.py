"""A training phase from its settings and tables to its best epochs and learning curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
from speaker_verification.common.tables import require_files
from speaker_verification.models.heads import HeadSettings
from speaker_verification.models.settings import ModelSettings, read_saved_configuration
from speaker_verification.training.compression.settings import CompressSettings
from speaker_verification.training.kept_epochs import saved_model
from speaker_verification.training.phase import PhaseSettings

if TYPE_CHECKING:
    from torch import Tensor

    from speaker_verification.data.examples import TrainingExamples
    from speaker_verification.training.loop import Tracker
    from speaker_verification.training.resume import RunFingerprint
    from speaker_verification.training.timing import PhaseTimes
    from speaker_verification.training.validation import TrialSet


@dataclass(frozen=True)
class PhaseJob:
    """A phase to train, as settings.

    Attributes:
        name: name of the phase, for messages.
        phase: settings of the phase.
        model: settings of the speaker model; the phase before must agree with them.
        head: settings of the head; the phase before must agree with them.
        augmentation: settings of the augmentation.
        seed: seed of the experiment, to which the phase adds its offset.
        device: name of the device (auto, cpu, cuda or cuda:N).
        origin: folder of the saved model that this phase or one before it starts from, whose settings of the
            model are taken instead of `model`; None where training begins from an encoder.
    """

    name: str
    phase: PhaseSettings
    model: ModelSettings
    head: HeadSettings
    augmentation: AugmentationSettings
    seed: int
    device: str = "auto"
    origin: str | None = None

    @property
    def phase_seed(self) -> int:
        """Seed of all draws of the phase."""
        return self.seed + self.phase.seed_offset

    def plain_settings(self) -> dict[str, Any]:
        """Settings that the result depends on, as plain values by group."""
        groups = {
            "phase": self.phase,
            "model": self.model,
            "head": self.head,
            "augmentation": self.augmentation,
        }
        return {name: group.model_dump(mode="json") for name, group in groups.items()} | {"seed": self.seed}


@dataclass(frozen=True)
class PhaseTables:
    """Tables that a phase reads, each as `common.tables` describes it.

    Attributes:
        training_utterances: UTTERANCES table to train on.
        validation_utterances: UTTERANCES table of the held-out speakers.
        validation_trials: TRIALS table over the held-out utterances.
        utterances: UTTERANCES table of all utterances, among them those of `trials`.
        trials: TRIALS table of the test lists, some of which a phase may monitor.
        noise_clips: NOISE_CLIPS table.
        rirs: RIRS table.
    """

    training_utterances: pd.DataFrame
    validation_utterances: pd.DataFrame
    validation_trials: pd.DataFrame
    utterances: pd.DataFrame
    trials: pd.DataFrame
    noise_clips: pd.DataFrame
    rirs: pd.DataFrame

    def augmenter(self, job: PhaseJob) -> Augmenter | None:
        """Augmentation of a phase's crops, as far as there is any to draw from; None for clean crops."""
        if not job.phase.augment:
            return None
        settings = job.augmentation.available(self.noise_clips, self.rirs)
        return Augmenter(self.noise_clips, self.rirs, settings) if settings.probability else None

    def require_files(self, augmented: bool) -> None:
        """Refuse audio files that are missing.

        Args:
            augmented: whether noise clips and RIRs are read as well.

        Raises:
            DataError: a table and its missing files are named.
        """
        names = ["training_utterances", "validation_utterances"]
        names += ["noise_clips", "rirs"] if augmented else []
        require_files({name: getattr(self, name) for name in names})


def run_phase(
    job: PhaseJob,
    tables: PhaseTables,
    start: Path,
    encoder: Path,
    folder: Path,
    start_name: str = "",
    tracker: Tracker | None = None,
    later: Mapping[str, PhaseSettings] | None = None,
    times: PhaseTimes | None = None,
    trained_by: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Train a phase from an encoder, from the phase before or from a saved model, or resume it.

    Args:
        job: settings.
        tables: input tables.
        start: folder of an encoder in Hugging Face format, or of the phase before; unused where the phase has
            a `start`.
        encoder: folder of the pre-trained encoder, to which `pretrained_distance` and `regularisation` refer;
            unused where training began from a saved model, to which they refer then.
        folder: folder of the best epochs (see checkpoints.py).
        start_name: name of the start in messages and checkpoints; by default its path.
        tracker: receiver of the metrics; None for none.
        later: phases that follow in the same run, by name: the log tells how long they take at least.
        times: receives how long the parts of the phase take.
        trained_by: plain values on the run that trains, for its checkpoints.

    Returns:
        LEARNING_CURVE table.

    Raises:
        UserError: see `start_phase`, `start_from_model` and `TrainingLoop.run`; or audio files are missing
            (DataError).
    """
    from transformers import set_seed

    from speaker_verification.common.device import resolve_device
    from speaker_verification.data.examples import TrainingExamples
    from speaker_verification.training.classifier import SpeakerClassifier
    from speaker_verification.training.compression import Distillation, Pruning
    from speaker_verification.training.loop import TrainingLoop, Untracked, as_started
    from speaker_verification.training.objective import Objective
    from speaker_verification.training.regularisation import PretrainedDistance
    from speaker_verification.training.start import start_from_model, start_phase
    from speaker_verification.training.timing import PhaseTimes
    from speaker_verification.training.validation import TrialSet, validate

    phase = job.phase
    if job.origin is not None:
        encoder = saved_model(Path(job.origin))
        job = replace(job, model=read_saved_configuration(encoder).model)
    augmenter = tables.augmenter(job)
    tables.require_files(augmented=augmenter is not None)
    examples = TrainingExamples(
        tables.training_utterances,
        augmenter,
        phase.crop_seconds,
        phase.speed_factors,
        job.phase_seed,
        phase.cache_megabytes,
        phase.sampling.every_speed,
    )
    held_out = TrialSet.of(tables.validation_trials, tables.validation_utterances)
    is_monitored = tables.trials["trial_list"].isin(phase.monitor)
    monitored = TrialSet.of(tables.trials[is_monitored], tables.utterances)
    set_seed(job.phase_seed)
    device, initialise = resolve_device(job.device), as_started
    if phase.start is None:
        model, head = start_phase(start, phase, job.model, job.head, examples.speaker_ids, device, encoder)
    else:
        start_name = phase.start
        model, head, new = start_from_model(Path(start_name), phase, job.head, examples.speaker_ids, device)
        initialise = partial(new.make, examples, job.name)
    objective = Objective()
    regularise: Callable[[Tensor], Tensor] = PretrainedDistance(
        model.frontend, encoder, phase.pretrained_distance
    )
    if isinstance(phase, CompressSettings):
        guide = Distillation(model.copy().frontend) if phase.guide == "teacher" else objective
        pruning = Pruning(phase, guide, job.phase_seed)
        objective, regularise = pruning, pruning.penalise
    loop = TrainingLoop(
        phase,
        SpeakerClassifier(model, head),
        examples,
        validate=partial(validate, held_out=held_out, monitored=monitored),
        folder=folder,
        fingerprint=_fingerprint(job, tables, examples, held_out.joined(monitored), start_name or str(start)),
        initialise=initialise,
        objective=objective,
        regularise=regularise,
        tracker=tracker or Untracked(),
        later=later or {},
        times=times or PhaseTimes(),
        trained_by=trained_by or {},
    )
    return loop.run()


def _fingerprint(
    job: PhaseJob, tables: PhaseTables, examples: TrainingExamples, eval_set: TrialSet, start_name: str
) -> RunFingerprint:
    from speaker_verification.training.resume import RunFingerprint

    vocals = [] if job.augmentation.music_with_vocals else ["vocals"]
    return RunFingerprint(
        job.name,
        job.plain_settings(),
        start_name,
        examples.speaker_ids,
        {
            "training_utterances": tables.training_utterances[["utterance_id", "num_samples"]],
            "validation_utterances": eval_set.utterances[["utterance_id", "num_samples"]],
            "validation_trials": eval_set.trials,
            "noise_clips": tables.noise_clips[["clip_id", "num_samples", *vocals]],
            "rirs": tables.rirs[["rir_id", "num_samples"]],
        },
    )
