"""Embeddings of another toolkit through `import_embeddings`, `score` and `report`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.tables import LEARNING_CURVE
from speaker_verification.config.phases import (
    ADAPTATION_EMBEDDINGS,
    CALIBRATION_EMBEDDINGS,
    LAST_CHECKPOINT,
    PHASES,
)
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.pipelines import import_embeddings, report, score
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.settings import EmbedSettings, ImportSettings, ReportSettings, ScoreSettings
from tests.support.foreign import WRITERS, Writer
from tests.support.stores import make_store

SCORE = {"top_n": 6, "calibration_trials": 400, "bootstrap_resamples": 20}


class KeptDataset(MemoryDataset):
    """Stays in memory when no node needs it any more."""

    def _release(self) -> None:
        pass


def store_of(speakers: Sequence[str], seed: int) -> EmbeddingStore:
    """Random embeddings of speakers, four utterances each."""
    store = make_store([4] * len(speakers), seed=seed)
    names = {f"id{number:03}": name for number, name in enumerate(speakers)}
    changed = store.utterances.assign(
        utterance_id=[
            name.replace(name[:5], names[name[:5]], 1) for name in store.utterances["utterance_id"]
        ],
        speaker_id=store.utterances["speaker_id"].map(names),
    )
    return EmbeddingStore(store.embeddings, changed)


TESTED = store_of([f"test{number}" for number in range(6)], seed=1)
COHORT = store_of([f"other{number}" for number in range(14)], seed=2)


def write_speakers(file: Path, utterances: pd.DataFrame) -> Path:
    file.parent.mkdir(exist_ok=True)
    lines = utterances["utterance_id"] + " " + utterances["speaker_id"]
    file.write_text("\n".join(lines) + "\n")
    return file


def write_trials(file: Path, name_of: Callable[[str], str] = str) -> Path:
    rows = TESTED.utterances.sort_values("utterance_id").to_dict("records")
    file.write_text(
        "".join(
            f"{int(one['speaker_id'] == other['speaker_id'])} "
            f"{name_of(one['utterance_id'])} {name_of(other['utterance_id'])}\n"
            for place, one in enumerate(rows)
            for other in rows[:place]
        )
    )
    return file


def write_set(
    folder: Path,
    store: EmbeddingStore,
    write: Writer,
    name_of: Callable[[str], str] = str,
    order: np.ndarray | None = None,
) -> Path:
    folder.mkdir()
    order = np.arange(len(store.utterances)) if order is None else order
    names = [name_of(name) for name in store.utterances["utterance_id"].iloc[order]]
    return write(folder, names, store.embeddings[order])


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Parameters of a whole import, with npz files."""
    speakers = [
        write_speakers(tmp_path / name / "utt2spk", store.utterances)
        for name, store in (("vox1", TESTED), ("vox2", COHORT))
    ]
    return {
        "trials": str(write_set(tmp_path / "trials", TESTED, WRITERS["npz"])),
        "cohort": str(write_set(tmp_path / "cohort", COHORT, WRITERS["npz"])),
        "utterances": [str(file) for file in speakers],
        "trial_lists": {"mine": str(write_trials(tmp_path / "mine.txt"))},
    }


