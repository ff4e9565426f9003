"""Data sets of a run: counts, and a digest of the content wherever its files are."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from speaker_verification.hooks.tracking.inputs import digest_of, tracked_tables
from speaker_verification.scoring.embeddings import EmbeddingStore

UTTERANCES = pd.DataFrame(
    {
        "utterance_id": ["a/x/1", "a/y/1", "b/x/1", "c/x/1"],
        "speaker_id": ["a", "a", "b", "c"],
        "session_id": ["x", "y", "x", "x"],
        "subset": ["dev", "dev", "dev", "eval"],
        "path": ["/disk/1", "/disk/2", "/disk/3", "/disk/4"],
        "num_samples": [16_000, 32_000, 24_000, 8_000],
        "duration_seconds": [1.0, 2.0, 1.5, 0.5],
    }
)
TRIALS = pd.DataFrame(
    {
        "trial_list": ["easy", "easy", "hard"],
        "label": [1, 0, 0],
        "enroll_id": ["a/x/1", "a/x/1", "b/x/1"],
        "test_id": ["a/y/1", "b/x/1", "c/x/1"],
    }
)


def test_a_phase_has_its_training_set_and_validation_trials() -> None:
    inputs = {
        "training_utterances": UTTERANCES,
        "validation_trials": TRIALS[:2],
        "validation_utterances": UTTERANCES[:3],
        "trials": TRIALS,
    }
    training, validation = tracked_tables(inputs, {name: f"{name}.parquet" for name in inputs})
    assert (training.name, training.context, training.source) == (
        "dev, eval",
        "training",
        "training_utterances.parquet",
    )
    assert training.counts == {"num_rows": 4, "num_speakers": 3, "num_sessions": 4, "duration_seconds": 5}
    assert (validation.name, validation.context) == ("validation", "validation")
    assert validation.counts == {"num_rows": 2, "num_target": 1, "num_speakers": 2}


def test_an_evaluation_has_each_trial_list_and_each_set_that_was_embedded_once() -> None:
    store = EmbeddingStore(np.zeros((4, 2), np.float32), UTTERANCES)
    inputs = {"trials": TRIALS, "embeddings": store, "cohort_embeddings": store}
    inputs |= {"calibration_embeddings": store, "adaptation_embeddings": EmbeddingStore.empty()}
    sources = {name: name for name in inputs}
    easy, hard, *sets = tracked_tables(inputs, sources)
    assert [(table.name, table.context) for table in (easy, hard, *sets)] == [
        ("easy", "test"),
        ("hard", "test"),
        ("cohort", "cohort"),
        ("calibration", "calibration"),
    ]
    assert easy.counts == {"num_rows": 2, "num_target": 1, "num_speakers": 2}
    assert hard.counts == {"num_rows": 1, "num_target": 0, "num_speakers": 2}
    assert not list(tracked_tables(inputs, sources, known={"easy", "hard", "cohort", "calibration"}))


def test_a_digest_is_of_the_content_and_not_of_where_the_files_are() -> None:
    def digest(utterances: pd.DataFrame) -> str:
        (table,) = tracked_tables({"training_utterances": utterances}, {"training_utterances": ""})
        return table.digest

    moved = UTTERANCES.assign(path=[f"/elsewhere/{row}" for row in range(4)])
    packed = UTTERANCES.assign(path="/disk/0.tar", offset=[1, 2, 3, 4], num_bytes=5, codec="m4a")
    indexed = UTTERANCES.set_axis([7, 8, 9, 10])
    compact = UTTERANCES.astype({"speaker_id": "category"})
    assert digest(moved) == digest(packed) == digest(indexed) == digest(compact) == digest(UTTERANCES)
    assert digest(UTTERANCES.assign(num_samples=[16_000, 32_000, 24_000, 8_001])) != digest(UTTERANCES)
    assert digest_of(UTTERANCES[::-1]) != digest_of(UTTERANCES)


def test_a_data_set_is_what_mlflow_takes() -> None:
    inputs = {"trials": TRIALS, "utterances": UTTERANCES}
    easy, _ = tracked_tables(inputs, {"trials": "data/trials.parquet"})
    logged = easy.entity()
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "test")]
    assert len(logged.dataset.digest) == 16
    assert json.loads(logged.dataset.source) == {"uri": "data/trials.parquet"}
    columns = json.loads(logged.dataset.schema)["mlflow_colspec"]
    assert {column["name"]: column["type"] for column in columns} == {
        "trial_list": "string",
        "label": "long",
        "enroll_id": "string",
        "test_id": "string",
    }
