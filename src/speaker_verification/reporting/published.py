"""Error rates that published systems reach on VoxCeleb1's cleaned lists, trained on VoxCeleb2-dev."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class PublishedSystem(NamedTuple):
    """A system and its equal error rates in %.

    Attributes:
        name: system, with its encoder.
        scoring: scoring of the error rates.
        eers: equal error rate by trial list.
        source: publication or public code.
    """

    name: str
    scoring: str
    eers: dict[str, float]
    source: str


def _of_voxceleb(name: str, scoring: str, o: float, e: float, h: float, source: str) -> PublishedSystem:
    return PublishedSystem(name, scoring, {"vox1_o": o, "vox1_e": e, "vox1_h": h}, source)


_LAP = "J. S. Kim et al., Interspeech 2025"
_WESPEAKER = "BUTSpeechFIT/wespeaker_ssl_public, after J. Peng et al., SLT 2022"
_CA_MHFA = "J. Peng et al., ICASSP 2025"
_W2V_BERT = "Z. Li, M. Cheng, M. Li, arXiv 2510.04213"
_PORT = "wenet-e2e/wespeaker, after Z. Li, M. Cheng, M. Li, arXiv 2510.04213"
PUBLISHED = (
    _of_voxceleb(
        "W2V-BERT 2.0, layer adapters and ASP", "cosine, epoch chosen on vox1_o", 0.18, 0.37, 0.81, _W2V_BERT
    ),
    _of_voxceleb(
        "W2V-BERT 2.0, layer adapters and ASP, with LoRA", "centred cosine", 0.250, 0.398, 0.838, _PORT
    ),
    _of_voxceleb("LAP and ASTP, WavLM-Large", "AS-norm, QMF", 0.37, 0.50, 1.01, _LAP),
    _of_voxceleb("CA-MHFA, WavLM-Large", "as in the paper", 0.42, 0.48, 0.96, _CA_MHFA),
    _of_voxceleb("MHFA, WavLM-Large", "AS-norm", 0.649, 0.610, 1.235, _WESPEAKER),
    _of_voxceleb("MHFA, WavLM-Base+", "AS-norm", 0.750, 0.716, 1.442, _WESPEAKER),
)


def published_on(trial_lists: Collection[str]) -> list[PublishedSystem]:
    """Systems with an error rate on one of the trial lists."""
    return [system for system in PUBLISHED if set(system.eers) & set(trial_lists)]
