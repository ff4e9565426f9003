"""The embed, score and report pipelines, on tones instead of speech and band energies instead of a model."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import yaml
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner

from speaker_verification.audio.crops import WINDOW_SECONDS
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.tables import SCORES, SPEAKERS, TRIAL_LISTS, TRIALS, UTTERANCES
from speaker_verification.config.phases import COMPARED, PHASES
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.models import SpeakerModel
from speaker_verification.pipelines import compare, embed, export, measure, report, score
from speaker_verification.pipelines.embed.nodes import (
    embed_adaptation_set,
    embed_calibration_set,
    embed_cohort,
    embed_trial_utterances,
)
from speaker_verification.pipelines.measure.nodes import measure_score_file
from speaker_verification.pipelines.score.nodes import fit_scorings, summarise_cohort
from speaker_verification.scoring import (
    SCORINGS,
    Calibration,
    EmbeddingStore,
    read_score_file,
    write_score_file,
)
from speaker_verification.scoring.settings import (
    CompareRunsSettings,
    EmbedSettings,
    ImportSettings,
    MeasureSettings,
    ReportSettings,
    ScoreSettings,
)
from speaker_verification.training.kept_epochs import RANKING_FILE

CONF = Path(__file__).parents[2] / "conf" / "base"
EMBED: dict[str, object] = {"batch_seconds": 5.0, "num_workers": 0}
SCORE: dict[str, object] = {"top_n": 6, "calibration_trials": 400}
NUM_TEST_SPEAKERS, NUM_COHORT_SPEAKERS, UTTERANCES_EACH = 6, 14, 4
VALIDATION_SPEAKERS = [f"id{speaker}" for speaker in (10, 12, 15, 17)]

Evaluate = Callable[..., dict[str, Any]]


def embedding(**changes: object) -> EmbedSettings:
    return EmbedSettings.parse(EMBED | changes, "embed")


def scoring(**changes: object) -> ScoreSettings:
    return ScoreSettings.parse(SCORE | changes, "score")


class KeptDataset(MemoryDataset):
    """Stays in memory when no node needs it any more."""

    def _release(self) -> None:
        pass


class BandEnergies:
    """Log energy in 12 bands."""

    minimum_samples = 1600
    device = torch.device("cpu")

    window_seconds: ClassVar[float]

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"bands": torch.tensor(12)}

    def attention(self, _waveform: np.ndarray) -> dict[str, torch.Tensor]:
        return {"layer_aggregation.frames": torch.tensor([0.25, 0.75]), "speaker_network": torch.ones(1, 2)}

    def embed(
        self,
        waveforms: torch.Tensor,
        num_samples: torch.Tensor | None = None,
        window_seconds: float = WINDOW_SECONDS,
    ) -> torch.Tensor:
        type(self).window_seconds = window_seconds
        energy = torch.fft.rfft(waveforms).abs().square()
        return torch.stack([band.mean(dim=1).log() for band in energy.chunk(12, dim=1)], dim=1)


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    rows = []
    for speaker in range(NUM_TEST_SPEAKERS + NUM_COHORT_SPEAKERS):
        subset = "vox1-test" if speaker < NUM_TEST_SPEAKERS else "vox2-dev"
        pitches = rng.uniform(100, 7000, 5)  # a chord of its own
        for place in range(UTTERANCES_EACH):
            num_samples = int(rng.integers(10, 20)) * 800
            time = np.arange(num_samples) / SAMPLE_RATE
            levels = rng.uniform(0.02, 0.15, 5)
            wave = (levels[:, None] * np.sin(2 * np.pi * pitches[:, None] * time)).sum(axis=0)
            name = f"id{speaker:02}/session{place}/00001.wav"
            path = folder / f"{speaker}-{place}.wav"
            soundfile.write(path, wave + rng.normal(0, 0.02, num_samples), SAMPLE_RATE, subtype="PCM_16")
            speaker_id, session_id, _ = name.split("/")
            seconds = num_samples / SAMPLE_RATE
            rows.append((name, speaker_id, session_id, subset, str(path), num_samples, seconds))
    return UTTERANCES.conform(pd.DataFrame(rows, columns=UTTERANCES.required))


@pytest.fixture(scope="module")
def trials(utterances: pd.DataFrame) -> pd.DataFrame:
    test = utterances[utterances["subset"] == "vox1-test"].iloc[1:]  # the first is in no trial
    pairs = test.merge(test, how="cross", suffixes=("_e", "_t"))
    pairs = pairs[pairs["utterance_id_e"] < pairs["utterance_id_t"]]
    return TRIALS.conform(
        pd.DataFrame(
            {
                "trial_list": np.where(np.arange(len(pairs)) % 3, "vox1_o", "vox1_o_original"),
                "label": (pairs["speaker_id_e"] == pairs["speaker_id_t"]).to_numpy(),
                "enroll_id": pairs["utterance_id_e"].to_numpy(),
                "test_id": pairs["utterance_id_t"].to_numpy(),
            }
        )
    )


@pytest.fixture(scope="module")
def calls() -> Iterator[list[tuple[Any, ...]]]:
    """Band energies stand in for every model; the list holds what was asked to be loaded."""
    calls: list[tuple[Any, ...]] = []

    def load(*asked: Any) -> BandEnergies:
        calls.append(asked)
        return BandEnergies()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpeakerModel, "from_pretrained", load)
        yield calls


@pytest.fixture
def loaded(calls: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Models that a test loads: folder and device of each."""
    calls.clear()
    return calls


