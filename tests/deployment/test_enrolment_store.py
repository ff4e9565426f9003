"""Enrolled speakers outlive the process, whatever becomes of it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.locks import InUseError
from speaker_verification.deployment import enrolment_parts
from speaker_verification.deployment.enrolment_store import EnrolledRecording, Enrolment, EnrolmentStore
from speaker_verification.deployment.identification import identify
from speaker_verification.scoring.metrics import OperatingPoint
from tests.support.enrolments import (
    FINGERPRINT,
    WIDTH,
    embeddings_for,
    enrolment,
    new_store,
    opened,
    recordings_for,
)
from tests.support.locking import held_by_another
from tests.support.stores import side_scorer


def names_of(store: EnrolmentStore) -> list[str]:
    return store.speakers()["speaker"].tolist()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_enrolled_is_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    before = new_store(tmp_path / "store", "anna", "boris")
    before.add_all([enrolment("carla", 3)])
    store = opened(tmp_path / "store")
    assert len(store) == 3
    assert "boris" in store
    assert "dora" not in store
    table = store.speakers()
    assert table["speaker"].tolist() == ["anna", "boris", "carla"]
    assert table["num_recordings"].tolist() == [1, 1, 3]
    assert table["seconds"].tolist() == [2.0, 2.0, 9.0]  # 2 + 3 + 4
    np.testing.assert_array_equal(store.embeddings_of("carla"), embeddings_for("carla", 3))
    recordings = store.recordings()
    assert recordings["path"].tolist()[2:] == [f"/recordings/carla-{place}.wav" for place in range(3)]
    assert recordings["sha256"].tolist()[2:] == [each.sha256 for each in recordings_for("carla", 3)]
    assert recordings["enrolled_at"].is_monotonic_increasing


def test_further_recordings_are_kept_beside_the_first_and_enter_the_mean(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna", "boris")
    embeddings, recordings = embeddings_for("anna", 3), recordings_for("anna", 3)
    store.add("anna", embeddings[1:], recordings[1:])
    np.testing.assert_array_equal(store.embeddings_of("anna"), embeddings)
    assert names_of(store) == ["anna", "boris"]
    together = new_store(tmp_path / "together")
    together.add("anna", embeddings, recordings)
    for each in (store, together):
        part, place = each.snapshot.find(["anna"])["anna"]
        sides = each.snapshot.parts[part].sides
        mean = embeddings.mean(axis=0) - store.scorer.cohort.centre
        np.testing.assert_allclose(sides.directions[place], mean / np.linalg.norm(mean), rtol=1e-5)
        assert sides.quality[place, 0] == pytest.approx(np.log(3.0))  # mean of 2, 3 and 4 seconds


def test_a_store_of_another_verifier_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    new_store(tmp_path / "store", "anna")
    with pytest.raises(DataError, match=rf"{FINGERPRINT}.*{'b' * 64}"):
        EnrolmentStore.open(tmp_path / "store", "b" * 64, side_scorer())


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ([[np.nan] * WIDTH], "'boris'.*embedding 0 has length nan"),
        ([[1.0] * WIDTH, [np.inf] * WIDTH], "'boris'.*embedding 1 has length inf"),
        ([[1e-9] * WIDTH], "'boris'.*embedding 0 has length 2.8"),
        ([[1.0] * (WIDTH + 1)], rf"'boris'.*\(1, {WIDTH + 1}\).*{WIDTH}"),
    ],
)
def test_unusable_embeddings_enrol_nobody(tmp_path: Path, spoilt: list[list[float]], message: str) -> None:
    store = new_store(tmp_path / "store", "anna")
    before = files_of(tmp_path / "store")
    bad = Enrolment("boris", spoilt, recordings_for("boris", len(spoilt)))
    with pytest.raises(DataError, match=message):
        store.add_all([enrolment("carla"), bad])
    assert files_of(tmp_path / "store") == before


def test_recordings_whose_mean_is_the_centre_are_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    centre = store.scorer.cohort.centre.astype(np.float32)
    with pytest.raises(DataError, match=r"'anna'.*no direction"):
        store.add("anna", [centre + 1, centre - 1], recordings_for("anna", 2))


def test_names_and_numbers_of_recordings_are_checked(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    with pytest.raises(DataError, match="name is empty"):
        store.add(" ", embeddings_for("anna"), recordings_for("anna"))
    with pytest.raises(DataError, match="'anna': 1 embeddings of 2 recordings"):
        store.add("anna", embeddings_for("anna"), recordings_for("anna", 2))


def test_a_recording_of_another_speaker_is_remarked_and_one_of_the_same_counts_once(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna")
    (recording,) = recordings_for("anna")
    remarks = store.add("boris", embeddings_for("boris"), [recording])
    assert [re.findall(r"'(\w+)'", remark) for remark in remarks] == [["boris", "anna"]]
    assert names_of(store) == ["anna", "boris"]
    (remark,) = store.add("anna", embeddings_for("anna"), [recording])[-1:]
    assert "'anna'" in remark
    assert recording.path in remark
    assert len(store.embeddings_of("anna")) == 1
    assert store.add("anna", embeddings_for("anna", 3)[1:], recordings_for("anna", 3)[1:]) == ()


def test_removed_speakers_leave_nothing_in_the_folder(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna", "boris")
    store.add("anna", embeddings_for("anna", 2)[1:], recordings_for("anna", 2)[1:])
    store.add_all([enrolment("carla")])
    secret = embeddings_for("anna", 2)
    assert any(secret[0].tobytes() in data for data in files_of(tmp_path / "store").values())
    store.remove("anna")
    assert names_of(store) == names_of(opened(tmp_path / "store")) == ["boris", "carla"]
    for data in files_of(tmp_path / "store").values():
        assert b"anna" not in data
        assert not any(embedding.tobytes() in data for embedding in secret)
    np.testing.assert_array_equal(store.embeddings_of("boris"), embeddings_for("boris"))
    with pytest.raises(DataError, match=r"1 speakers are not enrolled.*: anna"):
        store.remove("boris", "anna")
    assert "boris" in store


def test_replacing_a_speaker_erases_the_earlier_recordings(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna", "boris")
    first = embeddings_for("anna")
    store.replace("anna", first + 1, recordings_for("other"))
    np.testing.assert_array_equal(opened(tmp_path / "store").embeddings_of("anna"), first + 1)
    assert not any(first.tobytes() in data for data in files_of(tmp_path / "store").values())
    with pytest.raises(DataError, match="zoe"):
        store.replace("zoe", first, recordings_for("zoe"))


def test_appending_writes_a_part_and_leaves_the_others_alone(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", *(f"speaker{number}" for number in range(200)))
    parts = tmp_path / "store" / enrolment_parts.PARTS_FOLDER
    before = {path: path.stat() for path in parts.rglob("*.npy")}
    store.add_all([enrolment("anna")])
    after = {path: path.stat() for path in parts.rglob("*.npy")}
    assert all(after[path] == stat for path, stat in before.items())
    written = sum(stat.st_size for path, stat in after.items() if path not in before)
    assert written < 2 * (128 + 4 * WIDTH + 1)


def test_many_small_parts_are_merged_and_large_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("enrolment_parts", "enrolment_store"):
        monkeypatch.setattr(f"speaker_verification.deployment.{module}.RECORDINGS_PER_PART", 40)
    monkeypatch.setattr(enrolment_parts, "SMALL_PARTS", 3)
    many = [f"speaker{number:02}" for number in range(100)]
    store = new_store(tmp_path / "store", *many)
    assert [len(part) for part in store.snapshot.parts] == [40, 40, 20]
    large = store.snapshot.manifest.parts[:3]
    for number in range(10):
        store.add("anna", embeddings_for("anna", 10)[[number]], recordings_for("anna", 10)[number:][:1])
        assert store.snapshot.manifest.parts[:3] == large
        assert len(store.snapshot.parts) <= 3 + enrolment_parts.SMALL_PARTS
    np.testing.assert_array_equal(
        opened(tmp_path / "store").embeddings_of("anna"), embeddings_for("anna", 10)
    )
    assert names_of(store) == ["anna", *many]


def test_compacting_keeps_what_counts_in_as_few_parts_as_can_be(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna", "boris")
    store.add("anna", embeddings_for("anna", 2)[1:], recordings_for("anna", 2)[1:])
    recordings = store.recordings()
    store.compact()
    (part,) = store.snapshot.parts
    assert len(part.embeddings) == 3
    assert opened(tmp_path / "store").recordings().equals(recordings)


def test_embeddings_and_directions_are_mapped_not_loaded(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna")
    (part,) = store.snapshot.parts
    assert isinstance(part.embeddings, np.memmap)
    assert isinstance(part.sides.directions, np.memmap)


def test_pickles_are_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna")
    np.save(
        store.snapshot.parts[0].folder / enrolment_parts.DIRECTIONS_FILE, np.array([{}]), allow_pickle=True
    )
    with pytest.raises(DataError, match="Python objects"):
        opened(tmp_path / "store")


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna")
    with held_by_another(tmp_path / "store", what="enrolment"):
        with pytest.raises(InUseError, match="enrolment is running"):
            store.add_all([enrolment("boris")])
        assert names_of(opened(tmp_path / "store")) == ["anna"]
    store.add_all([enrolment("boris")])


def test_two_opened_stores_add_to_each_other_and_a_reader_sees_it_when_it_refreshes(tmp_path: Path) -> None:
    one = new_store(tmp_path / "store", "anna")
    other = opened(tmp_path / "store")
    other.add_all([enrolment("boris")])
    one.add_all([enrolment("carla")])
    assert names_of(other) == ["anna", "boris"]
    other.refresh()
    assert names_of(other) == names_of(one) == ["anna", "boris", "carla"]


def test_a_reader_outlives_the_parts_that_it_has_opened(tmp_path: Path) -> None:
    new_store(tmp_path / "store", "anna", "boris")
    reader, writer = opened(tmp_path / "store"), opened(tmp_path / "store")
    writer.remove("anna")
    writer.compact()
    np.testing.assert_array_equal(reader.embeddings_of("boris"), embeddings_for("boris"))
    assert names_of(reader) == ["boris"]


def test_what_a_killed_writer_left_is_not_read_and_goes_with_the_next_change(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna")
    manifest = (tmp_path / "store" / enrolment_parts.MANIFEST_FILE).read_bytes()
    store.add_all([enrolment("boris")])
    left = store.snapshot.parts[-1].folder
    half = left.with_name(".00000009.part")
    half.mkdir()
    (tmp_path / "store" / enrolment_parts.MANIFEST_FILE).write_bytes(manifest)  # killed before this changed
    again = opened(tmp_path / "store")
    assert names_of(again) == ["anna"]
    again.add_all([enrolment("carla")])
    assert names_of(opened(tmp_path / "store")) == ["anna", "carla"]
    assert len(list(left.parent.iterdir())) == 2


ENROL_FOR_EVER = """
import sys
from pathlib import Path
from tests.support.enrolments import enrolment, opened
store = opened(Path(sys.argv[1]), "cosine")
number = len(store)
while True:
    store.add_all([enrolment(f"{number + place:04}", 2) for place in range(3)])
    number += 3
    print(number, flush=True)
