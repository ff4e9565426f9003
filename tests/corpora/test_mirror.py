"""Mirrors: the files that preparation needs, and those that are refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.corpora import mirror
from speaker_verification.corpora.corpus import part_suffix
from speaker_verification.corpora.mirror import Digests, Mirror
from tests.support.corpora import write_checksums

NEEDED = ["vox1_dev_wav.zip", "vox2_dev_aac.zip", "vox1_test_wav.zip", "veri_test2.txt", "musan.tar.gz"]


def test_a_whole_mirror_passes(mirror_folder: Path) -> None:
    Mirror(mirror_folder).check(NEEDED, Digests(mirror_folder))
    (mirror_folder / "MD5SUMS").unlink()
    Mirror(mirror_folder).check(NEEDED, Digests(mirror_folder))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: no such folder; copy it again"):
        Mirror(tmp_path / "absent").check([], digests=None)


def test_all_missing_files_are_named_at_once(mirror_folder: Path) -> None:
    for name in ("vox2_dev_aac_partab", "veri_test2.txt", "vox1_test_wav.zip"):
        (mirror_folder / name).unlink()
    for part in mirror_folder.glob("vox1_dev_wav_part*"):
        part.unlink()
    with pytest.raises(DataError) as caught:
        Mirror(mirror_folder).check(NEEDED, digests=None)
    assert str(caught.value) == (
        f"mirror {mirror_folder} lacks vox1_dev_wav.zip (or vox1_dev_wav_partaa, ...), vox2_dev_aac_partab, "
        "vox1_test_wav.zip, veri_test2.txt; copy it again"
    )


def test_a_part_is_missed_although_another_form_is_there(mirror_folder: Path) -> None:
    (mirror_folder / "dev/aac").mkdir(parents=True)
    (mirror_folder / "vox2_dev_aac_partab").unlink()
    with pytest.raises(DataError, match=r"lacks vox2_dev_aac_partab;"):
        Mirror(mirror_folder).check(NEEDED, digests=None)


def test_of_a_corpus_that_has_no_archive_the_other_forms_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks voxblink2\.tar \(or voxblink2, voxblink2-\*\.tar, voxblink2"):
        Mirror(tmp_path).check(["voxblink2.tar"], digests=None)


def test_a_missing_last_part_is_known_from_the_checksums(mirror_folder: Path) -> None:
    (mirror_folder / "vox2_dev_aac_partac").unlink()
    with pytest.raises(DataError, match=r"lacks vox2_dev_aac_partac;"):
        Mirror(mirror_folder).check(NEEDED, digests=None)


def test_a_missing_middle_part_is_known_without_checksums(mirror_folder: Path) -> None:
    (mirror_folder / "MD5SUMS").unlink()
    (mirror_folder / "vox2_dev_aac_partab").unlink()
    with pytest.raises(DataError, match=r"lacks vox2_dev_aac_partab;"):
        Mirror(mirror_folder).check(NEEDED, digests=None)


def test_a_whole_archive_replaces_its_parts(mirror_folder: Path) -> None:
    found = Mirror(mirror_folder)
    parts = found.files("vox2_dev_aac.zip")
    assert [path.name for path in parts] == [f"vox2_dev_aac_parta{letter}" for letter in "abc"]
    whole = mirror_folder / "vox2_dev_aac.zip"
    whole.write_bytes(b"".join(path.read_bytes() for path in parts))
    for part in parts:
        part.unlink()
    assert found.files("vox2_dev_aac.zip") == [whole]
    found.check(NEEDED, Digests(mirror_folder))


@pytest.mark.parametrize("name", ["vox2_dev_aac_partab", "veri_test2.txt"])
def test_an_altered_file_is_named_with_both_checksums(mirror_folder: Path, name: str) -> None:
    path = mirror_folder / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    found = Mirror(mirror_folder)
    with pytest.raises(DataError, match=rf"{name}: MD5 is [0-9a-f]{{32}}, MD5SUMS says [0-9a-f]{{32}}"):
        found.check(NEEDED, Digests(mirror_folder))
    found.check(NEEDED, digests=None)


def test_parts_are_verified_by_the_checksum_of_the_whole(mirror_folder: Path) -> None:
    found = Mirror(mirror_folder)
    parts = found.files("vox2_dev_aac.zip")
    whole = mirror_folder / "vox2_dev_aac.zip"
    whole.write_bytes(b"".join(path.read_bytes() for path in parts))
    write_checksums(mirror_folder)
    whole.unlink()
    sums = mirror_folder / "MD5SUMS"
    sums.write_text("".join(line for line in sums.open() if "aac_part" not in line))
    found.check(NEEDED, Digests(mirror_folder))
    parts[1].write_bytes(b"?" + parts[1].read_bytes()[1:])
    with pytest.raises(DataError, match=r"vox2_dev_aac.zip: MD5 is"):
        found.check(NEEDED, Digests(mirror_folder))


def test_what_was_read_once_is_not_read_again_until_it_changes(
    mirror_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    add_file = mirror.add_file
    monkeypatch.setattr(
        mirror, "add_file", lambda digest, path: (read.append(path.name), add_file(digest, path))
    )
    Mirror(mirror_folder).check(NEEDED, Digests(mirror_folder))
    assert len(read) == 2 + 3 + 3
    Mirror(mirror_folder).check(NEEDED, Digests(mirror_folder))
    assert len(read) == 8
    os.utime(mirror_folder / "veri_test2.txt", (1, 1))
    Mirror(mirror_folder).check(NEEDED, Digests(mirror_folder))
    assert read[8:] == ["veri_test2.txt"]


def test_checksums_saved_with_a_byte_order_mark_are_read(mirror_folder: Path) -> None:
    sums = mirror_folder / "MD5SUMS"
    first, *others = sums.read_text().splitlines()
    sums.write_text("\n".join([f"{'0' * 32}  {first.split()[1]}", *others]), encoding="utf-8-sig")
    with pytest.raises(DataError, match=f"{first.split()[1]}: MD5 is {first.split()[0]}, MD5SUMS says 0000"):
        Mirror(mirror_folder).check([first.split()[1]], Digests(mirror_folder))


def test_what_was_read_before_a_move_is_not_read_again(
    mirror_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, elsewhere = tmp_path / "old", tmp_path / "elsewhere"
    shutil.copytree(mirror_folder, old / "mirror")
    shutil.copytree(mirror_folder, elsewhere)
    for folder in (old / "mirror", elsewhere):
        Mirror(folder).check(NEEDED, Digests(old / "mirror"))
    record = old / ".mirror_md5.json"
    assert {name.startswith("/") for name in json.loads(record.read_text())} == {True, False}
    old.rename(tmp_path / "new")
    monkeypatch.setattr(mirror, "add_file", None)
    for folder in (tmp_path / "new/mirror", elsewhere):
        Mirror(folder).check(NEEDED, Digests(tmp_path / "new/mirror"))


def test_a_record_of_absolute_paths_holds_where_it_was_written(
    mirror_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Mirror(mirror_folder).check(NEEDED, Digests(mirror_folder))
    record = mirror_folder.with_name(f".{mirror_folder.name}_md5.json")
    known = json.loads(record.read_text())
    record.write_text(json.dumps({f"{mirror_folder.parent.resolve()}/{name}": known[name] for name in known}))
    monkeypatch.setattr(mirror, "add_file", None)
    Mirror(mirror_folder).check(NEEDED, Digests(mirror_folder))


def test_a_malformed_checksum_line_is_named(mirror_folder: Path) -> None:
    sums = mirror_folder / "MD5SUMS"
    sums.write_text("\n" + sums.read_text() + "nonsense\n")
    lines = len(sums.read_text().splitlines())
    with pytest.raises(DataError, match=f"MD5SUMS, line {lines}: .*nonsense"):
        Mirror(mirror_folder).check(NEEDED, digests=None)


def test_parts_are_named_as_split_names_them() -> None:
    assert [part_suffix(index) for index in (0, 7, 25, 26, 53)] == ["aa", "ah", "az", "ba", "cb"]
