"""A model from elsewhere and recordings of known speakers become a verifier."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from speaker_verification import SpeakerModel, Verifier
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.deployment.building import build_verifier, load_model
from speaker_verification.deployment.command import main
from speaker_verification.deployment.settings import VerifierSettings
from speaker_verification.models import import_checkpoint
from tests.support.public_systems import KEPT_LAP_SYSTEMS, write_lap
from tests.support.verifiers import tiny_model, voice
from tests.support.waiting import wait_until

NUM_SPEAKERS, RECORDINGS_EACH = 12, 3
LIMITS = {"least_seconds": 0.5, "least_speech_seconds": 0}  # tones are no speech
SETTINGS: dict[str, Any] = {
    "score": {"calibration_trials": 400, "bootstrap_resamples": 20, "num_threads": 1},
    "limits": LIMITS,
}


def settings_of(**limits: float) -> VerifierSettings:
    return VerifierSettings.parse(SETTINGS | {"limits": LIMITS | limits}, "")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of recordings, SPEAKER/FILE; beside it recordings.csv and a checkpoint of a public code."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for speaker in range(NUM_SPEAKERS):
        for number in range(RECORDINGS_EACH):
            name = f"person {speaker:02}/{number}.wav"
            (folder / "voices" / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / "voices" / name, voice(speaker, number), 16_000)
            rows.append({"file": f"voices/{name}", "speaker": f"person {speaker:02}"})
    pd.DataFrame(rows).to_csv(folder / "recordings.csv", index=False)
    write_lap(
        folder / "lap", next(system for system in KEPT_LAP_SYSTEMS if system.layer_aggregation == "lap")
    )
    return folder


@pytest.fixture(scope="module")
def built(corpus: Path) -> Verifier:
    """Verifier of the checkpoint, in the folder `verifier`."""
    return build_verifier(
        corpus / "lap" / "experiment", corpus / "recordings.csv", corpus / "verifier", settings_of(), seed=4
    )


def embeddings_of(model: SpeakerModel, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, speakers and durations of the recordings, without any of the code that builds verifiers."""
    files = sorted(folder.rglob("*.wav"))
    waves = [soundfile.read(file, dtype="float32")[0] for file in files]
    embeddings = np.concatenate([model.embed(wave).numpy() for wave in waves]).astype(np.float64)
    return (
        embeddings,
        np.array([file.parent.name for file in files]),
        np.array([len(w) for w in waves]) / 16_000,
    )


def test_its_scores_are_those_of_a_computation_by_hand(corpus: Path, built: Verifier) -> None:
    verifier = Verifier.from_pretrained(corpus / "verifier")
    assert verifier.fingerprint == built.fingerprint
    model = import_checkpoint(corpus / "lap" / "experiment")
    embeddings, speakers, seconds = embeddings_of(model, corpus / "voices")
    centre = embeddings.mean(axis=0)
    cohort = np.stack([embeddings[speakers == name].mean(axis=0) for name in sorted(set(speakers))]) - centre
    cohort /= np.linalg.norm(cohort, axis=1, keepdims=True)
    assert verifier.settings.score.top_n == 7  # 12 speakers less 3 of the largest fold, less two of a trial
    sides = embeddings - centre
    sides /= np.linalg.norm(sides, axis=1, keepdims=True)
    highest = np.sort(sides @ cohort.T, axis=1)[:, -7:]
    means, deviations = highest.mean(axis=1), highest.std(axis=1, ddof=1)
    norms = np.abs(embeddings).sum(axis=1), np.linalg.norm(embeddings, axis=1)
    qmf = verifier.fitted["qmf"]
    names = [f"voices/{speaker}/{row % RECORDINGS_EACH}.wav" for row, speaker in enumerate(speakers)]
    for one, other in ((0, 1), (0, 3), (20, 11)):
        cosine = sides[one] @ sides[other]
        as_norm = ((cosine - means[one]) / deviations[one] + (cosine - means[other]) / deviations[other]) / 2
        features = [as_norm, np.log(seconds[one]), np.log(seconds[other])]
        features += [norm[row] for row in (one, other) for norm in norms]
        features += [embeddings[row].std() for row in (one, other)]
        llr = features @ qmf["coefficients"] + qmf["intercept"]
        compared = verifier.compare(corpus / names[one], corpus / names[other])
        assert compared.cosine == pytest.approx(cosine, abs=1e-5)
        assert compared.as_norm == pytest.approx(as_norm, abs=1e-3)
        assert compared.llr == pytest.approx(llr, abs=1e-3)


