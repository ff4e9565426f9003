"""Verifier: a trained model with all that its decisions were measured with, as a folder and a class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.arrays import read_arrays, write_arrays
from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.deployment.comparison import Comparison
from speaker_verification.deployment.fingerprint import fingerprint_of
from speaker_verification.deployment.origin import Origin
from speaker_verification.deployment.recordings import Recording, Source, read_recording, read_waveform
from speaker_verification.deployment.sealed_folder import check_sums, file_sums
from speaker_verification.deployment.settings import VerifierSettings
from speaker_verification.models.speaker_model import SpeakerModel, weights_digest
from speaker_verification.models.weight_files import read_json
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.cohort import Cohort
from speaker_verification.scoring.embeddings import EmbeddingStore, mean_of
from speaker_verification.scoring.evaluation import score_rows
from speaker_verification.scoring.extraction import extract_embeddings
from speaker_verification.scoring.metrics import DecisionErrors, OperatingPoint
from speaker_verification.scoring.scorings import Fitted, Trials
from speaker_verification.scoring.settings import ExtractionSettings
from speaker_verification.scoring.summary import Metrics

FORMAT = 2
MANIFEST_FILE = "verifier.json"
MODEL_FOLDER = "model"
COHORT_FILE = "cohort.npz"
FITTED_FILE = "fitted_scorings.npz"
CALIBRATION_FILE = "calibration.json"
SETTINGS_FILE = "settings.json"
METRICS_FILE = "metrics.json"
ORIGIN_FILE = "origin.json"
CARD_FILE = "README.md"
DESCRIPTIONS = (METRICS_FILE, ORIGIN_FILE, CARD_FILE)  # tell about the verifier and decide nothing
MLFLOW_FILE = "MLmodel"  # in a folder of a model of MLflow, beside `artifacts`
CALIBRATION_TRIALS = "calibration trials"  # beside the names of the trial lists

Waveform: TypeAlias = npt.NDArray[np.floating[Any]] | torch.Tensor
Combining = Literal["mean", "best", "top_k_mean"]


@dataclass(frozen=True, eq=False)
class Verifier:
    """A trained model, and the centring, cohort, scorings and calibration that it was measured with.

    Attributes:
        model: speaker model in evaluation mode.
        cohort: cohort that embeddings are centred on and scores are normalised against.
        calibration: maps to log-likelihood ratios, operating points and errors on the calibration trials.
        fitted: arrays that the scorings learned, by scoring.
        settings: parameters by which it was measured.
        metrics: error rates by trial list and scoring, as `compute_metrics` returns them.
        origin: provenance.
        card: model card as Markdown; empty for none.
    """

    model: SpeakerModel
    cohort: Cohort
    calibration: Calibration
    fitted: Mapping[str, Fitted]
    settings: VerifierSettings
    metrics: Metrics = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)
    card: str = ""

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> Verifier:
        """Load a verifier that `save_pretrained` wrote. Nothing is unpickled.

        Scorings from elsewhere are imported by their dotted names.

        Args:
            folder: folder of the verifier, or of a model of MLflow that holds it.
            device: device of the model.

        Raises:
            DataError: the folder holds no verifier, files are altered, missing or surplus (they are named),
                or it was saved by another version.
        """
        if "://" in str(folder) or str(folder).startswith(("models:/", "runs:/")):
            raise DataError(
                f"'{folder}' is no folder: `load_verifier` of speaker_verification.pipelines.package loads "
                "verifiers from MLflow, and `mlflow artifacts download` makes folders of them"
            )
        folder = Path(folder)
        if (folder / MLFLOW_FILE).is_file():
            folder = next((file.parent for file in folder.glob(f"artifacts/*/{MANIFEST_FILE}")), folder)
        if not (folder / MANIFEST_FILE).is_file():
            raise DataError(f"'{folder}' is no verifier: {MANIFEST_FILE} is missing; `package` saves one")
        manifest = read_json(folder / MANIFEST_FILE)
        if manifest.get("format") != FORMAT:
            raise DataError(
                f"'{folder / MANIFEST_FILE}' has format {manifest.get('format')}, not {FORMAT}: package the "
                "verifier anew"
            )
        sums = manifest.get("sha256", {})
        check_sums(folder, sums, MANIFEST_FILE)
        if manifest.get("fingerprint") != _fingerprint(folder, sums):
            raise DataError(
                f"'{folder / MANIFEST_FILE}' is altered: the fingerprint is not that of its files"
            )
        try:
            settings = VerifierSettings.parse(read_json(folder / SETTINGS_FILE), "")
        except ParameterError as error:
            raise DataError(f"'{folder / SETTINGS_FILE}' does not fit this version: {error}") from error
        card = folder / CARD_FILE
        verifier = cls(
            SpeakerModel.from_pretrained(folder / MODEL_FOLDER, device),
            Cohort(**read_arrays(folder / COHORT_FILE)["cohort"]),
            Calibration.read(folder / CALIBRATION_FILE),
            read_arrays(folder / FITTED_FILE),
            settings,
            read_json(folder / METRICS_FILE),
            Origin.from_dict(read_json(folder / ORIGIN_FILE)),
            card.read_text(encoding="utf-8") if card.is_file() else "",
        )
        for name in ("fingerprint", "weights"):
            verifier.__dict__[name] = manifest[name]
        return verifier

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the verifier to a folder, whole or not at all; an earlier verifier there is replaced.

        Raises:
            DataError: the folder holds something else.
        """
        folder = Path(folder)
        refuse_other_folder(folder)
        with atomic_write(folder) as part:
            part.mkdir()
            self._write(part)

    def _write(self, folder: Path) -> str:
        """Write all files, and return the fingerprint."""
        self.model.save_pretrained(folder / MODEL_FOLDER)
        write_arrays(folder / COHORT_FILE, {"cohort": vars(self.cohort)})
        write_arrays(folder / FITTED_FILE, self.fitted)
        if self.card:
            (folder / CARD_FILE).write_text(self.card, encoding="utf-8")
        for name, values in (
            (CALIBRATION_FILE, self.calibration.to_dict()),
            (SETTINGS_FILE, self.settings.model_dump(mode="json")),
            (METRICS_FILE, self.metrics),
            (ORIGIN_FILE, asdict(self.origin)),
        ):
            _write_json(folder / name, values)
        sums = file_sums(folder)
        fingerprint = _fingerprint(folder, sums)
        manifest = {"format": FORMAT, "fingerprint": fingerprint, "weights": self.weights, "sha256": sums}
        _write_json(folder / MANIFEST_FILE, manifest)
        return fingerprint

    @cached_property
    def fingerprint(self) -> str:
        """Digests of what embeddings depend on, and of the weights, settings and all else that decides."""
        with TemporaryDirectory() as folder:
            return self._write(Path(folder))

    @cached_property
    def weights(self) -> str:
        """Digest of the weights, which embeddings bear."""
        return weights_digest(self.model.state_dict())

    @cached_property
    def _cohort_directions(self) -> np.ndarray:
        return self.cohort.directions()

    @property
    def operating_points(self) -> tuple[OperatingPoint, ...]:
        """Operating points at which error rates were measured."""
        return self.calibration.operating_points

    def embed(self, recordings: Sequence[Recording | Source | Waveform]) -> EmbeddingStore:
        """Embeddings of recordings as they were made of the trials' utterances, raw, with their durations.

        Args:
            recordings: N recordings, each as `read_recording` takes it and reads it within the limits, or
                read already; or a waveform (samples,) as `read_waveform` takes it.

        Raises:
            RecordingError: a recording is refused; it is named, and its `reason` says why in a word.
        """
        return self._embed([self._read(recording, number) for number, recording in enumerate(recordings)])

    def _read(self, recording: Recording | Source | Waveform, number: int) -> Recording:
        """Recording within the limits; one that was read already is taken as it is."""
        if isinstance(recording, Recording):
            return recording
        limits, name = self.settings.limits, f"recording {number}"
        if isinstance(recording, torch.Tensor):
            recording = recording.detach().cpu().numpy()
        if isinstance(recording, np.ndarray):
            return read_waveform(recording, limits, name)
        return read_recording(recording, limits, None if isinstance(recording, (str, Path)) else name)

    def _embed(self, recordings: Sequence[Recording]) -> EmbeddingStore:
        return embed_recordings(self.model, recordings, self.settings.extraction, self.weights)

    def compare(
        self,
        enrol: Recording | Source | Waveform | list[Any],
        test: Recording | Source | Waveform,
        *,
        prior: float | None = None,
        operating_point: OperatingPoint | None = None,
        combining: Combining = "mean",
        top_k: int = 3,
    ) -> Comparison:
        """Compare a recording with one or several of one speaker.

        Args:
            enrol: recording of the claimed speaker, or a list of several; see `embed`.
            test: recording in question.
            prior, operating_point, combining, top_k: see `compare_embeddings`.

        Raises:
            RecordingError: as `embed`.
            ParameterError: as `compare_embeddings`.
        """
        known = enrol if isinstance(enrol, list) else [enrol]
        recordings = [self._read(recording, number) for number, recording in enumerate([*known, test])]
        store, place = self._embed(recordings), len(known)
        remarks = [f"{recording.name}: {remark}" for recording in recordings for remark in recording.remarks]
        compared = self.compare_embeddings(
            store.at(np.arange(place)),
            store.at(np.array([place])),
            prior=prior,
            operating_point=operating_point,
            combining=combining,
            top_k=top_k,
        )
        return replace(compared, remarks=tuple(remarks))

    def compare_embeddings(
        self,
        enrol: EmbeddingStore,
        test: EmbeddingStore,
        *,
        prior: float | None = None,
        operating_point: OperatingPoint | None = None,
        combining: Combining = "mean",
        top_k: int = 3,
    ) -> Comparison:
        """Compare the embedding of a recording with one or several of one speaker.

        Error rates are those of trials between single recordings, whatever the number of `enrol`.

        Args:
            enrol: embeddings of the claimed speaker's recordings, as `embed` gave them.
            test: embedding of one recording.
            prior: probability of "same speaker" before the comparison; None: that of the operating point.
            operating_point: operating point of the decision; None: the first of `operating_points`.
            combining: of several recordings: the mean of their embeddings, the best of them by
                log-likelihood ratio, or the mean of the scores of the `top_k` best.
            top_k: number of recordings whose scores are averaged, at most all.

        Raises:
            DataError: embeddings are of another model, or `test` is not one.
            ParameterError: the prior is not between 0 and 1, the operating point is out of reach, or
                `combining` is unknown.
        """
        if combining not in (ways := get_args(Combining)):
            raise ParameterError(f"combining '{combining}' is unknown: take one of {', '.join(ways)}")
        if len(test.embeddings) != 1 or not len(enrol.embeddings):
            raise DataError(
                f"{len(enrol.embeddings)} and {len(test.embeddings)} embeddings: give one or more of a "
                "speaker, and one in question"
            )
        point = operating_point or self.operating_points[0]
        llr = self.settings.score.llr
        self.calibration.check_reach(llr, point)
        prior = point.p_target if prior is None else OperatingPoint(prior).p_target
        sides = mean_embedding(enrol) if combining == "mean" else enrol
        both = EmbeddingStore.joined([sides, test])
        known = np.arange(len(sides.embeddings))
        columns = pd.DataFrame(self.score(both, known, np.full_like(known, len(known))))
        counted = {"mean": 1, "best": 1, "top_k_mean": top_k}[combining]
        scores: dict[Any, float] = columns.nlargest(counted, "llr").mean().to_dict()
        return Comparison(
            llr=scores.pop("llr"),
            scores=scores,
            operating_point=point,
            prior=prior,
            error_rates=self.error_rates(point),
            fingerprint=self.fingerprint,
        )

    def score(
        self, store: EmbeddingStore, enrol_rows: npt.ArrayLike, test_rows: npt.ArrayLike
    ) -> dict[str, np.ndarray]:
        """Scores (trials,) of trials between rows of a store by scoring, and log-likelihood ratios as `llr`.

        Args:
            store: embeddings, as `embed` gave them.
            enrol_rows: (trials,).
            test_rows: (trials,).

        Raises:
            DataError: the embeddings are of another model.
        """
        self.refuse_other_embeddings(store)
        settings = self.settings.score
        trials = Trials(
            store,
            np.asarray(enrol_rows),
            np.asarray(test_rows),
            self.cohort,
            settings,
            settings.budget(str(self.model.device)),
            cohort_directions=lambda: self._cohort_directions,
        )
        return score_rows(trials, self.calibration, self.fitted, settings)

    def refuse_other_embeddings(self, store: EmbeddingStore) -> None:
        """Refuse embeddings of another model.

        Raises:
            DataError: the model of the embeddings is known and is not the verifier's.
        """
        if store.model and store.model != self.weights:
            raise DataError(
                "the embeddings are of another model than the verifier's, so they cannot be compared: embed "
                "the recordings with this verifier"
            )

    def error_rates(self, point: OperatingPoint) -> dict[str, DecisionErrors]:
        """Wrong decisions by trial list, and on the calibration trials; empty where none were measured."""
        if point not in self.operating_points:
            return {}
        scoring, name = self.settings.score.llr, point.name
        found = {
            trial_list: _decision_errors(scorings[scoring], name)
            for trial_list, scorings in self.metrics.items()
            if f"act_fnr_{name}" in scorings.get(scoring, {})
        }
        fitted = self.calibration.errors.get(point, {})
        return found | ({CALIBRATION_TRIALS: fitted[scoring]} if scoring in fitted else {})


