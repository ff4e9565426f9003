from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speaker_verification.audio.crops import WINDOW_SECONDS
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import UTTERANCES
from speaker_verification.scoring import EmbeddingStore, extract_embeddings
from speaker_verification.scoring.extraction import crop_starts, utterances_in_trials
from tests.support.processes import run_processes, values_of

LENGTHS = [4000, 2500, 4000, 8000, 2500, 4000, 16_000]  # samples


class MomentsEmbedder:
    """Mean, deviation and length of a waveform; remembers the shapes of its batches."""

    minimum_samples = 1000
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.batch_shapes: list[tuple[int, ...]] = []
        self.window_seconds: set[float] = set()

    def embed(
        self,
        waveforms: torch.Tensor,
        num_samples: torch.Tensor | None = None,
        window_seconds: float = WINDOW_SECONDS,
    ) -> torch.Tensor:
        assert num_samples is None  # batches of one length need no mask
        self.window_seconds.add(window_seconds)
        self.batch_shapes.append(tuple(waveforms.shape))
        length = torch.full((len(waveforms),), float(waveforms.shape[1]))
        return torch.stack([waveforms.mean(1), waveforms.std(1), length], dim=1)


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder: Path = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    rows = []
    for place, length in enumerate(LENGTHS):
        path = folder / f"{place}.wav"
        soundfile.write(path, rng.normal(0, 0.02 * (place + 1), length), SAMPLE_RATE, subtype="PCM_16")
        name = f"id{place % 2}/s/{place:05}.wav"
        rows.append((name, f"id{place % 2}", "s", "vox1-test", str(path), length, length / SAMPLE_RATE))
    return pd.DataFrame(rows, columns=UTTERANCES.required, index=range(10, 10 + len(rows)))


def extract(
    utterances: pd.DataFrame, model: MomentsEmbedder | None = None, **options: object
) -> EmbeddingStore:
    settings: dict[str, object] = {"batch_seconds": 0.5, "progress": False, **options}
    return extract_embeddings(model or MomentsEmbedder(), utterances, **settings)  # type: ignore[arg-type]


def test_rows_keep_the_order_of_the_table(utterances: pd.DataFrame) -> None:
    store = extract(utterances)
    assert store.utterances["utterance_id"].tolist() == utterances["utterance_id"].tolist()
    assert store.embeddings.dtype == np.float32
    assert store.embeddings[:, 2].tolist() == LENGTHS
    for path, embedding in zip(utterances["path"], store.embeddings, strict=True):
        samples, _ = soundfile.read(path)
        np.testing.assert_allclose(embedding[:2], [samples.mean(), samples.std(ddof=1)], atol=1e-6)


def test_batches_are_of_one_length_and_of_bounded_audio(utterances: pd.DataFrame) -> None:
    model = MomentsEmbedder()
    extract(utterances, model, batch_seconds=0.5)  # 8,000 samples: two of 4,000, three of 2,500
    assert model.batch_shapes == [(1, 16_000), (1, 8000), (2, 4000), (1, 4000), (2, 2500)]


@pytest.mark.parametrize("options", [{"batch_seconds": 0.01}, {"batch_seconds": 60.0}, {"num_workers": 2}])
def test_batch_size_and_readers_change_nothing(utterances: pd.DataFrame, options: dict[str, object]) -> None:
    np.testing.assert_array_equal(extract(utterances, **options).embeddings, extract(utterances).embeddings)


def test_only_the_beginning_is_embedded_when_so_asked(utterances: pd.DataFrame) -> None:
    store = extract(utterances, max_seconds=0.25)
    assert store.embeddings[:, 2].tolist() == [4000, 2500, 4000, 4000, 2500, 4000, 4000]
    samples, _ = soundfile.read(utterances["path"].iloc[-1], frames=4000)
    assert store.embeddings[-1, 0] == pytest.approx(samples.mean(), abs=1e-7)
    assert store.utterances["num_samples"].tolist() == LENGTHS


@pytest.mark.parametrize("options", [{}, {"num_crops": 3, "crop_seconds": 0.2}])
def test_waveforms_in_memory_have_the_embeddings_of_their_files(
    utterances: pd.DataFrame, options: dict[str, object]
) -> None:
    waveforms = [soundfile.read(path, dtype="float32")[0] for path in utterances["path"]]
    nowhere = utterances.assign(path="")
    in_memory, read = extract(nowhere, waveforms=waveforms, **options), extract(utterances, **options)
    np.testing.assert_array_equal(in_memory.embeddings, read.embeddings)
    assert (in_memory.crops is None) == (read.crops is None)
    if read.crops is not None:
        np.testing.assert_array_equal(in_memory.crops, read.crops)


@pytest.fixture
def long_recording(utterances: pd.DataFrame, tmp_path: Path) -> pd.DataFrame:
    """The utterances, with one of 2.5 s beside them."""
    samples = np.random.default_rng(5).normal(0, 0.1, 40_001) + np.linspace(-0.4, 0.4, 40_001)
    soundfile.write(tmp_path / "long.wav", samples, SAMPLE_RATE, subtype="PCM_16")
    row = utterances.iloc[[0]].assign(path=str(tmp_path / "long.wav"), num_samples=40_001, utterance_id="l")
    return pd.concat([utterances, row])


