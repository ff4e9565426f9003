"""Start of a phase: a pre-trained encoder, the best epoch of the phase before, or a saved model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.data.examples import TrainingExamples
from speaker_verification.models.encoders.lora import add_lora
from speaker_verification.models.encoders.regularisation import phase_regularisation
from speaker_verification.models.heads import Head, HeadSettings, build_head
from speaker_verification.models.heads.classes import keep_classes, turn_classes
from speaker_verification.models.settings import ModelSettings, read_saved_configuration
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.checkpoints import HEAD_FILE, load_head
from speaker_verification.training.class_means import mean_embeddings
from speaker_verification.training.classifier import SpeakerClassifier
from speaker_verification.training.kept_epochs import RANKING_FILE, best_checkpoint, saved_model
from speaker_verification.training.phase import PhaseSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewClasses:
    """Classes of a head that starts from a saved model: those of its speakers at their speeds.

    Attributes:
        model: folder of the saved model.
        num_kept: number of classes that keep their weights.
        from_means: classes to turn towards mean embeddings.
        num_random: number of classes that stay as they were drawn.
    """

    model: Path
    num_kept: int
    from_means: Sequence[int]
    num_random: int

    def make(self, examples: TrainingExamples, phase: str, classifier: SpeakerClassifier) -> None:
        """Turn classes towards the mean embeddings of their utterances, and log how many are of which kind.

        All processes call this together, before the first step.

        Args:
            examples: training examples.
            phase: name of the phase, for the log.
            classifier: model and head to change.
        """
        if self.from_means:
            means = mean_embeddings(classifier.model, examples, self.from_means)
            turn_classes(classifier.head, torch.tensor(self.from_means), means)
        logger.info(
            "%s: starts from %s and its configuration; classes by speaker: %d kept, %d from mean embeddings, "
            "%d drawn at random",
            *(phase, self.model, self.num_kept, len(self.from_means), self.num_random),
        )


def start_phase(
    folder: Path,
    phase: PhaseSettings,
    model_settings: ModelSettings,
    head_settings: HeadSettings,
    speaker_ids: Sequence[str],
    device: torch.device,
    encoder: Path | None = None,
) -> tuple[SpeakerModel, Head]:
    """Model and margin head that a phase starts from.

    After an encoder both are fresh (drawn from torch's global generator), with a class for every speaker at
    every speed. After a phase both are those of its best epoch, classes included; `phase.cut_head` leaves of
    them those of this phase. LoRA is fresh in every phase. A sharded head is made whole, so that its weights
    are those of one process, of which each then keeps its classes'.

    Args:
        folder: an encoder in Hugging Face format, or of the phase before.
        phase: settings of the phase to start.
        model_settings: used after an encoder; after a phase the model has its own.
        head_settings: likewise, but for how it is computed.
        speaker_ids: training speakers in class order.
        device: to train on.
        encoder: folder of the encoder or of the saved model that training began from, whose regularisation
            holds where the phase has none of its own; None: that of the phase before.

    Raises:
        DataError: the phase before was trained on other speakers, or the folder cannot be read.
        ParameterError: this phase needs other classes than the phase before made, or asks for another model,
            or for LoRA or a regularisation that the encoder cannot have; or classes are to be cut off a head
            without `class_dim`.
    """
    if not (folder / RANKING_FILE).exists():
        options = phase_regularisation(phase.regularisation, model_settings.frontend, folder)
        model = SpeakerModel.from_encoder(folder, model_settings, options)
        head = _fresh_head(head_settings, model.embedding_size, phase, speaker_ids)
        head.distribute(head_settings.sharded, head_settings.classes_per_chunk)
        return _with_lora(model, phase).to(device), head.to(device)
    checkpoint = best_checkpoint(folder, phase.choose_top)
    head, trained_head, run = load_head(checkpoint, "cpu")
    if list(run["speaker_ids"]) != list(speaker_ids):
        raise DataError(
            f"{checkpoint} was trained on {len(run['speaker_ids'])} speakers that are not the "
            f"{len(speaker_ids)} of today's training utterances: run the phases again from 'pretrain'"
        )
    phase.refuse_other_classes(head.class_speeds)
    model = _regularised(checkpoint, phase, encoder or checkpoint, device)
    for name, asked, trained in (
        ("model.layer_aggregation", model_settings.layer_aggregation, model.settings.layer_aggregation),
        ("model.speaker_network", model_settings.speaker_network, model.settings.speaker_network),
        ("head", head_settings, trained_head),
    ):
        if asked.in_use != trained.in_use:
            raise ParameterError(
                f"parameter '{name}' is {asked.in_use}, but {checkpoint} is of {trained.in_use}: run the "
                "phases of this recipe from 'pretrain', or start from a checkpoint of its own"
            )
    if phase.cut_head:
        head = _cut_head(head, head_settings, phase, speaker_ids)
    head.distribute(head_settings.sharded, head_settings.classes_per_chunk)
    return _with_lora(model, phase), head.to(device)


def start_from_model(
    folder: Path,
    phase: PhaseSettings,
    head_settings: HeadSettings,
    speaker_ids: Sequence[str],
    device: torch.device,
) -> tuple[SpeakerModel, Head, NewClasses]:
    """Saved model, and a head with a class for every speaker at every speed, as `phase.start_head` says.

    A class is kept by its speaker id and speed factor, wherever the saved head has it. The head of the same
    speakers is kept whole, as from one phase to the next. Classes that are made from mean embeddings are only
    drawn here; `NewClasses.make` turns them.

    Args:
        folder: see `saved_model`; of a model without a head no class is kept.
        phase: settings of the phase to start.
        head_settings: settings of the head.
        speaker_ids: training speakers in class order.
        device: to train on.

    Raises:
        DataError: the folder holds no saved model, or a head of other embeddings.
        ParameterError: the saved head, of which classes are to be kept, has other settings; or a head of its
            kind cannot keep or make single classes; or the encoder cannot have the LoRA or regularisation.
    """
    folder = saved_model(folder)
    model = _regularised(folder, phase, folder, device)
    classes = _places(speaker_ids, phase.class_speeds)
    kept: dict[int, int] = {}
    if phase.start_head == "kept" and (folder / HEAD_FILE).is_file():
        trained, trained_settings, run = load_head(folder, "cpu")
        if trained.embedding_size != model.embedding_size:
            raise DataError(
                f"'{folder / HEAD_FILE}' is for embeddings of {trained.embedding_size} values, and the model "
                f"beside it gives {model.embedding_size}: set start_head=mean_embeddings"
            )
        before = _places(run["speaker_ids"], trained.class_speeds)
        kept = {own: before[name] for name, own in classes.items() if name in before}
    if kept and head_settings.in_use != trained_settings.in_use:
        raise ParameterError(
            f"parameter 'head' is {head_settings.in_use}, but {folder} is of {trained_settings.in_use}: "
            "set it so, or start_head=mean_embeddings"
        )
    same = kept and run["speaker_ids"] == list(speaker_ids) and before.items() >= classes.items()
    if same and not phase.cut_head:
        head = trained  # with classes at speeds that an earlier phase had
    else:
        head = _fresh_head(head_settings, model.embedding_size, phase, speaker_ids)
        if phase.start_head != "random":
            _refuse_unplaceable(head)
        if kept:
            keep_classes(head, trained, kept)
    head.distribute(head_settings.sharded, head_settings.classes_per_chunk)
    others = [own for own in classes.values() if own not in kept]
    from_means = [] if phase.start_head == "random" else others
    new = NewClasses(folder, len(kept), from_means, len(others) - len(from_means))
    return _with_lora(model, phase), head.to(device), new


def _regularised(folder: Path, phase: PhaseSettings, origin: Path, device: torch.device) -> SpeakerModel:
    """Saved model with the regularisation of a phase."""
    saved = read_saved_configuration(folder)
    wanted = phase_regularisation(phase.regularisation, saved.model.frontend, origin)
    options = {name: value for name, value in wanted.items() if saved.encoder.get(name) != value}
    return SpeakerModel.from_pretrained(folder, device, options)


def _with_lora(model: SpeakerModel, phase: PhaseSettings) -> SpeakerModel:
    if phase.epochs:
        add_lora(model.frontend.adapter, phase.lora)
    return model


def _fresh_head(
    settings: HeadSettings, embedding_size: int, phase: PhaseSettings, speaker_ids: Sequence[str]
) -> Head:
    """Head with a class for every speaker at every speed of a phase."""
    head = build_head(settings, embedding_size, len(speaker_ids) * len(phase.class_speeds))
    head.class_speeds = phase.class_speeds
    return head


def _cut_head(whole: Head, settings: HeadSettings, phase: PhaseSettings, speaker_ids: Sequence[str]) -> Head:
    """Head with the classes of a phase alone, each with its weights in a head of more speeds."""
    head = _fresh_head(settings, whole.embedding_size, phase, speaker_ids)
    if head.class_dim is None:
        raise ParameterError(
            f"parameter 'cut_head' is true: {type(head).__name__} has no class_dim, so that none of its "
            "classes can be cut off: set it to false"
        )
    before = _places(speaker_ids, whole.class_speeds)
    own = _places(speaker_ids, head.class_speeds)
    keep_classes(head, whole, {place: before[name] for name, place in own.items()})
    return head


def _places(speaker_ids: Sequence[str], class_speeds: Sequence[float]) -> dict[tuple[str, float], int]:
    """Class of every speaker at every speed."""
    classes = ((speaker, speed) for speed in class_speeds for speaker in speaker_ids)
    return {name: place for place, name in enumerate(classes)}


def _refuse_unplaceable(head: Head) -> None:
    if head.class_dim is None:
        raise ParameterError(
            f"parameter 'start_head': {type(head).__name__} has no class_dim, so that its classes cannot be "
            "kept by speaker or made from mean embeddings: set start_head=random"
        )
