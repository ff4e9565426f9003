"""Centring of embeddings, and scaling to length 1."""

from __future__ import annotations

import numpy as np

from speaker_verification.common.errors import DataError


def check_width(embeddings: np.ndarray, cohort_width: int) -> None:
    """Refuse embeddings (N, E) of another width than the cohort's.

    Raises:
        DataError: naming both widths.
    """
    if embeddings.shape[1] != cohort_width:
        raise DataError(
            f"embeddings of width {embeddings.shape[1]} cannot be scored with a cohort of width "
            f"{cohort_width}: embed both with the same model"
        )


def check_lengths(lengths: np.ndarray, first_row: int = 0) -> None:
    """Refuse lengths (N,) of embeddings that have no direction.

    Args:
        lengths: Euclidean.
        first_row: number of the first embedding, for the message.

    Raises:
        DataError: a length is 0, which after centring means that the embedding is the mean itself, or is
            not finite; the embedding's row is named.
    """
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        row = int((np.isfinite(lengths) & (lengths > 0)).argmin())
        reason = (
            "it equals the cohort mean; does the model give every utterance the same embedding?"
            if lengths[row] == 0
            else "it is not finite"
        )
        raise DataError(f"embedding {first_row + row} has length {lengths[row]:g}: {reason}")


def centre_and_normalise(
    embeddings: np.ndarray, centre: np.ndarray | float = 0.0, first_row: int = 0
) -> np.ndarray:
    """Subtract the centre (E,) from embeddings (N, E) and scale each to length 1, in float64.

    Raises:
        DataError: as `check_lengths`.
    """
    centred = embeddings.astype(np.float64) - centre
    lengths = np.sqrt(np.einsum("ne,ne->n", centred, centred))
    check_lengths(lengths, first_row)
    centred /= lengths[:, None]
    return centred
