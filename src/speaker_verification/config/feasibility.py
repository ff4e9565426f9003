"""Feasibility of parameters on a corpus, checked before any of its audio is read."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
from speaker_verification.common.errors import DataError, ParameterError, UserError, in_group
from speaker_verification.common.tables import TRIALS
from speaker_verification.config.tree import Parameters
from speaker_verification.corpora.augmentation import check_rirs
from speaker_verification.corpora.conversion.convert import refuse_too_many_rejected
from speaker_verification.corpora.mirror import Mirror
from speaker_verification.corpora.own_corpora import own_names
from speaker_verification.corpora.registry import corpus_of
from speaker_verification.corpora.rirs_noises import RIRS_NOISES_ARCHIVE
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.corpora.shards import read_shards
from speaker_verification.corpora.speakers import read_speakers
from speaker_verification.corpora.subsets import refuse_seen_speakers, select_subset
from speaker_verification.corpora.trials.trials import gather_trials
from speaker_verification.corpora.utterances import list_subset
from speaker_verification.corpora.validation import draw_validation_trials, hold_out_speakers
from speaker_verification.data.sampling import EpochBatches, UtteranceOrder
from speaker_verification.models.encoders.lora import require_lora
from speaker_verification.models.encoders.pretrained import find_encoder
from speaker_verification.models.weight_files import read_json
from speaker_verification.scoring.calibration_trials import draw_calibration_trials
from speaker_verification.training.compression.settings import CompressSettings
from speaker_verification.training.kept_epochs import RUN_FILE, saved_model
from speaker_verification.training.phase import PhaseSettings

if TYPE_CHECKING:
    from speaker_verification.models.heads import Head

logger = logging.getLogger(__name__)
NUM_NAMED = 3  # of a kind of problem


class Problems:
    """Mistakes collected one after the other and raised as one message."""

    def __init__(self) -> None:
        self._found: list[UserError] = []

    def __len__(self) -> int:
        """Number of mistakes noted."""
        return len(self._found)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Collect a mistake that the block raises, and continue after it."""
        try:
            yield
        except UserError as error:
            self._found.append(error)

    def tell(self) -> None:
        """Raise all collected mistakes as one.

        Raises:
            ParameterError: parameters are wrong, and nothing else.
            DataError: something else is.
        """
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            kind = ParameterError if all(isinstance(e, ParameterError) for e in self._found) else DataError
            told = "; ".join(f"({number}) {error}" for number, error in enumerate(self._found, start=1))
            raise kind(f"{len(self._found)} problems: {told}")


def refuse_impossible_mirror(parameters: Parameters, mirror: Mirror, stages: Collection[str]) -> None:
    """Refuse, before a recording is read, what a mirror's listings and lists make impossible.

    Args:
        parameters: of the run.
        mirror: mirror of the archives and lists.
        stages: as `refuse_impossible`.

    Raises:
        ParameterError: parameters are named, with what the corpus allows.
        DataError: archives or trial lists are wrong; all that is wrong is named in one message.
    """
    problems = Problems()
    utterances, trials = list_corpus(mirror, parameters.prepare, parameters.augmentation, problems)
    if utterances is not None:
        _note_impossible(parameters, utterances, trials, stages, problems)
    problems.tell()


def list_corpus(
    mirror: Mirror, prepare: PrepareSettings, augmentation: AugmentationSettings, problems: Problems
) -> tuple[pd.DataFrame | None, pd.DataFrame]:
    """Utterances and trials that a mirror's archives and lists name, without reading a recording.

    Args:
        mirror: mirror of the archives and lists.
        prepare: what is taken from it.
        augmentation: settings that say whether RIRs are needed.
        problems: receives what is wrong with archives and lists.

    Returns:
        Utterances (utterance_id, speaker_id, subset), None when an archive cannot be listed; and the trials
        table, without rows when trials are not as they must be.
    """
    corpus = _list_utterances(mirror, prepare, problems)
    rirs = mirror.folder / RIRS_NOISES_ARCHIVE.name
    if augmentation.takes_rooms and rirs.is_file():
        with problems.noted():
            check_rirs(rirs, prepare.max_rejected_fraction)
    if corpus is None:
        return None, TRIALS.empty()
    with problems.noted():
        _refuse_repeated(corpus)
        _refuse_shared_speakers(corpus)
    trials = TRIALS.empty()
    with problems.noted():
        speakers = read_speakers(mirror, prepare.all_subsets)
        trials = gather_trials(prepare, mirror.folder, corpus, speakers, own_names(mirror.own))
    return corpus, trials


def _list_utterances(mirror: Mirror, prepare: PrepareSettings, problems: Problems) -> pd.DataFrame | None:
    listed = []
    if prepare.shards is not None:
        with problems.noted():
            listed.append(
                read_shards(Path(prepare.shards), prepare.all_subsets, prepare.min_duration_seconds)[0]
            )
        return listed[0] if listed else None
    logger.info("listing the recordings of %s before any is converted", ", ".join(prepare.all_subsets))
    for subset in prepare.all_subsets:
        with problems.noted():
            utterances, rejected = list_subset(subset, mirror.source(subset))
            listed.append(utterances)
            num_files = len(utterances) + len(rejected)
            refuse_too_many_rejected(rejected, num_files, prepare.max_rejected_fraction)
    return pd.concat(listed, ignore_index=True) if len(listed) == len(prepare.all_subsets) else None