@pytest.fixture(scope="module")
def trained_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phase's folder, with its ranking alone."""
    folder = tmp_path_factory.mktemp("checkpoint")
    ranking = [
        {"epoch": epoch, "folder": f"epoch_{epoch:02d}", "eer": eer} for epoch, eer in ((3, 1.0), (1, 2.0))
    ]
    (folder / RANKING_FILE).write_text(json.dumps(ranking))
    return folder


def learning_curve() -> pd.DataFrame:
    rows = [(0, "validation.eer", 40.0), (1, "validation.eer", 9.0), (1, "loss", 3.0)]
    return pd.DataFrame(rows, columns=["epoch", "metric", "value"])


def trial_lists() -> pd.DataFrame:
    """The record of one list that is the published one and of one that is not."""
    counts = dict.fromkeys(("num_target", "num_nontarget", "num_repeated", "num_self", "num_mislabelled"), 1)
    records = [
        {"trial_list": name, "file": f"{name}.txt", "md5": "29fc", "official": name == "vox1_o", **counts}
        for name in ("vox1_o", "vox1_o_original")
    ]
    return TRIAL_LISTS.conform(pd.DataFrame(records))


def speakers() -> pd.DataFrame:
    """Gender and nationality of the first two speakers."""
    known = pd.DataFrame({"speaker_id": ["id00", "id01"], "gender": ["f", "m"], "nationality": "unknown"})
    return SPEAKERS.conform(known)


def run_record() -> dict[str, Any]:
    """Record of a run, as its hook makes it."""
    changed = {"parameter": "score.top_n", "published": "600", "used": "6"}
    return {
        "recipe": "lap_astp",
        "environment": "demo",
        "commit": "29fc" * 10,
        "clean": True,
        "reported_by": None,
        "differences": [changed],
        "parameters": {"score.top_n": "6"},
    }


