"""Tables that a run was made with, as MLflow's data sets: counts, and a digest of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from speaker_verification.common.tables import UTTERANCES
from speaker_verification.config.phases import EMBEDDINGS, SETS

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

TRAINING, VALIDATION, TEST = "training", "validation", "test"  # contexts
CONTEXT_TAG = "mlflow.data.context"
PLACE = ("path", *UTTERANCES.defaults)  # columns that say where a recording is, which is no content
DIGEST_BYTES = 8


@dataclass(frozen=True)
class TrackedTable:
    """Data set of a run.

    Attributes:
        name: name of the data set.
        context: TRAINING, VALIDATION, TEST, "cohort", "calibration" or "adaptation".
        digest: hexadecimal digest of the content, wherever its files are.
        counts: number of rows, speakers and so on.
        columns: types by column.
        source: path of the table's file, or the dataset of the catalog.
    """

    name: str
    context: str
    digest: str
    counts: Mapping[str, int]
    columns: Mapping[str, str]
    source: str

    def entity(self) -> DatasetInput:
        """The data set as MLflow's client logs it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        schema = [{"name": name, "type": kind, "required": True} for name, kind in self.columns.items()]
        dataset = Dataset(
            self.name,
            self.digest,
            source_type="local",
            source=json.dumps({"uri": self.source}),
            schema=json.dumps({"mlflow_colspec": schema}),
            profile=json.dumps(dict(self.counts)),
        )
        return DatasetInput(dataset, [InputTag(CONTEXT_TAG, self.context)])


def digest_of(table: pd.DataFrame) -> str:
    """Hexadecimal digest of a table's rows, in their order."""
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy()
    return hashlib.blake2b(rows.tobytes(), digest_size=DIGEST_BYTES).hexdigest()


def tracked_tables(
    inputs: Mapping[str, Any], sources: Mapping[str, str], known: Container[str] = ()
) -> Iterator[TrackedTable]:
    """Training set, validation trials, trial lists and embedded sets among the inputs of a node.

    Args:
        inputs: data by the names of the catalog.
        sources: paths by the names of the catalog.
        known: names of data sets that are left out.
    """
    if (training := inputs.get("training_utterances")) is not None:
        name = ", ".join(training["subset"].unique())
        yield _of_utterances(training, name, TRAINING, sources["training_utterances"])
        if (validation := inputs.get("validation_trials")) is not None:
            speakers = inputs["validation_utterances"]
            yield _of_trials(validation, speakers, VALIDATION, VALIDATION, sources["validation_trials"])
        return  # the other tables of a phase are monitored on, at most
    if (trials := inputs.get("trials")) is not None:
        store = inputs.get(EMBEDDINGS)
        utterances = inputs.get("utterances") if store is None else store.utterances
        for trial_list, rows in trials.groupby("trial_list", sort=False, observed=True):
            if trial_list not in known:
                yield _of_trials(rows, utterances, str(trial_list), TEST, sources["trials"])
    for store_name in SETS:
        name, store = store_name.removesuffix("_embeddings"), inputs.get(store_name)
        if store is not None and len(store.utterances) and name not in known:
            yield _of_utterances(store.utterances, name, name, sources[store_name])


def _of_utterances(utterances: pd.DataFrame, name: str, context: str, source: str) -> TrackedTable:
    content = utterances.drop(columns=[*PLACE], errors="ignore")
    counts = {
        "num_rows": len(content),
        "num_speakers": content["speaker_id"].nunique(),
        "num_sessions": len(content[["speaker_id", "session_id"]].drop_duplicates()),
        "duration_seconds": round(content["duration_seconds"].sum()),
    }
    return TrackedTable(name, context, digest_of(content), counts, _columns(content), source)


def _of_trials(
    trials: pd.DataFrame, utterances: pd.DataFrame | None, name: str, context: str, source: str
) -> TrackedTable:
    counts = {"num_rows": len(trials), "num_target": int(trials["label"].sum())}
    if utterances is not None:
        named = pd.unique(pd.concat([trials["enroll_id"], trials["test_id"]]).astype(str))
        of_trials = utterances.loc[utterances["utterance_id"].isin(named)]
        counts["num_speakers"] = of_trials["speaker_id"].nunique()
    return TrackedTable(name, context, digest_of(trials), counts, _columns(trials), source)


def _columns(table: pd.DataFrame) -> dict[str, str]:
    kinds = {"i": "long", "u": "long", "f": "double", "b": "boolean"}
    return {str(name): kinds.get(getattr(kind, "kind", "O"), "string") for name, kind in table.dtypes.items()}
