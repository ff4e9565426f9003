"""The documentation's examples of corpora, from their archives to utterances and trials."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from speaker_verification.common.errors import DataError
from speaker_verification.corpora import registry
from speaker_verification.corpora.mirror import Mirror
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.corpora.speakers import read_speakers
from speaker_verification.corpora.trials.trials import gather_trials
from speaker_verification.corpora.utterances import convert_subset
from tests.support.corpora import flac, noise, zipped


def blocks(page: str) -> tuple[str, str]:
    """The first blocks of Python and of YAML of a page."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    python, yml = (text.split(f"```{kind}\n", 1)[1].split("```", 1)[0] for kind in ("python", "yaml"))
    return python, yml


EXAMPLE, PARAMETERS = blocks("extending/corpus.md")
MEMBERS = (
    "p225/p225_001_mic1",
    "p225/p225_001_mic2",
    "p299/p299_002_mic1",
    "s5/s5_003_mic1",
    "p300/p300_001_mic1",
    "p300/p300_002_mic1",
    "p300/p300_002_mic2",
    "p376/p376_001_mic1",
)


@pytest.fixture
def my_corpora(import_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Module on the import path that the examples are to be written to; none of them is known yet."""
    monkeypatch.setattr(registry, "_added", {})
    return import_folder / "my_corpora.py"


@pytest.fixture
def prepare(my_corpora: Path) -> PrepareSettings:
    """Parameters of the page on corpora, with its example as the module that they name."""
    my_corpora.write_text(EXAMPLE)
    return PrepareSettings.parse(yaml.safe_load(PARAMETERS)["prepare"], "prepare")


def converted(prepare: PrepareSettings, mirror: Mirror, folder: Path) -> dict[str, pd.DataFrame]:
    """Utterances of the subsets that the parameters name."""
    return {
        name: convert_subset(name, mirror.source(name), folder, 0.5, 0.0, 0)[0] for name in prepare.subsets
    }


def write_archive(folder: Path, *members: str) -> Mirror:
    recordings = {f"wav48_silence_trimmed/{name}.flac": flac(noise(n)) for n, name in enumerate(members)}
    texts = {"speaker-info.txt": b"ID  AGE  GENDER", "txt/p225/p225_001.txt": b"Please call Stella."}
    (folder / "VCTK-Corpus-0.92.zip").write_bytes(zipped({**texts, **recordings}))
    return Mirror(folder)


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.splitlines()) < 40


def test_the_example_gives_speakers_and_trials(prepare: PrepareSettings, tmp_path: Path) -> None:
    mirror = write_archive(tmp_path, *MEMBERS)
    tables = converted(prepare, mirror, tmp_path / "audio")
    assert tables["vctk-train"]["utterance_id"].tolist() == [
        "vctk-p225/p225_001_mic1/p225_001_mic1.wav",
        "vctk-p299/p299_002_mic1/p299_002_mic1.wav",
        "vctk-s5/s5_003_mic1/s5_003_mic1.wav",
    ]
    tested = tables["vctk-test"]
    assert tested["speaker_id"].tolist() == ["vctk-p300", "vctk-p300", "vctk-p376"]
    trials = gather_trials(prepare, mirror.folder, tested, read_speakers(mirror, prepare.subsets))
    pairs = {frozenset(pair) for pair in trials.query("label == 1")[["enroll_id", "test_id"]].to_numpy()}
    assert pairs == {frozenset(f"vctk-p300/p300_00{n}_mic1/p300_00{n}_mic1.wav" for n in (1, 2))}
    assert (trials["label"] == 0).sum() == 2


@pytest.mark.parametrize("member", ["p400/p400_001_mic1", "p225/p226_001_mic1", "p225_001_mic1"])
def test_a_recording_elsewhere_in_its_archive_stops_the_conversion(
    prepare: PrepareSettings, tmp_path: Path, member: str
) -> None:
    source = write_archive(tmp_path, *MEMBERS, member).source("vctk-train")
    with pytest.raises(
        DataError, match=rf"vctk-train .*VCTK-Corpus-0\.92\.zip .*'wav48_silence_trimmed/{member}\.flac'"
    ):
        convert_subset("vctk-train", source, tmp_path / "audio", 0.5, 1.0, 0)