@pytest.fixture(scope="module")
def evaluate(
    calls: list[tuple[Any, ...]],
    trained_checkpoint: Path,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    tmp_path_factory: pytest.TempPathFactory,
) -> Evaluate:
    """All that the pipelines leave, by catalog name; figures take long, so only where `reported`."""

    def run(seed: int = 1, reported: bool = False) -> dict[str, Any]:
        pipeline: Pipeline = embed.create_pipeline() + score.create_pipeline()
        given = {
            "lmft.checkpoint": trained_checkpoint,
            "utterances": utterances,
            "trials": trials,
            "params:embed": embedding(),
            "params:score": scoring(),
            "params:seed": seed,
            "validation_utterances": utterances[utterances["speaker_id"].isin(VALIDATION_SPEAKERS)],
            "trial_lists": trial_lists(),
            "params:device": "cpu",
            "embed.workspace": tmp_path_factory.mktemp("workspace"),
        }
        if reported:
            pipeline += report.create_pipeline()
            given |= {"params:report": ReportSettings(min_trials=5, players=1), "speakers": speakers()}
            given |= {"params:prepare": PrepareSettings(), "run_record": run_record()}
            given |= {f"{phase}.learning_curve": learning_curve() for phase in PHASES}
        assert pipeline.inputs() == set(given)
        catalog = DataCatalog(
            {
                **{name: MemoryDataset(value) for name, value in given.items()},
                **{name: KeptDataset() for name in pipeline.all_outputs()},
            }
        )
        SequentialRunner().run(pipeline, catalog)
        return {name: catalog.load(name) for name in pipeline.all_outputs()}

    return run


@pytest.fixture(scope="module")
def published(evaluate: Evaluate) -> dict[str, Any]:
    """The evaluation with the settings above."""
    return evaluate()


