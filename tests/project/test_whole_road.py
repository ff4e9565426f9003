"""The pipelines from the command line: every test runs `kedro` in a process of its own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from speaker_verification import SpeakerModel, Verifier
from speaker_verification.pipeline_registry import register_pipelines
from speaker_verification.scoring import EmbeddingStore
from tests.support.project import Kedro
from tests.support.tracked import client_of, runs_of

Finished = tuple[Path, Kedro, str]
SCORINGS = ("cosine", "as_norm", "qmf", "plda")


def newest(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(f"data/tiny/{pattern}"))[-1]


def metrics_of(folder: Path) -> dict:
    return json.loads(newest(folder, "08_reporting/metrics.json/*/metrics.json").read_text())


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, float):
        yield value


def test_the_road_ends_in_a_table_with_every_scoring(finished: Finished) -> None:
    folder, _, printed = finished
    metrics = metrics_of(folder)
    assert list(metrics) == [
        "vox1_o", "vox1_e", "vox1_h", "vox1_o_original", "vox1_e_original", "vox1_h_original",
    ]  # fmt: skip
    for scorings in metrics.values():
        assert tuple(scorings) == SCORINGS
        for values in scorings.values():
            assert 0 <= values["eer"] <= 100
            assert values["num_target"] > 0 < values["num_nontarget"]
    for scoring in SCORINGS:
        assert f"{metrics['vox1_o'][scoring]['eer']:.3f}" in printed
    assert (folder / "data/tiny/08_reporting/results.txt").read_text().count("\n") >= 2 + 18


def test_embeddings_from_files_have_the_error_rates_of_the_run_that_made_them_without_its_audio(
    finished_copy: tuple[Path, Kedro],
) -> None:
    folder, kedro = finished_copy
    tiny = folder / "data/tiny"
    shutil.rmtree(tiny / "02_intermediate/audio")
    files = {
        "trials": newest(folder, "07_model_output/embeddings/*/embeddings"),
        "cohort": newest(folder, "07_model_output/cohort_embeddings/*/cohort_embeddings"),
        "utterances": tiny / "02_intermediate/utterances.parquet",
        "trial_lists.vox1_o": tiny / "01_raw/mirror/veri_test2.txt",
    }
    given = [f"import_embeddings.{name}={file}" for name, file in files.items()]
    given += ["score.top_n=4", "score.calibration_trials=200"]
    pipelines = "--pipelines=import_embeddings,score,report"
    run = kedro("run", "--env=imported", pipelines, f"--params={','.join(given)}")
    assert run.returncode == 0, run.stdout
    (metrics,) = folder.glob("data/imported/08_reporting/metrics.json/*/metrics.json")
    assert json.loads(metrics.read_text()) == {"vox1_o": metrics_of(folder)["vox1_o"]}
    (report,) = folder.glob("data/imported/08_reporting/report.html/*/report.html")
    assert "embeddings of another toolkit" in report.read_text()


def test_the_log_has_a_short_line_for_each_node_and_epoch_and_ends_in_where_to_look(
    finished: Finished,
) -> None:
    folder, _, printed = finished
    lines = [line for line in printed.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    told = [line.split(maxsplit=2)[2] for line in lines]
    nodes = [node.name.split(".")[-2:] for node in register_pipelines()["__default__"].nodes]
    for stage, name in nodes:
        (line,) = [line for line in told if re.fullmatch(rf"{stage}: {name}  \d\S* (s|min)", line)]
        assert len(line) < 80
    epochs = [line for line in told if re.match(r"\w+  \d/\d  EER \d+\.\d\d %", line)]
    assert [line.split("  EER")[0] for line in epochs] == [
        *("pretrain  0/1", "pretrain  1/1", "finetune  0/2", "finetune  1/2", "finetune  2/2"),
        *("lmft  0/1", "lmft  1/1"),
    ]
    assert all(len(line) < 100 for line in epochs)
    assert "  loss " in epochs[1]
    assert "Running node" not in printed
    assert printed.count("\n\n") == 2  # between the tables and after them
    done = told.index(next(line for line in told if line.startswith("done in ")))
    assert told[done].endswith(f"results are in {folder}/data/tiny")
    verifier = newest(folder, "09_deployment/verifier/*/verifier")
    assert told[done + 1].startswith(f"next: speaker-verification verify --model={verifier} ")
    report = newest(folder, "08_reporting/report.html/*/report.html")
    assert printed.splitlines()[-1].split(maxsplit=2)[2] == f"report: {report}"


def test_the_packaged_verifier_scores_every_trial_as_the_table(finished: Finished) -> None:
    folder, _, printed = finished
    root = folder / "data/tiny"
    verifier = Verifier.from_pretrained(newest(folder, "09_deployment/verifier/*/verifier"))
    scores = pd.read_parquet(newest(folder, "07_model_output/scores.parquet/*/scores.parquet"))
    store = EmbeddingStore.read(newest(folder, "07_model_output/embeddings/*/embeddings"), root)
    rows = store.rows_of(scores["enroll_id"]), store.rows_of(scores["test_id"])
    columns = verifier.score(store, *rows)
    assert tuple(columns) == (*SCORINGS, "llr")
    for name, values in columns.items():
        np.testing.assert_allclose(values, scores[name], rtol=0, atol=1e-5)
    path_of = store.utterances.set_index("utterance_id")["path"]
    for trial in scores.iloc[:: len(scores) // 24].itertuples():
        compared = verifier.compare(path_of[str(trial.enroll_id)], path_of[str(trial.test_id)])
        found = {**compared.scores, "llr": compared.llr}
        assert found == pytest.approx({name: getattr(trial, name) for name in found}, rel=0, abs=1e-5)
    assert "From recordings, its cosines are those of the table up to" in printed
    assert {corpus.licence for corpus in verifier.origin.corpora} == {"synthetic"}
    assert verifier.metrics == metrics_of(folder)


def test_no_test_speaker_is_trained_on(finished: Finished) -> None:
    folder, _, _ = finished
    tables = folder / "data/tiny/03_primary"
    trials = pd.read_parquet(tables / "trials.parquet")
    trained = set(pd.read_parquet(tables / "training_utterances.parquet")["speaker_id"])
    held_out = set(pd.read_parquet(tables / "validation_utterances.parquet")["speaker_id"])
    tested = {name.split("/")[0] for name in [*trials["enroll_id"], *trials["test_id"]]}
    assert len(trained) == 6
    assert len(held_out) == 3
    assert not trained & held_out
    assert not (trained | held_out) & tested


def test_a_phase_leaves_a_model_that_loads_by_itself(finished: Finished) -> None:
    folder, _, _ = finished
    checkpoint = newest(folder, "06_models/lmft/checkpoint/*/checkpoint")
    ranking = json.loads((checkpoint / "ranking.json").read_text())
    model = SpeakerModel.from_pretrained(checkpoint / ranking[0]["folder"])
    assert model.embedding_size == 10
    run = json.loads((checkpoint / ranking[0]["folder"] / "run.json").read_text())
    assert len(run["speaker_ids"]) == 6


def test_every_phase_is_a_tracked_run_under_one_experiment(finished: Finished) -> None:
    folder, _, _ = finished
    runs = {run.info.run_name: run for run in runs_of(folder)}
    parent = next(run for run in runs.values() if run.data.tags["stage"] == "experiment")
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for phase, epochs in (("pretrain", 1), ("finetune", 2), ("lmft", 1)):
        run = runs[phase]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.params["epochs"] == str(epochs)
        history = client_of(folder).get_metric_history(run.info.run_id, "eer/validation")
        assert [point.step for point in history] == list(range(epochs + 1))
        artifacts = {file.path for file in client_of(folder).list_artifacts(run.info.run_id)}
        assert artifacts == {"checkpoint", "learning_curve.parquet", "schedule.html"}
        assert {given.dataset.name for given in run.inputs.dataset_inputs} == {"vox2-dev", "validation"}
    evaluation = runs["evaluate"]
    eer = metrics_of(folder)["vox1_o"]["qmf"]["eer"]
    assert evaluation.data.metrics["eer/vox1_o/qmf"] == parent.data.metrics["eer/vox1_o/qmf"] == round(eer, 4)
    assert len(parent.data.metrics) <= 12
    lists = set(metrics_of(folder))
    for run in (evaluation, parent):
        assert lists | {"cohort"} <= {given.dataset.name for given in run.inputs.dataset_inputs}
    artifacts = {file.path for file in client_of(folder).list_artifacts(evaluation.info.run_id)}
    assert {"metrics.json", "results.txt", "report.html"} <= artifacts


def test_another_recipe_takes_the_same_road_in_the_same_environment(project: Path, kedro: Kedro) -> None:
    run = kedro("run", "--params=recipe=mhfa_slt22,fast_dev_run=1")
    assert run.returncode == 0, run.stdout
    for values in metrics_of(project).values():
        assert tuple(values) == SCORINGS
    assert newest(project, "07_model_output/embeddings/*/embeddings/crop_embeddings.npy").is_file()
    checkpoint = newest(project, "06_models/lmft/checkpoint/*/checkpoint")
    ranking = json.loads((checkpoint / "ranking.json").read_text())
    config = json.loads((checkpoint / ranking[0]["folder"] / "config.json").read_text())
    assert config["model"]["speaker_network"]["kind"] == "mhfa"
    runs = runs_of(project)
    assert {run.data.params["recipe"] for run in runs} == {"mhfa_slt22"}
    epochs = {run.info.run_name: run.data.params.get("epochs") for run in runs}
    assert epochs["finetune"] == "2"


def test_scoring_alone_touches_no_audio_and_joins_the_experiment(finished_copy: tuple[Path, Kedro]) -> None:
    folder, kedro = finished_copy
    before = metrics_of(folder)
    utterances = folder / "data/tiny/02_intermediate/utterances.parquet"
    utterances.unlink()  # without it no audio can be found
    run = kedro("run", "--pipeline=score", "--params=score.top_n=3")
    assert run.returncode == 0, run.stdout
    after = metrics_of(folder)
    assert after["vox1_e"]["cosine"] == before["vox1_e"]["cosine"]
    assert after["vox1_e"]["as_norm"]["threshold_eer"] != before["vox1_e"]["as_norm"]["threshold_eer"]
    runs = runs_of(folder)
    assert len([run for run in runs if run.data.tags["stage"] == "experiment"]) == 1
    assert len([run for run in runs if run.data.tags["stage"] == "evaluate"]) == 2


def test_a_saved_model_is_evaluated_reported_and_packaged_without_a_trained_phase(
    finished: Finished, project: Path, kedro: Kedro
) -> None:
    trained = newest(finished[0], "06_models/lmft/checkpoint/*/checkpoint")
    model = trained / json.loads((trained / "ranking.json").read_text())[0]["folder"]
    elsewhere = project / "saved"
    shutil.copytree(model, elsewhere)
    assert kedro("run", "--pipeline=prepare").returncode == 0
    for pipeline in ("evaluate", "report", "package"):
        run = kedro("run", f"--pipeline={pipeline}", f"--params=embed.model={elsewhere}")
        assert run.returncode == 0, run.stdout
    assert metrics_of(project) == metrics_of(finished[0])
    verifier = Verifier.from_pretrained(newest(project, "09_deployment/verifier/*/verifier"))
    assert verifier.metrics == metrics_of(project)
    assert not list(project.glob("data/tiny/06_models/*/checkpoint"))
    assert (project / "data/tiny/08_reporting/learning_curves.json").exists()


def test_a_phase_alone_takes_the_newest_checkpoint_of_the_one_before_or_the_one_asked_for(
    finished_copy: tuple[Path, Kedro],
) -> None:
    folder, kedro = finished_copy
    for phase in ("pretrain", "finetune"):
        run = kedro("run", f"--pipeline={phase}")
        assert run.returncode == 0, run.stdout
    versions = sorted(path.name for path in folder.glob("data/tiny/06_models/pretrain/checkpoint/*"))
    assert len(versions) == 2
    run = kedro(
        "run", "--pipeline=finetune", "--params=finetune.epochs=0",
        f"--load-versions=pretrain.checkpoint:{versions[0]}",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout

    def weights(path: Path) -> bytes:
        ranking = json.loads((path / "ranking.json").read_text())
        return (path / ranking[0]["folder"] / "model.safetensors").read_bytes()

    handed_on = newest(folder, "06_models/finetune/checkpoint/*/checkpoint")
    asked_for = folder / f"data/tiny/06_models/pretrain/checkpoint/{versions[0]}/checkpoint"
    assert weights(handed_on) == weights(asked_for)


def test_a_second_run_gives_the_same_figures_and_another_seed_does_not(
    finished: Finished, kedro: Kedro, project: Path
) -> None:
    folder, _, _ = finished
    first = json.loads(
        sorted(folder.glob("data/tiny/08_reporting/metrics.json/*/metrics.json"))[0].read_text()
    )
    assert kedro("run").returncode == 0
    assert metrics_of(project) == first
    of_data = [*project.glob("data/tiny/01_raw/mirror/*"), *project.glob("data/tiny/0[23]_*/*.parquet")]
    before = {path: path.read_bytes() for path in of_data}
    assert kedro("run", "--params=seed=7").returncode == 0
    assert metrics_of(project) != first
    refused = kedro("run", "--params=prepare.seed=7")
    assert refused.returncode == 1
    assert "of prepare.seed = 42, asked for is prepare.seed = 7" in refused.stdout
    assert "Traceback" not in refused.stdout
    assert {path: path.read_bytes() for path in of_data} == before


def test_without_augmentation_its_archives_are_not_needed(finished_copy: tuple[Path, Kedro]) -> None:
    folder, kedro = finished_copy
    for name in ("musan.tar.gz", "rirs_noises.zip"):
        (folder / "data/tiny/01_raw/mirror" / name).unlink()
    for pipeline in ("prepare", "pretrain"):
        run = kedro("run", f"--pipeline={pipeline}", "--params=augmentation.probability=0")
        assert run.returncode == 0, run.stdout
    later = kedro("run", "--pipeline=pretrain")
    assert later.returncode == 1
    assert re.search(r"Error: table 'noise_clips': no clip .*run --pipeline=prepare", later.stdout)
    assert "Traceback" not in later.stdout


def test_validation_speakers_of_another_seed_of_the_data_are_noticed(
    finished_copy: tuple[Path, Kedro],
) -> None:
    folder, kedro = finished_copy
    tables = folder / "data/tiny/03_primary"
    shutil.copy(tables / "training_utterances.parquet", tables / "validation_utterances.parquet")
    train = kedro("run", "--pipeline=finetune")
    assert train.returncode == 1
    assert re.search(r"Error: prepare\.seed = 42, .*run first: kedro run --pipeline=prepare", train.stdout)
    score = kedro("run", "--pipeline=score", "--params=score.calibration_speakers=validation")
    assert score.returncode == 1
    message = r"Error: score\.calibration_speakers = 'validation', but .* trained on 6 of these 6 speakers"
    assert re.search(message, score.stdout), score.stdout
    assert "Traceback" not in train.stdout + score.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pipeline=finetune"], r"Error: missing inputs: .*pretrain.checkpoint.*run --pipeline=pretrain"),
        (["--pipeline=embed"], r"Error: missing inputs: lmft.checkpoint.* saved model by embed.model"),
        (["--pipeline=score"], r"Error: missing inputs: .*embeddings.*run --pipeline=embed"),
        (
            ["--params=prepare.miror=/x"],
            r"Error: unknown parameter 'prepare.miror': did you mean 'prepare.mirror'\?",
        ),
        (["--params=prepare.mirror=/nowhere"], "mirror /nowhere: no such folder"),
        (["--params=recipe=mhfa_slt2"], r"Error: parameter 'recipe' is 'mhfa_slt2', .*mean 'mhfa_slt22'\?"),
        (
            ["--params=model.layer_aggregation.lap.num_heads=5"],
            r"Error: parameter 'model.layer_aggregation.lap.num_heads' is 5: .* width 16",
        ),
        (
            ["--params=finetune.margin.top_k=18"],
            r"'finetune.margin.top_k' is 18: .* below the 18 classes",
        ),
        (["--params=score.top_n=8"], r"'score.top_n' is 8, .* 9 speakers, 2 .* take 2 to 7"),
        (["--params=device=abacus", "--pipeline=prepare"], r"Error: parameter 'device' is 'abacus'"),
    ],
    ids=[
        "no start",
        "no model",
        "no embeddings",
        "unknown parameter",
        "no mirror",
        "no recipe",
        "heads",
        "top-k",
        "cohort",
        "no device",
    ],
)
def test_a_mistake_gets_one_line_and_leaves_nothing(
    arguments: list[str], message: str, kedro: Kedro, project: Path
) -> None:
    run = kedro("run", *arguments)
    assert run.returncode == 1
    assert len(re.findall(message, run.stdout)) == 1, run.stdout
    assert "Traceback" not in run.stdout
    assert not list(project.glob("data/tiny/0[2-8]*/**/*.*"))


def test_the_package_runs_as_a_module_too(kedro: Kedro) -> None:
    run = kedro("--pipeline=lmft", module="speaker_verification")
    assert run.returncode == 1
    first, *others = re.findall(r"kedro run --pipeline=(\w+)", run.stdout)
    assert (first, others) == ("prepare", ["pretrain", "finetune"])


def test_the_graph_is_drawn_before_the_first_run(project: Path, kedro: Kedro) -> None:
    run = kedro("viz", "build", "--include-hooks")
    api = project / "build" / "api" / "main"
    assert api.exists(), run.stdout
    graph = json.loads(api.read_text())
    folded = {node["id"] for node in graph["nodes"] if node["type"] == "modularPipeline"}
    assert {"prepare", "training", "scoring", "package", "report"} <= folded


def test_the_graph_previews_every_result(finished_copy: tuple[Path, Kedro]) -> None:
    folder, kedro = finished_copy
    run = kedro("viz", "build", "--include-previews")
    api = folder / "build/api"
    assert (api / "main").exists(), run.stdout
    graph = json.loads((api / "main").read_text())
    results = [node for node in graph["nodes"] if (node.get("layer") or "") >= "06_models"]
    shown = {node["name"]: json.loads((api / "nodes" / node["id"]).read_text()) for node in results}
    assert {"lmft.checkpoint", "embeddings", "metrics", "results_table", "verifier"} <= shown.keys()
    for name, node in shown.items():
        if name.endswith(".workspace"):
            continue
        kind, preview = node["preview_type"], node["preview"]
        assert str(folder) not in json.dumps(preview), name
        content = preview["data"] if kind in ("PlotlyPreview", "TablePreview") else preview
        assert content, name
        if kind in ("PlotlyPreview", "HTMLPreview"):
            continue
        values = content if kind == "TablePreview" else json.loads(content)
        assert all(number == round(number, 4) or abs(number) < 1e-3 for number in numbers_in(values)), name
