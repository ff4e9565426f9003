"""The command `speaker-verification`: import, verify, embed and score."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from scipy.special import expit, logit

from speaker_verification.corpora.synthetic.voices import draw_voices, speak
from speaker_verification.deployment.command import CACHE_SUFFIX, main
from speaker_verification.deployment.enrolment_store import EnrolmentStore
from speaker_verification.deployment.recordings import RecordingLimits, read_recording
from speaker_verification.deployment.verifier import Verifier
from speaker_verification.models import SpeakerModel, import_checkpoint
from speaker_verification.scoring.metrics import OperatingPoint
from tests.support.public_systems import write_public_file
from tests.support.verifiers import Measured
from tests.support.waiting import wait_until

FILES = ("a1.wav", "a2.flac", "b1.wav", "b2.wav")


@pytest.fixture(scope="module")
def folder(measured: Measured, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved verifier, and two recordings of each of two synthetic speakers."""
    folder = tmp_path_factory.mktemp("command")
    measured[0].save_pretrained(folder / "model")
    rng = np.random.default_rng(5)
    voices = dict(zip("ab", draw_voices(2, rng), strict=True))
    for name in FILES:
        said = speak(voices[name[0]], 2.0, rng)
        soundfile.write(folder / name, 0.5 * said / np.abs(said).max(), 16_000)
    soundfile.write(folder / "silent.wav", np.zeros(32_000), 16_000)
    return folder


@pytest.fixture(scope="module")
def verifier(folder: Path) -> Verifier:
    return Verifier.from_pretrained(folder / "model")


def waveform(path: Path, limits: RecordingLimits | None = None) -> np.ndarray:
    return read_recording(path, limits).waveform


def run(folder: Path, command: str, *arguments: str | Path) -> int:
    model = str(folder / "model")
    return main([command, *map(str, arguments), "--model", model, "--device", "cpu"])


