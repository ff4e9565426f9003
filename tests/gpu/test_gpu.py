"""A GPU computes what a CPU does, within the rounding of its precision; run where there is one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
from speaker_verification.audio.batched_augmentation import augment_batch, collate
from speaker_verification.common.distributed import processes
from speaker_verification.common.precision import Precision, computing_in
from speaker_verification.models.frontend import save_encoder
from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings, SubcentreMarginHead
from speaker_verification.models.heads.base import Margins
from speaker_verification.models.settings import FrontendSettings
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.scoring import cohort_statistics, extract_embeddings
from speaker_verification.scoring.blocks import ComputeBudget
from speaker_verification.training.failures import TrainingError
from speaker_verification.training.loop import StepResult, TrainingLoop
from tests.support.processes import run_processes, values_of
from tests.support.tiny_models import TINY_WAVLM, tiny_settings
from tests.support.training import NUM_SAMPLES, phase_settings, training_loop

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = torch.device("cuda")
WITHOUT_DROPOUT = {f"{name}_dropout": 0.0 for name in ("hidden", "attention", "activation", "feat_proj")} | {
    "layerdrop": 0.0
}
NUM_STEPS = 6


@pytest.fixture(scope="module")
def model() -> SpeakerModel:
    return a_model()


def a_model() -> SpeakerModel:
    from speaker_verification.models.encoders.configuration import build_encoder, configuration_of

    torch.manual_seed(1)
    settings = tiny_settings(TINY_WAVLM)
    architecture = settings.frontend.architecture
    assert architecture is not None
    return SpeakerModel(build_encoder(configuration_of(architecture, "", None), "", None), settings).eval()


class Recorded(TrainingLoop):
    """Loop that keeps the results of its steps, and counts the waits for the GPU in each.

    Attributes:
        results: loss, gradient norm and rates of every step.
        waits: places where the CPU waits for the GPU's values, in every step.
    """

    results: list[StepResult]
    waits: list[list[str]]

    def train_step(self, batches: Any) -> StepResult:
        if not hasattr(self, "results"):
            self.results, self.waits = [], []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = super().train_step(batches)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        self.waits.append(
            [f"{each.filename}:{each.lineno}" for each in caught if "synchronizing" in str(each.message)]
        )
        self.results.append(result)
        return result


def loop_on(
    device: torch.device,
    tables: tuple[Path, pd.DataFrame, pd.DataFrame, tuple[pd.DataFrame, pd.DataFrame]],
    folder: Path,
    on_device: bool = False,
    **changes: Any,
) -> Recorded:
    encoder, utterances, trials, catalogs = tables
    settings: dict[str, Any] = {"frontend": "trained", "frontend_mode": "training", "epochs": 1}
    settings |= {"steps_per_epoch": NUM_STEPS, "optimiser": {"kind": "sgd", "weight_decay": 0.0}}
    settings |= {"learning_rate": {"maximum": 1e-3, "minimum": 1e-3}, "resume": True}
    augmentation = AugmentationSettings(probability=0.7, on_training_device=on_device)
    model = tiny_settings(TINY_WAVLM | WITHOUT_DROPOUT).model_dump()
    model["layer_aggregation"]["lap"]["dropout"] = model["speaker_network"]["astp"]["dropout"] = 0.0
    plain = training_loop(
        encoder,
        folder,
        utterances,
        trials,
        phase_settings(**settings | changes),
        augmenter=Augmenter(*catalogs, augmentation),
        model=type(tiny_settings(TINY_WAVLM)).model_validate(model),
    )
    values = {name: getattr(plain, name) for name in TrainingLoop.__dataclass_fields__}
    values["classifier"] = plain.classifier.to(device)
    return Recorded(**values)


@pytest.fixture
def tables(
    tmp_path: Path,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    catalogs: tuple[pd.DataFrame, pd.DataFrame],
) -> Any:
    frontend = FrontendSettings(checkpoint=None, architecture=TINY_WAVLM | WITHOUT_DROPOUT)
    save_encoder(frontend, tmp_path / "encoder", seed=1)
    return tmp_path / "encoder", utterances, trials, catalogs


def losses(loop: Recorded) -> list[float]:
    loop.run()
    return [result.loss for result in loop.results]


@pytest.mark.parametrize("seconds", [0.5, 40.0], ids=["short", "in chunks"])
def test_embeddings_of_a_gpu_are_those_of_a_cpu(model: SpeakerModel, seconds: float) -> None:
    waveforms = 0.1 * torch.randn(2, round(seconds * 16_000), generator=torch.Generator().manual_seed(2))
    expected = model.embed(waveforms)
    copy = a_model().to(GPU)
    with computing_in("float32", GPU):
        found = copy.embed(waveforms)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-5), ("tf32", 5e-3), ("bfloat16", 5e-2)])
def test_the_precision_of_extraction_is_what_it_says(
    utterances: pd.DataFrame, precision: Precision, bound: float
) -> None:
    def embedded(model: SpeakerModel, precision: Precision) -> np.ndarray:
        return extract_embeddings(
            model, utterances, batch_seconds=2.0, precision=precision, progress=False
        ).embeddings

    expected, found = embedded(a_model(), "float32"), embedded(a_model().to(GPU), precision)
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert difference < bound
    if precision != "float32":
        assert difference > 1e-5  # it is not float32 under another name


def test_a_context_of_a_precision_leaves_torch_s_own_as_they_were() -> None:
    def settings() -> tuple[bool, bool, bool]:
        return (
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.is_autocast_enabled("cuda"),
        )

    before = settings()
    for precision in ("float32", "tf32", "bfloat16"):
        with computing_in(precision, GPU):
            pass
        assert settings() == before


@pytest.mark.parametrize("on_device", [False, True], ids=["augmented by workers", "augmented on the GPU"])
@pytest.mark.parametrize(
    "changes", [{}, {"frontend": "frozen", "lora": {"rank": 2}}], ids=["trained", "with LoRA"]
)
def test_steps_of_a_gpu_are_those_of_a_cpu(
    tables: Any, tmp_path: Path, on_device: bool, changes: dict[str, Any]
) -> None:
    expected = losses(loop_on(torch.device("cpu"), tables, tmp_path / "cpu", **changes))
    with computing_in("float32", GPU):
        found = losses(loop_on(GPU, tables, tmp_path / "gpu", on_device, **changes))
    assert len(found) == NUM_STEPS
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_a_step_waits_for_the_gpu_once(tables: Any, tmp_path: Path) -> None:
    loop = loop_on(GPU, tables, tmp_path / "phase", precision="bfloat16", gradient_clip_norm=1.0)
    loop.run()
    for places in loop.waits[1:]:  # the first step also sets up the libraries
        assert len(places) == 1, places


def test_a_phase_interrupted_on_a_gpu_resumes_with_the_same_losses(
    tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"save_every_steps": 1, "optimiser": {"kind": "adam", "weight_decay": 1e-5}}
    undisturbed = losses(loop_on(GPU, tables, tmp_path / "whole", **changes))
    interrupted = loop_on(GPU, tables, tmp_path / "parts", **changes)
    take_step = interrupted.train_step

    def fail_at_fourth(batches: Any) -> StepResult:
        if interrupted.progress.step == 3:
            raise KeyboardInterrupt
        return take_step(batches)

    monkeypatch.setattr(interrupted, "train_step", fail_at_fourth)
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    resumed = losses(loop_on(GPU, tables, tmp_path / "parts", **changes))
    assert len(resumed) == NUM_STEPS - 3
    np.testing.assert_allclose(resumed, undisturbed[3:], rtol=1e-5)


def train_and_embed(tables: Any, folder: Path) -> tuple[list[float], Tensor, str]:
    """Losses and embeddings of a process that has joined by NCCL, and its backend for GPU tensors."""
    from torch import distributed

    ones = processes().sum(torch.ones(3, device=GPU))
    assert ones.tolist() == [1.0, 1.0, 1.0]
    loop = loop_on(GPU, tables, folder)
    found = losses(loop)
    waveforms = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(2))
    embedded = loop.classifier.model.embed(waveforms).cpu()
    backend = distributed.get_backend_config(distributed.group.WORLD)
    return found, embedded, backend


def test_a_process_that_has_joined_by_nccl_trains_as_one_alone(tables: Any, tmp_path: Path) -> None:
    loop = loop_on(GPU, tables, tmp_path / "alone")
    expected = losses(loop)
    ((found, embedded, backend),) = values_of(run_processes(1, train_and_embed, tables, tmp_path / "joined"))
    assert "cuda:nccl" in backend
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert torch.isfinite(embedded).all()


def test_a_compiled_encoder_trains_with_the_same_losses(tables: Any, tmp_path: Path) -> None:
    with computing_in("float32", GPU):
        expected = losses(loop_on(GPU, tables, tmp_path / "eager"))
        found = losses(loop_on(GPU, tables, tmp_path / "compiled", compile=True))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_memory_that_runs_out_is_told_with_what_to_lower(tables: Any, tmp_path: Path) -> None:
    def exhausted(*_: object, **__: object) -> Tensor:
        return torch.empty(2**50, device=GPU)

    loop = loop_on(GPU, tables, tmp_path / "phase")
    loop.regularise = exhausted
    with pytest.raises(TrainingError, match="out of memory at step 0: lower batch_size from 6 to 3"):
        loop.run()


def test_the_head_computes_in_float32_under_autocast() -> None:
    torch.manual_seed(3)
    head = SubcentreMarginHead(16, 50, AamSoftmaxSettings())
    embeddings, labels = torch.randn(8, 16), torch.arange(8)
    margins = Margins(0.3, 5, 0.06)
    expected = head(embeddings, labels, margins)
    with torch.autocast("cuda", torch.bfloat16):
        found = head.to(GPU)(embeddings.to(GPU), labels.to(GPU), margins)
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.loss.cpu(), expected.loss, rtol=1e-5, atol=0)
    assert torch.equal(found.predictions.cpu(), expected.predictions)


@pytest.mark.parametrize("changes", [{"normalise_peak": True}, {"one_snr": True, "standardise": True}])
def test_a_batch_is_augmented_on_a_gpu_as_on_a_cpu(
    catalogs: tuple[pd.DataFrame, pd.DataFrame], changes: dict[str, bool]
) -> None:
    rng = np.random.default_rng(1)
    augmenter = Augmenter(*catalogs, AugmentationSettings.parse({"probability": 1.0, **changes}, ""))
    crops = torch.from_numpy(rng.standard_normal((40, NUM_SAMPLES)).astype(np.float32))
    batch = collate([augmenter.draw(NUM_SAMPLES, rng) for _ in crops], NUM_SAMPLES, augmenter.settings)
    found = augment_batch(crops.to(GPU), batch.to(GPU)).cpu()
    torch.testing.assert_close(found, augment_batch(crops, batch), rtol=1e-4, atol=1e-5)


def test_cohort_statistics_of_a_gpu_are_those_of_a_cpu() -> None:
    rng = np.random.default_rng(1)
    embeddings, cohort = rng.normal(size=(70, 32)), rng.normal(size=(500, 32))
    expected = cohort_statistics(embeddings, cohort, 60)
    found = cohort_statistics(embeddings, cohort, 60, budget=ComputeBudget(device="cuda"))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
