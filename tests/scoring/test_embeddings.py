from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import UTTERANCES
from speaker_verification.scoring import EmbeddingStore

MakeStore = Callable[..., EmbeddingStore]


def test_rows_follow_the_ids_asked_for(make_store: MakeStore) -> None:
    store = make_store([3, 2])
    ids = store.utterances["utterance_id"]
    asked = pd.Series([ids[4], ids[0], ids[4]], index=[7, 8, 9])
    assert store.rows_of(asked).tolist() == [4, 0, 4]
    assert store.rows_of(list(asked)).tolist() == [4, 0, 4]


def test_missing_utterances_are_counted_and_the_first_ten_named(make_store: MakeStore) -> None:
    store = make_store([2])
    asked = [store.utterances["utterance_id"][0], *[f"x/y/{n}.wav" for n in range(12)], "x/y/3.wav"]
    with pytest.raises(DataError) as error:
        store.rows_of(asked)
    assert "12 utterances" in str(error.value)
    assert "x/y/9.wav" in str(error.value)
    assert "x/y/10.wav" not in str(error.value)


def test_store_comes_back_mapped_from_its_folder(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store([3, 1])
    store.write(tmp_path / "store")
    read = EmbeddingStore.read(tmp_path / "store")
    assert isinstance(read.embeddings, np.memmap)
    assert read.embeddings.dtype == np.float32
    np.testing.assert_array_equal(read.embeddings, store.embeddings)
    pd.testing.assert_frame_equal(read.utterances, UTTERANCES.conform(store.utterances))


def test_crops_are_kept_beside_the_whole_utterances(make_store: MakeStore, tmp_path: Path) -> None:
    whole = make_store([2, 1])
    crops = np.arange(48, dtype=np.float32).reshape(3, 2, 8)
    EmbeddingStore(whole.embeddings, whole.utterances, crops).write(tmp_path / "store")
    np.testing.assert_array_equal(EmbeddingStore.read(tmp_path / "store").crops, crops)
    for misshapen in (crops[:2], crops[:, :, :7], crops[0]):
        with pytest.raises(DataError, match="do not belong"):
            EmbeddingStore(whole.embeddings, whole.utterances, misshapen)
    crops[1, 1, 3] = np.nan
    with pytest.raises(DataError, match=whole.utterances["utterance_id"][1]):
        EmbeddingStore(whole.embeddings, whole.utterances, crops)


def test_folder_without_its_files_is_refused(make_store: MakeStore, tmp_path: Path) -> None:
    make_store([3, 1]).write(tmp_path)
    (tmp_path / "utterances.parquet").unlink()
    with pytest.raises(DataError, match=r"utterances\.parquet is missing"):
        EmbeddingStore.read(tmp_path)


def test_first_utterance_with_nan_is_named_wherever_it_is(make_store: MakeStore) -> None:
    store = make_store([70_000], width=2)  # more than a block of the check
    broken = store.embeddings.copy()
    broken[69_000:, 1] = np.nan
    with pytest.raises(DataError, match=store.utterances["utterance_id"][69_000]):
        EmbeddingStore(broken, store.utterances)


def test_shapes_that_do_not_fit_are_refused(make_store: MakeStore) -> None:
    store = make_store([3, 2])
    with pytest.raises(DataError, match="4 embeddings for 5 utterances"):
        EmbeddingStore(store.embeddings[:4], store.utterances)
    with pytest.raises(DataError, match="shape"):
        EmbeddingStore(store.embeddings[:, 0], store.utterances)
