"""Manifests: the same recordings by every kind of list, and one clear line for each mistake."""

from __future__ import annotations

import json
import logging
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from speaker_verification.common.errors import DataError
from speaker_verification.corpora.manifests import Manifest, check_table, read_manifest

COLUMNS = ["file", "speaker", "utterance", "session", "gender"]
ROWS = [
    ("voices/ada/monday/one.wav", "ada", "one", "monday", "f"),
    ("voices/ada/tuesday/two.wav", "ada", "two", "tuesday", "f"),
    ("voices/bo/monday/one.wav", "bo", "one", "monday", "m"),
    ("voices/Jörg Ñ/frühling/drei vier.wav", "Jörg Ñ", "drei vier", "frühling", "m"),
]


def write_wave(path: Path, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(int(16_000 * seconds), 0.1), 16_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with the recordings of ROWS."""
    for file, *_ in ROWS:
        write_wave(tmp_path / file)
    return tmp_path


def table() -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=COLUMNS)


def write_kaldi(folder: Path, rows: list[tuple[str, ...]], root: str = "") -> Path:
    kaldi = folder / "kaldi"
    kaldi.mkdir(exist_ok=True)
    keys = [f"{speaker}/{session}/{name}".replace(" ", "_") for _, speaker, name, session, _ in rows]
    files = [file for file, *_ in rows]
    (kaldi / "wav.scp").write_text(
        "".join(f"{key} {root}{file}\n" for key, file in zip(keys, files, strict=True))
    )
    speakers = [row[1].replace(" ", "_") for row in rows]
    (kaldi / "utt2spk").write_text(
        "".join(f"{key} {speaker}\n" for key, speaker in zip(keys, speakers, strict=True))
    )
    genders = dict(zip(speakers, (row[4] for row in rows), strict=True))
    (kaldi / "spk2gender").write_text("".join(f"{speaker} {sex}\n" for speaker, sex in genders.items()))
    return kaldi


def write(folder: Path, kind: str, rows: pd.DataFrame) -> Path:
    """The rows as a manifest of a kind."""
    path = folder / f"list.{kind}"
    if kind == "parquet":
        rows.to_parquet(path, index=False)
    elif kind == "jsonl":
        path.write_text("".join(f"{json.dumps(record)}\n" for record in rows.to_dict("records")))
    else:
        rows.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return path


def refused(manifest: Path, pattern: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_manifest(manifest, pattern)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl"])
def test_every_kind_of_table_lists_the_same_recordings(folder: Path, kind: str) -> None:
    manifest = read_manifest(write(folder, kind, table()))
    assert list(manifest.recordings[COLUMNS].itertuples(index=False, name=None)) == ROWS
    assert manifest.recordings["path"].tolist() == [str(folder / file) for file, *_ in ROWS]
    assert manifest.recordings["start"].tolist() == [0.0] * 4
    assert manifest.recordings["end"].isna().all()


def test_a_folder_lists_them_by_its_levels(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "voices/ada/monday/notes.txt").write_text("no audio")
    (folder / "voices/ada/monday/.hidden.wav").write_text("no audio")
    with caplog.at_level(logging.INFO):
        found = read_manifest(folder / "voices").recordings.sort_values("path", ignore_index=True)
    assert "{speaker}/{session}/{utterance}.*" in caplog.text
    expected = table().assign(path=[str(folder / file) for file, *_ in ROWS]).sort_values("path")
    for name in ("path", "speaker", "session", "utterance"):
        assert found[name].tolist() == expected[name].tolist()


def test_a_folder_of_two_levels_has_no_sessions(tmp_path: Path) -> None:
    for name in ("ada/one.wav", "ada/two.v2.wav", "bo/deep/three.flac"):
        write_wave(tmp_path / name)
    found = read_manifest(tmp_path).recordings
    assert found["speaker"].tolist() == ["ada", "ada", "bo"]
    assert found["utterance"].tolist() == ["one", "two.v2", "three"]
    assert set(found["session"]) == {""}


def test_a_pattern_reads_paths_of_any_form(tmp_path: Path) -> None:
    for name in ("f/ada_s1-1.wav", "m/bo_s2-1.WAV", "m/bo_s3-2.wav"):
        write_wave(tmp_path / name)
    found = read_manifest(tmp_path, "{gender}/{speaker}_{session}-{utterance}.*").recordings
    columns = ["speaker", "session", "utterance", "gender"]
    rows = list(found[columns].itertuples(index=False, name=None))
    assert rows == [("ada", "s1", "1", "f"), ("bo", "s2", "1", "m"), ("bo", "s3", "2", "m")]


def test_a_kaldi_folder_lists_utterances_and_segments(folder: Path) -> None:
    kaldi = write_kaldi(folder, ROWS[:3], root="../")
    whole = read_manifest(kaldi / "wav.scp").recordings
    assert whole["path"].tolist() == [str(folder / "kaldi/.." / file) for file, *_ in ROWS[:3]]
    assert whole["speaker"].tolist() == ["ada", "ada", "bo"]
    assert whole["gender"].tolist() == ["f", "f", "m"]
    (kaldi / "wav.scp").write_text("call ../voices/ada/monday/one.wav\n")
    (kaldi / "segments").write_text("ada-1 call 0 0.4\nbo-1 call 0.4 -1\n")
    (kaldi / "utt2spk").write_text("ada-1 ada\nbo-1 bo\n")
    segments = read_manifest(kaldi).recordings
    assert segments["utterance"].tolist() == ["ada-1", "bo-1"]
    assert segments["start"].tolist() == [0.0, 0.4]
    assert segments["end"].iloc[0] == 0.4
    assert np.isnan(segments["end"].iloc[1])


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_found_in_composed_and_in_decomposed_characters(tmp_path: Path, form: str) -> None:
    name = "Jürgen Müller/größe.wav"
    write_wave(tmp_path / unicodedata.normalize(form, name))
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    rows = pd.DataFrame({"file": [unicodedata.normalize(other, name)], "speaker": ["Jürgen"]})
    found = read_manifest(write(tmp_path, "csv", rows)).recordings
    assert found["path"].tolist() == [str(tmp_path / unicodedata.normalize(form, name))]


def test_a_table_in_memory_is_checked_alike(folder: Path) -> None:
    manifest = check_table(table(), "the table", folder)
    assert isinstance(manifest, Manifest)
    assert len(manifest) == 4
    with pytest.raises(DataError, match="the table, row 2: no speaker"):
        check_table(table().assign(speaker=["a", None, "b", "b"]), "the table", folder)


def test_semicolons_and_a_byte_order_mark_are_read(folder: Path) -> None:
    path = folder / "excel.csv"
    path.write_text("file;speaker\nvoices/ada/monday/one.wav;ada\r\n", encoding="utf-8-sig")
    assert read_manifest(path).recordings["speaker"].tolist() == ["ada"]


def test_other_columns_are_passed_over_in_one_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read_manifest(write(folder, "csv", table().assign(city="Rome", age=30)))
    assert "2 columns are passed over: city, age" in caplog.text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("file,speaker\n", r"list\.csv: lists no recordings"),
        ("file,speakr\nA,a\n", r"list\.csv: unknown column 'speakr': did you mean 'speaker'"),
        ("path,speaker\nA,a\n", r"list\.csv: no column 'file' among path, speaker"),
        ("file,speaker,file\nA,a,A\n", r"list\.csv: two columns 'file'"),
        ("file,speaker\nA,a\n\nA,a,b\n", r"list\.csv, line 4: 3 values for 2 columns"),
        ('file,speaker\n"A,a\n', r"list\.csv, line 2: broken"),
        ("file,speaker\nA,\n", r"list\.csv, line 2: no speaker"),
        (
            "file,speaker\nA,a\nno one.wav,b\n",
            r"list\.csv, line 3: no such file: no one\.wav, looked",
        ),
        ("file,speaker\nA,a\nA,b\n", r"several speakers, 'a', 'b', for one file, .*one\.wav \(lines 2, 3\)"),
        ("file,speaker\nA,a\nA,a\n", r"lists a recording twice, .*one\.wav \(lines 2, 3\)"),
        ("file,speaker,start,end\nA,a,0,0.5\nA,a,0.5,1.5\n", r"line 3: 1\.5 s is outside of .* 1 s long"),
        ("file,speaker,start,end\nA,a,0.5,0.5\n", r"line 2: start 0\.5 s, end 0\.5 s"),
        ("file,speaker,start,end\nA,a,-1,0.5\n", r"line 2: start -1 s"),
        ("file,speaker,start\nA,a,soon\n", r"line 2: start is 'soon': give seconds"),
        ("file,speaker,gender\nA,a,f\nB,a,male\n", r"speaker 'a' has two genders \(lines 2, 3\)"),
    ],
)
def test_a_mistake_in_a_table_is_told_with_file_and_line(folder: Path, content: str, told: str) -> None:
    path = folder / "list.csv"
    files = {"A": "voices/ada/monday/one.wav", "B": "voices/ada/tuesday/two.wav"}
    path.write_text(re.sub(r"\b[AB]\b", lambda found: files[found[0]], content))
    assert re.search(told, refused(path))


def test_a_relative_path_of_another_folder_says_where_it_was_looked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "lists").mkdir()
    monkeypatch.chdir(folder)
    told = refused(write(folder / "lists", "csv", table()))
    assert f"list.csv, line 2: no such file: {ROWS[0][0]}, looked for in {folder / 'lists'}" in told
    assert "3 more are missing" in told


def test_two_speakers_may_share_a_recording_that_is_cut(folder: Path) -> None:
    rows = pd.DataFrame({"file": ROWS[0][0], "speaker": ["a", "b"], "start": [0, 0.5], "end": [0.5, 1.0]})
    assert len(read_manifest(write(folder, "jsonl", rows))) == 2


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    assert "no such file or folder" in refused(tmp_path / "nothing.csv")
    (tmp_path / "list.pkl").write_bytes(b"")
    assert "list.pkl: no manifest by its ending" in refused(tmp_path / "list.pkl")
    (tmp_path / "list.parquet").write_text("no table")
    assert "list.parquet: no Parquet table" in refused(tmp_path / "list.parquet")
    (tmp_path / "list.jsonl").write_text('{"file": "a"}\n{"file": \n')
    assert "list.jsonl, line 2: broken" in refused(tmp_path / "list.jsonl")
    (tmp_path / "latin.csv").write_bytes("file,speaker\nJörg.wav,a\n".encode("latin-1"))
    assert "latin.csv, line 2: not in UTF-8" in refused(tmp_path / "latin.csv")
    (tmp_path / "empty").mkdir()
    assert "holds no recordings" in refused(tmp_path / "empty")


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        (
            "wav.scp",
            "u sox a.wav -t wav - |\n",
            r"wav\.scp, line 1: u is the output of a command",
        ),
        ("wav.scp", "u feats.ark:17\n", r"wav\.scp, line 1: u is inside of an archive"),
        ("wav.scp", "u\n", r"wav\.scp, line 1: 'u' is not 'KEY VALUE'"),
        ("utt2spk", "v ada\n", r"utt2spk, line 1: v: wav\.scp has no recording v"),
        ("utt2spk", "u ada\nu ada\n", r"utt2spk, line 2: u is on an earlier line too"),
        ("segments", "u u 0\n", r"segments, line 1: u needs a line 'UTTERANCE RECORDING START END'"),
        ("segments", "v u 0 1\n", r"utt2spk, line 1: u needs a line"),
    ],
)
def test_a_mistake_in_a_kaldi_folder_is_told(tmp_path: Path, file: str, content: str, told: str) -> None:
    write_wave(tmp_path / "one.wav")
    (tmp_path / "wav.scp").write_text("u one.wav\n")
    (tmp_path / "utt2spk").write_text("u ada\n")
    (tmp_path / file).write_text(content)
    assert re.search(told, refused(tmp_path))


def test_utterances_without_a_speaker_are_told(tmp_path: Path) -> None:
    write_wave(tmp_path / "one.wav")
    (tmp_path / "wav.scp").write_text("u one.wav\nv one.wav\n")
    (tmp_path / "utt2spk").write_text("u ada\n")
    assert "utt2spk: names no speaker of v" in refused(tmp_path)
    (tmp_path / "utt2spk").unlink()
    assert "utt2spk: no such file" in refused(tmp_path)


def test_paths_that_a_pattern_does_not_read_are_told(folder: Path) -> None:
    assert "{speakr}" in refused(folder / "voices", "{speakr}/{utterance}.*")
    assert "says nothing of {speaker}" in refused(folder / "voices", "{utterance}.*")
    told = refused(folder / "voices", "{speaker}/{utterance}.*")
    assert "is not {speaker}/{utterance}.*" in told
    shutil.copy(folder / ROWS[0][0], folder / "voices/stray.wav")
    assert "stray.wav is in no folder of a speaker" in refused(folder / "voices")
    assert "a pattern reads the paths in a folder" in refused(write(folder, "csv", table()), "{speaker}.*")
