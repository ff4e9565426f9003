"""Embeddings of whole utterances, the same whatever the batch size."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from speaker_verification.audio.crops import WINDOW_SECONDS, even_windows
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.errors import DataError
from speaker_verification.common.progress import progress_bar
from speaker_verification.scoring.embeddings import EmbeddingStore, missing_utterances
from speaker_verification.scoring.pieces import PIECE_SECONDS, KeptPieces

if TYPE_CHECKING:
    import torch

    from speaker_verification.audio.utterance_audio import UtteranceAudio
    from speaker_verification.common.precision import Precision

BatchEmbedding = Callable[[np.ndarray], np.ndarray]


class Embedder(Protocol):
    """Protocol of a speaker model in extraction."""

    @property
    def minimum_samples(self) -> int:
        """Minimum number of samples of a waveform that has an embedding."""

    @property
    def device(self) -> torch.device:
        """Device of the waveforms passed to `embed`."""

    def embed(
        self,
        waveforms: torch.Tensor,
        num_samples: torch.Tensor | None = None,
        window_seconds: float = WINDOW_SECONDS,
    ) -> torch.Tensor:
        """Embeddings (B, E) of waveforms (B, samples), both float32; evaluation mode, no gradients."""


def utterances_in_trials(utterances: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Utterances that occur in a trial.

    Raises:
        DataError: with the number of utterances that trials name and the table lacks, and the first ten.
    """
    named = pd.concat([trials["enroll_id"], trials["test_id"]]).drop_duplicates()
    known = named.isin(utterances["utterance_id"])
    if not known.all():
        raise missing_utterances(named[~known], "of the trials are not in the utterances table: prepare them")
    return utterances[utterances["utterance_id"].isin(named)].reset_index(drop=True)


def extract_embeddings(
    model: Embedder,
    utterances: pd.DataFrame,
    *,
    batch_seconds: float,
    window_seconds: float = WINDOW_SECONDS,
    max_seconds: float | None = None,
    num_crops: int = 0,
    crop_seconds: float = 4.015,
    precision: Precision = "float32",
    num_workers: int = 0,
    progress: bool,
    workspace: Path | None = None,
    weights: str = "",
    piece_seconds: float = PIECE_SECONDS,
    waveforms: Sequence[np.ndarray] | None = None,
) -> EmbeddingStore:
    """Embeddings of utterances, in batches of equal length.

    Nothing is padded, so an embedding depends on its utterance alone. A longer recording than a window is
    read and embedded in equal windows, whose embeddings are averaged as in `SpeakerModel.embed`.

    With a workspace several processes share the work, and one that was killed resumes (see pieces.py); the
    batches and so the embeddings are those of one process. Without one each process embeds all by itself.

    Args:
        model: maps waveforms (B, samples) to embeddings (B, E).
        utterances: table of the UTTERANCES schema, N rows.
        batch_seconds: audio in a batch, at most; a longer utterance or window is a batch of its own.
        window_seconds: longest part of an utterance that is embedded in one piece, at least 1.
        max_seconds: seconds from the beginning of each utterance that are embedded; None: all of it.
        num_crops: crops of each whole utterance to embed as well, V; 0: none.
        crop_seconds: length of these crops; see `crop_starts`.
        precision: precision of the model's forward pass; see `computing_in`.
        num_workers: threads that read ahead; 0 reads between the batches.
        progress: show a progress bar.
        workspace: folder for pieces that are embedded, which the caller deletes in the end; None: none.
        weights: digest of the model's weights, by which pieces of another model are known.
        piece_seconds: audio of a piece, at least: a kill costs each process one.
        waveforms: float32 (samples,) of each utterance; None: read from the files of the table.

    Returns:
        N embeddings, in the order of the utterances, with (N, V, E) embeddings of their crops.

    Raises:
        DataError: an utterance is too short for the model, its file shorter than the table says, or its
            embedding not finite; it is named.
        ParameterError: window_seconds is too small.
    """
    if utterances.empty:
        raise DataError("there are no utterances to embed")
    utterances = utterances.reset_index(drop=True)
    lengths = utterances["num_samples"].to_numpy()
    num_samples = lengths if max_seconds is None else np.minimum(lengths, round(max_seconds * SAMPLE_RATE))
    every = np.arange(len(utterances))

    def embed(name: str, rows: np.ndarray, starts: np.ndarray, num_samples: np.ndarray) -> np.ndarray:
        _refuse_short(_Excerpts(utterances, rows, starts, num_samples, waveforms), model.minimum_samples)
        owners, windows = even_windows(num_samples, window_seconds)  # (W,), (W, 2)
        lengths_of_windows = windows[:, 1] - windows[:, 0]
        excerpts = _Excerpts(
            utterances, rows[owners], starts[owners] + windows[:, 0], lengths_of_windows, waveforms
        )
        batches = list(_batches_of_equal_length(excerpts.num_samples, round(batch_seconds * SAMPLE_RATE)))
        kept = None
        if workspace is not None:
            settings = (weights, batch_seconds, window_seconds, piece_seconds, precision)
            files: Iterable[str] = () if waveforms is not None else utterances["path"].unique()
            kept = KeptPieces(workspace / name, excerpts.digest(*settings), files)
        plan = _pieces(batches, excerpts.num_samples, round(piece_seconds * SAMPLE_RATE))
        embed_batch = partial(_embed_batch, model, window_seconds, precision)
        embeddings = _embed_excerpts(embed_batch, excerpts, plan, num_workers, progress, kept)
        first = np.flatnonzero(np.diff(owners, prepend=-1))  # window of every excerpt
        return np.add.reduceat(embeddings, first) / np.bincount(owners)[:, None].astype(np.float32)

    whole = embed("whole", every, np.zeros_like(every), num_samples)
    if num_crops == 0:
        return EmbeddingStore(whole, utterances)
    crop_samples = round(crop_seconds * SAMPLE_RATE)
    starts = crop_starts(lengths, crop_samples, num_crops)
    crops = embed("crops", every.repeat(num_crops), starts.ravel(), np.full(starts.size, crop_samples))
    return EmbeddingStore(whole, utterances, crops.reshape(len(utterances), num_crops, -1))