"""


@pytest.mark.project
def test_a_writer_killed_at_any_moment_leaves_whole_speakers(tmp_path: Path) -> None:
    new_store(tmp_path / "store", llr="cosine")
    command = [sys.executable, "-c", ENROL_FOR_EVER, str(tmp_path / "store")]
    for wait in (0.01, 0.04):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = [int(process.stdout.readline())]
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            said += [int(line) for line in process.stdout.read().split()]
        store = opened(tmp_path / "store", "cosine")
        assert said[-1] <= len(store) <= said[-1] + 3
        assert names_of(store) == [f"{place:04}" for place in range(len(store))]
        for name in names_of(store)[-6:]:
            np.testing.assert_array_equal(store.embeddings_of(name), embeddings_for(name, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "store.json is missing"),
        ("{", "no manifest"),
        (json.dumps({"format": 99}), "has format 99, not 1"),
    ],
)
def test_a_folder_that_is_no_store_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / enrolment_parts.MANIFEST_FILE).write_text(text)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_a_store_is_not_made_over_something_else(tmp_path: Path) -> None:
    new_store(tmp_path / "store", "anna")
    with pytest.raises(DataError, match="not empty"):
        new_store(tmp_path / "store")
    assert names_of(opened(tmp_path / "store")) == ["anna"]


def test_missing_files_of_a_part_are_named(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna")
    (store.snapshot.parts[0].folder / enrolment_parts.EMBEDDINGS_FILE).unlink()
    with pytest.raises(DataError, match=r"embeddings\.npy is missing"):
        opened(tmp_path / "store")


def test_without_a_scoring_a_store_lists_and_removes_but_does_not_enrol(tmp_path: Path) -> None:
    new_store(tmp_path / "store", "anna", "boris")
    store = EnrolmentStore.open(tmp_path / "store")
    store.remove("anna")
    assert names_of(store) == ["boris"]
    with pytest.raises(ParameterError, match="scoring"):
        store.add_all([enrolment("carla")])


def store_of_files(folder: Path, speakers: Sequence[str]) -> EnrolmentStore:
    """Store of files that hold their speaker's name."""
    store = new_store(folder / "store")
    for name in speakers:
        (folder / name).write_text(name)
        store.add(name, embeddings_for(name), [EnrolledRecording.of(folder / name, 2.0)])
    return store


