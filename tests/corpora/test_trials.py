"""Trial lists, read and drawn."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.corpora.settings import DrawnTrials, PrepareSettings
from speaker_verification.corpora.trials.trials import (
    draw_trials,
    gather_trials,
    read_trial_list,
    read_trials,
)
from tests.support.corpora import manifest


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


def test_spaces_and_line_ends_may_be_those_of_any_editor(tmp_path: Path) -> None:
    lines = ["1 a/s/1.wav a/s/2.wav", "0 a/s/1.wav b/s/1.wav"]
    even, uneven = tmp_path / "even.txt", tmp_path / "uneven.txt"
    even.write_bytes("\r\n".join(lines).encode())  # as some copies of VoxCeleb's lists
    uneven.write_text("".join(f" {line.replace(' ', chr(9))}\n" for line in lines))
    pd.testing.assert_frame_equal(read_trial_list(even, "x"), read_trial_list(uneven, "x"))
    assert read_trial_list(even, "x")["test_id"].tolist() == ["a/s/2.wav", "b/s/1.wav"]


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_a_list_of_kaldi_has_its_labels_at_the_end_as_words(tmp_path: Path, separator: str) -> None:
    lines = ("a/1.wav", "a/2.wav", "target"), ("a/1.wav", "b/1.wav", "nontarget")
    (tmp_path / "trials").write_text("\n".join(separator.join(line) for line in lines))
    trials = read_trial_list(tmp_path / "trials", "vox1_o")
    assert trials["label"].tolist() == [1, 0]
    assert trials["enroll_id"].tolist() == ["a/1.wav", "a/1.wav"]
    assert trials["test_id"].tolist() == ["a/2.wav", "b/1.wav"]


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


def test_target_trials_cross_sessions_where_a_speaker_has_several() -> None:
    utterances = pd.concat([manifest({"a": 6, "b": 2, "c": 1}), manifest({"d": 4})])  # two to a session
    trials = draw_trials(utterances, 100, 1, "x", np.random.default_rng(0), across_sessions=True)
    target = trials[trials["label"] == 1]
    sessions = target[["enroll_id", "test_id"]].map(lambda name: name.rpartition("/")[0])
    across = sessions["enroll_id"] != sessions["test_id"]
    speaker = target["enroll_id"].str[0]
    assert across[speaker != "b"].all()
    assert not across[speaker == "b"].any()  # its only session
    # of a: 15 pairs but for 3 within a session; of d: 6 but for 2
    assert speaker.value_counts().to_dict() == {"a": 12, "d": 4, "b": 1}


@pytest.mark.parametrize("num_nontarget", [5, 1000])
def test_same_sex_non_targets_pair_speakers_of_one_known_gender(num_nontarget: int) -> None:
    utterances = manifest({"a": 4, "b": 4, "c": 4, "d": 4, "e": 4, "f": 4})
    genders = {"a": "f", "b": "m", "c": "f", "d": "m", "e": "unknown"}
    trials = draw_trials(utterances, 40, num_nontarget, "x", np.random.default_rng(0), genders=genders)
    nontarget = trials[trials["label"] == 0]
    assert {"".join(sorted({*enroll[0], *test[0]})) for enroll, test in pairs_of(nontarget)} == {"ac", "bd"}
    assert len(nontarget) == len(pairs_of(nontarget)) == min(num_nontarget, 16 + 16)
    assert set(trials.loc[trials["label"] == 1, "enroll_id"].str[0]) == set("abcdef")


def librispeech_utterances() -> pd.DataFrame:
    archives = (
        ("librispeech-dev-clean", {"84": 6, "174": 6, "251": 6}),
        ("librispeech-test-clean", {"61": 6, "121": 6, "237": 6, "260": 6}),
    )
    return pd.concat([manifest(counts, subset) for subset, counts in archives], ignore_index=True)


SPEAKERS = pd.DataFrame(
    {"speaker_id": ["61", "121", "237", "260", "84", "174"], "gender": ["f", "m", "f", "m", "f", "m"]}
).assign(nationality="unknown")
LIBRISPEECH = PrepareSettings(
    subsets=("librispeech-train-clean-100", "librispeech-dev-clean", "librispeech-test-clean"),
    trial_lists=("librispeech_test_clean", "librispeech_test_clean_same_sex"),
    training_set="librispeech-train-clean-100",
    drawn_trials=DrawnTrials(target_trials=20, nontarget_trials=30),
    seed=1,
)


DRAWN = {  # MD5 of each list as CSV, drawn with seed 1 from the utterances above
    "librispeech_dev_clean": "88df0de0ae8b9f6d64292b997ad68702",
    "librispeech_test_clean": "319eb496ed0aef1451c6e109ede7fe39",
    "librispeech_test_clean_same_sex": "d980fe721ef7df19d673a6b8edd87f34",
}


def test_drawn_lists_stay_what_they_are(tmp_path: Path) -> None:
    settings = LIBRISPEECH.model_copy(update={"trial_lists": tuple(DRAWN)})
    trials = gather_trials(settings, tmp_path, librispeech_utterances(), SPEAKERS)
    for name, md5 in DRAWN.items():
        lines = trials[trials["trial_list"] == name].to_csv(index=False).encode()
        assert hashlib.md5(lines).hexdigest() == md5


def test_lists_over_librispeech_are_drawn_from_their_subset_by_the_seed(tmp_path: Path) -> None:
    utterances = librispeech_utterances()
    trials = gather_trials(LIBRISPEECH, tmp_path, utterances, SPEAKERS)
    assert trials.groupby(["trial_list", "label"]).size().to_dict() == {
        (name, label): count for name in LIBRISPEECH.trial_lists for label, count in ((0, 30), (1, 20))
    }
    assert {name.partition("/")[0] for name in trials["enroll_id"]} == {"61", "121", "237", "260"}
    pd.testing.assert_frame_equal(trials, gather_trials(LIBRISPEECH, tmp_path, utterances[::-1], SPEAKERS))
    reseeded = LIBRISPEECH.model_copy(update={"seed": 2})
    other = gather_trials(reseeded, tmp_path, utterances, SPEAKERS)
    assert pairs_of(trials) != pairs_of(other)
    alone = LIBRISPEECH.model_copy(update={"trial_lists": ("librispeech_test_clean_same_sex",)})
    same_sex = trials[trials["trial_list"] == "librispeech_test_clean_same_sex"].reset_index(drop=True)
    drawn_alone = gather_trials(alone, tmp_path, utterances, SPEAKERS)
    pd.testing.assert_frame_equal(same_sex.astype(str), drawn_alone.astype(str))


def test_a_same_sex_list_without_genders_is_refused(tmp_path: Path) -> None:
    message = "librispeech_test_clean_same_sex: .* 2 speakers of one sex, by the speakers table"
    with pytest.raises(DataError, match=message):
        gather_trials(LIBRISPEECH, tmp_path, librispeech_utterances(), SPEAKERS[:0])


def test_lists_of_the_user_s_own_are_read_beside_the_named_ones(tmp_path: Path) -> None:
    (tmp_path / "veri_test2.txt").write_text("1 61/s0/00000.wav 61/s1/00002.wav\n")
    (tmp_path / "mine.txt").write_text("0 61/s0/00000.wav 121/s1/00002.wav\n")
    (tmp_path / "elsewhere.txt").write_text("0 84/s0/00000.wav 121/s1/00002.wav\n")
    elsewhere = str(tmp_path / "elsewhere.txt")
    settings = PrepareSettings(
        trial_lists=("vox1_o",), other_trial_lists={"mine": "mine.txt", "elsewhere": elsewhere}
    )
    trials = gather_trials(settings, tmp_path, librispeech_utterances(), SPEAKERS)
    assert trials["trial_list"].tolist() == ["vox1_o", "mine", "elsewhere"]


def test_a_draw_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    utterances = manifest({"a": 5, "b": 6, "c": 7})
    first = draw(utterances, 10, 10)
    pd.testing.assert_frame_equal(first, draw(utterances[::-1], 10, 10))
    assert pairs_of(first) != pairs_of(draw(utterances, 10, 10, seed=1))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
@pytest.mark.parametrize("separator", [" ", "\t"])
def test_a_list_may_be_saved_by_any_editor_or_shell(tmp_path: Path, encoding: str, separator: str) -> None:
    lines = ["1 a/s/1.wav a/s/2.wav", "0 a/s/1.wav b/s/1.wav"]
    path = tmp_path / "mine.txt"
    path.write_bytes("\r\n".join(line.replace(" ", separator) for line in lines).encode(encoding))
    trials = read_trial_list(path, "mine")
    assert trials["label"].tolist() == [1, 0]
    assert trials["enroll_id"].tolist() == ["a/s/1.wav", "a/s/1.wav"]
    assert trials["test_id"].tolist() == ["a/s/2.wav", "b/s/1.wav"]


def test_ids_of_a_list_are_normalised_to_the_form_of_names_in_archives(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(
        "1 Zoe\u0308\\s\\1.WAV ./Zo\u00eb/s/2.wav\n0 Zo\u00eb/s/1.wav b/s/1.wav\n", encoding="utf-8"
    )
    trials = read_trial_list(path, "mine")
    assert trials["enroll_id"].tolist() == ["Zo\u00eb/s/1.wav"] * 2
    assert trials["test_id"].tolist() == ["Zo\u00eb/s/2.wav", "b/s/1.wav"]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("id00012/s1/00002", "id00012/s1/00002.wav"),
        ("id00012/s1/00002.m4a", "id00012/s1/00002.wav"),
        ("s9/00018.wav", "id00013/s9/00018.wav"),
        ("00018", "id00013/s9/00018.wav"),
        ("/data/vox2/dev/aac/id00012/s1/00003.m4a", "id00012/s1/00003.wav"),
        ("id00012-s1-00002", "id00012/s1/00002.wav"),
        ("id00013/s4/00099.wav", "id00013/s4/00009.wav"),
        ("zzz", "id00013/s9/00019.wav"),
    ],
)
def test_an_id_that_the_corpus_lacks_is_told_with_the_form_of_ids_and_the_nearest(
    tmp_path: Path, name: str, nearest: str
) -> None:
    utterances = manifest({"id00012": 4, "id00013": 20})
    (tmp_path / "mine.txt").write_text(f"1 {name} {utterances['utterance_id'][0]}\n")
    with pytest.raises(DataError, match="begins with the speaker") as caught:
        read_trials({"mine": tmp_path / "mine.txt"}, utterances)
    assert str(caught.value).endswith(f"nearest to '{name}' is '{nearest}'")


def test_all_malformed_lists_are_told_at_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("yes x y\n")
    with pytest.raises(DataError, match=r"a\.txt, line 1: .*; .*b\.txt, line 1: "):
        read_trials({name: tmp_path / f"{name}.txt" for name in ("a", "b")}, manifest({"x": 2}))
