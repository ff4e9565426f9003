"""Trial lists, read and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from speaker_verification.corpora.trials import draw_trials, read_trial_list, read_trials
from speaker_verification.errors import DataError
from tests.corpora.builders import manifest


def test_a_list_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "veri_test2.txt"
    path.write_text("1 a/s/1.wav a/s/2.wav\n0 a/s/1.wav  b/s/1.wav \n\n")
    assert read_trial_list(path, "vox1_o").to_dict("list") == {
        "trial_list": ["vox1_o", "vox1_o"],
        "label": [1, 0],
        "enroll_id": ["a/s/1.wav", "a/s/1.wav"],
        "test_id": ["a/s/2.wav", "b/s/1.wav"],
    }


@pytest.mark.parametrize("line", ["1 a/s/1.wav", "2 a/s/1.wav b/s/1.wav", "1 a b c", "target a b", "-1 a b"])
def test_a_malformed_line_is_named_with_its_file_and_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "veri_test2.txt"
    path.write_text(f"1 a/s/1.wav a/s/2.wav\n\n{line}\n")
    with pytest.raises(DataError, match=rf"veri_test2\.txt, line 3: '{line}' is not"):
        read_trial_list(path, "vox1_o")


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.txt: holds no trials"):
        read_trial_list(tmp_path / "empty.txt", "vox1_o")


def test_trials_of_absent_utterances_are_counted_and_the_first_ten_named(tmp_path: Path) -> None:
    utterances = manifest({"a": 4})
    known = list(utterances["utterance_id"])
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text(f"1 {known[0]} {known[1]}\n")
    bad.write_text("".join(f"0 {known[0]} z/s/{number:02d}.wav\n" for number in [*range(12), 3]))
    assert len(read_trials({"vox1_o": good}, utterances)) == 1
    with pytest.raises(DataError, match="trials of vox1_e name 12 utterances") as caught:
        read_trials({"vox1_o": good, "vox1_e": bad}, utterances)
    assert "z/s/09.wav" in str(caught.value)
    assert "z/s/10.wav" not in str(caught.value)


def pairs_of(trials: pd.DataFrame) -> set[frozenset[str]]:
    return {frozenset(pair) for pair in zip(trials["enroll_id"], trials["test_id"], strict=True)}


def draw(utterances: pd.DataFrame, num_target: int, num_nontarget: int, seed: int = 0) -> pd.DataFrame:
    return draw_trials(utterances, num_target, num_nontarget, "x", np.random.default_rng(seed))


@pytest.mark.parametrize(("num_target", "num_nontarget"), [(10, 10), (30, 150), (45, 90)])
def test_drawn_trials_are_labelled_rightly_and_no_pair_comes_twice(
    num_target: int, num_nontarget: int
) -> None:
    trials = draw(manifest({"a": 4, "b": 9, "c": 8, "d": 1}), num_target, num_nontarget)
    same = trials["enroll_id"].str[0] == trials["test_id"].str[0]
    assert (same == (trials["label"] == 1)).all()
    assert list(trials["label"]) == [1] * num_target + [0] * num_nontarget
    assert len(pairs_of(trials)) == num_target + num_nontarget
    assert all(len(pair) == 2 for pair in pairs_of(trials))


def test_where_pairs_run_out_all_of_them_are_taken() -> None:
    trials = draw(manifest({"a": 3, "b": 2}), 100, 100)
    assert (trials["label"] == 1).sum() == 3 + 1
    assert (trials["label"] == 0).sum() == 3 * 2
    assert len(pairs_of(trials)) == 10


def test_target_trials_spread_over_the_speakers() -> None:
    trials = draw(manifest({"a": 2, "b": 30, "c": 30}), 21, 0)
    counts = trials["enroll_id"].str[0].value_counts()
    assert counts["a"] == 1
    assert counts["b"] == counts["c"] == 10


def test_a_draw_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    utterances = manifest({"a": 5, "b": 6, "c": 7})
    first = draw(utterances, 10, 10)
    pd.testing.assert_frame_equal(first, draw(utterances[::-1], 10, 10))
    assert pairs_of(first) != pairs_of(draw(utterances, 10, 10, seed=1))