def test_from_utterances_to_a_table_of_error_rates(
    evaluate: Evaluate, trials: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        left = evaluate(reported=True)
    num_trial_utterances = NUM_TEST_SPEAKERS * UTTERANCES_EACH - 1
    assert left["embeddings"].embeddings.shape == (num_trial_utterances, 12)
    assert left["cohort_embeddings"].embeddings.shape == (NUM_COHORT_SPEAKERS * UTTERANCES_EACH, 12)

    scores = left["scores"]
    pd.testing.assert_frame_equal(scores, SCORES.conform(scores))
    pd.testing.assert_frame_equal(scores[trials.columns], trials)
    names = list(SCORINGS)
    assert scores.columns.tolist() == ["trial_list", "enroll_id", "test_id", "label", *names, "llr"]
    assert np.isfinite(scores[[*names, "llr"]]).all(axis=None)
    pd.testing.assert_series_equal(scores["qmf"], scores["llr"], check_names=False)

    assert set(left["metrics"]) == {"vox1_o", "vox1_o_original"}
    for scorings in left["metrics"].values():
        assert all(values["eer"] < 25 for values in scorings.values())  # chance is 50
    table = left["results_table"]
    assert len(table.splitlines()) >= 2 * (2 + 2 * len(names) + 1) + 1
    assert "* vox1_o_original: not a published list (vox1_o_original.txt, MD5 29fc)" in table.splitlines()
    assert [record.getMessage() for record in caplog.records if table in record.getMessage()]
    assert sum("EER on vox1_o" in record.getMessage() for record in caplog.records) == 2
    curves = [trace for trace in left["det_curves"].data if trace.name in names and trace.mode == "lines"]
    assert len(curves) == 2 * len(names)
    bars = [trace for trace in left["score_histograms"].data if trace.type == "bar"]
    assert len(bars) == 2 * len(names) * 2
    assert set(left["reliability"]["scoring"]) == set(names)
    assert left["reliability_curves"].data[-1].name == "perfect calibration"
    open_set = left["open_set_rates"]
    assert open_set["threshold"].is_monotonic_increasing
    # At the lowest threshold somebody is named for everybody.
    assert open_set["false_alarm"].iloc[0] == 100
    assert open_set["miss"].iloc[0] == 0
    assert (open_set["miss"] + open_set["misidentification"]).is_monotonic_increasing
    assert set(np.log([99, 19])) <= set(open_set["threshold"])  # of P_target 0.01 and 0.05
    assert len(left["open_set_curves"].data) == 3 * 3
    assert set(left["rates_by_group"]["by"]) == {"duration", "gender"}
    assert left["worst_trials"]["trial_list"].nunique() == 2
    assert [trace.name for trace in left["learning_curves"].data[::2]] == ["pretrain", "finetune", "lmft"]
    assert left["layer_weights"]["weight"].tolist() == [0.25, 0.75]
    assert left["layer_weights_over_time"].empty
    assert [trace.name for trace in left["layer_weight_bars"].data] == ["frames"]
    verdict = left["verdict"]
    assert (verdict["recipe"], verdict["model"], verdict["unofficial"]) == (
        "lap_astp",
        None,  # its folder holds a ranking alone
        ["vox1_o_original"],
    )
    assert verdict["eer"]["vox1_o"]["qmf"] == left["metrics"]["vox1_o"]["qmf"]["eer"]
    assert verdict["corpora"]["trials"] == ["voxceleb (vox1-test)"]
    first = left["worst_trials"].groupby(["trial_list", "label"], observed=True).head(1)
    assert set(left["players"]) == {*first["enroll_id"], *first["test_id"]}
    page = left["report"]
    assert page.count("data:audio/mpeg;base64,") == len(left["players"])
    assert "not at hand any more" in page
    assert "score.top_n" in page


def test_crops_of_the_trials_give_cosine_a_second_view_and_as_norm_keeps_the_first(
    evaluate: Evaluate, published: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EMBED, "num_crops", 3)
    monkeypatch.setitem(EMBED, "crop_seconds", 0.4)
    two_views = evaluate()
    assert two_views["embeddings"].crops.shape == (NUM_TEST_SPEAKERS * UTTERANCES_EACH - 1, 3, 12)
    assert two_views["cohort_embeddings"].crops is None
    assert (two_views["scores"]["cosine"] != published["scores"]["cosine"]).any()
    pd.testing.assert_series_equal(two_views["scores"]["as_norm"], published["scores"]["as_norm"])


def test_operating_point_out_of_reach_is_named_where_it_is_fitted_and_where_it_is_used(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(SCORE, "p_targets", [0.999999, 1e-12])  # ratios of 0 and of 41.4 are needed
    monkeypatch.setitem(SCORE, "c_fa", 1e6)
    left = evaluate(reported=True)
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    (told,) = (message for message in warned if "p_target 1e-12, c_miss 1, c_fa 1e+06" in message)
    assert "out of reach of cosine" in told
    near, far = left["calibration"]["operating_points"]
    assert near["reachable"] == dict.fromkeys(SCORINGS, True)
    assert near["remarks"] == []
    beyond = far["remarks"]
    assert [remark.split()[0] for remark in beyond] == list(SCORINGS)
    assert "cosine cannot reach" in beyond[0]
    assert far["errors_on_calibration_trials"]["cosine"]["misses"] == SCORE["calibration_trials"] / 2
    for scorings in left["metrics"].values():
        for values, remark in zip(scorings.values(), beyond, strict=True):
            assert values["remark_p000000000001"] == remark
            assert (values["act_fnr_p000000000001"], values["act_fpr_p000000000001"]) == (100.0, 0.0)
            assert "remark_p999999" not in values
            assert 0 <= values["act_fnr_p999999"] < 50 > values["act_fpr_p999999"] >= 0
    assert all(left["results_table"].count(remark) == 1 for remark in beyond)


def test_same_seed_same_metrics_another_seed_not(evaluate: Evaluate, published: dict[str, Any]) -> None:
    same, other = (evaluate(seed) for seed in (1, 2))
    assert published["metrics"] == same["metrics"]
    assert published["calibration"] == same["calibration"]
    assert published["calibration"] != other["calibration"]


def test_ratios_are_those_of_the_chosen_scoring_and_qmf_keeps_its_own(
    evaluate: Evaluate, published: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORE, "llr", "cosine")
    left = evaluate()
    expected = Calibration.from_dict(left["calibration"]).log_likelihood_ratio(
        "cosine", left["scores"]["cosine"].to_numpy()
    )
    np.testing.assert_allclose(left["scores"]["llr"], expected)
    pd.testing.assert_series_equal(left["scores"]["qmf"], published["scores"]["qmf"])
    for trial_list, scorings in left["metrics"].items():
        assert scorings == published["metrics"][trial_list]


def test_calibration_on_validation_speakers_differs_from_that_on_the_cohort(
    evaluate: Evaluate, published: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORE, "calibration_speakers", "validation")
    left = evaluate()
    assert left["calibration"]["speakers"] == "validation"
    assert left["calibration"]["scorings"] != published["calibration"]["scorings"]
    pd.testing.assert_series_equal(left["scores"]["as_norm"], published["scores"]["as_norm"])


def test_exported_scores_are_measured_to_the_same_error_rates(
    utterances: pd.DataFrame, published: dict[str, Any], tmp_path: Path
) -> None:
    entries = yaml.safe_load((CONF / "catalog_evaluation.yml").read_text())
    text = {**entries["scores_text"], "filepath": str(tmp_path / "scores_text")}
    catalog = DataCatalog.from_config({"scores_text": text})
    earlier = tmp_path / "scores_text" / "of_another_list.cosine.txt"
    earlier.parent.mkdir()
    earlier.write_text("a b 0.5 target\n")
    catalog["scores"] = MemoryDataset(published["scores"])
    catalog["calibration"] = MemoryDataset(published["calibration"])
    SequentialRunner().run(export.create_pipeline(), catalog)
    names = {path.name for path in (tmp_path / "scores_text").iterdir()}
    assert {"vox1_o.cosine.txt", "vox1_o_original.qmf.txt"} < names
    assert len(names) == 2 * (len(SCORINGS) + 1)  # without the earlier evaluation's
    file = tmp_path / "scores_text" / "vox1_o.llr.txt"
    assert set(read_score_file(file)["enroll_id"]) <= set(utterances["utterance_id"])

    metrics = measure_score_file(MeasureSettings(score_file=str(file), calibrated=True), scoring())
    found = metrics["vox1_o.llr"]["score"]
    expected = published["metrics"]["vox1_o"]["qmf"]
    other = ("list_",)  # the file does not name its list
    exported = read_score_file(tmp_path / "scores_text" / "vox1_o.qmf.txt")
    of_list = published["scores"]["trial_list"] == "vox1_o"
    np.testing.assert_allclose(exported["score"], 1 / (1 + np.exp(-published["scores"]["qmf"][of_list])))
    assert {name: found[name] for name in expected if not name.startswith(other)} == {
        name: value for name, value in expected.items() if not name.startswith(other)
    }


def foreign_scores(folder: Path, naming: str, separation: float = 2.0) -> tuple[Path, pd.DataFrame]:
    """A labelled file of scores between 8 speakers whose ids are of another toolkit, and its trials."""
    rng = np.random.default_rng(0)
    label = np.tile([1, 0], 150)
    enroll = rng.integers(8, size=300)
    test = np.where(label == 1, enroll, (enroll + rng.integers(1, 8, 300)) % 8)
    table = pd.DataFrame(
        {
            "enroll_id": [naming.format(speaker, rng.integers(4)) for speaker in enroll],
            "test_id": [naming.format(speaker, rng.integers(4, 8)) for speaker in test],
            "score": separation * label + rng.normal(size=300),
            "label": label,
        }
    )
    file = folder / "theirs.txt"
    write_score_file(file, table)
    return file, table


def measured(file: Path, **settings: object) -> dict[str, Any]:
    """The metrics of a file of scores, after a passage through JSON."""
    metrics = measure_score_file(
        MeasureSettings.parse({"score_file": str(file), **settings}, "measure"), scoring()
    )
    return json.loads(json.dumps(metrics, allow_nan=False))["theirs"]["score"]


@pytest.mark.parametrize(
    "naming", ["/data/wav/id{}/session{}/1.wav", "id{}-session{}-1", "p{}_{}", "wav/id{}/{}.flac"]
)
def test_score_file_of_another_toolkit_has_the_interval_of_its_speakers(tmp_path: Path, naming: str) -> None:
    own = measured(foreign_scores(tmp_path, "id{}/session{}/1.wav")[0])
    low, high = own["eer_interval"]
    assert low < own["eer"] < high
    assert own["num_speakers"] == 8
    assert measured(foreign_scores(tmp_path, naming)[0]) == own


def test_speakers_that_the_ids_do_not_tell_are_asked_for_and_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = measured(foreign_scores(tmp_path, "id{}/session{}/1.wav")[0])
    file, _ = foreign_scores(tmp_path, "corpus/{1}x{0}")
    with caplog.at_level(logging.INFO):
        unknown = measured(file)
    assert unknown.items() >= {key: own[key] for key in ("eer", "min_cllr", "num_target")}.items()
    assert not {"eer_interval", "num_speakers"} & set(unknown)
    assert "the ids do not tell the speakers" in unknown["no_interval"]
    warning, table = (record for record in caplog.records if "no interval" in record.getMessage())
    assert warning.levelname == "WARNING"
    assert re.search(
        r"first: 'corpus/\dx\d corpus/\dx\d \w+'; name them by measure\.speakers", warning.message
    )
    assert table.getMessage().splitlines()[-1].startswith("theirs: no interval:")

    speakers = tmp_path / "utt2spk"
    ids = [f"corpus/{session}x{speaker}" for speaker in range(8) for session in range(8)]
    speakers.write_text("".join(f"{name} id{name[-1]}\n" for name in ids))
    assert measured(file, speakers=str(speakers)) == own
    speakers.write_text("".join(f"{name} id{name[-1]}\n" for name in ids[:-1]))
    with pytest.raises(DataError, match=r"theirs\.txt, line \d+: no speaker of corpus/7x7 in .*utt2spk"):
        measured(file, speakers=str(speakers))


def test_labels_against_the_given_speakers_are_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, trials = foreign_scores(tmp_path, "{1}x{0}")
    ids = pd.concat([trials["enroll_id"], trials["test_id"]]).unique()
    speakers = tmp_path / "speakers.csv"
    table = pd.DataFrame({"utterance_id": ids, "speaker_id": [name[-1] for name in ids]})
    table.to_csv(speakers, index=False)
    write_score_file(file, trials.assign(label=trials["label"].where(trials.index != 3, 1)))
    values = measured(file, speakers=str(speakers))
    assert values["num_contradicting"] == 1
    assert values["num_speakers"] == 8
    (warning,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    row = trials.iloc[3]
    assert (
        f"1 of 300 trials contradict the speakers given, the first: '{row.enroll_id} {row.test_id} t"
        in warning
    )
    table.assign(speaker_id="one").to_csv(speakers, index=False)
    assert "eer_interval" not in measured(file, speakers=str(speakers))


def test_scores_that_cannot_be_measured_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"set measure\.score_file"):
        measure_score_file(MeasureSettings(), scoring())
    (tmp_path / "scores.txt").write_text("a b 0.5\n")
    with pytest.raises(DataError, match=r"scores\.txt, line 1: no label"):
        measure_score_file(MeasureSettings(score_file=str(tmp_path / "scores.txt")), scoring())


def test_kept_epoch_of_the_last_phase_is_loaded_by_its_rank(
    trained_checkpoint: Path,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    loaded: list[tuple[Any, ...]],
    tmp_path: Path,
) -> None:
    for rank in (1, 2):
        embed_trial_utterances(
            trained_checkpoint, utterances, trials, embedding(choose_top=rank), "cpu", tmp_path
        )
    cpu = torch.device("cpu")
    assert loaded == [(trained_checkpoint / "epoch_03", cpu), (trained_checkpoint / "epoch_01", cpu)]


def test_the_window_is_a_parameter(
    utterances: pd.DataFrame, trials: pd.DataFrame, loaded: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    named = embedding(model="my_model")
    for settings, expected in ((named, WINDOW_SECONDS), (embedding(model="my_model", window_seconds=7.0), 7)):
        embed_trial_utterances(Path("lmft"), utterances, trials, settings, "cpu", tmp_path)
        assert BandEnergies.window_seconds == expected
    for wrong in (0.5, float("inf")):
        with pytest.raises(ParameterError, match=r"parameter 'embed\.window_seconds' is "):
            embedding(window_seconds=wrong)


def test_saved_model_can_be_named_instead(
    utterances: pd.DataFrame, trials: pd.DataFrame, loaded: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    embed_trial_utterances(Path("lmft"), utterances, trials, embedding(model="my_model"), "cpu", tmp_path)
    assert loaded == [(Path("my_model"), torch.device("cpu"))]


@pytest.mark.usefixtures("loaded")
def test_cohort_with_speakers_of_the_trials_needs_leave(
    trained_checkpoint: Path, utterances: pd.DataFrame, trials: pd.DataFrame, tmp_path: Path
) -> None:
    with_own = trials.assign(enroll_id=utterances["utterance_id"].iloc[-1])
    with pytest.raises(ParameterError, match=r"embed\.cohort_set = 'voxceleb2-dev' holds 1 speakers"):
        embed_cohort(trained_checkpoint, utterances, with_own, embedding(), "cpu", tmp_path)
    leave = embedding(allow_seen_speakers=True)
    store = embed_cohort(trained_checkpoint, utterances, with_own, leave, "cpu", tmp_path)
    assert set(store.utterances["subset"]) == {"vox2-dev"}


def test_sets_beside_the_cohort_are_embedded_as_far_as_they_are_not_yet(
    trained_checkpoint: Path,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    loaded: list[tuple[Any, ...]],
    tmp_path: Path,
) -> None:
    def embed_sets(utterances: pd.DataFrame, **sets: str) -> list[EmbeddingStore]:
        inputs = (utterances, trials, embedding(**sets), "cpu", tmp_path)
        cohort = embed_cohort(trained_checkpoint, *inputs)
        calibration = embed_calibration_set(trained_checkpoint, cohort, *inputs)
        return [
            cohort,
            calibration,
            embed_adaptation_set(trained_checkpoint, cohort, calibration, *inputs),
        ]

    cohort, calibration, adaptation = embed_sets(utterances)
    assert (len(calibration.utterances), len(adaptation.utterances), len(loaded)) == (0, 0, 1)
    cohort, same, _ = embed_sets(utterances, calibration_set="voxceleb2-dev")
    assert len(loaded) == 2
    np.testing.assert_array_equal(same.embeddings, cohort.embeddings)

    apart = utterances["speaker_id"].isin(VALIDATION_SPEAKERS)
    split = utterances.assign(subset=utterances["subset"].mask(apart, "vox2-test"))
    named = {"calibration_set": "vox2-test", "adaptation_set": "vox2-test"}
    _, calibration, adaptation = embed_sets(split, **named)
    assert len(loaded) == 4  # for the cohort and for the calibration set
    assert calibration.utterances["utterance_id"].tolist() == split["utterance_id"][apart].tolist()
    assert calibration.model == cohort.model
    rows = cohort.rows_of(calibration.utterances["utterance_id"])
    for store in (calibration, adaptation):
        np.testing.assert_allclose(store.embeddings, cohort.embeddings[rows], rtol=1e-6)

    of_cohort = trials.assign(enroll_id=utterances["utterance_id"].iloc[-1])
    seen = "holds 1 speakers of the trials vox1_o"
    inputs = (utterances, of_cohort, embedding(calibration_set="voxceleb2-dev"), "cpu", tmp_path)
    with pytest.raises(ParameterError, match=rf"embed\.calibration_set = 'voxceleb2-dev' {seen}"):
        embed_calibration_set(trained_checkpoint, cohort, *inputs)
    inputs = (utterances, of_cohort, embedding(adaptation_set="voxceleb2-dev"), "cpu", tmp_path)
    with pytest.raises(ParameterError, match=rf"embed\.adaptation_set = 'voxceleb2-dev' {seen}"):
        embed_adaptation_set(trained_checkpoint, cohort, EmbeddingStore.empty(), *inputs)


@pytest.mark.usefixtures("loaded")
def test_trials_of_unknown_utterances_stop_before_the_model_is_needed(
    utterances: pd.DataFrame, trials: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"3 utterances of the trials .*id00/session1"):
        embed_trial_utterances(
            Path("lmft"), utterances.iloc[UTTERANCES_EACH:], trials, embedding(), "cpu", tmp_path
        )


def test_top_n_above_the_speakers_of_a_calibration_trial_is_refused() -> None:
    columns = dict.fromkeys(UTTERANCES.required, 1.0)
    table = pd.DataFrame({**columns, "speaker_id": np.repeat(["a", "b", "c", "d"], 2)})
    store = EmbeddingStore(np.eye(8, dtype=np.float32), table)
    cohort = summarise_cohort(store, store, scoring())
    with pytest.raises(ParameterError, match=r"'score\.top_n' is 6, .* take 2 to 2"):
        fit_scorings(store, store, cohort, table, scoring(), 0, "cpu")
    with pytest.raises(ParameterError, match=r"'score\.calibration_trials'"):
        scoring(calibration_trials=401)


@pytest.mark.usefixtures("loaded")
def test_embeddings_of_two_models_are_not_scored_together(
    trained_checkpoint: Path, utterances: pd.DataFrame, trials: pd.DataFrame, tmp_path: Path
) -> None:
    """As after an `embed` that broke off between its two nodes."""
    inputs = (trained_checkpoint, utterances, trials, embedding(), "cpu", tmp_path)
    embeddings, cohort = embed_trial_utterances(*inputs), embed_cohort(*inputs)
    assert embeddings.model
    summarise_cohort(cohort, embeddings, scoring())
    replace(cohort, model="another").write(tmp_path / "cohort")
    with pytest.raises(DataError, match=r"are of two models.*: embed both sets with one"):
        summarise_cohort(EmbeddingStore.read(tmp_path / "cohort"), embeddings, scoring())
    summarise_cohort(replace(cohort, model=""), embeddings, scoring())  # of an earlier version


def test_scoring_is_one_namespace_over_shared_datasets() -> None:
    names = {node.name for node in score.create_pipeline().nodes}
    assert names == {
        "score.adapt_sets",
        "score.summarise_cohort",
        "score.fit_scorings",
        "score.score_trials",
        "score.measure_error_rates",
        "score.measure_identification",
    }
    assert score.create_pipeline().inputs() == {
        "trials",
        "trial_lists",
        "embeddings",
        "cohort_embeddings",
        "calibration_embeddings",
        "adaptation_embeddings",
        "validation_utterances",
        "params:embed",
        "params:score",
        "params:seed",
        "params:device",
    }


def test_base_parameters_are_the_published_defaults() -> None:
    parameters = yaml.safe_load((CONF / "parameters_evaluation.yml").read_text())
    groups = {
        "embed": EmbedSettings,
        "score": ScoreSettings,
        "report": ReportSettings,
        "import_embeddings": ImportSettings,
        "measure": MeasureSettings,
        "compare_runs": CompareRunsSettings,
    }
    assert set(parameters) == set(groups)
    for name, settings in groups.items():
        assert settings.parse(parameters[name], name) == settings()
        assert set(parameters[name]) == set(settings.model_fields)


def test_catalog_persists_what_the_pipelines_make() -> None:
    files = ("catalog_evaluation.yml", "catalog_compare.yml")
    catalog = {
        name: entry for file in files for name, entry in yaml.safe_load((CONF / file).read_text()).items()
    }
    makers = (embed, score, report, export, measure, compare)
    pipeline = sum((maker.create_pipeline() for maker in makers), start=Pipeline([]))
    not_made = {"embed.workspace", "compare.workspace", "imported_utterances"}
    assert pipeline.all_outputs() - {COMPARED} | not_made == set(catalog)
    in_memory = {name for name, entry in catalog.items() if entry["type"] == "MemoryDataset"}
    assert in_memory == {"cohort_set", "calibration_set", "cohort", "players", "compared_runs"}


@pytest.mark.project
def test_wiring_does_not_import_torch() -> None:
    code = (
        "import sys; from speaker_verification.pipelines import embed, export, measure, report, score; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