@pytest.mark.parametrize("options", [{}, {"batch_seconds": 60.0}, {"num_workers": 2}])
def test_a_recording_beyond_the_window_is_read_and_embedded_in_equal_windows(
    long_recording: pd.DataFrame, options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    model = MomentsEmbedder()
    with caplog.at_level(logging.INFO):
        store = extract(long_recording, model, window_seconds=1.0, **options)
    assert max(samples for _, samples in model.batch_shapes) == 16_000
    assert sum(rows for rows, samples in model.batch_shapes if samples == 13_334) == 3
    assert model.window_seconds == {1.0}
    assert store.embeddings.dtype == np.float32
    np.testing.assert_array_equal(store.embeddings[:-1], extract(long_recording.iloc[:-1]).embeddings)
    samples, _ = soundfile.read(long_recording["path"].iloc[-1])
    windows = np.stack([samples[start : start + 13_334] for start in (0, 13_333, 26_667)])
    expected = [windows.mean(), windows.std(axis=1, ddof=1).mean(), 13_334]
    np.testing.assert_allclose(store.embeddings[-1], expected, rtol=1e-5, atol=1e-6)
    assert [record.getMessage()[:60] for record in caplog.records] == [
        "1 of 8 recordings are longer than window_seconds, 1: each ge"
    ]


def test_windows_are_of_the_embedded_excerpt_and_of_long_crops(long_recording: pd.DataFrame) -> None:
    beginning = extract(long_recording, window_seconds=1.0, max_seconds=1.0)
    assert beginning.embeddings[:, 2].tolist() == [*LENGTHS, 16_000]
    store = extract(long_recording, window_seconds=1.0, num_crops=2, crop_seconds=1.5)
    assert store.crops is not None
    assert (store.crops[:, :, 2] == 12_000).all()
    samples, _ = soundfile.read(long_recording["path"].iloc[-1])
    expected = [samples[start : start + 24_000].mean() for start in (0, 16_001)]
    np.testing.assert_allclose(store.crops[-1, :, 0], expected, atol=1e-6)
    short, _ = soundfile.read(long_recording["path"].iloc[1])
    wrapped = np.resize(short, 24_001)
    expected = [wrapped[:24_000].mean(), wrapped[1:].mean()]
    np.testing.assert_allclose(store.crops[1, :, 0], expected, atol=1e-6)


def test_too_short_utterances_are_counted_and_the_first_named(utterances: pd.DataFrame) -> None:
    model = MomentsEmbedder()
    model.minimum_samples = 3200
    with pytest.raises(DataError, match=r"2 utterances .* id1/s/00001.wav with 0.156 s: at least 0.200 s"):
        extract(utterances, model)


def test_utterance_whose_embedding_is_not_finite_is_named(utterances: pd.DataFrame) -> None:
    class Diverging(MomentsEmbedder):
        def embed(
            self,
            waveforms: torch.Tensor,
            num_samples: torch.Tensor | None = None,
            window_seconds: float = WINDOW_SECONDS,
        ) -> torch.Tensor:
            embeddings = super().embed(waveforms)
            if waveforms.shape[1] == 8000:
                embeddings[0, 1] = torch.inf
            return embeddings

    with pytest.raises(DataError, match=r"id1/s/00003\.wav is not finite"):
        extract(utterances, Diverging())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_missing_file_stops_with_its_name(utterances: pd.DataFrame, num_workers: int) -> None:
    broken = utterances.assign(path=[*utterances["path"][:-1], "nowhere/gone.wav"])
    with pytest.raises(DataError, match=r"gone\.wav"):
        extract(broken, num_workers=num_workers)


def test_empty_table_is_refused(utterances: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="no utterances to embed"):
        extract(utterances.iloc[:0])


def test_utterances_in_trials_come_once_and_the_unknown_are_named(utterances: pd.DataFrame) -> None:
    ids = utterances["utterance_id"].tolist()
    trials = pd.DataFrame({"enroll_id": [ids[5], ids[5], ids[2]], "test_id": [ids[2], ids[0], ids[5]]})
    assert utterances_in_trials(utterances, trials)["utterance_id"].tolist() == [ids[0], ids[2], ids[5]]
    unknown = pd.concat([trials, pd.DataFrame({"enroll_id": ["a/b/c.wav"], "test_id": ["a/b/d.wav"]})])
    with pytest.raises(DataError, match=r"2 utterances of the trials .* a/b/c\.wav, a/b/d\.wav"):
        utterances_in_trials(utterances, unknown)


def test_crops_are_spaced_evenly_from_the_start_to_the_end() -> None:
    starts = crop_starts(np.array([100_240, 64_243, 64_240, 40_000]), 64_240, 5)
    assert starts.tolist() == [
        [0, 9000, 18_000, 27_000, 36_000],
        [0, 0, 1, 2, 3],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1],
    ]


