"""The documentation's example of a corpus, from its archive to utterances and trials."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from speaker_verification.common.errors import DataError
from speaker_verification.corpora import registry
from speaker_verification.corpora.mirror import Mirror
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.corpora.speakers import read_speakers
from speaker_verification.corpora.trials.trials import gather_trials
from speaker_verification.corpora.utterances import convert_subset
from tests.support.corpora import flac, noise, tarred

PAGE = (Path(__file__).parents[2] / "docs/extending/corpus.md").read_text()
EXAMPLE, PARAMETERS = (PAGE.split(f"```{kind}\n", 1)[1].split("```", 1)[0] for kind in ("python", "yaml"))
MEMBERS = (
    "data/id00001/song-01-001",
    "data/id00001/interview-02-001",
    "data/id00799/drama-01-001",
    "data/id00800/song-01-001",
    "data/id00800/song-01-002",
    "data/id00800/speech-03-001",
    "data/id00999/vlog-01-001",
    "eval/enroll/id00800-enroll",
    "eval/test/id00800-song-01-001",
)


@pytest.fixture
def prepare(import_folder: Path, monkeypatch: pytest.MonkeyPatch) -> PrepareSettings:
    """The page's parameters, with its example as the module that they name."""
    monkeypatch.setattr(registry, "_added", {})
    (import_folder / "my_corpora.py").write_text(EXAMPLE)
    return PrepareSettings.parse(yaml.safe_load(PARAMETERS)["prepare"], "prepare")


def write_archive(folder: Path, *members: str) -> Mirror:
    recordings = {f"CN-Celeb_flac/{name}.flac": flac(noise(n)) for n, name in enumerate(members)}
    texts = {"CN-Celeb_flac/README.TXT": b"hello", "CN-Celeb_flac/eval/lists/trials.lst": b""}
    (folder / "cn-celeb_v2.tar.gz").write_bytes(tarred({**texts, **recordings}))
    return Mirror(folder)


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.splitlines()) < 40


def test_the_example_gives_speakers_genres_and_trials(prepare: PrepareSettings, tmp_path: Path) -> None:
    mirror = write_archive(tmp_path, *MEMBERS)
    tables = {
        name: convert_subset(name, mirror.archive_files(name), tmp_path / "audio", 0.5, 0.0, 0)[0]
        for name in prepare.subsets
    }
    assert tables["cnceleb-dev"]["utterance_id"].tolist() == [
        "id00001/interview/interview-02-001.wav",
        "id00001/song/song-01-001.wav",
        "id00799/drama/drama-01-001.wav",
    ]
    tested = tables["cnceleb-eval"]
    assert tested["speaker_id"].tolist() == ["id00800", "id00800", "id00800", "id00999"]
    assert tested["session_id"].tolist() == ["song", "song", "speech", "vlog"]
    trials = gather_trials(prepare, mirror.folder, tested, read_speakers(mirror, prepare.subsets))
    pairs = {frozenset(pair) for pair in trials.query("label == 1")[["enroll_id", "test_id"]].to_numpy()}
    other_genre = "id00800/speech/speech-03-001.wav"
    assert pairs == {frozenset((f"id00800/song/song-01-00{n}.wav", other_genre)) for n in (1, 2)}
    assert (trials["label"] == 0).sum() == 3


@pytest.mark.parametrize("member", ["data/id01000/song-01-001", "data/id00001/song", "song-01-001"])
def test_a_recording_elsewhere_in_its_archive_stops_the_conversion(
    prepare: PrepareSettings, tmp_path: Path, member: str
) -> None:
    mirror = write_archive(tmp_path, *MEMBERS, member)
    files = mirror.archive_files("cnceleb-dev")
    with pytest.raises(
        DataError, match=rf"cnceleb-dev .*cn-celeb_v2\.tar\.gz .*'CN-Celeb_flac/{member}\.flac'"
    ):
        convert_subset("cnceleb-dev", files, tmp_path / "audio", 0.5, 1.0, 0)