def error_of(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """Message of a command that must have failed with a single line."""
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("speaker-verification: error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_verify_prints_the_verifier_s_own_numbers(
    folder: Path, verifier: Verifier, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [folder / name for name in FILES[:3]]
    compared = verifier.compare([waveform(path) for path in paths[:2]], waveform(paths[2]), prior=0.3)
    code = run(folder, "verify", *paths, "--json", "--prior", "0.3", "--exit-code")
    values = json.loads(capsys.readouterr().out)
    assert code == (0 if compared.accept else 1)
    for name in ("cosine", "as_norm", "llr", "probability", "accept", "prior", "fingerprint"):
        assert values[name] == pytest.approx(getattr(compared, name), abs=1e-9)
    assert [side["name"] for side in values["enrol"]] == [str(path) for path in paths[:2]]
    assert values["test"]["seconds"] == pytest.approx(len(waveform(paths[2])) / 16_000)
    assert values["test"]["speech_seconds"] > 1

    assert run(folder, "verify", *paths, "--max-seconds", "1.5") == 0
    table = capsys.readouterr().out
    cut = RecordingLimits(max_seconds=1.5)
    short = verifier.compare([waveform(path, cut) for path in paths[:2]], waveform(paths[2], cut))
    assert f"{short.llr:.4f}\n" in table
    assert ("accept: " if short.accept else "reject: ") in table
    assert "tones (CC0)" in table
    assert f"{paths[0]}: the first 1.5 s of " in table


def test_the_exit_code_tells_the_decision(folder: Path, verifier: Verifier, tmp_path: Path) -> None:
    paths = folder / FILES[0], folder / FILES[1]
    llr = verifier.compare(waveform(paths[0]), waveform(paths[1])).llr
    for distance, code in ((-0.1, 0), (0.1, 1)):
        point = OperatingPoint(float(expit(-llr - distance)))  # a threshold so far from the ratio
        calibration = replace(verifier.calibration, operating_points=(point,))
        replace(verifier, calibration=calibration).save_pretrained(tmp_path / f"{code}" / "model")
        assert run(tmp_path / f"{code}", "verify", *paths, "--exit-code") == code
        assert run(tmp_path / f"{code}", "verify", *paths) == 0


def test_bad_input_ends_with_one_line_and_code_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, silent = folder / FILES[0], folder / "silent.wav"
    assert "silent.wav: silent" in error_of(capsys, run(folder, "verify", good, silent))
    missing = error_of(capsys, run(folder, "verify", good, folder / "none.wav"))
    assert "none.wav" in missing
    several = error_of(capsys, run(folder, "embed", silent, good, silent, "-o", folder / "out.npy"))
    assert "2 of 3" in several
    assert not (folder / "out.npy").exists()
    assert ".parquet" in error_of(capsys, run(folder, "embed", good, "-o", folder / "out.txt"))
    assert "no verifier" in error_of(capsys, main(["verify", str(good), str(good), "--model", str(folder)]))
    too_sure = run(folder, "verify", good, good, "--prior", "1.5")
    assert "1.5" in error_of(capsys, too_sure)
    too_short = run(folder, "verify", good, good, "--max-seconds", "0.1")
    assert "max_seconds 0.1" in error_of(capsys, too_short)
    pairs = folder / "no_pairs.csv"
    pairs.write_text("enrol,other\na,b\n")
    scores = folder / "no_scores.csv"
    assert "'test'" in error_of(capsys, run(folder, "score", pairs, "-o", scores))
    pairs.write_text("")
    assert "no_pairs.csv" in error_of(capsys, run(folder, "score", pairs, "-o", scores))
    with pytest.raises(SystemExit) as ended:
        main(["verify", "only_one.wav", "--model", "folder"])
    assert ended.value.code == 2


def test_embed_writes_the_verifier_s_embeddings(folder: Path, verifier: Verifier, tmp_path: Path) -> None:
    paths = [folder / name for name in FILES]
    expected = verifier.embed([waveform(path) for path in paths]).embeddings
    assert run(folder, "embed", *paths, "-o", tmp_path / "out.npy") == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=1e-6)
    assert run(folder, "embed", *paths, "-o", tmp_path / "out.parquet") == 0
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table["name"].tolist() == [str(path) for path in paths]
    assert set(table["model"]) == {verifier.weights}
    np.testing.assert_array_equal(np.stack(table["embedding"]), np.load(tmp_path / "out.npy"))


@pytest.fixture
def pairs(folder: Path, tmp_path: Path) -> Path:
    """List of pairs in a folder of its own, with the recordings, one of them under two names."""
    for name in FILES:
        shutil.copy(folder / name, tmp_path)
    shutil.copy(folder / FILES[0], tmp_path / "copy.wav")
    lines = ["pair,enrol,test", "007,a1.wav,a2.flac", ",a1.wav,b1.wav", '"x,y",b2.wav,copy.wav']
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.csv"


def kept_in(cache_file: Path) -> list[tuple[int, str]]:
    """Numbers and keys of kept embeddings: each is numbered above all before it, also one kept anew."""
    if not cache_file.exists():
        return []
    with closing(sqlite3.connect(cache_file)) as cache:
        (is_begun,) = cache.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return (
            cache.execute("SELECT rowid, key FROM embeddings ORDER BY rowid").fetchall() if is_begun else []
        )


def num_kept(scores: Path) -> int:
    return len(kept_in(Path(f"{scores}{CACHE_SUFFIX}")))


def started(*arguments: str | Path) -> subprocess.Popen[bytes]:
    """Process of the command."""
    command = [sys.executable, "-m", "speaker_verification.deployment.command", *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def kill_among(number: int, cache_file: Path, *arguments: str | Path) -> list[tuple[int, str]]:
    """Kill the command amid its embeddings, and return those that it has kept of the given number."""
    process = started(*arguments)
    try:
        wait_until(lambda: len(kept_in(cache_file)) >= number // 10)
    finally:
        process.kill()
        process.wait()
    kept = kept_in(cache_file)
    assert number // 10 <= len(kept) < number
    return kept


def write_recordings(folder: Path, source: Path, number: int) -> list[Path]:
    """Recordings of one voice, that differ."""
    paths = [folder / f"{place}.wav" for place in range(number)]
    for place, path in enumerate(paths):
        samples, rate = soundfile.read(source / FILES[place % len(FILES)], dtype="int16")
        soundfile.write(path, np.roll(samples, 97 * place), rate)
    return paths


def test_score_adds_the_verifier_s_scores_to_the_pairs(folder: Path, verifier: Verifier, pairs: Path) -> None:
    output = pairs.with_name("scores.csv")
    assert run(folder, "score", pairs, "-o", output, "--prior", "0.2") == 0
    scores = pd.read_csv(output, dtype={"pair": str}, keep_default_na=False)
    assert scores["pair"].tolist() == ["007", "", "x,y"]
    for row in scores.itertuples():
        sides = waveform(pairs.parent / str(row.enrol)), waveform(pairs.parent / str(row.test))
        compared = verifier.compare(*sides)
        assert row.llr == pytest.approx(compared.llr, abs=1e-5)
        assert row.cosine == pytest.approx(compared.cosine, abs=1e-5)
        assert row.accept == int(compared.accept)
        assert row.probability == pytest.approx(expit(row.llr + logit(0.2)), abs=1e-9)
    assert num_kept(output) == 4  # of five names


def test_what_was_embedded_is_kept_although_another_recording_is_refused(
    folder: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = pairs.with_name("scores.csv")
    good = pairs.read_text()
    shutil.copy(folder / "silent.wav", pairs.parent)
    pairs.write_text(f"{good},silent.wav,b1.wav\n")
    assert "silent" in error_of(capsys, run(folder, "score", pairs, "-o", output))
    assert not output.exists()
    assert num_kept(output) == 4
    pairs.write_text(good)
    assert run(folder, "score", pairs, "-o", output) == 0
    assert run(folder, "score", pairs, "-o", pairs.with_name("fresh.csv")) == 0
    assert output.read_bytes() == pairs.with_name("fresh.csv").read_bytes()
    assert num_kept(output) == 4
    assert run(folder, "score", pairs, "-o", output, "--max-seconds", "1.5") == 0
    assert num_kept(output) == 8  # what is used of a recording is part of the key
    Path(f"{output}{CACHE_SUFFIX}").write_text("something else, of some length")
    assert CACHE_SUFFIX in error_of(capsys, run(folder, "score", pairs, "-o", output))


@pytest.mark.project
def test_a_killed_score_embeds_nothing_twice_and_ends_in_the_same_file(folder: Path, tmp_path: Path) -> None:
    names = [path.name for path in write_recordings(tmp_path, folder, 200)]
    rng = np.random.default_rng(0)
    listed = {name: rng.permutation(np.tile(names, 5)) for name in ("enrol", "test")}
    pd.DataFrame(listed).to_csv(tmp_path / "pairs.csv", index=False)

    def arguments(output: Path) -> list[str | Path]:
        model = folder / "model"
        return ["score", tmp_path / "pairs.csv", "-o", output, "--model", model, "--device", "cpu"]

    undisturbed, output = tmp_path / "undisturbed.csv", tmp_path / "scores.csv"
    assert main([str(argument) for argument in arguments(undisturbed)]) == 0
    assert undisturbed.read_text().count("\n") == 1 + 1_000
    cache_file = Path(f"{output}{CACHE_SUFFIX}")
    before = kill_among(200, cache_file, *arguments(output))
    assert not output.exists()
    resumed = started(*arguments(output))
    wait_until(lambda: output.exists() or resumed.poll() is not None)
    assert output.read_bytes() == undisturbed.read_bytes()  # at first sight
    assert resumed.wait() == 0
    kept = kept_in(cache_file)
    assert [number for number, _ in kept] == list(range(1, 201))
    assert kept[: len(before)] == before
    assert sorted(path.name for path in tmp_path.glob("*scores.csv*")) == ["scores.csv", cache_file.name]


@pytest.mark.project
def test_a_killed_re_embedding_resumes_and_keeps_nothing_beside_the_store(
    folder: Path, verifier: Verifier, tmp_path: Path
) -> None:
    paths = write_recordings(tmp_path, folder, 60)
    for speaker, own in (("anna", paths[:30]), ("boris", paths[30:])):
        run(folder, "enrol", *own, "--speaker", speaker, "--store", tmp_path / "store")
    shutil.copytree(tmp_path / "store", tmp_path / "undisturbed")
    point = OperatingPoint(0.3)
    other = replace(verifier, calibration=replace(verifier.calibration, operating_points=(point,)))
    other.save_pretrained(tmp_path / "model")

    def arguments(store: Path) -> list[str | Path]:
        return ["store", "re-embed", "--store", store, "--model", tmp_path / "model", "--device", "cpu"]

    assert main([str(argument) for argument in arguments(tmp_path / "undisturbed")]) == 0
    cache_file = tmp_path / "store" / "parts" / f"re-embed{CACHE_SUFFIX}"
    before = kill_among(60, cache_file, *arguments(tmp_path / "store"))
    assert EnrolmentStore.open(tmp_path / "store").fingerprint == verifier.fingerprint
    (tmp_path / "kept").hardlink_to(cache_file)  # which shows what becomes of it
    assert main([str(argument) for argument in arguments(tmp_path / "store")]) == 0
    kept = kept_in(tmp_path / "kept")
    assert [number for number, _ in kept] == list(range(1, 61))
    assert kept[: len(before)] == before
    assert not cache_file.exists()
    resumed, undisturbed = (EnrolmentStore.open(tmp_path / name) for name in ("store", "undisturbed"))
    assert resumed.fingerprint == undisturbed.fingerprint == other.fingerprint
    for speaker in ("anna", "boris"):
        np.testing.assert_array_equal(resumed.embeddings_of(speaker), undisturbed.embeddings_of(speaker))


def test_help_waits_for_no_heavy_package() -> None:
    program = (
        "import sys\n"
        "from speaker_verification.command_line import main\n"
        "try:\n    main(['score', '--help'])\n"
        "except SystemExit as ended:\n    assert ended.code == 0\n"
        "print({'numpy', 'pandas', 'pydantic', 'scipy', 'torch', 'av', 'mlflow'}.intersection(sys.modules))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert "PAIRS.csv" in ended.stdout
    assert ended.stdout.endswith("set()\n")


def test_enrolled_speakers_are_identified_listed_and_removed(
    folder: Path, verifier: Verifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, paths = tmp_path / "store", [folder / name for name in FILES]
    assert run(folder, "enrol", *paths[:2], "--speaker", "anna", "--store", store) == 0
    assert "'anna' by 2 recordings, among 1 speakers" in capsys.readouterr().out
    assert run(folder, "enrol", paths[2], "--speaker", "boris", "--store", store) == 0
    capsys.readouterr()
    code = run(folder, "identify", paths[3], "--store", store, "--json", "--exit-code")
    found = json.loads(capsys.readouterr().out)
    compared = {
        "anna": verifier.compare([waveform(path) for path in paths[:2]], waveform(paths[3])),
        "boris": verifier.compare(waveform(paths[2]), waveform(paths[3])),
    }
    assert {each["speaker"] for each in found["candidates"]} == {"anna", "boris"}
    for each in found["candidates"]:
        assert each["log_likelihood_ratio"] == pytest.approx(
            compared[each["speaker"]].llr, rel=1e-4, abs=1e-4
        )
    best = max(compared, key=lambda name: compared[name].llr)
    assert found["candidates"][0]["speaker"] == best
    assert found["speaker"] == (best if compared[best].accept else None)
    assert code == (0 if compared[best].accept else 1)
    assert run(folder, "identify", paths[3], "--store", store, "--top", "1") == 0
    assert f"1          {best}: llr {compared[best].llr:.2f}" in capsys.readouterr().out
    assert main(["store", "remove", "anna", "--store", str(store)]) == 0
    assert main(["store", "list", "--store", str(store)]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header == "speaker,num_recordings,seconds,enrolled_at"
    assert row.startswith("boris,1,")


def test_a_store_is_embedded_anew_by_another_verifier_and_refuses_it_until_then(
    folder: Path, verifier: Verifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    run(folder, "enrol", folder / FILES[0], "--speaker", "anna", "--store", store)
    point = OperatingPoint(0.3)
    calibration = replace(verifier.calibration, operating_points=(point,))
    replace(verifier, calibration=calibration).save_pretrained(other / "model")
    capsys.readouterr()
    for command in ("enrol", "identify"):
        speaker = ("--speaker", "boris") if command == "enrol" else ()
        refused = error_of(capsys, run(other, command, folder / FILES[2], *speaker, "--store", store))
        assert verifier.fingerprint in refused
    assert main(["store", "re-embed", "--store", str(store), "--model", str(other / "model")]) == 0
    assert run(other, "identify", folder / FILES[0], "--store", store) == 0
    assert "p_target 0.3" in capsys.readouterr().out


def test_a_store_is_updated_for_another_calibration_without_its_recordings(
    folder: Path, verifier: Verifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    shutil.copy(folder / FILES[0], tmp_path / FILES[0])
    run(folder, "enrol", tmp_path / FILES[0], "--speaker", "anna", "--store", store)
    (tmp_path / FILES[0]).unlink()
    calibration = replace(verifier.calibration, operating_points=(OperatingPoint(0.3),))
    replace(verifier, calibration=calibration).save_pretrained(other / "model")
    capsys.readouterr()
    refused = error_of(capsys, run(other, "identify", folder / FILES[1], "--store", store))
    assert "update the store" in refused
    assert main(["store", "update", "--store", str(store), "--model", str(other / "model")]) == 0
    assert run(other, "identify", folder / FILES[1], "--store", store) == 0
    assert "p_target 0.3" in capsys.readouterr().out


def test_import_saves_the_model_of_a_public_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = write_public_file(tmp_path, "w2v_bert_lora"), tmp_path / "model"
    arguments = ["import", str(source), "-o", str(folder), "--lora-alpha", "64"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "wav2vec2-bert, 2 blocks of 32 channels\n" in printed
    assert "asp, embeddings of 10" in printed
    expected = import_checkpoint(source, lora_alpha=64).state_dict()
    saved = SpeakerModel.from_pretrained(folder).state_dict()
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], weight) for name, weight in expected.items())
    assert f"'{folder}' is there already" in error_of(capsys, main(arguments))
    assert (
        main(["import", str(write_public_file(tmp_path, "w2v_bert_pruned")), "-o", f"{folder}_pruned"]) == 0
    )
    assert "wav2vec2-bert, 3 blocks of 32 channels, pruned\n" in capsys.readouterr().out
    source.write_bytes(b"half")
    arguments[3] = str(tmp_path / "other")
    assert "cannot be read as a file of weights" in error_of(capsys, main(arguments))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt_0003.pth", "model", "model_pruned"]
