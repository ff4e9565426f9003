"""Small systems of the public codes: how their weights and inputs are drawn, and what this project makes of them.

The rule of the weights: a tensor comes from numpy's default generator seeded with [seed, crc32 of its public
name]. `num_batches_tracked` is 0; running variances, magnitudes of weight norm and weights of one dimension
(norms) are uniform in 0.5..1.5; everything else is normal, its standard deviation 0.3 for one dimension and
1 / sqrt(numbers per row) for more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from speaker_verification.models import Margins, import_checkpoint, import_margin_head
from speaker_verification.models.public_checkpoints import lap_name
from tests.models.conftest import TINY_LARGE, TINY_WAVLM

Shapes = Mapping[str, list[int]]

NUM_CLASSES = 7
MARGINS = Margins(target=0.3, top_k=5, top_k_penalty=0.06)
QUIET = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0}
ENCODERS: dict[str, dict[str, Any]] = {
    "wavlm-base": TINY_WAVLM | QUIET,
    "wavlm-large": TINY_LARGE | QUIET,
    "hubert-large": TINY_LARGE | QUIET | {"model_type": "hubert", "feat_proj_dropout": 0.0},
    "wav2vec2-base": TINY_WAVLM | QUIET | {"model_type": "wav2vec2", "feat_proj_dropout": 0.0},
}


@dataclass(frozen=True)
class LapSystem:
    """One of the public LAP code's backends behind a tiny encoder."""

    encoder: str
    layer_aggregation: str
    speaker_network: str

    @property
    def name(self) -> str:
        return f"{self.layer_aggregation}_{self.speaker_network}_{self.encoder}"

    def options(self, encoder_folder: Path) -> dict[str, Any]:
        """What stands under `model` in model_config.yaml."""
        return {
            "frontend_cfg": str(encoder_folder),
            "layer_aggregation": self.layer_aggregation,
            "speaker_network": self.speaker_network,
            "hidden_size": 12,
            "n_head": 4,
            "dropout": 0.0,
            "embed_size": 10,
            "margin": MARGINS.target,
            "scale": 30.0,
            "n_subcenter": 3,
            "topK": MARGINS.top_k,
            "margin_penalty": MARGINS.top_k_penalty,
            "n_train_class": NUM_CLASSES,
            "speed_perturb": [1.0],
        }


LAP_SYSTEMS = [
    LapSystem(encoder, aggregation, network)
    for encoder in ENCODERS
    for aggregation in ("lap", "superb")
    for network in ("astp", "x-vector", "ecapa-tdnn", "mhfa")
]


@dataclass(frozen=True)
class Quantities:
    """What a system gives: (B, E) in float32 in evaluation mode; the rest in float64 in training mode."""

    evaluation_embeddings: NDArray[np.float32]
    training_embeddings: NDArray[np.float64]
    losses: dict[str, float]
    gradients: dict[str, NDArray[np.float64]]


def draw_weights(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Weights under their public names, by the rule above."""
    return {name: _draw(name, shape, seed) for name, shape in shapes.items()}


def _draw(name: str, shape: list[int], seed: int) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    rng = np.random.default_rng([seed, crc32(name.encode())])
    is_norm = name.endswith(".weight") and len(shape) == 1
    if is_norm or name.endswith(("running_var", "weight_g", "weight.original0")):
        values = 0.5 + rng.random(shape)
    else:
        values = rng.standard_normal(shape) * (0.3 if len(shape) == 1 else 1 / math.sqrt(math.prod(shape[1:])))
    return torch.from_numpy(values.astype(np.float32))


def draw_batch() -> tuple[Tensor, Tensor]:
    """Waveforms (4, 8000) and their labels."""
    waveforms = 0.1 * np.random.default_rng(1).standard_normal((4, 8000))
    return torch.from_numpy(waveforms.astype(np.float32)), torch.tensor([0, 3, 3, 6])


def shapes_of(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def write_lap_folder(folder: Path, options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Path:
    """An experiment folder as the public LAP code leaves it, epoch 12 the best."""
    (folder / "12epoch").mkdir(parents=True)
    torch.save(dict(weights), folder / "12epoch" / "model.state")
    (folder / "model_config.yaml").write_text(yaml.safe_dump({"model": dict(options), "phase": 1}))
    (folder / "best_tracking.txt").write_text("12, 1.2345%\n7, 1.5000%\n")
    return folder


def our_lap_quantities(folder: Path) -> Quantities:
    """What this project makes of an experiment folder of the public LAP code."""
    waveforms, labels = draw_batch()
    model, head = import_checkpoint(folder), import_margin_head(folder).double()
    evaluation = model.embed(waveforms)
    model.double().train()
    embeddings = model(waveforms.double())
    loss = head(embeddings, labels, MARGINS).loss
    loss.backward()
    gradients = {lap_name(name): weight.grad for name, weight in model.named_parameters()}
    gradients["aam_softmax.weight"] = head.weight.grad
    return Quantities(evaluation.numpy(), embeddings.detach().numpy(), {"loss": loss.item()}, as_arrays(gradients))


def as_arrays(gradients: Mapping[str, Tensor | None]) -> dict[str, NDArray[np.float64]]:
    return {name: gradient.numpy() for name, gradient in gradients.items() if gradient is not None}
