from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.scoring import read_score_file, write_score_file
from speaker_verification.scoring.score_files import read_speaker_file, refuse_unknown_speakers


def table(labels: bool = True) -> pd.DataFrame:
    scores = pd.DataFrame(
        {
            "enroll_id": ["a/s/1.wav", "b/s/1.wav", "a/s/1.wav"],
            "test_id": ["a/t/2.wav", "a/s/1.wav", "c/t/3.wav"],
            "score": [0.1 + 0.2, -1e-300, 12345.678901234567],
            "label": np.array([1, 0, 0], dtype=np.int8),
        }
    )
    return scores if labels else scores.drop(columns="label")


def test_lines_are_as_other_toolkits_write_them(tmp_path: Path) -> None:
    write_score_file(tmp_path / "scores.txt", table())
    assert (tmp_path / "scores.txt").read_text().splitlines()[:2] == [
        "a/s/1.wav a/t/2.wav 0.30000000000000004 target",
        "b/s/1.wav a/s/1.wav -1e-300 nontarget",
    ]


@pytest.mark.parametrize("labels", [True, False])
def test_scores_survive_to_the_last_digit(tmp_path: Path, labels: bool) -> None:
    write_score_file(tmp_path / "scores.txt", table(labels))
    pd.testing.assert_frame_equal(
        read_score_file(tmp_path / "scores.txt"), table(labels), check_dtype=False, check_exact=True
    )


def test_byte_order_mark_is_no_part_of_an_id(tmp_path: Path) -> None:
    for lines in ("a b 0.5 target\n", "a\tb 0.5 target\n"):
        (tmp_path / "scores.txt").write_text(lines, encoding="utf-8-sig")
        assert read_score_file(tmp_path / "scores.txt")["enroll_id"].tolist() == ["a"]


def test_tabs_repeated_blanks_and_empty_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / "scores.txt").write_text("\na\tb  -0.5 target\n\n c d\t3e1 nontarget \n")
    scores = read_score_file(tmp_path / "scores.txt")
    assert scores.to_numpy().tolist() == [["a", "b", -0.5, 1], ["c", "d", 30.0, 0]]


@pytest.mark.parametrize(
    "line",
    [
        "a b",
        "a b x target",
        "a b nan target",
        "a  0.5 target",
        "a b 0.5 tgt",
        "a b 0.5",
        "a b 0.5 target more",
        "a b inf target",
    ],
)
def test_malformed_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    file = tmp_path / "scores.txt"
    file.write_text(f"a b 0.5 target\n\nc d 0.1 nontarget\n{line}\na b\n")
    with pytest.raises(DataError, match=rf"scores\.txt, line 4: '{line}' is not 'ENROLL_ID TEST_ID SCORE"):
        read_score_file(file)


def test_label_where_the_first_line_has_none_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "scores.txt").write_text("a b 0.5\nc d 0.1 target\n")
    with pytest.raises(DataError, match="line 2"):
        read_score_file(tmp_path / "scores.txt")


@pytest.mark.parametrize("content", [b"", b"\n \n", None])
def test_file_without_trials_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "scores.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"scores\.txt: (holds no trials|no such score file)"):
        read_score_file(tmp_path / "scores.txt")


def test_ids_with_quotes_and_hashes_are_plain_text(tmp_path: Path) -> None:
    (tmp_path / "scores.txt").write_text('"a b" 0.5 target\n#c d 0.1 nontarget\n')
    assert read_score_file(tmp_path / "scores.txt")["enroll_id"].tolist() == ['"a', "#c"]


def test_speakers_are_read_from_lines_and_from_tables(tmp_path: Path) -> None:
    expected = [["a-1", "7"], ["b-1", "8"]]
    (tmp_path / "utt2spk").write_text("\ufeffa-1 7\n\n b-1\t8 \n", encoding="utf-8")
    (tmp_path / "speakers.csv").write_text("speaker_id,seconds,utterance_id\n7,1.5,a-1\n8,2.5,b-1\n")
    table = pd.DataFrame({"utterance_id": ["a-1", "b-1"], "subset": "x", "speaker_id": [7, 8]})
    table.to_parquet(tmp_path / "utterances.parquet")
    for name in ("utt2spk", "speakers.csv", "utterances.parquet"):
        read = read_speaker_file(tmp_path / name)
        assert read[["utterance_id", "speaker_id"]].to_numpy().tolist() == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("utt2spk", "a 1\n\nb 2 c\n", r"utt2spk, line 3: 'b 2 c' is not 'UTTERANCE_ID SPEAKER_ID'"),
        ("utt2spk", "a 1\nb 2\n\na 3\n", r"utt2spk, line 4: duplicate utterance a"),
        ("utt2spk", "\n", r"utt2spk: holds no speakers"),
        ("of.csv", "utterance_id,speaker_id\na,1\na,2\n", r"of\.csv, line 3: duplicate utterance a"),
        ("of.csv", "utterance_id,speaker_id\na,\n", r"of\.csv, line 2: no utterance_id or no speaker_id"),
        ("of.csv", "utterance,speaker\na,1\n", r"of\.csv: not a table with utterance_id and speaker_id"),
        ("of.parquet", "a 1\n", r"of\.parquet: not a table with utterance_id and speaker_id"),
        ("absent", None, r"absent: no such speaker file"),
    ],
)
def test_file_of_speakers_that_cannot_be_used_is_refused_in_a_line(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as raised:
        read_speaker_file(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_utterance_whose_speaker_is_not_given_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "scores.txt"
    file.write_text("\na b 0.5 target\na c 0.1 nontarget\nd a 0.1 nontarget\n")
    speakers = pd.DataFrame({"utterance_id": ["a", "b"]})
    message = r"scores\.txt, line 3: no speaker of c in .*utt2spk, which lacks 2 utterances"
    with pytest.raises(DataError, match=message):
        refuse_unknown_speakers(file, read_score_file(file), speakers, tmp_path / "utt2spk")
    refuse_unknown_speakers(file, read_score_file(file)[:1], speakers, tmp_path / "utt2spk")