def refuse_other_folder(folder: Path) -> None:
    """Refuse to write a verifier where something else is.

    Raises:
        DataError: there is a file, or a folder with other files than a verifier's.
    """
    if folder.is_file():
        raise DataError(f"'{folder}' is a file: take an empty folder")
    if folder.exists() and not (folder / MANIFEST_FILE).is_file() and any(folder.iterdir()):
        raise DataError(f"'{folder}' holds other files than a verifier's: take an empty folder")


def embed_recordings(
    model: SpeakerModel, recordings: Sequence[Recording], settings: ExtractionSettings, weights: str
) -> EmbeddingStore:
    """Embeddings of recordings, raw, with their durations.

    Args:
        model: speaker model in evaluation mode.
        recordings: N recordings.
        settings: parts of a recording that are embedded.
        weights: digest of the model's weights, which the embeddings bear.
    """
    lengths = np.array([len(recording.waveform) for recording in recordings], dtype=np.int64)
    utterances = pd.DataFrame(
        {
            "utterance_id": [recording.name for recording in recordings],
            **dict.fromkeys(("speaker_id", "session_id", "subset", "path"), ""),
            "num_samples": lengths,
            "duration_seconds": lengths / SAMPLE_RATE,
        }
    )
    waveforms = [recording.waveform for recording in recordings]
    store = extract_embeddings(model, utterances, **settings.extraction, progress=False, waveforms=waveforms)
    return replace(store, utterances=utterances, model=weights)


def mean_embedding(store: EmbeddingStore) -> EmbeddingStore:
    """One embedding for a speaker: the mean of raw embeddings, with the mean duration."""
    if len(store.embeddings) == 1:
        return store
    utterance = store.utterances.iloc[:1].assign(
        num_samples=round(store.utterances["num_samples"].mean()),
        duration_seconds=store.utterances["duration_seconds"].mean(),
    )
    crops = None if store.crops is None else mean_of(store.crops)[None]
    return EmbeddingStore(mean_of(store.embeddings)[None], utterance, crops, store.model)


def _decision_errors(values: Mapping[str, Any], name: str) -> DecisionErrors:
    num_target, num_nontarget = values["num_target"], values["num_nontarget"]
    return DecisionErrors(
        misses=round(values[f"act_fnr_{name}"] / 100 * num_target),
        num_target=num_target,
        false_acceptances=round(values[f"act_fpr_{name}"] / 100 * num_nontarget),
        num_nontarget=num_nontarget,
    )


def _fingerprint(folder: Path, sums: Mapping[str, str]) -> str:
    deciding = {name: value for name, value in sums.items() if name not in DESCRIPTIONS}
    return fingerprint_of(deciding, MODEL_FOLDER, folder / SETTINGS_FILE)


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