def _refuse_repeated(utterances: pd.DataFrame) -> None:
    repeated = utterances[utterances.duplicated("utterance_id", keep=False)]
    if len(repeated):
        ids = repeated["utterance_id"].unique()
        raise DataError(
            f"{len(ids)} utterances are in several archives ({', '.join(repeated['subset'].unique())}): "
            f"{', '.join(ids[:NUM_NAMED])}{' ...' if len(ids) > NUM_NAMED else ''}; take one of these out of "
            "prepare.subsets, or pack them under other names"
        )


def _refuse_shared_speakers(utterances: pd.DataFrame) -> None:
    """Refuse two corpora with speakers of one name, who would be taken for the same."""
    corpora = {subset: corpus_of(subset).name for subset in utterances["subset"].unique()}
    pairs = pd.DataFrame({"speaker": utterances["speaker_id"], "corpus": utterances["subset"].map(corpora)})
    pairs = pairs.drop_duplicates()
    shared = pairs[pairs.duplicated("speaker", keep=False)]
    if len(shared):
        names = sorted(shared["speaker"].unique())
        raise DataError(
            f"{' and '.join(shared['corpus'].unique())} have {len(names)} speakers of the same name: "
            f"{', '.join(names[:NUM_NAMED])}{' ...' if len(names) > NUM_NAMED else ''}; take one of them out "
            "of prepare.subsets, or give the Layout of one a prefix"
        )


def refuse_impossible(
    parameters: Parameters, utterances: pd.DataFrame, trials: pd.DataFrame, stages: Collection[str]
) -> None:
    """Refuse parameters that a corpus cannot serve.

    Args:
        parameters: of the run.
        utterances: columns utterance_id, speaker_id and subset at least.
        trials: the trials table.
        stages: what is going to run: prepare, pretrain, finetune, lmft, evaluate.

    Raises:
        ParameterError: the parameters are named, with what the corpus allows.
        DataError: the corpus lacks a subset, or cannot give validation trials.
    """
    problems = Problems()
    _note_impossible(parameters, utterances, trials, stages, problems)
    problems.tell()


def _note_impossible(
    parameters: Parameters,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    stages: Collection[str],
    problems: Problems,
) -> None:
    prepare = parameters.prepare
    phases = {name: phase for name, phase in parameters.phases.items() if name in stages and phase.epochs}
    training = None
    if phases or "prepare" in stages:
        with problems.noted():
            training_set = select_subset(utterances, prepare.training_set)
            refuse_seen_speakers(
                trials, utterances, prepare.training_set, "prepare.training_set", prepare.allow_seen_speakers
            )
            with in_group("prepare"):
                training, held_out = hold_out_speakers(
                    training_set, prepare.validation_speakers, prepare.seed
                )
            if "prepare" in stages:
                draw_validation_trials(held_out, prepare.validation_trials, prepare.seed)
            for origin in dict.fromkeys(map(parameters.origin, phases)):
                with problems.noted():
                    _refuse_seen_by_start(parameters, origin, held_out, utterances, trials)
    if training is not None:
        speakers = pd.factorize(training["speaker_id"])[0]
        for name, phase in phases.items():
            num_classes = (speakers.max() + 1) * len(parameters.class_speeds(name))
            with problems.noted():
                _refuse_phase(name, phase, parameters.head.chosen_class, num_classes, speakers)
    if "evaluate" in stages:
        with problems.noted():
            _refuse_sets(parameters, utterances, trials)


def _refuse_seen_by_start(
    parameters: Parameters,
    phase: str,
    held_out: pd.DataFrame,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
) -> None:
    """Refuse a saved model to start from that was trained on speakers who are to measure error rates."""
    start = parameters.phases[phase].start
    if start is None or parameters.prepare.allow_seen_speakers:
        return
    in_trials = utterances["utterance_id"].isin({*trials["enroll_id"], *trials["test_id"]})
    trained = trained_speakers(saved_model(Path(start)))
    for speakers, whose in (
        ({*held_out["speaker_id"]}, "held out for validation (prepare.seed, prepare.training_set)"),
        ({*utterances.loc[in_trials, "speaker_id"]}, "of the trials (prepare.trial_lists)"),
    ):
        if shared := speakers & trained:
            raise ParameterError(
                f"parameter '{phase}.start': '{start}' was trained on {len(shared)} of the {len(speakers)} "
                f"speakers {whose}: take other speakers, or set prepare.allow_seen_speakers=true"
            )


