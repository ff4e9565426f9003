"""Fingerprints of verifiers in two parts: what embeddings depend on, and all that decides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from speaker_verification.deployment.sealed_folder import sum_of_sums
from speaker_verification.models.weight_files import read_json

_DIGITS = 32  # hexadecimal, of each part
_EMBEDDING_SETTINGS = ("extraction", "limits")


def fingerprint_of(sums: Mapping[str, str], model_folder: str, settings_file: Path) -> str:
    """Fingerprint of a verifier: beginnings of two SHA-256, with a hyphen between them.

    Args:
        sums: SHA-256 of the files that decide, by relative path.
        model_folder: relative path of the model's folder.
        settings_file: the verifier's settings.
    """
    settings = read_json(settings_file)
    of_embeddings = {name: value for name, value in sums.items() if name.startswith(f"{model_folder}/")}
    of_embeddings |= {name: json.dumps(settings.get(name), sort_keys=True) for name in _EMBEDDING_SETTINGS}
    return "-".join(sum_of_sums(part)[:_DIGITS] for part in (of_embeddings, sums))


def embedding_part(fingerprint: str) -> str:
    """Part of a fingerprint that verifiers share whose embeddings of a recording are the same."""
    return fingerprint.partition("-")[0]
