"""Verifier of a tiny random model, fitted on tones; and recordings for it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.deployment.origin import Origin, UsedCorpus
from speaker_verification.deployment.settings import VerifierSettings
from speaker_verification.deployment.verifier import Verifier
from speaker_verification.models.encoders.configuration import build_encoder, configuration_of
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.scoring.calibration_trials import draw_calibration_trials
from speaker_verification.scoring.cohort import Cohort
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.evaluation import fit_scorings, score_trials
from speaker_verification.scoring.extraction import extract_embeddings
from speaker_verification.scoring.summary import compute_metrics
from tests.support.tiny_models import TINY_WAVLM, tiny_settings

NUM_SPEAKERS, UTTERANCES_EACH = 12, 4
TEST_SPEAKERS = range(NUM_SPEAKERS, NUM_SPEAKERS + 5)


def voice(speaker: int, utterance: int) -> np.ndarray:
    """A tone of its own for each speaker, with noise, float32 of 0.6 to 1.2 s."""
    rng = np.random.default_rng([speaker, utterance])
    time = np.arange(int(SAMPLE_RATE * rng.uniform(0.6, 1.2))) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * (150 + 170 * speaker) * time) * (1 + np.sin(2 * np.pi * (2 + speaker) * time))
    whole = np.rint(32768 * (0.1 * tone + 0.03 * rng.normal(size=len(time))))  # as in a file of 16 bit
    return (whole / 32768).astype(np.float32)


def utterances_of(speakers: range) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Table of the utterances of some speakers, and their waveforms."""
    pairs = [(speaker, number) for speaker in speakers for number in range(UTTERANCES_EACH)]
    waveforms = [voice(*pair) for pair in pairs]
    lengths = np.array([len(waveform) for waveform in waveforms])
    table = pd.DataFrame(
        {
            "utterance_id": [f"id{speaker:02}/s/{number}.wav" for speaker, number in pairs],
            "speaker_id": [f"id{speaker:02}" for speaker, _ in pairs],
            "session_id": "s",
            "subset": "vox1-test",
            "path": "",
            "num_samples": lengths,
            "duration_seconds": lengths / SAMPLE_RATE,
        }
    )
    return table, waveforms


def all_trials(utterances: pd.DataFrame) -> pd.DataFrame:
    """Every pair of different utterances as a trial."""
    first, second = np.triu_indices(len(utterances), k=1)
    ids, speakers = utterances["utterance_id"].to_numpy(), utterances["speaker_id"].to_numpy()
    label = (speakers[first] == speakers[second]).astype(np.int8)
    return pd.DataFrame(
        {"trial_list": "all", "label": label, "enroll_id": ids[first], "test_id": ids[second]}
    )


def embeddings_of(model: SpeakerModel, speakers: range, settings: VerifierSettings) -> EmbeddingStore:
    utterances, waveforms = utterances_of(speakers)
    extraction = settings.extraction.extraction
    return extract_embeddings(model, utterances, **extraction, progress=False, waveforms=waveforms)


def tiny_model() -> SpeakerModel:
    """Random model, the same in every call."""
    torch.manual_seed(1)
    encoder = build_encoder(configuration_of(dict(TINY_WAVLM), "", adapter=None), "", None)
    return SpeakerModel(encoder, tiny_settings(TINY_WAVLM)).eval()


def measure(settings: VerifierSettings) -> tuple[Verifier, pd.DataFrame, EmbeddingStore]:
    """Verifier fitted on tones, with the scores table and the embeddings of its test speakers."""
    model = tiny_model()
    score = settings.score
    without_crops = settings.extraction.model_copy(update={"num_crops": 0})
    cohort_set = embeddings_of(
        model, range(NUM_SPEAKERS), settings.model_copy(update={"extraction": without_crops})
    )
    cohort = Cohort.of(cohort_set, score.cohort, score.centre)
    drawn = draw_calibration_trials(cohort_set.utterances["speaker_id"], score.calibration_trials, seed=0)
    calibration, fitted = fit_scorings(cohort_set, cohort, drawn, score)
    store = embeddings_of(model, TEST_SPEAKERS, settings)
    scores = score_trials(all_trials(store.utterances), store, cohort, calibration, fitted, score)
    verifier = Verifier(
        model,
        cohort,
        calibration,
        fitted,
        settings,
        compute_metrics(scores, calibration, store.utterances, score),
        Origin("lap_astp", "", (UsedCorpus("training", "tones", "CC0", ("tones",)),), "0"),
        "# Tones\n",
    )
    return verifier, scores, store


def tiny_verifier_settings(**changes: object) -> VerifierSettings:
    score = {"top_n": 6, "calibration_trials": 200, "num_threads": 1, "bootstrap_resamples": 0}
    limits = {"least_seconds": 0.5, "least_speech_seconds": 0}  # tones are no speech
    return VerifierSettings.parse({"score": score | changes, "limits": limits}, "")


Measured = tuple[Verifier, pd.DataFrame, EmbeddingStore]


@pytest.fixture(scope="session")
def measured() -> Measured:
    return measure(tiny_verifier_settings())
