"""The embed, score and report pipelines, on tones instead of speech and band energies instead of a model."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
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
from speaker_verification.errors import DataError, ParameterError
from speaker_verification.models import SpeakerModel
from speaker_verification.pipelines import embed, export, measure, report, score
from speaker_verification.pipelines.embed.nodes import embed_cohort, embed_trial_utterances
from speaker_verification.pipelines.measure.nodes import measure_score_file
from speaker_verification.pipelines.score.nodes import fit_score_calibration, summarise_cohort
from speaker_verification.scoring import Calibration, EmbeddingStore, read_score_file
from speaker_verification.scoring.settings import (
    EmbedSettings,
    MeasureSettings,
    ReportSettings,
    ScoreSettings,
)
from speaker_verification.tables import SCORES, SPEAKERS, TRIAL_LISTS, TRIALS, UTTERANCES
from speaker_verification.training.checkpoints import RANKING_FILE

CONF = Path(__file__).parents[2] / "conf" / "base"
EMBED: dict[str, object] = {"batch_seconds": 5.0, "num_workers": 0}
SCORE: dict[str, object] = {"cohort_size": 6, "calibration_trials": 400}
NUM_TEST_SPEAKERS, NUM_COHORT_SPEAKERS, UTTERANCES_EACH = 6, 14, 4
VALIDATION_SPEAKERS = [f"id{speaker}" for speaker in (10, 12, 15, 17)]


class KeptDataset(MemoryDataset):
    """Stays in memory when no node needs it any more."""

    def _release(self) -> None:
        pass


class BandEnergies:
    """Log energy in 12 bands."""

    minimum_samples = 1600
    device = torch.device("cpu")

    window_seconds: ClassVar[float]

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
    return UTTERANCES.conform(pd.DataFrame(rows, columns=UTTERANCES.columns.names))


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


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Band energies stand in for every model; the list holds what was asked to be loaded."""
    calls: list[tuple[Any, ...]] = []

    def load(*asked: Any) -> BandEnergies:
        calls.append(asked)
        return BandEnergies()

    monkeypatch.setattr(SpeakerModel, "from_pretrained", load)
    return calls


@pytest.fixture
def lmft_checkpoint(tmp_path: Path) -> Path:
    """A phase's folder, with its ranking alone."""
    ranking = [
        {"epoch": epoch, "folder": f"epoch_{epoch:02d}", "eer": eer} for epoch, eer in ((3, 1.0), (1, 2.0))
    ]
    (tmp_path / RANKING_FILE).write_text(json.dumps(ranking))
    return tmp_path


def learning_curve() -> pd.DataFrame:
    rows = [(0, "validation.eer", 40.0), (1, "validation.eer", 9.0), (1, "loss", 3.0)]
    return pd.DataFrame(rows, columns=["epoch", "metric", "value"])


def speakers() -> pd.DataFrame:
    """What is known of the first two speakers."""
    known = pd.DataFrame({"speaker_id": ["id00", "id01"], "gender": ["f", "m"], "nationality": "unknown"})
    return SPEAKERS.conform(known)


def evaluate(
    lmft_checkpoint: Path, utterances: pd.DataFrame, trials: pd.DataFrame, seed: int = 1
) -> dict[str, Any]:
    """Everything that the three pipelines leave, by catalog name."""
    pipeline: Pipeline = embed.create_pipeline() + score.create_pipeline() + report.create_pipeline()
    given = {
        "lmft.checkpoint": lmft_checkpoint,
        "utterances": utterances,
        "trials": trials,
        "params:embed": EMBED,
        "params:score": SCORE,
        "params:report": {"least_trials": 5},
        "params:seed": seed,
        "validation_utterances": utterances[utterances["speaker_id"].isin(VALIDATION_SPEAKERS)],
        "speakers": speakers(),
        "trial_lists": TRIAL_LISTS.empty(),
        "params:device": "cpu",
        **{f"{phase}.learning_curve": learning_curve() for phase in ("pretrain", "finetune", "lmft")},
    }
    assert pipeline.inputs() == set(given)
    catalog = DataCatalog(
        {
            **{name: MemoryDataset(value) for name, value in given.items()},
            **{name: KeptDataset() for name in pipeline.all_outputs()},
        }
    )
    SequentialRunner().run(pipeline, catalog)
    return {name: catalog.load(name) for name in pipeline.all_outputs()}


