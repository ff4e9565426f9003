"""The package pipeline behind embed and score, with a tiny model on tones."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner
from scipy.linalg import sqrtm
from sklearn.covariance import oas

from speaker_verification import Verifier
from speaker_verification.audio.augmentation import AugmentationSettings
from speaker_verification.audio.files import write_audio
from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import NOISE_CLIPS, RIRS, TRIAL_LISTS, TRIALS
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.deployment.settings import PackageSettings
from speaker_verification.pipelines import embed, package, score
from speaker_verification.pipelines.package.nodes import (
    assemble_verifier,
    collect_decision_parts,
    describe_origin,
    prove_verifier,
)
from speaker_verification.pipelines.score.nodes import adapt_sets
from speaker_verification.scoring.settings import EmbedSettings, ScoreSettings
from tests.support.config import CONF
from tests.support.verifiers import NUM_SPEAKERS, TEST_SPEAKERS, all_trials, tiny_model, utterances_of

LIMITS = {"least_seconds": 0.5, "least_speech_seconds": 0.0, "max_seconds": 60.0}  # tones are no speech
SCORE: dict[str, Any] = {
    "top_n": 6,
    "calibration_trials": 200,
    "num_threads": 1,
    "bootstrap_resamples": 20,
    "p_targets": [0.2, 0.5],
}


SPEAKERS = {
    "vox1-test": TEST_SPEAKERS,
    "vox2-dev": range(NUM_SPEAKERS),
    "vox2-test": range(20, 28),
    "vox1-dev": range(30, 36),
}


def run_all(folder: Path, embed_changes: dict[str, Any], score_changes: dict[str, Any]) -> dict[str, Any]:
    """All that the three pipelines take and leave, by catalog name."""
    tables = []
    for subset, speakers in SPEAKERS.items():
        table, waveforms = utterances_of(speakers)
        table = table.assign(
            subset=subset, path=[str(folder / name.replace("/", "-")) for name in table["utterance_id"]]
        )
        for path, waveform in zip(table["path"], waveforms, strict=True):
            write_audio(Path(path), np.rint(waveform * 32768).astype(np.int16))
        tables.append(table)
    tiny_model().save_pretrained(folder / "model")
    counts = dict.fromkeys(("num_target", "num_nontarget", "num_repeated", "num_self", "num_mislabelled"), 1)
    record = {"trial_list": "all", "file": "all.txt", "md5": "29fc", "official": True, **counts}
    given = {
        "lmft.checkpoint": folder / "model",
        "utterances": pd.concat(tables, ignore_index=True),
        "trials": TRIALS.conform(all_trials(tables[0])),
        "trial_lists": TRIAL_LISTS.conform(pd.DataFrame([record])),
        "training_utterances": tables[1],
        "validation_utterances": tables[1].iloc[:0],
        "noise_clips": NOISE_CLIPS.empty(),
        "rirs": RIRS.empty(),
        "params:embed": EmbedSettings.parse(
            {"model": str(folder / "model"), "num_workers": 0} | embed_changes, "embed"
        ),
        "params:score": ScoreSettings.parse(SCORE | score_changes, "score"),
        "params:package": PackageSettings.parse({"licence": "cc-by-4.0", "limits": LIMITS}, "package"),
        "params:prepare": PrepareSettings(mirror=str(folder)),
        "params:augmentation": AugmentationSettings(),
        "params:recipe": "lap_astp",
        "params:seed": 1,
        "params:device": "cpu",
        "embed.workspace": folder / "embedding",
        "package.workspace": folder / "packaging",
    }
    pipeline: Pipeline = embed.create_pipeline() + score.create_pipeline() + package.create_pipeline()
    assert pipeline.inputs() == set(given)
    made = {name: KeptDataset() for name in pipeline.all_outputs()}
    catalog = DataCatalog({**{name: MemoryDataset(value) for name, value in given.items()}, **made})
    SequentialRunner().run(pipeline, catalog)
    return given | {name: catalog.load(name) for name in made}


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_all(tmp_path_factory.mktemp("package"), {}, {})


class KeptDataset(MemoryDataset):
    """Stays in memory when no node needs it any more."""

    def _release(self) -> None:
        pass


def test_every_trial_scores_as_in_the_table(left: dict[str, Any]) -> None:
    verifier, scores, store = Verifier.from_pretrained(left["verifier"]), left["scores"], left["embeddings"]
    rows = store.rows_of(scores["enroll_id"]), store.rows_of(scores["test_id"])
    for name, values in verifier.score(store, *rows).items():
        np.testing.assert_allclose(values, scores[name], rtol=0, atol=1e-9)
    path_of = store.utterances.set_index("utterance_id")["path"]
    for trial in scores.iloc[::8].itertuples():
        compared = verifier.compare(path_of[str(trial.enroll_id)], path_of[str(trial.test_id)])
        found = {**compared.scores, "llr": compared.llr}
        expected = {name: getattr(trial, name) for name in ("cosine", "as_norm", "qmf", "plda", "llr")}
        assert found == pytest.approx(expected, rel=0, abs=1e-5)
    assert verifier.settings.limits.max_seconds == 60.0


def test_a_verifier_of_a_calibration_set_and_adapted_by_coral_scores_as_in_the_table(tmp_path: Path) -> None:
    sets = {"calibration_set": "vox2-test", "adaptation_set": "vox1-dev"}
    left = run_all(tmp_path, sets, {"adaptation": "coral"})
    verifier, scores, store = Verifier.from_pretrained(left["verifier"]), left["scores"], left["embeddings"]
    rows = store.rows_of(scores["enroll_id"]), store.rows_of(scores["test_id"])
    for name, values in verifier.score(store, *rows).items():
        np.testing.assert_allclose(values, scores[name], rtol=0, atol=1e-9)

    source, domain = (
        left[f"{name}_embeddings"].embeddings.astype(np.float64) for name in ("cohort", "adaptation")
    )
    scales = [len(raw) / (len(raw) - 1) for raw in (source, domain)]
    covariances = [scale * oas(raw)[0] for scale, raw in zip(scales, (source, domain), strict=True)]
    transform = np.linalg.inv(sqrtm(covariances[0])) @ sqrtm(covariances[1])
    adapted = (source - source.mean(axis=0)) @ transform + domain.mean(axis=0)
    speakers = left["cohort_embeddings"].utterances["speaker_id"].to_numpy()
    means = [adapted[speakers == name].mean(axis=0) for name in np.unique(speakers)]
    np.testing.assert_allclose(verifier.cohort.embeddings, means, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(verifier.cohort.centre, domain.mean(axis=0), rtol=1e-5, atol=1e-6)

    uses = {corpus.use: corpus.subsets for corpus in verifier.origin.corpora}
    assert uses == {
        "cohort": ("vox2-dev",),
        "calibration": ("vox2-test",),
        "adaptation": ("vox1-dev",),
        "trials": ("vox1-test",),
    }
    card = (left["verifier"] / "README.md").read_text()
    assert "between the calibration set's speakers" in card
    assert "the centre and covariance (CORAL) of the recordings for adaptation" in card
    with pytest.raises(DataError, match=r"'embed\.calibration_set' is 'vox1-dev', but .* is vox2-test: run"):
        adapt_sets(
            *(left[f"{name}_embeddings"] for name in ("cohort", "calibration", "adaptation")),
            left["params:embed"].model_copy(update={"calibration_set": "vox1-dev"}),
            left["params:score"],
        )


def test_trials_longer_than_what_the_verifier_uses_are_counted_in_a_warning(
    left: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    verifier, store = Verifier.from_pretrained(left["verifier"]), left["embeddings"]
    seconds = store.utterances["duration_seconds"]
    limits = verifier.settings.limits.model_copy(update={"max_seconds": float(seconds.median())})
    settings = verifier.settings.model_copy(update={"limits": limits})
    replace(verifier, settings=settings).save_pretrained(tmp_path / "verifier")
    prove_verifier(tmp_path / "verifier", left["scores"], store, "cpu")
    longer = sum(value > seconds.median() for value in seconds)
    assert 0 < longer < len(seconds)
    assert f"{longer} of the trials' {len(seconds)} utterances are longer" in caplog.text


def test_the_card_is_read_by_the_hub_and_names_licences_and_error_rates(left: dict[str, Any]) -> None:
    card = ModelCard((left["verifier"] / "README.md").read_text())
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "speaker-verification")
    assert card.data.datasets == ["voxceleb"]
    (eer, *costs) = card.data.eval_results
    measured = left["metrics"]["all"]["qmf"]
    assert (eer.metric_type, eer.metric_value, eer.dataset_name) == ("eer", measured["eer"], "all")
    assert [cost.metric_type for cost in costs] == ["min_dcf_p2", "min_dcf_p5"]
    low, high = measured["eer_interval"]
    assert f"| all | qmf | {measured['eer']:.2f} | {low:.2f} to {high:.2f} |" in card.text
    assert "| trials | voxceleb | vox1-test | CC BY 4.0 |" in card.text
    assert "trained on are not known" in card.text
    assert f"{measured['act_fpr_p5']:.3f} (" in card.text
    assert "0.5 s or more with 0 s of speech, and uses the first 60 s" in card.text


def origin_of(left: dict[str, Any], where_missing: str = "refuse", **changes: object) -> Any:
    prepare = PrepareSettings.parse({"mirror": "/disks/voxceleb", **changes}, "prepare")
    tables = left["training_utterances"], left["embeddings"], NOISE_CLIPS.empty(), RIRS.empty()
    augmentation = AugmentationSettings.parse({"where_missing": where_missing}, "")
    parameters = augmentation, EmbedSettings(), ScoreSettings()
    return describe_origin(*tables, prepare, *parameters, "mhfa_slt22")


def test_corpora_are_named_by_their_use_and_synthetic_ones_as_such(left: dict[str, Any]) -> None:
    trained = origin_of(left)
    assert trained.recipe == "mhfa_slt22"
    assert {(corpus.use, corpus.name, corpus.licence, corpus.subsets) for corpus in trained.corpora} == {
        ("training", "voxceleb", "CC BY 4.0", ("vox2-dev",)),
        ("cohort and calibration", "voxceleb", "CC BY 4.0", ("vox2-dev",)),
        ("trials", "voxceleb", "CC BY 4.0", ("vox1-test",)),
        ("augmentation", "musan", "CC BY 4.0", ("musan",)),
        ("augmentation", "rirs_noises", "Apache 2.0", ("rirs_noises",)),
    }
    synthetic = yaml.safe_load((CONF / "demo" / "parameters.yml").read_text())["prepare"]["synthetic"]
    made = origin_of(left, mirror=None, synthetic=synthetic)
    assert {corpus.licence for corpus in made.corpora} == {"synthetic"}
    without_clips = origin_of(left, where_missing="leave_out")
    assert {corpus.use for corpus in without_clips.corpora} == {
        "training",
        "cohort and calibration",
        "trials",
    }


def test_parameters_that_changed_since_the_scores_are_noticed(left: dict[str, Any], tmp_path: Path) -> None:
    names = ("cohort_embeddings", "adaptation_embeddings", "calibration", "fitted_scorings")
    fitted = [left[name] for name in names]

    def packaged(embed: EmbedSettings, score: ScoreSettings) -> Path:
        package = PackageSettings()
        parts = collect_decision_parts(*fitted, embed, score, package)
        described = left["metrics"], left["origin"]
        folder = assemble_verifier(left["lmft.checkpoint"], parts, *described, embed, package, tmp_path)
        return prove_verifier(folder, left["scores"], left["embeddings"], "cpu")

    measured = left["params:embed"], left["params:score"]
    assert packaged(*measured) == tmp_path / "verifier"
    with pytest.raises(DataError, match=r"verifier's \w+ differs by .*run the score pipeline anew"):
        packaged(measured[0], measured[1].model_copy(update={"top_n": 3}))
    with pytest.raises(DataError, match=r"cosine of recordings differs by .*evaluate pipeline anew"):
        packaged(measured[0].model_copy(update={"max_seconds": 0.2}), measured[1])


def test_without_recordings_it_is_proven_from_embeddings(
    left: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    store = left["embeddings"]
    gone = store.__class__(store.embeddings, store.utterances.assign(path="gone.wav"), model=store.model)
    prove_verifier(left["verifier"], left["scores"], gone, "cpu")
    assert "proven from embeddings alone" in caplog.text


def test_base_parameters_are_the_defaults_and_the_catalog_keeps_the_verifier() -> None:
    parameters = yaml.safe_load((CONF / "base" / "parameters_package.yml").read_text())
    assert PackageSettings.parse(parameters["package"], "package") == PackageSettings()
    catalog = yaml.safe_load((CONF / "base" / "catalog_package.yml").read_text())
    assert set(catalog) == {"package.workspace", "verifier", "decision_parts"}


@pytest.mark.project
def test_wiring_does_not_import_torch() -> None:
    code = "import sys; from speaker_verification.pipelines import package; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