def test_crops_come_from_the_whole_utterance_and_short_ones_wrap(utterances: pd.DataFrame) -> None:
    store = extract(utterances, num_crops=3, crop_seconds=0.375, max_seconds=0.25)
    assert store.crops is not None
    assert store.crops.shape == (7, 3, 3)
    assert (store.crops[:, :, 2] == 6000).all()
    long, _ = soundfile.read(utterances["path"].iloc[6])
    expected = [long[start : start + 6000].mean() for start in (0, 5000, 10_000)]
    np.testing.assert_allclose(store.crops[6, :, 0], expected, atol=1e-7)
    short, _ = soundfile.read(utterances["path"].iloc[0])
    wrapped = np.concatenate([short, short])
    expected = [wrapped[:6000].mean(), wrapped[:6000].mean(), wrapped[1:6001].mean()]
    np.testing.assert_allclose(store.crops[0, :, 0], expected, atol=1e-7)


class BreakingEmbedder(MomentsEmbedder):
    """Breaks off at its third batch, as a kill would."""

    def embed(self, *args: Any, **options: Any) -> torch.Tensor:
        if len(self.batch_shapes) == 2:
            raise KeyboardInterrupt
        return super().embed(*args, **options)


def test_an_extraction_that_breaks_off_resumes_with_the_same_bytes(
    utterances: pd.DataFrame, tmp_path: Path
) -> None:
    options = {"num_crops": 2, "crop_seconds": 0.2}
    reference = MomentsEmbedder()
    expected = extract(utterances, reference, **options)
    kept = {"workspace": tmp_path, "weights": "a", "piece_seconds": 0.1, **options}
    with pytest.raises(KeyboardInterrupt):
        extract(utterances, BreakingEmbedder(), **kept)
    resuming = MomentsEmbedder()
    store = extract(utterances, resuming, **kept)
    assert resuming.batch_shapes == reference.batch_shapes[2:]
    assert store.embeddings.tobytes() == expected.embeddings.tobytes()
    assert store.crops is not None
    assert expected.crops is not None
    assert store.crops.tobytes() == expected.crops.tobytes()


def test_pieces_of_another_model_or_of_other_utterances_are_not_taken(
    utterances: pd.DataFrame, tmp_path: Path
) -> None:
    for table, weights in ((utterances, "a"), (utterances, "b"), (utterances.iloc[1:], "b")):
        model = MomentsEmbedder()
        extract(table, model, workspace=tmp_path, weights=weights)
        assert sum(shape[0] for shape in model.batch_shapes) == len(table)
        assert len(list((tmp_path / "whole").iterdir())) == 1


def test_pieces_of_audio_that_has_been_prepared_again_are_not_taken(
    utterances: pd.DataFrame, tmp_path: Path
) -> None:
    """Other audio, as long as before."""
    before = extract(utterances, workspace=tmp_path)
    path = utterances["path"].iloc[0]
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples // 2, rate, subtype="PCM_16")
    after = extract(utterances, workspace=tmp_path)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    assert after.embeddings[0, 1] == pytest.approx(before.embeddings[0, 1] / 2, rel=0.01)
    assert after.embeddings[1:].tobytes() == before.embeddings[1:].tobytes()


def extract_shared(utterances: pd.DataFrame, workspace: Path) -> tuple[np.ndarray, int]:
    model = MomentsEmbedder()
    store = extract(utterances, model, workspace=workspace, piece_seconds=0.1)
    return store.embeddings, len(model.batch_shapes)


@pytest.mark.project
def test_processes_share_the_pieces_and_have_the_bytes_of_one(
    utterances: pd.DataFrame, tmp_path: Path
) -> None:
    expected, num_batches = extract_shared(utterances, tmp_path / "alone")
    (first, own), (second, others) = values_of(run_processes(2, extract_shared, utterances, tmp_path))
    assert first.tobytes() == second.tobytes() == expected.tobytes()
    assert own + others == num_batches
    assert own > 0 < others


class ProductEmbedder(MomentsEmbedder):
    """Products of a waveform's first samples with fixed numbers."""

    def embed(self, waveforms: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        weight = torch.randn(1000, 3, generator=torch.Generator().manual_seed(1))
        return (waveforms[:, :1000] @ weight).float()


def test_a_precision_rounds_the_products_and_takes_no_pieces_of_another(
    utterances: pd.DataFrame, tmp_path: Path
) -> None:
    stores = {
        precision: extract(utterances, ProductEmbedder(), workspace=tmp_path, precision=precision)
        for precision in ("float32", "tf32", "bfloat16")
    }
    exact = stores["float32"].embeddings
    np.testing.assert_array_equal(stores["tf32"].embeddings, exact)  # on a CPU
    difference = np.abs(stores["bfloat16"].embeddings - exact).max() / np.abs(exact).max()
    assert 1e-4 < difference < 1e-2  # bfloat16 has 8 bits of mantissa
