"""The search names whom one comparison after the other would name, and nobody where nobody is accepted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.deployment.enrolment_store import EnrolmentStore
from speaker_verification.deployment.identification import identify, side_scorer
from speaker_verification.deployment.settings import VerifierSettings
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.evaluation import score_trials
from speaker_verification.scoring.metrics import OperatingPoint
from speaker_verification.scoring.settings import ScoreSettings
from tests.support.enrolments import WIDTH, embeddings_for, enrolment, new_store, recordings_for
from tests.support.stores import make_store
from tests.support.verifiers import Measured

POINT = OperatingPoint(0.5)


@pytest.mark.parametrize("llr", ["cosine", "as_norm", "qmf"])
def test_candidates_are_those_of_one_comparison_after_the_other(tmp_path: Path, llr: str) -> None:
    names = [f"speaker{number:02}" for number in range(30)]
    store = new_store(tmp_path / "store", *names[:20], llr=llr)
    store.add_all([enrolment(name, 3) for name in names[20:]])
    store.add("speaker05", embeddings_for("speaker05", 2)[1:], recordings_for("speaker05", 2)[1:])
    test = embeddings_for("speaker25", 4)[3]
    # One trial of each speaker: the mean of its embeddings and of its seconds.
    numbers = {name: 3 if name >= "speaker20" else 1 for name in names} | {"speaker05": 2}
    means = [embeddings_for(name, numbers[name]).mean(axis=0, dtype=np.float64) for name in names]
    seconds = [2.0 + (numbers[name] - 1) / 2 for name in names]
    utterances = make_store([1] * 31).utterances.assign(
        utterance_id=[*names, "test"], duration_seconds=[*seconds, 5.0]
    )
    sides = EmbeddingStore(np.array([*means, test], dtype=np.float32), utterances)
    trials = pd.DataFrame({"trial_list": "all", "label": 0, "enroll_id": names, "test_id": "test"})
    scorer, settings = store.scorer, ScoreSettings(top_n=9, llr=llr)
    expected = score_trials(trials, sides, scorer.cohort, scorer.calibration, scorer.fitted, settings)
    ranked = expected.sort_values("llr", ascending=False)
    answer = identify(test, store, POINT, seconds=5.0, top=4)
    assert [candidate.speaker for candidate in answer.candidates] == ranked["enroll_id"].tolist()[:4]
    ratios = [candidate.log_likelihood_ratio for candidate in answer.candidates]
    np.testing.assert_allclose(ratios, ranked["llr"][:4], rtol=1e-6, atol=1e-6)
    margins = [candidate.margin for candidate in answer.candidates]
    np.testing.assert_allclose(margins, -np.diff(ranked["llr"][:5]), rtol=1e-4, atol=1e-5)
    assert answer.num_enrolled == 30


@pytest.mark.parametrize("number", [1, 3])
def test_the_search_gives_the_log_likelihood_ratios_of_the_verifier(
    tmp_path: Path, measured: Measured, number: int
) -> None:
    verifier, _, embeddings = measured
    store = EnrolmentStore.create(tmp_path / "store", verifier.fingerprint, side_scorer(verifier))
    seconds = embeddings.utterances["duration_seconds"]
    rows_of = embeddings.utterances.groupby("speaker_id").indices
    for speaker, rows in rows_of.items():
        recordings = [
            replace(recording, seconds=seconds.iloc[row])
            for recording, row in zip(recordings_for(speaker, number), rows, strict=False)
        ]
        store.add(speaker, embeddings.embeddings[rows[:number]], recordings)
    point = verifier.operating_points[0]
    for rows in rows_of.values():
        test = embeddings.at(rows[[3]])
        answer = identify(test.embeddings[0], store, point, seconds=seconds.iloc[rows[3]])
        assert len(answer.candidates) == len(rows_of)
        for candidate in answer.candidates:
            enrolled = embeddings.at(rows_of[candidate.speaker][:number])
            llr = verifier.compare_embeddings(enrolled, test).llr
            assert candidate.log_likelihood_ratio == pytest.approx(llr, rel=1e-5, abs=1e-5)


def test_a_cosine_with_crops_is_not_searched(measured: Measured) -> None:
    verifier = measured[0]
    settings = VerifierSettings.parse({"extraction": {"num_crops": 2}}, "verifier")
    side_scorer(replace(verifier, settings=settings))
    calibration = replace(verifier.calibration, llr="cosine")
    with pytest.raises(ParameterError, match=r"num_crops to 0, or score\.llr"):
        side_scorer(replace(verifier, settings=settings, calibration=calibration))


def test_nobody_is_the_answer_where_no_speaker_reaches_the_threshold(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna", "boris", llr="as_norm")
    embedding = embeddings_for("anna")[0]
    own = identify(embedding, store, POINT, seconds=2.0)
    assert own.speaker == "anna"
    (first, second) = own.candidates
    assert first.margin == pytest.approx(first.log_likelihood_ratio - second.log_likelihood_ratio)
    assert second.margin is None
    # The same answer at a threshold just above it, and exactly on it.
    ratio = first.log_likelihood_ratio
    above = identify(embedding, store, OperatingPoint(1 / (1 + np.exp(ratio + 1e-6))), seconds=2.0)
    assert above.speaker is None
    assert above.candidates[0].speaker == "anna"
    below = identify(embedding, store, OperatingPoint(1 / (1 + np.exp(ratio - 1e-6))), seconds=2.0)
    assert below.speaker == "anna"


def test_an_empty_store_has_nobody(tmp_path: Path) -> None:
    answer = identify(embeddings_for("anna")[0], new_store(tmp_path / "store"), POINT, seconds=2.0)
    assert answer.candidates == ()
    assert answer.speaker is None
    assert answer.num_enrolled == 0


def test_speakers_of_equal_embeddings_are_ranked_by_name(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "zoe", llr="cosine")
    for name in ("boris", "anna"):
        store.add(name, embeddings_for("zoe"), recordings_for(name))
    answer = identify(embeddings_for("zoe")[0], store, POINT, seconds=2.0)
    assert [candidate.speaker for candidate in answer.candidates] == ["anna", "boris", "zoe"]
    assert [candidate.margin for candidate in answer.candidates] == [0.0, 0.0, None]


def test_what_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna", llr="cosine")
    embedding = embeddings_for("anna")[0]
    with pytest.raises(DataError, match="length nan"):
        identify(embedding * np.nan, store, POINT, seconds=2.0)
    with pytest.raises(DataError, match=str(WIDTH)):
        identify(embedding[1:], store, POINT, seconds=2.0)
    with pytest.raises(ParameterError, match="top is 0"):
        identify(embedding, store, POINT, seconds=2.0, top=0)
    with pytest.raises(ParameterError, match="cosine cannot reach"):
        identify(embedding, store, OperatingPoint(1e-30), seconds=2.0)


def test_an_operating_point_beyond_the_calibration_trials_is_warned_of(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna", llr="as_norm")
    with pytest.warns(UserWarning, match=r"as_norm .* beyond anything seen"):
        identify(embeddings_for("anna")[0], store, OperatingPoint(1e-30), seconds=2.0)