@pytest.mark.usefixtures("loaded")
def test_from_utterances_to_a_table_of_error_rates(
    lmft_checkpoint: Path, utterances: pd.DataFrame, trials: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        left = evaluate(lmft_checkpoint, utterances, trials)
    num_trial_utterances = NUM_TEST_SPEAKERS * UTTERANCES_EACH - 1
    assert left["embeddings"].embeddings.shape == (num_trial_utterances, 12)
    assert left["cohort_embeddings"].embeddings.shape == (NUM_COHORT_SPEAKERS * UTTERANCES_EACH, 12)

    scores = left["scores"]
    pd.testing.assert_frame_equal(scores, SCORES.conform(scores))
    pd.testing.assert_frame_equal(scores[trials.columns], trials)
    assert np.isfinite(scores[["cosine", "as_norm", "llr"]]).all(axis=None)
    np.testing.assert_allclose(scores["qmf"], 1 / (1 + np.exp(-scores["llr"])))

    assert set(left["metrics"]) == {"vox1_o", "vox1_o_original"}
    for scorings in left["metrics"].values():
        assert all(values["eer"] < 25 for values in scorings.values())  # chance is 50
    table = left["results_table"]
    assert len(table.splitlines()) == 2 + 2 * 3 + 1
    assert [record.getMessage() for record in caplog.records if table in record.getMessage()]
    assert sum("EER on vox1_o" in record.getMessage() for record in caplog.records) == 2
    assert len(left["det_curves"].data) == 2 * 3
    assert len(left["score_histograms"].data) == 2 * 3 * 2
    assert set(left["reliability"]["scoring"]) == {"cosine", "as_norm", "qmf"}
    assert left["reliability_curves"].data[-1].name == "as it should be"
    assert set(left["rates_by_group"]["by"]) == {"duration", "gender"}
    assert left["worst_trials"]["trial_list"].nunique() == 2
    assert [trace.name for trace in left["learning_curves"].data[::2]] == ["pretrain", "finetune", "lmft"]


@pytest.mark.usefixtures("loaded")
def test_crops_of_the_trials_give_cosine_a_second_view_and_as_norm_keeps_the_first(
    lmft_checkpoint: Path, utterances: pd.DataFrame, trials: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_view = evaluate(lmft_checkpoint, utterances, trials)
    monkeypatch.setitem(EMBED, "num_crops", 3)
    monkeypatch.setitem(EMBED, "crop_seconds", 0.4)
    two_views = evaluate(lmft_checkpoint, utterances, trials)
    assert two_views["embeddings"].crops.shape == (NUM_TEST_SPEAKERS * UTTERANCES_EACH - 1, 3, 12)
    assert two_views["cohort_embeddings"].crops is None
    assert (two_views["scores"]["cosine"] != one_view["scores"]["cosine"]).any()
    pd.testing.assert_series_equal(two_views["scores"]["as_norm"], one_view["scores"]["as_norm"])


@pytest.mark.usefixtures("loaded")
def test_same_seed_same_metrics_another_seed_not(
    lmft_checkpoint: Path, utterances: pd.DataFrame, trials: pd.DataFrame
) -> None:
    one, same, other = (evaluate(lmft_checkpoint, utterances, trials, seed) for seed in (1, 1, 2))
    assert one["metrics"] == same["metrics"]
    assert one["calibration"] == same["calibration"]
    assert one["calibration"] != other["calibration"]


@pytest.mark.usefixtures("loaded")
def test_ratios_are_those_of_the_chosen_scoring_and_qmf_keeps_its_own(
    lmft_checkpoint: Path,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published = evaluate(lmft_checkpoint, utterances, trials)
    monkeypatch.setitem(SCORE, "llr", "cosine")
    left = evaluate(lmft_checkpoint, utterances, trials)
    of_cosine = Calibration.from_dict(left["calibration"]).cosine
    expected = of_cosine.log_likelihood_ratio(left["scores"]["cosine"])
    np.testing.assert_allclose(left["scores"]["llr"], expected)
    pd.testing.assert_series_equal(left["scores"]["qmf"], published["scores"]["qmf"])
    for trial_list, scorings in left["metrics"].items():
        for scoring, values in scorings.items():
            before = published["metrics"][trial_list][scoring]
            assert values.pop("eer_interval") == before.pop("eer_interval")
            assert values == pytest.approx(before, rel=1e-6)


@pytest.mark.usefixtures("loaded")
def test_calibration_on_validation_speakers_differs_from_that_on_the_cohort(
    lmft_checkpoint: Path, utterances: pd.DataFrame, trials: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cohort = evaluate(lmft_checkpoint, utterances, trials)
    monkeypatch.setitem(SCORE, "calibration_speakers", "validation")
    left = evaluate(lmft_checkpoint, utterances, trials)
    assert left["calibration"]["speakers"] == "validation"
    assert left["calibration"]["cosine"] != on_cohort["calibration"]["cosine"]
    pd.testing.assert_series_equal(left["scores"]["as_norm"], on_cohort["scores"]["as_norm"])


@pytest.mark.usefixtures("loaded")
def test_exported_scores_are_measured_to_the_same_error_rates(
    lmft_checkpoint: Path, utterances: pd.DataFrame, trials: pd.DataFrame, tmp_path: Path
) -> None:
    left = evaluate(lmft_checkpoint, utterances, trials)
    entries = yaml.safe_load((CONF / "catalog_evaluation.yml").read_text())
    text = {**entries["scores_text"], "path": str(tmp_path / "scores_text")}
    catalog = DataCatalog.from_config({"scores_text": text})
    catalog["scores"] = MemoryDataset(left["scores"])
    SequentialRunner().run(export.create_pipeline(), catalog)
    names = {path.name for path in (tmp_path / "scores_text").iterdir()}
    assert {"vox1_o.cosine.txt", "vox1_o_original.qmf.txt"} < names
    assert len(names) == 2 * 4
    file = tmp_path / "scores_text" / "vox1_o.llr.txt"
    assert set(read_score_file(file)["enroll_id"]) <= set(utterances["utterance_id"])

    found = measure_score_file({"score_file": str(file), "calibrated": True}, SCORE)["vox1_o.llr"]["score"]
    expected = left["metrics"]["vox1_o"]["qmf"]
    unit = {name for name in expected if name.startswith("threshold_")}  # here ratios, there probabilities
    assert {name: found[name] for name in expected if name not in unit} == {
        name: value for name, value in expected.items() if name not in unit
    }


def test_scores_that_cannot_be_measured_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"set measure\.score_file"):
        measure_score_file({}, SCORE)
    (tmp_path / "scores.txt").write_text("a b 0.5\n")
    with pytest.raises(DataError, match=r"scores\.txt, line 1: no label"):
        measure_score_file({"score_file": str(tmp_path / "scores.txt")}, SCORE)


def test_kept_epoch_of_the_last_phase_is_loaded_by_its_rank(
    lmft_checkpoint: Path, utterances: pd.DataFrame, trials: pd.DataFrame, loaded: list[tuple[Any, ...]]
) -> None:
    for rank in (1, 2):
        embed_trial_utterances(lmft_checkpoint, utterances, trials, {**EMBED, "choose_top": rank}, "cpu")
    cpu = torch.device("cpu")
    assert loaded == [(lmft_checkpoint / "epoch_03", cpu), (lmft_checkpoint / "epoch_01", cpu)]


def test_the_window_is_a_parameter(
    utterances: pd.DataFrame, trials: pd.DataFrame, loaded: list[tuple[Any, ...]]
) -> None:
    named = {**EMBED, "model": "my_model"}
    for parameters, expected in ((named, WINDOW_SECONDS), ({**named, "window_seconds": 7.0}, 7.0)):
        embed_trial_utterances(Path("lmft"), utterances, trials, parameters, "cpu")
        assert BandEnergies.window_seconds == expected
    for wrong in (0.5, float("inf")):
        with pytest.raises(ParameterError, match=r"parameter 'embed\.window_seconds' is "):
            embed_trial_utterances(
                Path("lmft"), utterances, trials, {**named, "window_seconds": wrong}, "cpu"
            )


def test_saved_model_can_be_named_instead(
    utterances: pd.DataFrame, trials: pd.DataFrame, loaded: list[tuple[Any, ...]]
) -> None:
    embed_trial_utterances(Path("lmft"), utterances, trials, {**EMBED, "model": "my_model"}, "cpu")
    assert loaded == [(Path("my_model"), torch.device("cpu"))]


@pytest.mark.usefixtures("loaded")
def test_cohort_with_speakers_of_the_trials_needs_leave(
    lmft_checkpoint: Path, utterances: pd.DataFrame, trials: pd.DataFrame
) -> None:
    with_own = trials.assign(enroll_id=utterances["utterance_id"].iloc[-1])
    with pytest.raises(ParameterError, match=r"embed\.cohort_set = 'voxceleb2-dev' holds 1 speakers"):
        embed_cohort(lmft_checkpoint, utterances, with_own, EMBED, "cpu")
    leave = {**EMBED, "allow_seen_speakers": True}
    store = embed_cohort(lmft_checkpoint, utterances, with_own, leave, "cpu")
    assert set(store.utterances["subset"]) == {"vox2-dev"}


@pytest.mark.usefixtures("loaded")
def test_trials_of_unknown_utterances_stop_before_the_model_is_needed(
    utterances: pd.DataFrame, trials: pd.DataFrame
) -> None:
    with pytest.raises(DataError, match=r"3 utterances of the trials .*id00/session1"):
        embed_trial_utterances(Path("lmft"), utterances.iloc[UTTERANCES_EACH:], trials, EMBED, "cpu")


def test_cohort_size_above_the_speakers_of_a_calibration_trial_is_refused() -> None:
    columns = dict.fromkeys(UTTERANCES.columns.names, 1.0)
    table = pd.DataFrame({**columns, "speaker_id": np.repeat(["a", "b", "c", "d"], 2)})
    store = EmbeddingStore(np.eye(8, dtype=np.float32), table)
    cohort = summarise_cohort(store, SCORE)
    with pytest.raises(ParameterError, match=r"'score\.cohort_size' is 6, .* take 2 to 2"):
        fit_score_calibration(store, cohort, table, SCORE, 0, "cpu")
    with pytest.raises(ParameterError, match=r"'score\.calibration_trials'"):
        fit_score_calibration(store, cohort, table, {"calibration_trials": 401}, 0, "cpu")


def test_scoring_phases_are_namespaces_over_shared_datasets() -> None:
    names = {node.name for node in score.create_pipeline().nodes}
    assert names == {
        "summarise_cohort",
        "cosine.score_trials",
        "as_norm.normalise_scores",
        "qmf.fit_score_calibration",
        "qmf.calibrate_scores",
        "measure_error_rates",
    }
    assert score.create_pipeline().inputs() == {
        "trials",
        "embeddings",
        "cohort_embeddings",
        "validation_utterances",
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
        "measure": MeasureSettings,
    }
    assert set(parameters) == set(groups)
    for name, settings in groups.items():
        assert settings.parse(parameters[name], name) == settings()
        assert set(parameters[name]) == set(settings.model_fields)


def test_catalog_persists_what_the_pipelines_make() -> None:
    catalog = yaml.safe_load((CONF / "catalog_evaluation.yml").read_text())
    makers = (embed, score, report, export, measure)
    pipeline = sum((maker.create_pipeline() for maker in makers), start=Pipeline([]))
    assert pipeline.all_outputs() == set(catalog)
    in_memory = {name for name, entry in catalog.items() if entry["type"] == "MemoryDataset"}
    assert in_memory == {"cohort", "scored_trials", "normalised_scores"}


def test_wiring_does_not_import_torch() -> None:
    code = (
        "import sys; from speaker_verification.pipelines import embed, export, measure, report, score; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
