"""Corpora of the user's own: ids, test speakers, trials, and recordings from wherever they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from speaker_verification.audio.files import decode_audio, read_audio, read_segment
from speaker_verification.audio.utterance_audio import UtteranceAudio
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.corpora.manifests import check_table
from speaker_verification.corpora.mirror import Mirror
from speaker_verification.corpora.own_corpora import identify, own_names, own_sources
from speaker_verification.corpora.registry import named_subsets, subsets, trial_lists, use_own_corpora
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.corpora.speakers import read_speakers
from speaker_verification.corpora.subsets import subsets_of
from speaker_verification.corpora.trials.trials import gather_trials
from speaker_verification.corpora.utterances import convert_subset
from tests.support.corpora import m4a, noise, wav

SPEAKERS, SESSIONS = ("ada", "bo", "cy", "dee", "eve", "fox"), ("monday", "tuesday")


@pytest.fixture(autouse=True)
def _nothing_stays_registered() -> Iterator[None]:
    yield
    use_own_corpora([])


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    """Folder SPEAKER/SESSION/UTTERANCE.wav of six speakers, each with two sessions of two utterances."""
    names = [f"{speaker}/{day}/{take}" for speaker in SPEAKERS for day in SESSIONS for take in ("a", "b")]
    for number, name in enumerate(names):
        path = tmp_path / "voices" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav(noise(number, 8_000 + number)))
    return tmp_path / "voices"


def prepare(corpora: dict[str, Any], **others: Any) -> PrepareSettings:
    alone = {"subsets": [], "trial_lists": [], "training_set": "own", "num_workers": 0}
    return PrepareSettings.parse({**alone, "corpora": corpora, **others}, "prepare")


def mirror_of(settings: PrepareSettings) -> Mirror:
    return Mirror(Path(), own=own_sources(settings.corpora, settings.seed))


def converted(settings: PrepareSettings, folder: Path) -> pd.DataFrame:
    mirror = mirror_of(settings)
    tables = [
        convert_subset(name, mirror.source(name), folder, 0.1, 0.0, 0, settings.audio_format)[0]
        for name in settings.all_subsets
    ]
    return pd.concat(tables).sort_values("utterance_id", ignore_index=True)


def trials_of(settings: PrepareSettings, utterances: pd.DataFrame) -> pd.DataFrame:
    mirror = mirror_of(settings)
    speakers = read_speakers(mirror, settings.all_subsets)
    return gather_trials(settings, mirror.folder, utterances, speakers, own_names(mirror.own))


def identified(folder: Path, rows: list[dict[str, Any]]) -> pd.DataFrame:
    for row in rows:
        (folder / row["file"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / row["file"]).write_bytes(wav(noise(1)))
    return identify(check_table(pd.DataFrame(rows), "list", folder), "mine")


def test_a_folder_becomes_training_and_test_speakers(voices: Path, tmp_path: Path) -> None:
    settings = prepare({"mine": {"path": str(voices), "test_speakers": 2}})
    utterances = converted(settings, tmp_path / "audio")
    assert utterances["utterance_id"].tolist() == [
        f"mine-{speaker}/{day}/{take}.wav" for speaker in SPEAKERS for day in SESSIONS for take in ("a", "b")
    ]
    assert utterances["num_samples"].tolist() == list(range(8_000, 8_024))
    of_subset = utterances.groupby("subset")["speaker_id"].unique()
    assert {name: len(speakers) for name, speakers in of_subset.items()} == {"mine-test": 2, "mine-train": 4}
    assert not set(of_subset["mine-test"]) & set(of_subset["mine-train"])
    row = utterances.iloc[5]
    assert np.array_equal(read_segment(row["path"]), read_audio(voices / "bo/monday/b.wav"))


def kinds_of_manifests(voices: Path) -> dict[str, Path]:
    """The same recordings as five kinds of manifests, beside the folder itself."""
    files = sorted(voices.rglob("*.wav"))
    parts = [file.relative_to(voices).with_suffix("").parts for file in files]
    table = pd.DataFrame(parts, columns=["speaker", "session", "utterance"])
    table.insert(0, "file", [file.relative_to(voices.parent).as_posix() for file in files])
    folder = voices.parent
    table.to_csv(folder / "list.csv", index=False)
    table.to_csv(folder / "list.tsv", index=False, sep="\t")
    table.to_parquet(folder / "list.parquet", index=False)
    (folder / "list.jsonl").write_text("\n".join(json.dumps(row) for row in table.to_dict("records")))
    kaldi = folder / "kaldi"
    kaldi.mkdir()
    keys = ["/".join(part) for part in parts]
    (kaldi / "wav.scp").write_text("".join(f"{key} {file}\n" for key, file in zip(keys, files, strict=True)))
    (kaldi / "utt2spk").write_text("".join(f"{key} {key.partition('/')[0]}\n" for key in keys))
    tables = {kind: folder / f"list.{kind}" for kind in ("csv", "tsv", "parquet", "jsonl")}
    return {**tables, "kaldi": kaldi}


def test_five_kinds_of_manifests_give_the_same_tables(voices: Path, tmp_path: Path) -> None:
    expected = converted(prepare({"mine": str(voices)}), tmp_path / "folder").drop(columns="path")
    for kind, manifest in kinds_of_manifests(voices).items():
        found = converted(prepare({"mine": str(manifest)}), tmp_path / kind).drop(columns="path")
        pd.testing.assert_frame_equal(found, expected)


def test_trials_are_drawn_across_sessions_and_never_pair_a_speaker_with_itself_as_non_target(
    voices: Path, tmp_path: Path
) -> None:
    settings = prepare({"mine": {"path": str(voices), "test_speakers": 0.5}})
    utterances = converted(settings, tmp_path / "audio")
    trials = trials_of(settings, utterances)
    assert set(trials["trial_list"]) == {"mine"}
    sides = trials[["enroll_id", "test_id"]].astype(str)
    parts = [sides[side].str.split("/", expand=True) for side in sides]
    is_target = (trials["label"] == 1).to_numpy()
    assert (parts[0][0] == parts[1][0]).tolist() == is_target.tolist()
    assert (parts[0][1] != parts[1][1])[is_target].all()
    # 3 speakers: of each 2 x 2 pairs across its two sessions; 3 pairs of speakers of 4 x 4 utterances
    assert (is_target.sum(), (~is_target).sum()) == (3 * 4, 3 * 16)


def test_trials_of_one_sex_follow_the_manifest(voices: Path, tmp_path: Path) -> None:
    table = pd.read_csv(kinds_of_manifests(voices)["csv"])
    table["gender"] = table["speaker"].map(dict(zip(SPEAKERS, "ffmmmf", strict=True)))
    table.to_csv(voices.parent / "list.csv", index=False)
    own = {"path": str(voices.parent / "list.csv"), "test_speakers": "all", "same_sex": True}
    settings = prepare({"mine": own, "more": {"path": str(voices), "test_speakers": 0}})
    trials = trials_of(settings, converted(settings, tmp_path / "audio"))
    speakers = trials[["enroll_id", "test_id"]].astype(str).apply(lambda side: side.str.partition("/")[0])
    pairs = {frozenset(pair) for pair in speakers[trials["label"] == 0].to_numpy()}
    women, men = [
        {f"mine-{name}" for name in names} for names in (("ada", "bo", "fox"), ("cy", "dee", "eve"))
    ]
    assert all(pair <= women or pair <= men for pair in pairs)
    assert len(pairs) == 6


def test_a_trial_list_names_utterances_as_the_manifest_does_and_so_the_test_speakers(
    voices: Path, tmp_path: Path
) -> None:
    (tmp_path / "trials.txt").write_text(
        "1 ada/monday/a.wav ada/tuesday/b.wav\n0 mine-ada/monday/a.wav bo/monday/a.wav\n"
    )
    settings = prepare({"mine": {"path": str(voices), "trials": str(tmp_path / "trials.txt")}})
    utterances = converted(settings, tmp_path / "audio")
    assert set(utterances.loc[utterances["subset"] == "mine-test", "speaker_id"]) == {"mine-ada", "mine-bo"}
    trials = trials_of(settings, utterances)
    assert trials[["label", "enroll_id", "test_id"]].to_numpy().tolist() == [
        [1, "mine-ada/monday/a.wav", "mine-ada/tuesday/b.wav"],
        [0, "mine-ada/monday/a.wav", "mine-bo/monday/a.wav"],
    ]
    (tmp_path / "trials.txt").write_text("1 ada/monday/a.wav ada/sunday/a.wav\n")
    with pytest.raises(DataError, match=r"trials of mine name 1 utterances .* ada/sunday/a\.wav"):
        trials_of(settings, utterances)


def test_several_corpora_train_together_and_their_speakers_stay_apart(voices: Path, tmp_path: Path) -> None:
    settings = prepare({"one": {"path": str(voices), "test_speakers": 0}, "other": str(voices)})
    assert settings.all_subsets == ("one-train", "other-train", "other-test")
    assert settings.list_names == ("other",)
    assert subsets_of("own") == ("one-train", "other-train")
    assert subsets_of("voxceleb2-dev+own") == ("vox2-dev", "one-train", "other-train")
    utterances = converted(settings, tmp_path / "audio")
    assert utterances["speaker_id"].nunique() == 12


def test_the_test_speakers_depend_on_the_seed_and_not_on_the_order(voices: Path) -> None:
    def drawn(seed: int, manifest: Path) -> set[str]:
        settings = prepare({"mine": {"path": str(manifest), "test_speakers": 2}}, seed=seed)
        return set(mirror_of(settings).own["mine-test"].recordings["speaker_id"])

    manifest = kinds_of_manifests(voices)["csv"]
    sets = {frozenset(drawn(seed, manifest)) for seed in range(8)}
    assert len(sets) > 1
    expected = drawn(3, manifest)
    pd.read_csv(manifest)[::-1].to_csv(manifest, index=False)
    assert drawn(3, manifest) == expected == drawn(3, voices)


@pytest.mark.parametrize(("asked", "numbers"), [(5, "5 speakers"), (0.99, "6 speakers")])
def test_more_test_speakers_than_there_are_is_refused(voices: Path, asked: float, numbers: str) -> None:
    for take in ("monday/b.wav", "tuesday/a.wav", "tuesday/b.wav"):
        (voices / "ada" / take).unlink()
        (voices / "bo" / take).unlink()
    settings = prepare({"mine": {"path": str(voices), "test_speakers": asked}})
    with pytest.raises(ParameterError, match=rf"mine\.test_speakers' is {asked}, .* {numbers}, .* 4 of them"):
        mirror_of(settings)


def test_ids_come_from_names_where_they_are_given(tmp_path: Path) -> None:
    rows = [
        {"file": "1.wav", "speaker": "ada", "session": "s 1", "utterance": "one: two.WAV"},
        {"file": "2.wav", "speaker": "Jörg Ñ", "session": "", "utterance": "Jörg Ñ/call/7"},
        {"file": "3.wav", "speaker": "ada", "session": "", "utterance": ".x"},
    ]
    assert identified(tmp_path, rows)["utterance_id"].tolist() == [
        "mine-ada/s_1/one__two.wav",
        "mine-Jörg_Ñ/call/7.wav",
        "mine-ada/_x/_x.wav",
    ]


def test_ids_come_from_files_where_nothing_is_given(tmp_path: Path) -> None:
    rows = [
        {"file": "a/x/1.wav", "speaker": "ada"},
        {"file": "a/y/1.wav", "speaker": "ada"},
        {"file": "a/y/2.wav", "speaker": "ada"},
        {"file": "a/z/2.wav", "speaker": "bo"},
    ]
    assert identified(tmp_path, rows)["utterance_id"].tolist() == [
        "mine-ada/x_1/x_1.wav",
        "mine-ada/y_1/y_1.wav",
        "mine-ada/2/2.wav",
        "mine-bo/2/2.wav",
    ]


def test_segments_of_a_recording_are_utterances_of_one_session(tmp_path: Path) -> None:
    rows = [
        {"file": "call.wav", "speaker": "ada", "start": 0, "end": 0.25},
        {"file": "call.wav", "speaker": "bo", "start": 0.25, "end": 0.5},
        {"file": "call.wav", "speaker": "ada", "start": 0.5, "end": None},
    ]
    assert identified(tmp_path, rows)["utterance_id"].tolist() == [
        "mine-ada/call/call_0-250.wav",
        "mine-bo/call/call_250-500.wav",
        "mine-ada/call/call_500.wav",
    ]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("a", "x", ""), ("a b", "x", ""), ("a_b", "x", "")], r"speakers 'a b', 'a_b' \(rows 2, 3\)"),
        ([("a", "s:1", "1"), ("a", "s 1", "2")], r"sessions 's:1', 's 1' \(rows 1, 2\)"),
        ([("a", "s", "1.wav"), ("b", "s", "1"), ("a", "s", "1.flac")], r"mine-a/s/1\.wav \(rows 1, 3\)"),
    ],
)
def test_ids_that_would_fall_together_are_refused(
    tmp_path: Path, rows: list[tuple[str, str, str]], told: str
) -> None:
    columns = ("speaker", "session", "utterance")
    records = [
        {"file": f"{number}.wav", **dict(zip(columns, row, strict=True))} for number, row in enumerate(rows)
    ]
    with pytest.raises(DataError, match=told):
        identified(tmp_path, records)


@pytest.mark.parametrize("audio_format", ["wav", "as_is"])
def test_segments_are_cut_out_of_their_decoded_recording(tmp_path: Path, audio_format: str) -> None:
    encoded = m4a(noise(3, 48_000))
    (tmp_path / "call.m4a").write_bytes(encoded)
    (tmp_path / "list.csv").write_text(
        "file,speaker,start,end\ncall.m4a,ada,0.5,1.25\ncall.m4a,bo,1.25,\ncall.m4a,ada,0,0.5\n"
    )
    own = {"path": str(tmp_path / "list.csv"), "test_speakers": 0}
    test = {"path": str(tmp_path / "list.csv"), "test_speakers": "all"}
    settings = prepare({"mine": own, "test": test}, audio_format=audio_format)
    utterances = converted(settings, tmp_path / "audio")
    audio = UtteranceAudio(utterances)
    whole = decode_audio(encoded, "call") / np.float32(2**15)
    limits = {"call_500-1250": (8_000, 20_000), "call_1250": (20_000, len(whole)), "call_0-500": (0, 8_000)}
    assert len(utterances) == 6
    for row, name in enumerate(utterances["utterance_id"]):
        start, stop = limits[Path(name).stem]
        assert np.array_equal(audio.read(row), whole[start:stop])


def test_a_segment_beyond_the_end_of_an_encoded_recording_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "call.m4a").write_bytes(m4a(noise(3, 16_000)))
    (tmp_path / "list.csv").write_text(
        "file,speaker,start,end\ncall.m4a,ada,0,0.5\ncall.m4a,ada,0.5,9\ncall.m4a,bo,0.5,0.9\n"
    )
    settings = prepare({"mine": {"path": str(tmp_path / "list.csv"), "test_speakers": 0}, "test": "x"})
    source = own_sources({"mine": settings.corpora["mine"]}, 1)["mine-train"]
    with pytest.raises(
        DataError, match=r"mine-ada/call/call_500-9000\.wav \(0\.5 to 9 s is outside of .*m4a"
    ):
        convert_subset("mine-train", source, tmp_path / "audio", 0.1, 0.0, 0)


def test_genders_of_a_manifest_are_the_speakers(voices: Path) -> None:
    table = pd.read_csv(kinds_of_manifests(voices)["csv"])
    table["gender"] = table["speaker"].map({"ada": "F", "bo": "male"})
    table.to_csv(voices.parent / "list.csv", index=False)
    settings = prepare({"mine": {"path": str(voices.parent / "list.csv")}})
    speakers = read_speakers(mirror_of(settings), settings.all_subsets).sort_values("speaker_id")
    assert speakers[["speaker_id", "gender"]].to_numpy().tolist() == [["mine-ada", "f"], ["mine-bo", "m"]]


def test_settings_that_are_parsed_twice_do_not_clash(tmp_path: Path) -> None:
    for number in range(2):
        settings = prepare(
            {"mine": str(tmp_path / str(number)), "test": {"path": "x", "test_speakers": "all"}}
        )
        assert settings.corpora["mine"].path == str(tmp_path / str(number))
    assert {"mine-train", "mine-test", "test-test", "own"} <= set(named_subsets())
    prepare({"other": str(tmp_path)})
    assert "mine" not in trial_lists()
    assert "mine-train" not in subsets()
    PrepareSettings()
    assert "other-train" not in subsets()


@pytest.mark.parametrize(
    ("corpora", "told"),
    [
        ({"my-corpus": "x"}, "'my-corpus' is no name for a corpus"),
        ({"voxceleb": "x"}, "another corpus has the name voxceleb"),
        ({"vox1": "x"}, "another corpus has the subset vox1-test"),
        ({"vox1_o": "x"}, "another corpus has the trial list vox1_o"),
        ({"mine": {"test_speakers": 2}}, r"'prepare\.corpora\.mine\.path' is missing"),
        ({"mine": {"path": "x", "test_speaker": 2}}, r"did you mean 'prepare\.corpora\.mine\.test_speakers'"),
        (
            {"mine": {"path": "x", "test_speakers": 1}},
            r"mine\.test_speakers': 1 is neither .* nor 0 or 'all'",
        ),
        ({"mine": {"path": "x", "test_speakers": "half"}}, r"mine\.test_speakers': 'half' is neither"),
        ({"mine": {"path": "x", "trials": "y", "test_speakers": 2}}, "trials names the test speakers"),
    ],
)
def test_settings_that_do_not_do_are_refused(corpora: dict[str, Any], told: str) -> None:
    with pytest.raises(ParameterError, match=told) as caught:
        prepare(corpora)
    assert "unknown subset" not in str(caught.value)


def test_speakers_of_the_test_are_not_trained_on(voices: Path) -> None:
    with pytest.raises(ParameterError, match="training_set 'mine-test' holds the speakers of mine"):
        prepare({"mine": str(voices)}, training_set="mine-test")
