from __future__ import annotations

from pathlib import Path

import pytest

from speaker_verification.common.atomic import atomic_write


def write(path: Path, text: str, is_folder: bool) -> None:
    with atomic_write(path) as part:
        if is_folder:
            part.mkdir()
            (part / "text").write_text(text)
        else:
            part.write_text(text)


def read(path: Path) -> str:
    return (path / "text" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("was_folder", [False, True])
def test_the_new_takes_the_place_of_the_old(is_folder: bool, was_folder: bool, tmp_path: Path) -> None:
    path = tmp_path / "above" / "name"
    write(path, "old", was_folder)
    if is_folder and not was_folder:
        path.unlink()  # a folder takes no file's place
    write(path, "new", is_folder)
    assert read(path) == "new"
    assert [found.name for found in path.parent.iterdir()] == ["name"]


@pytest.mark.parametrize("skip_if_unchanged", [False, True])
@pytest.mark.parametrize("text", ["same", "else"])
def test_a_file_that_would_not_change_is_left_as_it_is_when_asked_for(
    skip_if_unchanged: bool, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "name"
    path.write_text("same")
    inode = path.stat().st_ino
    with atomic_write(path, skip_if_unchanged) as part:
        part.write_text(text)
    assert path.read_text() == text
    assert (path.stat().st_ino == inode) is (skip_if_unchanged and text == "same")
    assert [found.name for found in tmp_path.iterdir()] == ["name"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_block_that_raises_leaves_the_old_and_nothing_else(is_folder: bool, tmp_path: Path) -> None:
    write(tmp_path / "name", "old", is_folder)

    def fail() -> None:
        with atomic_write(tmp_path / "name") as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert read(tmp_path / "name") == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["name"]


def test_what_a_killed_writer_left_is_gone_after_the_next_one(tmp_path: Path) -> None:
    (tmp_path / ".name.part").mkdir()
    (tmp_path / ".name.part" / "half").write_text("half")
    write(tmp_path / "name", "new", is_folder=False)
    assert [found.name for found in tmp_path.iterdir()] == ["name"]