def test_error_rates_are_of_speakers_that_were_left_out_and_the_card_says_so(
    corpus: Path, built: Verifier
) -> None:
    measured = built.metrics["cross-validation"]
    assert set(measured) == {"cosine", "as_norm", "qmf"}
    assert measured["qmf"]["num_target"] == NUM_SPEAKERS * 3  # every pair of three recordings
    assert measured["qmf"]["num_speakers"] == NUM_SPEAKERS
    low, high = measured["qmf"]["eer_interval"]
    assert 0 <= low <= measured["qmf"]["eer"] <= high <= 100
    point = built.operating_points[0]
    compared = built.compare(corpus / "voices/person 00/0.wav", corpus / "voices/person 01/0.wav")
    errors = compared.error_rates["cross-validation"]
    assert errors.num_target == NUM_SPEAKERS * 3
    assert 100 * errors.miss_rate == pytest.approx(measured["qmf"][f"act_fnr_{point.name}"])
    card = (corpus / "verifier" / "README.md").read_text()
    assert "scored by cohort, scorings and calibration of the other speakers" in card
    assert f"| cross-validation | qmf | {measured['qmf']['eer']:.2f} | {low:.2f} to {high:.2f} |" in card
    assert "| cohort and calibration | recordings |  | not stated |" in card
    assert "trained on are not known" in card


def test_a_folder_of_recordings_and_a_saved_model_do_as_well(
    corpus: Path, built: Verifier, tmp_path: Path
) -> None:
    import_checkpoint(corpus / "lap" / "experiment").save_pretrained(tmp_path / "model")
    again = build_verifier(
        tmp_path / "model", corpus / "voices", tmp_path / "verifier", settings_of(), seed=4, corpus="voices"
    )
    assert again.fingerprint == built.fingerprint
    assert [corpus.name for corpus in again.origin.corpora] == ["voices", "voices"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "verifier"]


