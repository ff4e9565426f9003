"""Known trial lists, the subsets that they need, and their descriptions."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from speaker_verification.corpora.corpus import HostedFile, PublishedList
from speaker_verification.corpora.registry import subsets, trial_lists
from speaker_verification.corpora.trials.trial_lists import describe_lists
from speaker_verification.corpora.trials.trials import draw_trials, read_trial_list
from speaker_verification.corpora.voxceleb import PUBLISHED_LISTS
from tests.support.corpora import manifest


def test_only_e_and_h_need_the_development_speakers() -> None:
    lists = trial_lists()
    assert lists["vox1_o_original"].subsets == ("vox1-test",)
    assert lists["vox1_e"].subsets == lists["vox1_h_original"].subsets == ("vox1-dev", "vox1-test")


def test_every_list_is_of_known_subsets_of_speech() -> None:
    assert {name for entry in trial_lists().values() for name in entry.subsets} <= {*subsets()}


def test_the_cleaned_lists_are_the_shorter_ones() -> None:
    sizes = {name: published.num_trials for name, published in PUBLISHED_LISTS.items()}
    assert [sizes[name] for name in ("vox1_o", "vox1_e", "vox1_h")] == [37_611, 579_818, 550_894]
    assert all(sizes[name] < sizes[f"{name}_original"] for name in ("vox1_o", "vox1_e", "vox1_h"))


def speech_of(trials: pd.DataFrame) -> pd.DataFrame:
    """A manifest of the utterances of trials between VoxCeleb's ids."""
    ids = pd.concat([trials["enroll_id"], trials["test_id"]]).unique()
    return pd.DataFrame({"utterance_id": ids, "speaker_id": [name.split("/")[0] for name in ids]})


def test_lists_are_described_with_what_is_odd_about_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "veri_test.txt"
    path.write_text(
        "1 a/s/1.wav a/s/2.wav\n"
        "1 a/s/2.wav a/s/1.wav\n"  # again, the other way round
        "1 a/s/1.wav a/s/1.wav\n"
        "1 a/s/1.wav b/s/1.wav\n"  # wrongly labelled
        "0 a/s/1.wav c/s/1.wav\n"
    )
    drawn = draw_trials(manifest({"a": 2, "b": 2}), 1, 1, "x", np.random.default_rng(0))
    trials = pd.concat([read_trial_list(path, "vox1_o_original"), drawn], ignore_index=True)
    with caplog.at_level(logging.INFO):
        table = describe_lists(trials, {"vox1_o_original": path}, speech_of(trials))
    first, second = table.to_dict("records")
    assert first == {
        "trial_list": "vox1_o_original",
        "file": "veri_test.txt",
        "md5": hashlib.md5(path.read_bytes()).hexdigest(),
        "num_target": 4,
        "num_nontarget": 1,
        "official": False,
        "num_repeated": 1,
        "num_self": 1,
        "num_mislabelled": 1,
    }
    assert (second["trial_list"], second["file"], second["official"]) == ("x", "drawn", False)
    text = "".join(f"{row.label} {row.enroll_id} {row.test_id}\n" for row in drawn.itertuples())
    assert second["md5"] == hashlib.md5(text.encode()).hexdigest()
    assert caplog.messages == [
        "vox1_o_original: 5 trials, 4 of them targets, veri_test.txt, not the official list of 37,720; "
        "1 repeated; 1 of an utterance with itself; 1 labelled against their speakers",
        "x: 2 trials, 1 of them targets, drawn",
    ]


def test_an_official_list_is_known_by_its_trials_however_its_lines_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    published = b"1 a/s/1.wav a/s/2.wav\n0 a/s/1.wav b/s/1.wav\n"
    known = PublishedList(HostedFile("veri_test2.txt"), ("vox1-test",), 2, hashlib.md5(published).hexdigest())
    monkeypatch.setitem(PUBLISHED_LISTS, "vox1_o", known)
    path = tmp_path / "veri_test2.txt"
    copies = (published, published.replace(b"\n", b"\r\n").rstrip(), published.replace(b"0 ", b"1 "))
    with caplog.at_level(logging.INFO):
        for copy, official in zip(copies, (True, True, False), strict=True):
            path.write_bytes(copy)
            trials = read_trial_list(path, "vox1_o")
            table = describe_lists(trials, {"vox1_o": path}, speech_of(trials))
            assert table["official"].tolist() == [official]
    assert ["official" in message for message in caplog.messages] == [True] * 3
    assert "as many as the official list, but not the same (MD5)" in caplog.messages[2]


def test_a_list_without_a_known_md5_is_official_by_its_number_of_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(
        PUBLISHED_LISTS, "vox1_o", PublishedList(HostedFile("veri_test2.txt"), ("vox1-test",), 2, md5=None)
    )
    path = tmp_path / "veri_test2.txt"
    lines = ["1 a/s/1.wav a/s/2.wav\n", "0 a/s/1.wav b/s/1.wav\n"]
    with caplog.at_level(logging.INFO):
        for num_trials, official in ((2, True), (1, False)):
            path.write_text("".join(lines[:num_trials]))
            trials = read_trial_list(path, "vox1_o")
            table = describe_lists(trials, {"vox1_o": path}, speech_of(trials))
            assert table["official"].tolist() == [official]
    assert caplog.messages[0].endswith("veri_test2.txt, the official list by its number of trials")
    assert caplog.messages[1].endswith("veri_test2.txt, not the official list of 2")


def test_speakers_are_those_of_the_manifest_whatever_the_ids_begin_with(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("1 mine/a/1.wav mine/a/2.wav\n0 mine/a/1.wav mine/b/1.wav\n1 mine/a/1.wav mine/b/1.wav\n")
    ids = ["mine/a/1.wav", "mine/a/2.wav", "mine/b/1.wav"]
    speech = pd.DataFrame({"utterance_id": ids, "speaker_id": ["a", "a", "b"]})
    table = describe_lists(read_trial_list(path, "own"), {"own": path}, speech)
    assert table["num_mislabelled"].tolist() == [1]
