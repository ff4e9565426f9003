"""Runs that cannot end well are refused before their first node, with the name of what to change."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from kedro.framework.project import configure_project, pipelines
from kedro.io import SharedMemoryDataCatalog

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.tables import LEARNING_CURVE, TRIALS
from speaker_verification.hooks.checks import InputsHook, ParametersHook, StartHook
from speaker_verification.hooks.inputs import JobsHook, OptionalInputsHook
from tests.support.corpora import manifest
from tests.support.hooks import Session
from tests.support.stores import make_store


@pytest.fixture(scope="module", autouse=True)
def _configured() -> None:
    configure_project("speaker_verification")


def trials_of(utterances: pd.DataFrame) -> pd.DataFrame:
    """A target and a non-target trial of the first two speakers, who have two utterances each."""
    a, b, c = utterances["utterance_id"][:3]
    return TRIALS.conform(
        pd.DataFrame({"trial_list": "vox1_o", "label": [1, 0], "enroll_id": [a, a], "test_id": [b, c]})
    )


def test_a_device_that_is_absent_is_refused_where_a_node_takes_it(project: Path) -> None:
    session = Session(project, ParametersHook(), device="cuda:99")
    for pipeline in ("finetune", "embed"):
        with pytest.raises(ParameterError, match="'device' is 'cuda:99'"):
            session.start(pipelines[pipeline])
    session.start(pipelines["export"])


def test_a_runner_whose_processes_know_no_hooks_is_refused(project: Path) -> None:
    session = Session(project, ParametersHook())
    session.catalog = SharedMemoryDataCatalog()
    with pytest.raises(ParameterError, match="ParallelRunner"):
        session.start(pipelines["export"])


def test_parameters_that_the_prepared_corpus_makes_impossible_are_refused(project: Path) -> None:
    session = Session(project, ParametersHook(), score={"top_n": 40})
    speakers = {"vox1-test": ("id10270", "id10271"), "vox2-dev": ("id00012", "id00013")}
    utterances = pd.concat(manifest(dict.fromkeys(names, 2), subset) for subset, names in speakers.items())
    session.catalog.save("utterances", utterances)
    session.catalog.save("trials", trials_of(utterances))
    with pytest.raises(ParameterError, match=r"score\.top_n' is 40"):
        session.start(pipelines["evaluate"])
    session.start(pipelines["export"])  # takes no cohort


def test_imported_embeddings_never_replace_the_trials_of_a_prepared_corpus(project: Path) -> None:
    session = Session(project, ParametersHook())
    session.start(pipelines["import_embeddings"])
    utterances = manifest({"id00012": 2, "id00013": 2}, "vox2-dev")
    session.catalog.save("training_utterances", utterances)
    with pytest.raises(ParameterError, match="--env=imported"):
        session.start(pipelines["import_embeddings"])


@pytest.mark.parametrize("pipeline", ["embed", "evaluate"])
def test_a_folder_without_a_model_is_refused_where_a_node_embeds(pipeline: str, project: Path) -> None:
    session = Session(project, StartHook(), embed={"model": str(project / "conf")})
    with pytest.raises(ParameterError, match=r"embed\.model"):
        session.start(pipelines[pipeline])
    session.start(pipelines["report"])


def test_an_absent_version_is_refused_with_the_newest_that_are_there(project: Path) -> None:
    session = Session(project, StartHook())
    folder = Path(session.catalog["metrics"]._filepath)
    for day in range(1, 6):
        version = folder / f"2026-01-0{day}T00.00.00.000Z"
        version.mkdir(parents=True)
        (version / folder.name).write_text("{}")
    with pytest.raises(DataError, match=r"'metrics'.*'2025.*2026-01-05.*2026-01-04.*2026-01-03") as caught:
        session.start(pipelines["report"], load_versions={"metrics": "2025-01-01T00.00.00.000Z"})
    assert "2026-01-02" not in str(caught.value)
    with pytest.raises(DataError, match="'results_table' keeps no versions"):
        session.start(pipelines["report"], load_versions={"results_table": "2026-01-01T00.00.00.000Z"})
    session.start(pipelines["report"], load_versions={"metrics": "2026-01-05T00.00.00.000Z"})


def test_missing_inputs_are_named_with_the_pipelines_that_make_them_in_order(project: Path) -> None:
    session = Session(project, InputsHook())
    with pytest.raises(DataError) as caught:
        session.start(pipelines["lmft"])
    assert re.findall(r"--pipeline=(\w+)", str(caught.value)) == ["prepare", "pretrain", "finetune"]
    assert "finetune.checkpoint" in str(caught.value)
    with pytest.raises(DataError, match=r"lmft\.checkpoint.*--pipeline=lmft.*embed\.model"):
        session.start(pipelines["embed"])


def test_a_compression_takes_the_last_phase_whatever_model_is_evaluated(project: Path) -> None:
    session = Session(project, InputsHook(), OptionalInputsHook(), embed={"model": "saved"})
    with pytest.raises(DataError, match=r"lmft\.checkpoint.*--pipeline=lmft.*compress\.start"):
        session.start(pipelines["compress"])
    session = Session(project, OptionalInputsHook(), compress={"start": "saved"})
    session.start(pipelines["compress"])
    assert session.catalog.load("lmft.checkpoint").name == "saved"


def test_two_models_in_one_run_are_refused(project: Path) -> None:
    session = Session(project, StartHook(), compress={"start": "saved"})
    with pytest.raises(ParameterError, match=r"compress\.start.*run one after the other"):
        session.start(pipelines["compress"] + pipelines["evaluate"])


def test_a_named_model_takes_the_place_of_the_trained_one_and_of_all_curves(project: Path) -> None:
    session = Session(project, InputsHook(), OptionalInputsHook(), embed={"model": "saved"})
    for pipeline in ("evaluate", "report"):
        with pytest.raises(DataError) as caught:
            session.start(pipelines[pipeline])
        assert "checkpoint" not in str(caught.value)
        assert "learning_curve" not in str(caught.value)
    assert session.catalog.load("lmft.checkpoint").name == "saved"
    pd.testing.assert_frame_equal(session.catalog.load("pretrain.learning_curve"), LEARNING_CURVE.empty())


def test_a_phase_that_was_never_run_has_an_empty_curve_and_the_others_keep_theirs(project: Path) -> None:
    session = Session(project, InputsHook(), OptionalInputsHook())
    curve = LEARNING_CURVE.conform(pd.DataFrame({"epoch": [0], "metric": ["loss"], "value": [2.5]}))
    session.catalog.save("finetune.learning_curve", curve)
    with pytest.raises(DataError):
        session.start(pipelines["report"])  # for want of scores
    assert session.catalog.load("finetune.learning_curve")["value"].tolist() == [2.5]
    assert session.catalog.load("lmft.learning_curve").empty


def test_a_set_that_no_parameter_names_has_no_embeddings_whatever_an_earlier_run_left(project: Path) -> None:
    named, unnamed = (
        Session(project, OptionalInputsHook(), embed=embed)
        for embed in ({"calibration_set": "vox2-test"}, {})
    )
    named.catalog.save("calibration_embeddings", make_store([2, 1]))
    for session, num_utterances in ((named, 3), (unnamed, 0)):
        session.start(pipelines["score"])
        assert len(session.catalog.load("calibration_embeddings").utterances) == num_utterances
        assert not len(session.catalog.load("adaptation_embeddings").utterances)


def test_the_report_alone_does_without_the_model(project: Path) -> None:
    reported, evaluated = (Session(project, OptionalInputsHook()) for _ in range(2))
    reported.start(pipelines["report"])
    assert not reported.catalog.load("lmft.checkpoint").exists()
    evaluated.start(pipelines["evaluate"])
    assert not evaluated.catalog.exists("lmft.checkpoint")


def saved_start(project: Path) -> str:
    """Folder with the configuration and the names of the files of a saved model."""
    folder = project / "saved"
    folder.mkdir()
    (folder / "config.json").write_text('{"model": {}, "encoder": {}}')
    (folder / "model.safetensors").touch()
    return str(folder)


def test_a_phase_with_a_start_of_its_own_needs_no_earlier_phase_and_no_encoder(project: Path) -> None:
    hooks = (InputsHook(), OptionalInputsHook(), StartHook(), JobsHook())
    session = Session(project, *hooks, finetune={"start": saved_start(project)})
    for pipeline in ("finetune", "lmft"):
        with pytest.raises(DataError) as caught:
            session.start(pipelines[pipeline])
        named = "finetune.checkpoint, " if pipeline == "lmft" else ""
        assert str(caught.value).startswith(f"missing inputs: {named}noise_clips, rirs, ")
        assert "encoder" not in str(caught.value)
    assert session.catalog.load("pretrain.checkpoint").name == "saved"


def test_phases_that_nothing_would_use_are_refused_with_those_to_run(project: Path) -> None:
    session = Session(project, StartHook(), lmft={"start": saved_start(project)})
    message = (
        r"'lmft.start' is '.*saved', .* what pretrain and finetune trains: run the rest by "
        r"--pipelines=prepare,lmft,embed,score,package,report$"
    )
    with pytest.raises(ParameterError, match=message):
        session.start(pipelines["__default__"])
    session.start(pipelines["prepare"] + pipelines["lmft"])
    session.start(pipelines["finetune"])


def test_a_start_that_is_no_model_is_refused_where_a_phase_takes_it(project: Path) -> None:
    session = Session(project, StartHook(), finetune={"start": str(project / "conf")})
    for pipeline in ("finetune", "lmft"):
        with pytest.raises(ParameterError, match=r"'finetune\.start': '.*conf' is not a saved speaker model"):
            session.start(pipelines[pipeline])
    session.start(pipelines["pretrain"])
