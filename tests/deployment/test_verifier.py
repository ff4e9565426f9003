"""A verifier's numbers are those of the scores table, and its folder is whole or refused."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speaker_verification.audio.files import encode_audio
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.deployment.fingerprint import embedding_part
from speaker_verification.deployment.recordings import RecordingLimits, read_recording
from speaker_verification.deployment.verifier import Verifier
from speaker_verification.models.speaker_model import SpeakerModel, weights_digest
from speaker_verification.scoring import OperatingPoint
from speaker_verification.scoring.cohort import Cohort
from speaker_verification.scoring.evaluation import score_rows
from speaker_verification.scoring.scorings import Trials
from speaker_verification.scoring.settings import ExtractionSettings
from tests.support.verifiers import (
    TEST_SPEAKERS,
    Measured,
    measure,
    tiny_verifier_settings,
    utterances_of,
    voice,
)

LENIENT = RecordingLimits(least_seconds=0.1, least_speech_seconds=0)
COLUMNS = ("cosine", "as_norm", "qmf", "plda", "llr")


@pytest.fixture
def verifier(measured: Measured) -> Verifier:
    return measured[0]


@pytest.fixture
def saved(verifier: Verifier, tmp_path: Path) -> Path:
    verifier.save_pretrained(tmp_path / "verifier")
    return tmp_path / "verifier"


@pytest.mark.parametrize("num_crops", [0, 3])
def test_its_scores_are_those_of_the_scores_table(measured: Measured, tmp_path: Path, num_crops: int) -> None:
    verifier, scores, store = measured
    if num_crops:
        extraction = ExtractionSettings(num_crops=num_crops, crop_seconds=0.4)
        verifier, scores, store = measure(
            tiny_verifier_settings().model_copy(update={"extraction": extraction})
        )
    verifier.save_pretrained(tmp_path / "verifier")
    loaded = Verifier.from_pretrained(tmp_path / "verifier")
    rows = store.rows_of(scores["enroll_id"]), store.rows_of(scores["test_id"])
    columns = loaded.score(store, *rows)
    for name in COLUMNS:
        np.testing.assert_allclose(columns[name], scores[name], rtol=0, atol=1e-9)
    utterances, waveforms = utterances_of(TEST_SPEAKERS)
    waveform_of = dict(zip(utterances["utterance_id"], waveforms, strict=True))
    for trial in scores.iloc[::17].itertuples():
        compared = loaded.compare(waveform_of[str(trial.enroll_id)], waveform_of[str(trial.test_id)])
        found = {**compared.scores, "llr": compared.llr}
        assert found == pytest.approx({name: getattr(trial, name) for name in COLUMNS}, rel=0, abs=1e-5)


def test_what_is_kept_of_the_cohort_changes_no_bit_of_a_score(measured: Measured) -> None:
    verifier, scores, store = measured
    rows = store.rows_of(scores["enroll_id"]), store.rows_of(scores["test_id"])
    kept = [verifier.score(store, *rows) for _ in range(2)]
    anew = score_rows(
        Trials(store, *rows, verifier.cohort, verifier.settings.score),
        verifier.calibration,
        verifier.fitted,
        verifier.settings.score,
    )
    for name in COLUMNS:
        assert kept[0][name].tobytes() == kept[1][name].tobytes() == anew[name].tobytes()


def test_a_cohort_without_directions_serves_scorings_that_need_none(verifier: Verifier) -> None:
    cohort = Cohort(verifier.cohort.centre[None], np.zeros(1, dtype=int), verifier.cohort.centre)
    by_cosine = replace(
        verifier,
        cohort=cohort,
        settings=tiny_verifier_settings(llr="cosine", scorings=["cosine"]),
        calibration=replace(verifier.calibration, llr="cosine"),
    )
    waves, point = (voice(12, 0), voice(12, 1)), OperatingPoint(0.5)
    assert by_cosine.compare(*waves, operating_point=point).cosine == verifier.compare(*waves).cosine


def test_a_decision_has_the_probability_and_the_error_rates_of_its_operating_point(
    measured: Measured,
) -> None:
    verifier, scores, _ = measured
    point = verifier.operating_points[1]
    compared = verifier.compare(voice(12, 0), voice(12, 1), prior=0.25, operating_point=point)
    assert compared.probability == pytest.approx(1 / (1 + 3 * math.exp(-compared.llr)))
    assert compared.accept == (compared.llr >= math.log(0.95 / 0.05))
    errors = compared.error_rates["all"]
    targets = scores["label"] == 1
    assert errors.misses == (scores["llr"][targets] < point.threshold).sum()
    assert errors.false_acceptances == (scores["llr"][~targets] >= point.threshold).sum()
    assert compared.error_rates["calibration trials"].num_target == 100
    elsewhere = verifier.compare(voice(12, 0), voice(12, 1), operating_point=OperatingPoint(0.3))
    assert elsewhere.prior == 0.3
    assert elsewhere.error_rates == {}
    assert json.loads(json.dumps(compared.to_dict()))["error_rates"]["all"]["misses"] == errors.misses


def test_several_recordings_are_combined_in_the_way_that_is_asked_for(verifier: Verifier) -> None:
    known, test = [voice(13, number) for number in range(3)], voice(13, 3)
    single = sorted((verifier.compare(one, test) for one in known), key=lambda compared: -compared.llr)
    best = verifier.compare(known, test, combining="best")
    assert best.scores == pytest.approx(single[0].scores, abs=1e-5)
    two = verifier.compare(known, test, combining="top_k_mean", top_k=2)
    assert two.llr == pytest.approx((single[0].llr + single[1].llr) / 2, abs=1e-5)
    embeddings = verifier.embed([*known, test]).embeddings.astype(np.float64) - verifier.cohort.centre
    mean = embeddings[:3].mean(axis=0)
    cosine = mean @ embeddings[3] / np.linalg.norm(mean) / np.linalg.norm(embeddings[3])
    assert verifier.compare(known, test).cosine == pytest.approx(cosine, abs=1e-6)
    with pytest.raises(DataError, match="0 and 1 embeddings"):
        verifier.compare([], test)


def test_files_bytes_and_waveforms_are_embedded_alike(verifier: Verifier, tmp_path: Path) -> None:
    samples = (voice(14, 0) * 32768).astype(np.int16)
    encoded = encode_audio(samples, "wav")
    (tmp_path / "one.wav").write_bytes(encoded)
    waveform = samples / np.float32(32768)
    path = tmp_path / "one.wav"
    arrays = [waveform, torch.from_numpy(waveform), (samples, 16_000), (waveform, 16_000)]
    store = verifier.embed([path, str(path), encoded, read_recording(path, LENIENT), *arrays])
    assert (np.ptp(store.embeddings, axis=0) < 1e-6).all()
    assert store.utterances["duration_seconds"].tolist() == [len(samples) / 16_000] * 8


def test_the_beginning_is_used_where_the_limits_say_so_and_remarks_tell(verifier: Verifier) -> None:
    limits = verifier.settings.limits.model_copy(update={"max_seconds": 0.5})
    limited = replace(verifier, settings=verifier.settings.model_copy(update={"limits": limits}))
    one, other = voice(12, 0), voice(12, 1)
    whole = limited.compare(one, other)
    assert whole.scores == pytest.approx(verifier.compare(one[:8000], other[:8000]).scores, abs=1e-5)
    encoded = [encode_audio((wave * 32768).astype(np.int16), "wav") for wave in (one, other)]
    read = limited.compare(*encoded)
    assert read.scores == pytest.approx(whole.scores, abs=1e-5)
    assert read.remarks == whole.remarks
    assert any(remark.startswith("recording 1: the first 0.5 s") for remark in read.remarks)


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (np.zeros(4000, dtype=np.float32), r"recording 1: 0\.25 s long, shorter than least_seconds 0\.5"),
        ((np.zeros(32_000, dtype=np.float32), 8_000), "recording 1: silent"),
        (np.zeros((2, 16_000), dtype=np.float32), r"shape \(2, 16000\)"),
        (np.zeros(16_000, dtype=np.int16), "int16"),
        (np.full(16_000, np.nan, dtype=np.float32), "recording 1: .*NaN"),
        ("nowhere.wav", "nowhere.wav: no such file"),
    ],
)
def test_unusable_recordings_are_refused(verifier: Verifier, recording: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        verifier.embed([voice(12, 0), recording])


def test_embeddings_of_another_model_and_impossible_points_are_refused(measured: Measured) -> None:
    verifier, _, store = measured
    foreign = replace(store, model="another").at(np.array([0]))
    with pytest.raises(DataError, match="another model"):
        verifier.compare_embeddings(foreign, foreign)
    own = store.at(np.array([0]))
    with pytest.raises(ParameterError, match="p_target 2"):
        verifier.compare_embeddings(own, own, prior=2.0)
    by_cosine = replace(
        verifier,
        settings=tiny_verifier_settings(llr="cosine"),
        calibration=replace(verifier.calibration, llr="cosine"),
    )
    with pytest.raises(ParameterError, match="cosine cannot reach the operating point"):
        by_cosine.compare_embeddings(own, own, operating_point=OperatingPoint(1e-30))


def test_a_saved_verifier_is_the_same_and_carries_no_pickle(verifier: Verifier, saved: Path) -> None:
    loaded = Verifier.from_pretrained(saved)
    assert loaded.fingerprint == verifier.fingerprint
    assert loaded.origin == verifier.origin
    assert loaded.metrics == verifier.metrics
    assert loaded.settings == verifier.settings
    assert loaded.card == "# Tones\n"
    assert loaded.weights == verifier.weights == weights_digest(verifier.model.state_dict())
    assert {path.suffix for path in saved.rglob("*") if path.is_file()} == {
        ".json", ".safetensors", ".npz", ".md",
    }  # fmt: skip
    loaded.save_pretrained(saved)
    assert Verifier.from_pretrained(saved).fingerprint == verifier.fingerprint


def test_the_fingerprint_is_of_weights_and_settings_and_not_of_the_card(verifier: Verifier) -> None:
    assert replace(verifier, card="# Others\n").fingerprint == verifier.fingerprint
    other = verifier.settings.model_copy(update={"extraction": ExtractionSettings(max_seconds=3)})
    assert replace(verifier, settings=other).fingerprint != verifier.fingerprint
    moved = replace(verifier.cohort, centre=verifier.cohort.centre + 1e-9)
    assert replace(verifier, cohort=moved).fingerprint != verifier.fingerprint


def test_the_first_part_of_the_fingerprint_is_of_what_embeddings_depend_on(
    verifier: Verifier, saved: Path
) -> None:
    part = embedding_part(verifier.fingerprint)
    assert verifier.fingerprint == f"{part}-{verifier.fingerprint[33:]}"
    assert re.fullmatch("[0-9a-f]{32}-[0-9a-f]{32}", verifier.fingerprint)
    point = (OperatingPoint(0.3),)
    recalibrated = replace(verifier, calibration=replace(verifier.calibration, operating_points=point))
    moved = replace(verifier, cohort=replace(verifier.cohort, centre=verifier.cohort.centre + 1e-9))
    for other in (recalibrated, moved):
        assert embedding_part(other.fingerprint) == part
        assert other.fingerprint != verifier.fingerprint
    changes = {
        "extraction": ExtractionSettings(max_seconds=3),
        "limits": verifier.settings.limits.model_copy(update={"max_seconds": 9.0}),
    }
    for name, value in changes.items():
        settings = verifier.settings.model_copy(update={name: value})
        assert embedding_part(replace(verifier, settings=settings).fingerprint) != part
    model = SpeakerModel.from_pretrained(saved / "model")
    with torch.no_grad():
        next(model.speaker_network.parameters()).add_(1e-3)
    assert embedding_part(replace(verifier, model=model).fingerprint) != part


def alter(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["model/model.safetensors", "cohort.npz", "settings.json", "README.md"])
def test_altered_missing_and_surplus_files_are_named(saved: Path, name: str) -> None:
    alter(saved / name)
    with pytest.raises(DataError, match=f"altered: {name}"):
        Verifier.from_pretrained(saved)
    (saved / name).unlink()
    (saved / "model" / "helper.py").write_text("print('no')\n")
    with pytest.raises(DataError, match=f"missing: {name}; surplus: model/helper.py"):
        Verifier.from_pretrained(saved)


def test_a_manifest_of_other_files_or_of_another_format_is_refused(saved: Path, tmp_path: Path) -> None:
    manifest = json.loads((saved / "verifier.json").read_text())
    for change, message in (({"fingerprint": "0"}, "fingerprint"), ({"format": 9}, "format 9, not 2")):
        (saved / "verifier.json").write_text(json.dumps(manifest | change))
        with pytest.raises(DataError, match=message):
            Verifier.from_pretrained(saved)
    with pytest.raises(DataError, match=r"no verifier: verifier\.json is missing"):
        Verifier.from_pretrained(tmp_path)


def test_a_folder_of_other_files_is_not_replaced(verifier: Verifier, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep\n")
    with pytest.raises(DataError, match="holds other files"):
        verifier.save_pretrained(tmp_path / "notes")
    shutil.copytree(saved, tmp_path / "cloned")
    (tmp_path / "cloned" / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert Verifier.from_pretrained(tmp_path / "cloned").fingerprint == verifier.fingerprint