def embed_by_another(paths: Sequence[str]) -> np.ndarray:
    return np.concatenate([embeddings_for(Path(path).read_text() + "!") for path in paths])[:, : WIDTH - 2]


def test_re_embedding_makes_it_the_store_of_another_verifier(tmp_path: Path) -> None:
    store = store_of_files(tmp_path, ["anna", "boris"])
    enrolled_at = store.recordings()["enrolled_at"]
    assert store.re_embed(embed_by_another, "b" * 64, side_scorer(width=WIDTH - 2)) == ()
    with pytest.raises(DataError, match=FINGERPRINT):
        opened(tmp_path / "store")
    again = EnrolmentStore.open(tmp_path / "store", "b" * 64, side_scorer(width=WIDTH - 2))
    assert again.width == WIDTH - 2
    np.testing.assert_array_equal(again.embeddings_of("boris"), embeddings_for("boris!")[:, : WIDTH - 2])
    assert again.recordings()["enrolled_at"].equals(enrolled_at)


def test_another_calibration_or_cohort_takes_the_store_over_without_a_recording(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna")
    store.add_all([enrolment("boris", 3), enrolment("anna", 2)])
    before = store.recordings()
    moved = f"{FINGERPRINT}-2"  # the same embeddings, decided in another way
    with pytest.raises(DataError, match=rf"{moved}: .*update the store"):
        EnrolmentStore.open(tmp_path / "store", moved, side_scorer(num_speakers=40))
    store.update(moved, side_scorer(num_speakers=40))
    fresh = EnrolmentStore.create(tmp_path / "fresh", moved, side_scorer(num_speakers=40))
    fresh.add_all([enrolment("anna"), enrolment("boris", 3), enrolment("anna", 2)])
    again = EnrolmentStore.open(tmp_path / "store", moved, side_scorer(num_speakers=40))
    assert again.recordings().equals(before)
    test = embeddings_for("somebody")[0]
    for each in (store, again):
        found, expected = (identify(test, s, OperatingPoint(0.5), seconds=3.0) for s in (each, fresh))
        assert found == expected
    for name in ("anna", "boris"):
        np.testing.assert_array_equal(again.embeddings_of(name), fresh.embeddings_of(name))


def test_a_verifier_of_other_embeddings_does_not_take_a_store_over(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", "anna")
    before = files_of(tmp_path / "store")
    with pytest.raises(DataError, match=rf"{'b' * 64}.*another way.*{FINGERPRINT}.*embed the store anew"):
        store.update("b" * 64, side_scorer(num_speakers=40))
    assert files_of(tmp_path / "store") == before


def test_re_embedding_loses_no_recording_unasked(tmp_path: Path) -> None:
    store = store_of_files(tmp_path, ["anna", "boris", "carla"])
    (tmp_path / "anna").unlink()
    (tmp_path / "boris").write_text("changed")
    before = files_of(tmp_path / "store")
    with pytest.raises(DataError, match=r"2 recordings.*'anna'"):
        store.re_embed(embed_by_another, "b" * 64, side_scorer(width=WIDTH - 2))
    assert files_of(tmp_path / "store") == before
    remarks = store.re_embed(embed_by_another, "b" * 64, side_scorer(width=WIDTH - 2), drop_missing=True)
    assert [re.findall(r"'(\w+)'", remark) for remark in remarks] == [["anna"], ["boris"]]
    assert names_of(store) == ["carla"]
