from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from speaker_verification.errors import DataError
from speaker_verification.scoring import read_score_file, write_score_file


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
    with pytest.raises(DataError, match=r"scores\.txt: (holds no trials|there is no such file)"):
        read_score_file(tmp_path / "scores.txt")


def test_ids_with_quotes_and_hashes_are_plain_text(tmp_path: Path) -> None:
    (tmp_path / "scores.txt").write_text('"a b" 0.5 target\n#c d 0.1 nontarget\n')
    assert read_score_file(tmp_path / "scores.txt")["enroll_id"].tolist() == ['"a', "#c"]
