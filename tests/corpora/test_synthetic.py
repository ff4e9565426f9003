"""The synthetic mirror and what it is made of."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from pathlib import Path
from typing import Any

import espeakng_loader
import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.corpora.augmentation import extract_musan, extract_rirs
from speaker_verification.corpora.conversion.sources import ArchiveSource
from speaker_verification.corpora.mirror import Digests, Mirror
from speaker_verification.corpora.musan import MUSAN_ARCHIVE
from speaker_verification.corpora.registry import archive_of, trial_lists
from speaker_verification.corpora.rirs_noises import RIRS_NOISES_ARCHIVE
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.corpora.synthetic import mirror as synthetic
from speaker_verification.corpora.synthetic.mirror import (
    is_synthetic_mirror,
    refuse_other_mirror,
    write_synthetic_mirror,
)
from speaker_verification.corpora.synthetic.sounds import (
    chord_music,
    coloured_noise,
    draw_channel,
    draw_rir,
)
from speaker_verification.corpora.synthetic.voices import FEMALE_VARIANTS, MALE_VARIANTS, draw_voices
from speaker_verification.corpora.trials.trials import read_trials
from speaker_verification.corpora.utterances import convert_subset
from tests.support.corpora import TINY

VOXCELEB = PrepareSettings()
ARCHIVE_NAMES = {subset: archive_of(subset).name for subset in VOXCELEB.subsets}
LISTS = VOXCELEB.list_files
ALL_FILES = [*ARCHIVE_NAMES.values(), *LISTS.values(), MUSAN_ARCHIVE.name, RIRS_NOISES_ARCHIVE.name]


@pytest.fixture(scope="module")
def utterances(synthetic_mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    audio, mirror = tmp_path_factory.mktemp("audio"), Mirror(synthetic_mirror)
    tables = [
        convert_subset(subset, ArchiveSource(mirror.files(name)), audio, 0.5, 0.0, num_workers=0)[0]
        for subset, name in ARCHIVE_NAMES.items()
    ]
    return pd.concat(tables, ignore_index=True)


@pytest.mark.project
def test_it_holds_every_file_of_a_mirror_with_right_checksums(synthetic_mirror: Path) -> None:
    Mirror(synthetic_mirror).check(ALL_FILES, Digests(synthetic_mirror))
    assert len(list(synthetic_mirror.glob("vox2_dev_aac_part*"))) == 3
    listed = {line.split()[1] for line in (synthetic_mirror / "MD5SUMS").open()}
    assert listed == {path.name for path in synthetic_mirror.iterdir()} - {"MD5SUMS"}


@pytest.mark.project
def test_it_converts_to_the_speakers_and_utterances_asked_for(utterances: pd.DataFrame) -> None:
    speakers = utterances.groupby("subset")["speaker_id"].nunique()
    assert speakers.to_dict() == {"vox1-dev": 2, "vox1-test": 3, "vox2-dev": 5, "vox2-test": 2}
    assert utterances["speaker_id"].nunique() == 12
    by_speaker = utterances.groupby("speaker_id")
    assert (by_speaker["session_id"].nunique() == 2).all()
    assert by_speaker["utterance_id"].size().between(3, 5).all()
    assert utterances["duration_seconds"].between(2.0, 5.1).all()


@pytest.mark.project
def test_its_trials_name_its_utterances_and_are_labelled_rightly_but_for_the_wrong_ones(
    synthetic_mirror: Path, utterances: pd.DataFrame
) -> None:
    trials = read_trials({name: synthetic_mirror / file for name, file in LISTS.items()}, utterances)
    subset = utterances.set_index("utterance_id")["subset"]
    meta = pd.read_csv(synthetic_mirror / "vox1_meta.csv", sep="\t").set_index("VoxCeleb1 ID")
    for name, rows in trials.groupby("trial_list", observed=True):
        assert set(subset[rows["enroll_id"]]) | set(subset[rows["test_id"]]) == set(
            trial_lists()[str(name)].subsets
        )
        enroll, test = rows["enroll_id"].str.split("/").str[0], rows["test_id"].str.split("/").str[0]
        wrong = int(((enroll == test) != (rows["label"] == 1)).sum())
        assert wrong == (TINY.wrong_labels if str(name).endswith("_original") else 0)
        assert set(rows["label"]) == {0, 1}
        if name == "vox1_h":
            assert (meta["Gender"][enroll].to_numpy() == meta["Gender"][test].to_numpy()).all()


@pytest.mark.project
def test_its_noises_and_rooms_are_what_the_augmentation_needs(synthetic_mirror: Path, tmp_path: Path) -> None:
    clips, _ = extract_musan(synthetic_mirror / MUSAN_ARCHIVE.name, tmp_path, 0.0)
    assert clips["kind"].value_counts().to_dict() == {"speech": 3, "noise": 2, "music": 2}
    responses, _ = extract_rirs(synthetic_mirror / RIRS_NOISES_ARCHIVE.name, tmp_path, 0.0)
    assert responses["kind"].value_counts().to_dict() == {"simulated": 3, "real": 2}
    assert sorted(responses.loc[responses["kind"] == "real", "num_channels"]) == [2, 4]


@pytest.mark.project
def test_the_same_seed_gives_the_same_files_for_any_number_of_workers(
    synthetic_mirror: Path, tmp_path: Path
) -> None:
    write_synthetic_mirror(tmp_path / "again", TINY, seed=1, num_workers=0)
    assert (tmp_path / "again/MD5SUMS").read_text() == (synthetic_mirror / "MD5SUMS").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


@pytest.mark.project
def test_a_mirror_knows_what_it_was_made_from(synthetic_mirror: Path, tmp_path: Path) -> None:
    assert is_synthetic_mirror(synthetic_mirror, TINY, 1)
    assert not is_synthetic_mirror(synthetic_mirror, TINY, 2)
    assert not is_synthetic_mirror(synthetic_mirror, TINY.model_copy(update={"sessions": 3}), 1)
    assert not is_synthetic_mirror(tmp_path, TINY, 1)
    assert json.loads((synthetic_mirror / "synthetic.json").read_text())["seed"] == 1


@pytest.mark.project
def test_channels_change_the_sound_of_their_corpus_and_put_its_target_trials_across_sessions(
    synthetic_mirror: Path, tmp_path: Path
) -> None:
    settings = TINY.model_copy(update={"test_channels": "mixed"})
    write_synthetic_mirror(tmp_path / "mirror", settings, seed=1, num_workers=0)
    with_channels, without = (
        dict(line.split()[::-1] for line in (folder / "MD5SUMS").open())
        for folder in (tmp_path / "mirror", synthetic_mirror)
    )
    changed = {name for name in without if with_channels[name] != without[name]}
    assert {name for name in changed if name.startswith("vox")} == {
        "vox1_dev_wav_partaa",
        "vox1_dev_wav_partab",
        "vox1_test_wav.zip",
    }
    names = [
        zipfile.ZipFile(folder / "vox1_test_wav.zip").namelist()
        for folder in (tmp_path / "mirror", synthetic_mirror)
    ]
    assert names[0] == names[1]
    for line in (tmp_path / "mirror" / LISTS["vox1_o"]).read_text().splitlines():
        label, enroll, test = line.split()
        assert label == "0" or enroll.rpartition("/")[0] != test.rpartition("/")[0]
    with pytest.raises(
        DataError, match=r"of prepare\.synthetic\.test_channels = mixed, asked for is .* not set"
    ):
        refuse_other_mirror(tmp_path / "mirror", TINY, 1)


def test_a_folder_with_other_things_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="holds something other than a synthetic mirror"):
        write_synthetic_mirror(tmp_path, TINY, seed=1, num_workers=0)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_an_older_synthetic_mirror_is_replaced_and_kept_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "synthetic.json").write_text("{}")

    def fail(part: Path, *rest: object) -> None:
        (part / "half").write_text("")
        raise OSError("disk full")

    monkeypatch.setattr(synthetic, "_write_mirror", fail)
    with pytest.raises(OSError, match="disk full"):
        write_synthetic_mirror(folder, TINY, seed=1, num_workers=0)
    assert [path.name for path in tmp_path.rglob("*")] == ["mirror", "synthetic.json"]
    monkeypatch.setattr(synthetic, "_write_mirror", lambda part, *rest: (part / "new").write_text(""))
    write_synthetic_mirror(folder, TINY, seed=1, num_workers=0)
    assert [path.name for path in tmp_path.rglob("*")] == ["mirror", "new"]


def test_missing_packages_are_named_with_the_command_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r"espeakng_loader and pyroomacoustics: pip install .*\[demo\]"):
        write_synthetic_mirror(tmp_path / "mirror", TINY, seed=1, num_workers=0)


def test_no_two_speakers_share_a_voice() -> None:
    variants = FEMALE_VARIANTS + MALE_VARIANTS
    voices = draw_voices(len(variants) + 5, np.random.default_rng(0))
    assert len({voice.formant_shift for voice in voices}) == len(voices)
    assert {voice.variant for voice in voices} == set(variants)
    assert {voice.gender for voice in voices} == {"f", "m"}


def test_every_voice_variant_is_in_the_installed_espeak() -> None:
    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    assert {path.name for path in folder.iterdir()} >= {*FEMALE_VARIANTS, *MALE_VARIANTS}


def test_an_rir_starts_with_the_direct_sound_and_decays() -> None:
    rng = np.random.default_rng(0)
    response = draw_rir((3.0, 5.0), 0.3, 2, rng)
    assert response.shape[1] == 2
    assert np.abs(response).max() == pytest.approx(1.0)
    energy = (response**2).sum(axis=1)
    assert np.abs(response[:40]).max() > 0.5
    assert energy[: len(energy) // 4].sum() > 20 * energy[len(energy) // 2 :].sum()


@pytest.mark.parametrize(("kind", "passed", "stopped"), [("telephone", 1000, 5000), ("microphone", 5000, 20)])
def test_a_channel_colours_its_passband_and_stops_the_rest(kind: Any, passed: int, stopped: int) -> None:
    for seed in range(5):
        response = np.abs(np.fft.rfft(draw_channel(kind, np.random.default_rng(seed)), 16_000))  # 1 Hz a bin
        assert 10 ** (-5.5 / 20) < response[passed] < 10 ** (5.5 / 20)
        assert response[stopped] < 0.05 * response[passed]
    first, second = (draw_channel("mixed", np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.allclose(first, second)


def test_noises_and_music_fill_their_length_without_clipping() -> None:
    for make in (coloured_noise, chord_music):
        first, second = (make(40_000, np.random.default_rng(seed)) for seed in (0, 1))
        assert first.shape == (40_000,)
        assert np.abs(first).max() == pytest.approx(1.0)
        assert np.abs(first[-4_000:]).max() > 0.01
        assert np.abs(np.corrcoef(first, second)[0, 1]) < 0.5