def test_models_are_taken_from_whatever_holds_one(corpus: Path, built: Verifier, tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    assert load_model(model) is model
    for source in (tmp_path / "model", corpus / "lap" / "experiment" / "12epoch", corpus / "verifier"):
        assert not load_model(source).training
    assert load_model(corpus / "verifier").embedding_size == built.model.embedding_size
    with pytest.raises(DataError, match="is no folder"):
        load_model(tmp_path / "nothing")


def test_an_altered_folder_is_refused(corpus: Path, built: Verifier, tmp_path: Path) -> None:
    shutil.copytree(corpus / "verifier", tmp_path / "verifier")
    calibration = tmp_path / "verifier" / "calibration.json"
    calibration.write_text(calibration.read_text().replace('"qmf"', '"as_norm"', 1))
    with pytest.raises(DataError, match=r"altered: calibration\.json"):
        Verifier.from_pretrained(tmp_path / "verifier")


def test_target_trials_are_across_sessions_where_these_are_known_and_any_scoring_decides(
    corpus: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(corpus / "recordings.csv").assign(session=["a", "a", "b"] * NUM_SPEAKERS)
    table["file"] = [str(corpus / name) for name in table["file"]]
    by_plda = VerifierSettings.parse(SETTINGS | {"score": SETTINGS["score"] | {"llr": "plda"}}, "")
    verifier = build_verifier(tiny_model(), table, tmp_path / "verifier", by_plda)
    assert verifier.settings.score.calibration_sessions == "across"
    assert {values["num_target"] for values in verifier.metrics["cross-validation"].values()} == {
        NUM_SPEAKERS * 2
    }
    assert set(verifier.metrics["cross-validation"]) == {"cosine", "as_norm", "qmf", "plda"}


def test_recordings_that_are_refused_are_named_or_left_out(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(corpus / "voices", tmp_path / "voices")
    (tmp_path / "voices" / "person 03" / "broken.mp3").write_bytes(b"no sound")
    soundfile.write(tmp_path / "voices" / "person 04" / "short.wav", voice(4, 9)[:4000], 16_000)
    with pytest.raises(DataError, match=r"2 of 38 .*person 03/broken\.mp3.*person 04/short\.wav: 0\.25 s"):
        build_verifier(tiny_model(), tmp_path / "voices", tmp_path / "verifier", settings_of())
    assert not (tmp_path / "verifier").exists()
    verifier = build_verifier(
        tiny_model(), tmp_path / "voices", tmp_path / "verifier", settings_of(), drop_refused=True
    )
    assert verifier.metrics["cross-validation"]["qmf"]["num_target"] == NUM_SPEAKERS * 3
    assert "left out: person 03/broken.mp3" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,speaker\n", "lists no recordings"),
        ("file,person\n", "no column 'speaker' among file, person"),
        ("file,speaker\nvoices/person 00/0.wav,\n", "line 2: no speaker"),
        ("file,speaker\nnone.wav,a\n", r"no such file: .*none\.wav"),
        (
            "file,speaker\nvoices/person 00/0.wav,a\nvoices/person 00/0.wav,b\n",
            r"several speakers, 'a', 'b', for one file, .*person 00/0\.wav \(lines 2, 3\)",
        ),
        (
            "file,speaker\nvoices/person 00/0.wav,a\nvoices/person 01/0.wav,b\n",
            "2 speakers, 0 of them with two",
        ),
    ],
)
def test_tables_that_do_not_do_are_refused(corpus: Path, tmp_path: Path, content: str, message: str) -> None:
    shutil.copytree(corpus / "voices", tmp_path / "voices")
    (tmp_path / "recordings.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        build_verifier(tiny_model(), tmp_path / "recordings.csv", tmp_path / "verifier", settings_of())
    assert not (tmp_path / "verifier").exists()


def test_one_recording_under_two_names_is_refused(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus / "voices", tmp_path / "voices")
    shutil.copy(tmp_path / "voices/person 00/0.wav", tmp_path / "voices/person 05/copy.wav")
    with pytest.raises(DataError, match=r"person 05/copy\.wav and person 00/0\.wav"):
        build_verifier(tiny_model(), tmp_path / "voices", tmp_path / "verifier", settings_of())


def test_what_cannot_be_fitted_or_written_is_refused_before_anything_is_embedded(
    corpus: Path, tmp_path: Path
) -> None:
    model = tiny_model()
    model.speaker_network.register_forward_hook(lambda *_: pytest.fail("embedded"))
    many = VerifierSettings.parse(SETTINGS | {"score": {"top_n": 300}}, "")
    with pytest.raises(ParameterError, match=r"score\.top_n' is 300, .* take 2 to 7"):
        build_verifier(model, corpus / "voices", tmp_path / "verifier", many)
    adapted = VerifierSettings.parse(SETTINGS | {"score": {"adaptation": "coral"}}, "")
    with pytest.raises(ParameterError, match=r"score\.adaptation' is 'coral', .* leave it out"):
        build_verifier(model, corpus / "voices", tmp_path / "verifier", adapted)
    validation = VerifierSettings.parse(SETTINGS | {"score": {"calibration_speakers": "validation"}}, "")
    with pytest.raises(
        ParameterError, match=r"score\.calibration_speakers' is 'validation', .* take 'cohort'"
    ):
        build_verifier(model, corpus / "voices", tmp_path / "verifier", validation)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(DataError, match="holds other files"):
        build_verifier(model, corpus / "voices", tmp_path / "notes", settings_of())
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no recordings"):
        build_verifier(model, tmp_path / "none", tmp_path / "verifier", settings_of())


def test_an_interrupted_call_goes_on_where_it_stopped(corpus: Path, tmp_path: Path) -> None:
    model, calls = tiny_model(), []

    def count(*_: object) -> None:
        calls.append(None)
        if len(calls) == 10:
            raise KeyboardInterrupt

    hook = model.speaker_network.register_forward_hook(count)
    with pytest.raises(KeyboardInterrupt):
        build_verifier(model, corpus / "voices", tmp_path / "verifier", settings_of())
    assert not (tmp_path / "verifier").exists()
    resumed = build_verifier(model, corpus / "voices", tmp_path / "verifier", settings_of())
    assert len(calls) == 10 + NUM_SPEAKERS * RECORDINGS_EACH - 9
    hook.remove()
    whole = build_verifier(model, corpus / "voices", tmp_path / "whole", settings_of())
    assert resumed.fingerprint == whole.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["verifier", "whole"]


BUILD = """
import json, sys
from speaker_verification.deployment.building import build_verifier
from speaker_verification.deployment.settings import VerifierSettings
from tests.support.verifiers import tiny_model
build_verifier(tiny_model(), sys.argv[1], sys.argv[2], VerifierSettings.parse(json.loads(sys.argv[3]), ""))
"""


@pytest.mark.project
def test_a_killed_call_leaves_no_folder(corpus: Path, tmp_path: Path) -> None:
    folder, kept = tmp_path / "verifier", tmp_path / ".verifier.embeddings.sqlite"

    def some_are_kept() -> bool:
        if not kept.exists():
            return False
        with closing(sqlite3.connect(kept)) as connection:
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            return bool(tables and connection.execute("SELECT count(*) FROM embeddings").fetchone()[0])

    command = [sys.executable, "-c", BUILD, str(corpus / "voices"), str(folder), json.dumps(SETTINGS)]
    with subprocess.Popen(command) as process:
        wait_until(some_are_kept)
        process.send_signal(signal.SIGKILL)
    assert not folder.exists()
    built = build_verifier(tiny_model(), corpus / "voices", folder, settings_of())
    assert Verifier.from_pretrained(folder).fingerprint == built.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["verifier"]


def test_the_command_builds_the_same_verifier(
    corpus: Path, built: Verifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS | {"limits": {"least_seconds": 0.5}}))
    options = ["--settings", tmp_path / "settings.json", "--least-speech-seconds", "0", "--device", "cpu"]

    def run(*arguments: object) -> int:
        return main(["build", *map(str, arguments)])

    source, table = corpus / "lap" / "experiment", corpus / "recordings.csv"
    assert run(source, table, "-o", tmp_path / "verifier", *options, "--licence", "mit") == 0
    printed = capsys.readouterr().out
    verifier = Verifier.from_pretrained(tmp_path / "verifier")
    np.testing.assert_array_equal(verifier.cohort.embeddings, built.cohort.embeddings)
    assert verifier.fingerprint in printed
    assert f"{verifier.metrics['cross-validation']['qmf']['eer']:.3f}" in printed
    assert "license: mit" in verifier.card
    assert run(source, corpus / "none.csv", "-o", tmp_path / "other", *options) == 2
    assert "none.csv" in capsys.readouterr().err