def run(pipeline: Pipeline, settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """All that a pipeline leaves, by catalog name."""
    given = {
        "params:import_embeddings": ImportSettings.parse(settings, "import_embeddings"),
        "params:embed": EmbedSettings.parse(changes, "embed"),
        "params:score": ScoreSettings.parse(SCORE, "score"),
        "params:report": ReportSettings(min_trials=5),
        "params:prepare": PrepareSettings(),
        "params:seed": 1,
        "params:device": "cpu",
        LAST_CHECKPOINT: Path("none"),
        "run_record": {
            "recipe": "lap_astp",
            "environment": "imported",
            "commit": None,
            "clean": None,
            "reported_by": None,
            "differences": [
                {"parameter": "score.top_n", "published": "600", "used": "6"},
                {"parameter": "pretrain.epochs", "published": "9", "used": "1"},
            ],
            "parameters": {"score.top_n": "6", "pretrain.epochs": "1"},
        },
        **{f"{phase}.learning_curve": LEARNING_CURVE.empty() for phase in PHASES},
    }
    given |= dict.fromkeys((CALIBRATION_EMBEDDINGS, ADAPTATION_EMBEDDINGS), EmbeddingStore.empty())
    inputs = {name: MemoryDataset(given[name]) for name in pipeline.inputs()}
    catalog = DataCatalog({**inputs, **{name: KeptDataset() for name in pipeline.all_outputs()}})
    SequentialRunner().run(pipeline, catalog)
    return {name: catalog.load(name) for name in pipeline.all_outputs()}


def scored(settings: dict[str, Any]) -> dict[str, Any]:
    return run(import_embeddings.create_pipeline() + score.create_pipeline(), settings)


def imported(settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return run(import_embeddings.create_pipeline(), settings, **changes)


def test_the_same_embeddings_have_the_same_metrics_in_every_kind_of_file(
    files: dict[str, Any], tmp_path: Path
) -> None:
    expected = json.dumps(scored(files)["metrics"])
    shuffled = np.random.default_rng(0).permutation(len(COHORT.utterances))
    folders = [tmp_path / f"other {name}" for name in ("trials", "cohort")]
    for kind, write in WRITERS.items():
        for folder in folders:
            for file in folder.glob("*"):
                file.unlink()
            if folder.exists():
                folder.rmdir()
        trials = write_set(folders[0], TESTED, write)
        cohort = write_set(folders[1], COHORT, write, order=shuffled)
        changed = {**files, "trials": str(trials), "cohort": str(cohort)}
        assert json.dumps(scored(changed)["metrics"]) == expected, kind


def test_ids_may_be_variants_of_those_of_tables_and_lists(files: dict[str, Any], tmp_path: Path) -> None:
    expected = json.dumps(scored(files)["metrics"]["mine"]["qmf"]["eer"])
    changed = {
        **files,
        "trials": str(
            write_set(tmp_path / "x", TESTED, WRITERS["ark"], lambda name: name[:-4].replace("/", "-"))
        ),
        "cohort": str(write_set(tmp_path / "y", COHORT, WRITERS["scp"], lambda name: f"data/{name}")),
        "trial_lists": {"mine": str(write_trials(tmp_path / "other.txt", lambda name: name[:-4]))},
    }
    left = scored(changed)
    assert json.dumps(left["metrics"]["mine"]["qmf"]["eer"]) == expected
    assert set(left["scores"]["enroll_id"]) <= set(TESTED.utterances["utterance_id"])


def test_imported_embeddings_are_those_of_the_file_with_what_the_tables_tell(
    files: dict[str, Any], tmp_path: Path
) -> None:
    known = pd.concat([TESTED.utterances, COHORT.utterances])
    columns = ["utterance_id", "speaker_id", "session_id", "duration_seconds"]
    known[columns].assign(gender="f").to_csv(tmp_path / "known.csv", index=False)
    left = imported({**files, "utterances": [str(tmp_path / "known.csv")], "system": "x-vectors"})
    store = left["embeddings"]
    expected = TESTED.at(TESTED.rows_of(store.utterances["utterance_id"]))
    np.testing.assert_array_equal(store.embeddings, expected.embeddings)
    assert store.utterances["speaker_id"].tolist() == expected.utterances["speaker_id"].tolist()
    assert store.utterances["session_id"].unique().tolist() == ["session"]
    np.testing.assert_allclose(store.utterances["duration_seconds"], expected.utterances["duration_seconds"])
    assert (store.system, left["cohort_embeddings"].system) == ("x-vectors", "x-vectors")
    assert len(left["cohort_embeddings"].embeddings) == len(COHORT.embeddings)
    assert set(left["speakers"]["gender"]) == {"f"}
    assert left["validation_utterances"].empty


def test_durations_that_are_not_known_for_all_are_left_out_with_one_line(
    files: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    durations = TESTED.utterances["utterance_id"] + " 3.5"
    (tmp_path / "vox1/utt2dur").write_text("\n".join(durations))
    changed = {**files, "utterances": [str(tmp_path / "vox1"), files["utterances"][1]]}
    left = run(
        import_embeddings.create_pipeline() + score.create_pipeline() + report.create_pipeline(), changed
    )
    (warning,) = [one.getMessage() for one in caplog.records if "are not known" in one.getMessage()]
    assert warning.startswith(f"the durations of 56 of 80 utterances are not known ({tmp_path / 'vox1'}, ")
    assert set(left["embeddings"].utterances["duration_seconds"]) == {0.0}
    places = [
        place for place, name in enumerate(left["fitted_scorings"]["qmf"]["feature_names"]) if "dur" in name
    ]
    assert left["fitted_scorings"]["qmf"]["coefficients"][places].tolist() == [0.0, 0.0]
    assert "duration" not in set(left["rates_by_group"]["by"])


def test_the_report_names_the_system_and_nothing_of_a_model_or_corpus_of_ours(files: dict[str, Any]) -> None:
    pipeline = import_embeddings.create_pipeline() + score.create_pipeline() + report.create_pipeline()
    left = run(pipeline, {**files, "system": "ResNet of a friend"})
    verdict = left["verdict"]
    assert (verdict["system"], verdict["recipe"], verdict["model"]) == ("ResNet of a friend", None, None)
    assert [one["parameter"] for one in verdict["differences"]] == ["score.top_n"]
    assert verdict["parameters"] == {"score.top_n": "6"}
    assert verdict["corpora"] == {"trials": ["vox1"]}
    assert left["layer_weights"].empty
    page = left["report"]
    assert "<h1>Evaluation of ResNet of a friend</h1>" in page
    assert "not at hand" not in page
    assert "lap_astp" not in page


def test_normalised_embeddings_are_named_in_the_log(
    files: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lengths = np.linalg.norm(COHORT.embeddings, axis=1, keepdims=True)
    file = write_set(
        tmp_path / "x", EmbeddingStore(COHORT.embeddings / lengths, COHORT.utterances), WRITERS["npz"]
    )
    with caplog.at_level(logging.INFO):
        imported({**files, "cohort": str(file)})
    assert [one.getMessage() for one in caplog.records if "length 1" in one.getMessage()] == [
        f"{file}: embeddings have length 1, so that their norms tell QMF nothing"
    ]


def without_first(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    order = np.flatnonzero(TESTED.utterances["utterance_id"] != min(TESTED.utterances["utterance_id"]))
    return {"trials": str(write_set(folder / "x", TESTED, WRITERS["ark"], order=order))}


def unknown_cohort(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "cohort": str(write_set(folder / "x", COHORT, WRITERS["ark"], lambda name: name.replace("0", "zero")))
    }


def two_in_cohort(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    twice = np.array([*range(len(COHORT.embeddings)), 3])
    names = iter([".wav"] * len(COHORT.embeddings) + [".flac"])
    return {
        "cohort": str(
            write_set(folder / "x", COHORT, WRITERS["ark"], lambda name: name[:-4] + next(names), order=twice)
        )
    }


def narrow_cohort(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    narrow = EmbeddingStore(COHORT.embeddings[:, :5], COHORT.utterances)
    return {"cohort": str(write_set(folder / "x", narrow, WRITERS["ark"]))}


def unknown_trial(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "list.txt").write_text("1 test0/session/1.wav test1/session/00001.wav\n")
    return {"trial_lists": {"mine": str(folder / "list.txt")}}


def wrong_duration(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    table = TESTED.utterances[["utterance_id", "speaker_id"]].assign(duration_seconds="long")
    table.to_csv(folder / "x.csv", index=False)
    return {"utterances": [str(folder / "x.csv")]}


FIRST = min(TESTED.utterances["utterance_id"])
WRONG: dict[str, tuple[Callable[[dict[str, Any], Path], dict[str, Any]], str]] = {
    "missing embedding": (
        without_first,
        rf"^1 utterances of the trials have no embedding in .*x\.ark; the first: {FIRST}, the nearest to ",
    ),
    "unknown embedding": (
        unknown_cohort,
        r"embeddings in .*x\.ark are in no table of utterances; the first: other",
    ),
    "two embeddings": (two_in_cohort, r"x\.ark: two embeddings of other\d+/session/\d+\.wav$"),
    "another width": (narrow_cohort, "embeddings of 8 and of 5 numbers cannot be compared"),
    "unknown trial": (
        unknown_trial,
        r"^2 utterances of the trials are in no table of utterances; the first: test0/",
    ),
    "wrong duration": (wrong_duration, r"x\.csv: the duration of test\d/session/\d+\.wav is 'long'"),
    "speakers of the trials": (
        lambda settings, folder: {"cohort": settings["trials"]},
        r"^the cohort .*x\.npz holds 6 speakers of the trials, such as test0",
    ),
    "table twice": (
        lambda settings, folder: {"utterances": [*settings["utterances"], settings["utterances"][0]]},
        r"^two speakers of test\d/session/\d+\.wav, in .*vox1/utt2spk and .*vox1/utt2spk$",
    ),
    **{
        f"no {name}": (
            lambda settings, folder, name=name: {name: type(settings[name])() or None},
            f"^no embeddings to import: set import_embeddings.{name} to the ",
        )
        for name in ("trials", "cohort")
    },
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case: str, files: dict[str, Any], tmp_path: Path) -> None:
    change, message = WRONG[case]
    changed = {**files, **change(files, tmp_path)}
    with pytest.raises((DataError, ParameterError), match=message) as raised:
        imported(changed)
    assert "\n" not in str(raised.value)


def test_speakers_of_the_trials_are_allowed_in_the_cohort_if_asked(files: dict[str, Any]) -> None:
    left = imported({**files, "cohort": files["trials"]}, allow_seen_speakers=True)
    assert len(left["cohort_embeddings"].embeddings) == len(TESTED.embeddings)
