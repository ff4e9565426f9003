"""The speakers table."""

from __future__ import annotations

from pathlib import Path

import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.corpora.mirror import Mirror
from speaker_verification.corpora.speakers import read_speakers
from tests.support.corpora import librispeech_archive, tarred

HEADER = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"


def write_test_clean(folder: Path, speakers: str) -> None:
    members = librispeech_archive("test-clean") | {"LibriSpeech/SPEAKERS.TXT": speakers.encode()}
    (folder / "test-clean.tar.gz").write_bytes(tarred(members))


def test_both_corpora_tell_of_their_speakers_in_one_table(tmp_path: Path) -> None:
    meta = 'id10001\tA.J._"Jr\tm\tIreland\tdev\nid10002\tB\tf\t\tdev\nid10003\tC\t?\tNA\ttest\n'
    (tmp_path / "vox1_meta.csv").write_text(HEADER + meta)
    speakers = (
        "; a comment\n14   | F | train-clean-360  | 25.03 | Kristin\n60 | M | x | 20.18 | | CBW | Simon\n"
    )
    write_test_clean(tmp_path, speakers)
    table = read_speakers(Mirror(tmp_path), ["vox1-test", "librispeech-test-clean"])
    assert list(table.itertuples(index=False, name=None)) == [
        ("id10001", "m", "Ireland"),
        ("id10002", "f", "unknown"),
        ("id10003", "unknown", "NA"),
        ("14", "f", "unknown"),
        ("60", "m", "unknown"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_saved_with_a_byte_order_mark_tell_the_same(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "vox1_meta.csv").write_bytes((HEADER + "id10001\tA\tm\tIreland\tdev\n").encode(encoding))
    members = {"top/LibriSpeech/SPEAKERS.TXT": "; a comment\n60 | M | x | 1 | Simon\n".encode(encoding)}
    (tmp_path / "test-clean.tar.gz").write_bytes(tarred(members))
    table = read_speakers(Mirror(tmp_path), ["vox1-test", "librispeech-test-clean"])
    assert table["speaker_id"].tolist() == ["id10001", "60"]


def test_where_nothing_is_known_the_table_is_empty(tmp_path: Path) -> None:
    (tmp_path / "vox1_meta.csv").write_text(HEADER + "id10001\tA\tm\tIreland\tdev\n")
    members = librispeech_archive("test-clean")
    del members["LibriSpeech/SPEAKERS.TXT"]
    (tmp_path / "test-clean.tar.gz").write_bytes(tarred(members))
    table = read_speakers(Mirror(tmp_path), ["vox2-dev", "librispeech-test-clean"])
    assert table.columns.tolist() == ["speaker_id", "gender", "nationality"]
    assert table.empty


def test_speakers_files_of_another_form_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "vox1_meta.csv").write_text("id,gender\nid10001,m\n")
    with pytest.raises(DataError, match=r"vox1_meta\.csv: not tab-separated columns with VoxCeleb1 ID"):
        read_speakers(Mirror(tmp_path), ["vox1-dev"])
    write_test_clean(tmp_path, "; a comment\n14 | F\n")
    with pytest.raises(DataError, match=r"SPEAKERS\.TXT, line 2: '14 \| F' is not 'ID \| SEX"):
        read_speakers(Mirror(tmp_path), ["librispeech-test-clean"])
    (tmp_path / "test-clean.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"test-clean\.tar\.gz: not a whole"):
        read_speakers(Mirror(tmp_path), ["librispeech-test-clean"])