def crop_starts(lengths: np.ndarray, crop_samples: int, num_crops: int) -> np.ndarray:
    """First samples (N, V) of evenly spaced crops: the first at the start, the last at the end.

    Utterances no longer than a crop wrap round; their last crop starts one sample late, as in the public
    implementation of J. Peng et al., SLT 2022.

    Args:
        lengths: (N,) samples of the utterances.
        crop_samples: of a crop.
        num_crops: V, of each utterance.
    """
    last = np.where(lengths > crop_samples, lengths - crop_samples, 1)
    return np.linspace(0, last, num_crops, axis=1).astype(np.int64)


@dataclass(frozen=True)
class _Excerpts:
    """M parts of utterances, in samples: the utterance's row, where it starts, how long it is, (M,) each."""

    utterances: pd.DataFrame
    rows: np.ndarray
    starts: np.ndarray
    num_samples: np.ndarray
    waveforms: Sequence[np.ndarray] | None = None  # in place of the utterances' files

    def name(self, excerpt: int) -> str:
        return self.utterances["utterance_id"].iloc[self.rows[excerpt]]

    def digest(self, *settings: object) -> str:
        """Hexadecimal checksum of the excerpts and of the settings that they are embedded with."""
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
        for part in (self.rows, self.starts, self.num_samples):
            digest.update(np.ascontiguousarray(part, dtype=np.int64).tobytes())
        digest.update("\n".join(self.utterances["utterance_id"]).encode())
        for name in (name for name in ("offset", "first_sample") if name in self.utterances):
            digest.update(self.utterances[name].to_numpy(np.int64).tobytes())
        return digest.hexdigest()

    def read(self, excerpt: int) -> np.ndarray:
        """The waveform, float32 (samples,); an utterance that ends before its excerpt wraps round."""
        from speaker_verification.audio.crops import wrap

        row, start = self.rows[excerpt], int(self.starts[excerpt])
        num_samples = int(self.num_samples[excerpt])
        available = int(self.utterances["num_samples"].iloc[row])
        if start + num_samples <= available:
            return self._segment(row, start, num_samples)
        return wrap(self._segment(row, 0, available), start + num_samples)[start:]

    def _segment(self, row: int, start: int, num_samples: int) -> np.ndarray:
        if self.waveforms is not None:
            return self.waveforms[row][start : start + num_samples]
        return self._audio.read(row, start, num_samples)

    @cached_property
    def _audio(self) -> UtteranceAudio:
        from speaker_verification.audio.utterance_audio import UtteranceAudio

        return UtteranceAudio(self.utterances)


def _embed_batch(
    model: Embedder, window_seconds: float, precision: Precision, waveforms: np.ndarray
) -> np.ndarray:
    """Embeddings float32 (B, E) of waveforms float32 (B, samples)."""
    import torch

    from speaker_verification.common.precision import computing_in

    batch = torch.from_numpy(waveforms).to(model.device)
    with computing_in(precision, model.device):
        return model.embed(batch, window_seconds=window_seconds).cpu().numpy()


