"""Matching of utterance ids, exactly or by their forms."""

from __future__ import annotations

import logging

import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.scoring.matching import match_ids, nearest_id

ID = "id10270/5r0-Wx_C8/00001.wav"


@pytest.mark.parametrize(
    "known",
    [
        ID,
        "id10270/5r0-Wx_C8/00001",
        "id10270/5r0-Wx_C8/00001.flac",
        "/data/vox1/wav/id10270/5r0-Wx_C8/00001.wav",
        "./id10270/5r0-Wx_C8/00001.wav",
        "wav\\id10270\\5r0-Wx_C8\\00001.wav",
        "id10270-5r0-Wx_C8-00001",
        "id10270_5r0-Wx_C8_00001",
        "id10270-id10270/5r0-Wx_C8/00001.wav",
        "id10270-id10270-5r0-Wx_C8-00001",
        "5r0-Wx_C8/00001.wav",
    ],
)
def test_an_id_is_found_in_each_of_its_usual_variants_and_these_in_it(known: str) -> None:
    others = ["id10270/5r0-Wx_C8/00002.wav", "id10271/5r0-Wx_C9/00001.wav"]
    assert match_ids([ID], [*others, known], "x.ark").tolist() == [2]
    assert match_ids([known], [*others, ID], "x.ark").tolist() == [2]


@pytest.mark.parametrize("known", ["id10270/5r0-Wx_C8/00002.wav", "xid10270/5r0-Wx_C8/00001.wav", "x-" + ID])
def test_an_id_is_not_found_in_another(known: str) -> None:
    assert match_ids([ID], [known], "x.ark").tolist() == [-1]


def test_an_exact_id_goes_before_its_variants() -> None:
    assert match_ids([ID, "one.wav"], ["one", ID, f"wav/{ID}"], "x.ark").tolist() == [1, 0]


def test_the_log_tells_how_many_ids_were_found_by_their_form(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        match_ids(["one", "two.wav", "three.wav"], ["one", "two", "three"], "x.ark")
    assert caplog.messages == ["x.ark: 2 of 3 ids are found by their form, such as two.wav as two"]


def test_an_id_of_the_form_of_several_is_refused() -> None:
    with pytest.raises(DataError, match=r"^x\.ark: 'a/1\.wav' could be dev/a/1, test/a/1: name it in full$"):
        match_ids(["b/1.wav", "a/1.wav"], ["b/1", "test/a/2", "dev/a/1", "test/a/1"], "x.ark")


def test_ids_that_would_share_an_embedding_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"^x\.ark: '1' could be 'a/1\.wav' or 'b/1\.wav': name both in full$"
    ):
        match_ids(["a/1.wav", "b/1.wav"], ["1", "2"], "x.ark")
    assert match_ids(["a/1.wav", "a/1.flac"], ["a/1"], "x.ark").tolist() == [0, 0]  # one utterance


def test_the_nearest_id_has_a_common_ending_or_beginning() -> None:
    known = [
        f"spk{speaker}/day{day}/take{take}" for speaker in range(20) for day in range(9) for take in range(9)
    ]
    assert nearest_id("spk7/dya3/take2", known) == "spk7/day3/take2"
    assert nearest_id("zpk7/day3/take2", known) == "spk7/day3/take2"