def _refuse_phase(
    name: str, phase: PhaseSettings, head: type[Head], num_classes: int, speakers: npt.NDArray[np.int64]
) -> None:
    """Refuse a phase whose head or whose batches the training speakers cannot serve.

    Args:
        name: name of the phase.
        phase: settings of the phase.
        head: class of the classification head.
        num_classes: C.
        speakers: speaker number of every training utterance, from 0, (N,).
    """
    with in_group(f"{name}.margin"):
        head.check_top_k(phase.margin.top_k, num_classes)
    with in_group(name):
        require_lora(phase.lora)
        order = UtteranceOrder(speakers, phase.sampling, phase.batch_size, 0, len(phase.class_speeds))
        steps = EpochBatches(order, phase.examples_per_step, phase.steps_per_epoch)
        if isinstance(phase, CompressSettings):
            phase.refuse_late_growth(len(steps))


def _refuse_sets(parameters: Parameters, utterances: pd.DataFrame, trials: pd.DataFrame) -> None:
    embed = parameters.embed
    for role, name in embed.named_sets.items():
        refuse_seen_speakers(trials, utterances, name, f"embed.{role}", embed.allow_seen_speakers)
    cohort = select_subset(utterances, embed.cohort_set, embed.cohort_utterances_per_speaker)
    counts = cohort["speaker_id"].value_counts().to_numpy()
    for scoring in parameters.score.chosen.values():
        scoring.check_cohort(parameters.score, counts)
    calibration = (
        cohort if embed.calibration_set is None else select_subset(utterances, embed.calibration_set)
    )
    across = parameters.score.calibration_sessions == "across" and "session_id" in calibration
    sessions = calibration["session_id"] if across else None
    draw_calibration_trials(calibration["speaker_id"], 2, seed=0, session_ids=sessions)


def locate_encoder(checkpoint: str, downloads: Path) -> Path:
    """Folder of the encoder that training starts from, on this machine.

    Args:
        checkpoint: hub name or folder.
        downloads: folder of downloaded encoders.

    Raises:
        DataError: it has to be downloaded first, or there is no such folder.
    """
    folder = find_encoder(checkpoint, downloads)
    if folder is None:
        raise DataError(
            f"encoder '{checkpoint}' (model.frontend.checkpoint) is no folder and neither in {downloads} nor "
            "in the hub's cache: run first: kedro run --pipeline=download"
        )
    return folder


def refuse_missing_augmentation(
    parameters: Parameters, stages: Collection[str], noise_clips: pd.DataFrame, rirs: pd.DataFrame
) -> None:
    """Refuse augmentation with clips or RIRs that were not prepared.

    Args:
        parameters: of the run.
        stages: as `refuse_impossible`; those of them that augment count.
        noise_clips: the table of noise clips.
        rirs: the table of RIRs.

    Raises:
        DataError: the table and the parameters are named.
    """
    settings = parameters.augmentation.available(noise_clips, rirs)
    augments = any(phase.augment for name, phase in parameters.phases.items() if name in stages)
    if not augments or not settings.probability:
        return
    try:
        Augmenter(noise_clips, rirs, settings)
    except DataError as error:
        raise DataError(
            f"{error}, as augmentation.probability = {settings.probability:g} with augmentation.kinds wants: "
            "run first: kedro run --pipeline=prepare, or set augmentation.probability=0"
        ) from error


def refuse_other_split(prepare: PrepareSettings, utterances: pd.DataFrame, validation: pd.DataFrame) -> None:
    """Refuse parameters that are not those which the validation speakers were prepared with.

    Args:
        prepare: of the run.
        utterances: the manifest.
        validation: the held-out utterances as they were prepared.

    Raises:
        ParameterError: the parameters of the split are named.
    """
    training_set = select_subset(utterances, prepare.training_set)
    _, expected = hold_out_speakers(training_set, prepare.validation_speakers, prepare.seed)
    if set(expected["speaker_id"]) != set(validation["speaker_id"]):
        raise ParameterError(
            f"prepare.seed = {prepare.seed}, prepare.validation_speakers = {prepare.validation_speakers} and "
            f"prepare.training_set = '{prepare.training_set}' give other validation speakers than were "
            "prepared: set them as they were, or run first: kedro run --pipeline=prepare"
        )


def refuse_trained_validation(model: Path, validation: pd.DataFrame) -> None:
    """Refuse to calibrate on validation speakers that a model was trained on: they were drawn anew since.

    Args:
        model: its folder; one without a record of its training is taken as it is.
        validation: utterances of the validation speakers.

    Raises:
        ParameterError: the model and the number of speakers are named.
    """
    speakers = set(validation["speaker_id"])
    if shared := trained_speakers(model) & speakers:
        raise ParameterError(
            f"score.calibration_speakers = 'validation', but {model} was trained on {len(shared)} of these "
            f"{len(speakers)} speakers: prepare with the prepare.seed, prepare.validation_speakers and "
            "prepare.training_set that it was trained with, train it again, or take 'cohort'"
        )


def trained_speakers(model: Path) -> set[str]:
    """Speakers that a saved model was trained on, as its record says; none without a record."""
    record = model / RUN_FILE
    return set(read_json(record).get("speaker_ids", ())) if record.is_file() else set()
