"""Utterances, trials and clips to train on, as fixtures, and the settings of a short phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import set_seed

from speaker_verification.audio.augmentation import Augmenter
from speaker_verification.audio.files import write_audio
from speaker_verification.common.tables import NOISE_CLIPS, RIRS, TRIALS, UTTERANCES
from speaker_verification.data.examples import TrainingExamples
from speaker_verification.models.frontend import save_encoder
from speaker_verification.models.heads import HeadSettings
from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings
from speaker_verification.models.settings import ModelSettings
from speaker_verification.training.classifier import SpeakerClassifier
from speaker_verification.training.compression.settings import CompressSettings
from speaker_verification.training.loop import TrainingLoop, Untracked
from speaker_verification.training.phase import PhaseSettings
from speaker_verification.training.resume import RunFingerprint
from speaker_verification.training.start import start_phase
from speaker_verification.training.validation import TrialSet, validate
from tests.support.tiny_models import TINY_WAVLM, tiny_settings

MODEL = tiny_settings(TINY_WAVLM | {"num_hidden_layers": 2})
HEAD = HeadSettings(aam_softmax=AamSoftmaxSettings(num_subcentres=2, scale=15))
READS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__")
NUM_SPEAKERS = 6
UTTERANCES_EACH = 4
NUM_SAMPLES = 6000


PHASE: dict[str, Any] = {
    "frontend": "frozen",
    "frontend_mode": "evaluation",
    "epochs": 2,
    "crop_seconds": 0.25,
    "batch_size": 6,
    "learning_rate": {"maximum": 1e-2, "minimum": 1e-3},
    "margin": {"final": 0.2, "growth_epochs": 1, "top_k": 2},
    "optimiser": {"weight_decay": 0.0},
    "precision": "float32",
    "monitor": (),
    "num_workers": 0,
    "resume": False,
}


def phase_settings(**changes: Any) -> PhaseSettings:
    return PhaseSettings.parse(PHASE | changes, "phase")


def compress_settings(**changes: Any) -> CompressSettings:
    own = {"frontend": "trained", "epochs": 3, "recovery_epochs": 1, "target_sparsity": 0.3}
    return CompressSettings.parse(PHASE | own | changes, "compress")


def training_loop(
    encoder: Path,
    folder: Path,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    phase: PhaseSettings,
    seed: int = 3,
    augmenter: Augmenter | None = None,
    model: ModelSettings = MODEL,
    head: HeadSettings = HEAD,
    classifier: SpeakerClassifier | None = None,
    **changes: Any,
) -> TrainingLoop:
    """Loop of a phase from an encoder, or from the folder of the phase before, on the CPU.

    Args:
        encoder: start of the phase.
        folder: folder of the best epochs.
        utterances: utterances to train on; those of the trials must be among them unless `validate` is given.
        trials: validation trials.
        phase: settings of the phase.
        seed: seed of weights and draws.
        augmenter: augmentation of the crops.
        model: settings of the model.
        head: settings of the head.
        classifier: model and head in place of those of the start.
        **changes: further arguments of TrainingLoop, in place of those made here.
    """
    examples = TrainingExamples(
        utterances,
        augmenter,
        phase.crop_seconds,
        phase.speed_factors,
        seed,
        every_speed=phase.sampling.every_speed,
    )
    set_seed(seed)
    if classifier is None:
        classifier = SpeakerClassifier(
            *start_phase(encoder, phase, model, head, examples.speaker_ids, torch.device("cpu"))
        )
    arguments: dict[str, Any] = {
        "validate": partial(
            validate,
            held_out=TrialSet.of(trials, utterances),
            monitored=TrialSet.of(trials.head(0), utterances),
        ),
        "folder": folder,
        "fingerprint": RunFingerprint(
            "phase", {"head": head.model_dump()}, str(encoder), examples.speaker_ids
        ),
    }
    return TrainingLoop(phase, classifier, examples, **arguments | changes)


class Watcher(Untracked):
    """Tracker that calls functions.

    Args:
        on_epoch: function of the epoch and its metrics.
        on_begin: function of the rows of the learning curve.
    """

    def __init__(
        self,
        on_epoch: Callable[[int, dict[str, float]], Any] = lambda *_: None,
        on_begin: Callable[[Sequence[Mapping[str, Any]]], Any] = lambda _: None,
    ) -> None:
        self._on_epoch = on_epoch
        self._on_begin = on_begin

    def begin(self, curve: Sequence[Mapping[str, Any]]) -> None:
        self._on_begin(curve)

    def log_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        self._on_epoch(epoch, metrics)


class DeviceReads(TorchFunctionMode):
    """Counts, in a block, the calls that make the CPU wait for the values of a tensor on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") in READS
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="session")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Speakers that differ by the pitch of a buzz."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    rows = []
    for speaker in range(NUM_SPEAKERS):
        for number in range(UTTERANCES_EACH):
            name = f"id{speaker:05d}/video{number % 2}/{number:05d}.wav"
            phase = 2 * np.pi * (90 + 40 * speaker) * np.arange(NUM_SAMPLES) / 16_000 + rng.uniform(0, 6)
            wave = 0.2 * np.sign(np.sin(phase)) + 0.02 * rng.standard_normal(NUM_SAMPLES)
            write_audio(folder / name, np.round(wave * 32_767).astype(np.int16))
            rows.append(
                {
                    "utterance_id": name,
                    "speaker_id": f"id{speaker:05d}",
                    "session_id": f"video{number % 2}",
                    "subset": "vox2-dev",
                    "path": str(folder / name),
                    "num_samples": NUM_SAMPLES,
                    "duration_seconds": NUM_SAMPLES / 16_000,
                }
            )
    return UTTERANCES.conform(pd.DataFrame(rows))


@pytest.fixture(scope="session")
def trials(utterances: pd.DataFrame) -> pd.DataFrame:
    names = utterances["utterance_id"].tolist()
    pairs = [(a, b) for a in names[::3] for b in names[1::3]]
    return TRIALS.conform(
        pd.DataFrame(
            [
                {
                    "trial_list": "validation",
                    "label": int(a.split("/")[0] == b.split("/")[0]),
                    "enroll_id": a,
                    "test_id": b,
                }
                for a, b in pairs
            ]
        )
    )


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoder of MODEL, of random weights, in Hugging Face format."""
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(MODEL.frontend, folder, seed=1)
    return folder


@pytest.fixture(scope="session")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A noise clip of each kind, and two rooms."""
    folder = tmp_path_factory.mktemp("augmentation")
    rng = np.random.default_rng(0)

    def write(name: str, kind: str, wave: npt.NDArray[np.floating]) -> list[object]:
        write_audio(folder / name, np.round(wave * 32_767).astype(np.int16))
        return [name, kind, str(folder / name), len(wave), 1]

    clips = [
        write(f"{kind}.wav", kind, 0.1 * rng.uniform(-1, 1, 2000)) for kind in ("noise", "music", "speech")
    ]
    rooms = [
        write(f"{length}.wav", "real", rng.uniform(-1, 1, length) * np.linspace(1, 0, length))
        for length in (300, 900)
    ]
    return (
        NOISE_CLIPS.conform(pd.DataFrame(clips, columns=NOISE_CLIPS.required)),
        RIRS.conform(pd.DataFrame(rooms, columns=RIRS.columns.names)),
    )


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")