def _embed_excerpts(
    embed_batch: BatchEmbedding,
    excerpts: _Excerpts,
    plan: list[list[np.ndarray]],
    num_workers: int,
    progress: bool,
    kept: KeptPieces | None,
) -> np.ndarray:
    """Embeddings float32 (M, E) of M excerpts, whose batches are planned in pieces."""
    own = list(range(len(plan))) if kept is None else kept.own_share(len(plan))
    pieces = _embed_pieces(embed_batch, excerpts, [plan[n] for n in own], num_workers, progress)
    if kept is not None:
        for number, piece in zip(own, pieces, strict=True):
            kept.keep(number, piece)
        pieces = kept.collect(len(plan))
    embeddings: np.ndarray | None = None
    for batches, piece in zip(plan, pieces, strict=True):
        if embeddings is None:
            embeddings = np.empty((len(excerpts.rows), piece.shape[1]), dtype=np.float32)
        embeddings[np.concatenate(batches)] = piece
    assert embeddings is not None
    return embeddings


def _pieces(batches: list[np.ndarray], lengths: np.ndarray, piece_samples: int) -> list[list[np.ndarray]]:
    """Batches that follow each other, as many as have so many samples."""
    samples = np.cumsum([int(lengths[rows].sum()) for rows in batches])
    numbers = np.concatenate([[0], samples[:-1]]) // piece_samples  # piece in which a batch begins
    pieces: dict[int, list[np.ndarray]] = {}
    for number, rows in zip(numbers.tolist(), batches, strict=True):
        pieces.setdefault(number, []).append(rows)
    return list(pieces.values())


def _embed_pieces(
    embed_batch: BatchEmbedding,
    excerpts: _Excerpts,
    pieces: list[list[np.ndarray]],
    num_workers: int,
    progress: bool,
) -> Iterator[np.ndarray]:
    """Yield the embeddings float32 (rows, E) of each piece, read ahead from one to the next."""
    batches = [rows for piece in pieces for rows in piece]
    read = _read_batches(excerpts, iter(batches), num_workers)
    total = sum(map(len, batches))
    bar = progress_bar("embed utterances", total) if progress else nullcontext(lambda _: None)
    with bar as advance, closing(read):
        for piece in pieces:
            embeddings = []
            for rows, waveforms in islice(read, len(piece)):
                embedded = embed_batch(waveforms)  # (B, E)
                finite = np.isfinite(embedded).all(axis=1)
                if not finite.all():
                    name = excerpts.name(rows[finite.argmin()])
                    raise DataError(f"the model's embedding of utterance {name} is not finite")
                embeddings.append(embedded)
                advance(len(rows))
            yield np.concatenate(embeddings)


def _refuse_short(excerpts: _Excerpts, minimum_samples: int) -> None:
    short = excerpts.num_samples < minimum_samples
    if short.any():
        first = int(short.argmax())
        raise DataError(
            f"{short.sum()} utterances are too short for the model, the first is {excerpts.name(first)} "
            f"with {excerpts.num_samples[first] / SAMPLE_RATE:.3f} s: "
            f"at least {minimum_samples / SAMPLE_RATE:.3f} s are needed"
        )


def _batches_of_equal_length(lengths: np.ndarray, batch_samples: int) -> Iterator[np.ndarray]:
    """Yield rows (B,) of one length each, the longest first: one too big for memory fails at once."""
    longest_first = np.argsort(-lengths, kind="stable")
    new_length = np.flatnonzero(np.diff(lengths[longest_first])) + 1
    for rows in np.split(longest_first, new_length):
        rows_per_batch = max(1, batch_samples // int(lengths[rows[0]]))
        yield from np.split(rows, range(rows_per_batch, len(rows), rows_per_batch))


def _read_batches(
    excerpts: _Excerpts, batches: Iterator[np.ndarray], num_workers: int
) -> Generator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows (B,) and waveforms float32 (B, samples) of each batch, in order."""

    def read_batch(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows, np.stack([excerpts.read(row) for row in rows])

    if num_workers == 0:
        yield from map(read_batch, batches)
        return
    # Threads do: reading and decoding leave the interpreter lock, and an error arrives as it was raised.
    with ThreadPoolExecutor(num_workers) as pool:
        ahead: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
        try:
            for rows in batches:
                ahead.append(pool.submit(read_batch, rows))
                if len(ahead) > 2 * num_workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for batch in ahead:
                batch.cancel()
