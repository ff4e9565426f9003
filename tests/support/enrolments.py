"""Enrolment stores with random embeddings."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from speaker_verification.deployment.enrolment_store import EnrolledRecording, Enrolment, EnrolmentStore
from tests.support.stores import side_scorer

FINGERPRINT = "a" * 64
WIDTH = 8


def embeddings_for(speaker: str, number: int = 1) -> np.ndarray:
    """Embeddings (number, 8) that depend on the speaker's name alone."""
    seed = int(hashlib.sha256(speaker.encode()).hexdigest()[:8], 16)
    return np.random.default_rng(seed).normal(size=(number, WIDTH)).astype(np.float32) + np.float32(0.5)


def recordings_for(speaker: str, number: int = 1) -> list[EnrolledRecording]:
    """Recordings that are in no folder, of 2, 3, ... seconds."""
    names = [f"/recordings/{speaker}-{place}.wav" for place in range(number)]
    return [
        EnrolledRecording(name, hashlib.sha256(name.encode()).hexdigest(), 2.0 + place)
        for place, name in enumerate(names)
    ]


def enrolment(speaker: str, number: int = 1) -> Enrolment:
    return Enrolment(speaker, embeddings_for(speaker, number), recordings_for(speaker, number))


def new_store(folder: Path, *speakers: str, llr: str = "qmf") -> EnrolmentStore:
    """Store of these speakers, one recording of each."""
    store = EnrolmentStore.create(folder, FINGERPRINT, side_scorer(llr))
    store.add_all([enrolment(speaker) for speaker in speakers])
    return store


def opened(folder: Path, llr: str = "qmf") -> EnrolmentStore:
    return EnrolmentStore.open(folder, FINGERPRINT, side_scorer(llr))
