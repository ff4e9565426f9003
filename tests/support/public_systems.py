"""Small systems of the public codes: how weights and inputs are drawn, and what this project makes of them.

The rule of the weights: a tensor comes from numpy's default generator seeded with [seed, crc32 of its public
name]. `num_batches_tracked` is 0; running variances, magnitudes of weight norm and weights of one dimension
(norms) are uniform in 0.5..1.5; everything else is normal, its standard deviation 0.3 for one dimension and
1 / sqrt(numbers per row) for more.
"""

from __future__ import annotations

import json
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
from transformers import AutoConfig

from speaker_verification.models import Margins, import_checkpoint, import_encoder, import_margin_head
from speaker_verification.models.frontend import Frontend
from speaker_verification.models.importing.lap import lap_name
from speaker_verification.models.importing.mhfa import SLT22
from speaker_verification.training.phase import PretrainedDistanceSettings
from speaker_verification.training.regularisation import PretrainedDistance
from tests.support.tiny_models import TINY_LARGE, TINY_WAVLM

Shapes = Mapping[str, list[int]]

FIXTURES = Path(__file__).parents[1] / "models" / "fixtures"

NUM_CLASSES = 7
MARGINS = Margins(target=0.3, top_k=5, top_k_penalty=0.06)
SLT22_MARGINS = Margins(target=0.2, top_k=0, top_k_penalty=0.0)
DISTANCE = PretrainedDistanceSettings(kind="normalised", weight=0.01)
SEED = 1
PRETRAINED_SEED = 2
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
        """Options under `model` in model_config.yaml."""
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


KEPT_LAP_SYSTEMS = [
    system
    for system in LAP_SYSTEMS
    if (system.layer_aggregation, system.encoder) in {("lap", "wavlm-large"), ("superb", "wavlm-base")}
]
ORIGINAL_BASE: dict[str, Any] = {
    "extractor_mode": "default",
    "encoder_layers": 12,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "conv_bias": False,
    "normalize": False,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "dropout_input": 0.0,
    "conv_pos": 8,
    "conv_pos_groups": 2,
    "relative_position_embedding": True,
    "num_buckets": 32,
    "max_distance": 800,
    "gru_rel_pos": True,
}
ORIGINAL_LARGE = ORIGINAL_BASE | {
    "extractor_mode": "layer_norm",
    "layer_norm_first": True,
    "encoder_layers": 3,
}


@dataclass(frozen=True)
class Quantities:
    """Outputs and gradients by name: in evaluation mode in float32, in training mode in float64."""

    evaluation: dict[str, NDArray[np.float32]]
    training: dict[str, NDArray[np.float64]]
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
        values = rng.standard_normal(shape) * (
            0.3 if len(shape) == 1 else 1 / math.sqrt(math.prod(shape[1:]))
        )
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


def read_fixture(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def write_lap(folder: Path, system: LapSystem, weights: dict[str, Tensor] | None = None) -> Path:
    """An encoder's folder, and beside it the experiment folder of a system on it."""
    architecture = dict(ENCODERS[system.encoder])
    AutoConfig.for_model(architecture.pop("model_type"), **architecture).save_pretrained(folder / "encoder")
    if weights is None:
        weights = draw_weights(read_fixture(system.name)["shapes"]["model"], SEED)
    return write_lap_folder(folder / "experiment", system.options(folder / "encoder"), weights)


def our_lap_quantities(folder: Path) -> Quantities:
    """Quantities of this project's import of an experiment folder of the public LAP code."""
    waveforms, labels = draw_batch()
    model, head = import_checkpoint(folder), import_margin_head(folder).double()
    evaluation = model.embed(waveforms)
    model.double().train()
    embeddings = model(waveforms.double())
    loss = head(embeddings, labels, MARGINS).loss
    loss.backward()
    network = model.settings.speaker_network.kind
    gradients = {lap_name(name, network): weight.grad for name, weight in model.named_parameters()}
    gradients["aam_softmax.weight"] = head.weight.grad
    return Quantities(
        {"embedding": evaluation.numpy()},
        as_arrays({"embedding": embeddings, "loss": loss}),
        as_arrays(gradients),
    )


def write_original_wavlm(path: Path, cfg: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Path:
    """A file as the authors of WavLM saved theirs."""
    torch.save({"cfg": dict(cfg), "model": dict(weights)}, path)
    return path


def write_public_file(folder: Path, name: str, weights: Mapping[str, Tensor] | None = None) -> Path:
    """File of a fixture's system, as its public code saves it; w2v-BERT-2.0_SV has its head apart."""
    if weights is None:
        weights = draw_weights(read_fixture(name)["shapes"]["model"], SEED)
    if name not in ("w2v_bert_lora", "w2v_bert_pruned"):
        torch.save(dict(weights), folder / "model_3.pt")
        return folder / "model_3.pt"
    head = draw_weights({"classifier.weight": [NUM_CLASSES, 10]}, SEED)["classifier.weight"]
    modules = {"spk_model": dict(weights), "classifier": {"weight": head}}
    torch.save({"modules": modules, "epoch_idx": 3}, folder / "ckpt_0003.pth")
    return folder / "ckpt_0003.pth"


def our_last_state(path: Path) -> NDArray[np.float32]:
    """Output of the last block of an original WavLM file's encoder, before any final LayerNorm."""
    waveforms, _ = draw_batch()
    frontend = Frontend(import_encoder(path), "before")
    with torch.no_grad():
        return frontend(waveforms)[-1].numpy()


def our_slt22_quantities(path: Path, wavlm: Path) -> Quantities:
    """Quantities of this project's import of a state dict of SLT22's public code and of its first encoder."""
    waveforms, labels = draw_batch()
    import_encoder(wavlm).save_pretrained(path.parent / "encoder")  # its configuration has no dropout
    evaluation = import_checkpoint(path).embed(waveforms)
    model, head = import_checkpoint(path, path.parent / "encoder"), import_margin_head(path).double()
    model.double().train()
    embeddings = model(waveforms.double())
    aam = head(embeddings, labels, SLT22_MARGINS).loss
    pull = PretrainedDistance(model.frontend, path.parent / "encoder", DISTANCE)
    loss = pull(aam)
    loss.backward()
    gradients = {SLT22.public_name(name): weight.grad for name, weight in model.named_parameters()}
    gradients["__L__.weight"] = head.weight.grad[0].T
    return Quantities(
        {"encoder": our_last_state(wavlm), "embedding": evaluation.numpy()},
        as_arrays({"embedding": embeddings, "aam": aam, "loss": loss}),
        as_arrays(learning(gradients)),
    )


def learning(gradients: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Without the convolutions, which SLT22 does not train."""
    return {name: value for name, value in gradients.items() if ".feature_extractor." not in name}


def excerpt(quantities: Quantities) -> dict[str, Any]:
    """Some numbers of every tensor, to 12 digits: the first eight of a row, digests of gradients."""
    return {
        "evaluation": {name: _first_columns(value) for name, value in quantities.evaluation.items()},
        "training": {name: _first_columns(value) for name, value in quantities.training.items()},
        "gradients": [_digest(name, quantities.gradients[name]) for name in sorted(quantities.gradients)],
    }


def _first_columns(value: NDArray[Any]) -> list[list[float]]:
    rows = value.reshape(len(value) if value.ndim else 1, -1)
    return [[_rounded(number) for number in row[:8]] for row in rows]


def _digest(name: str, value: NDArray[np.float64]) -> list[float]:
    """Euclidean norm, and projection on a direction drawn for the name, so that a wrong order shows."""
    direction = np.random.default_rng(crc32(name.encode())).standard_normal(value.size)
    return [_rounded(np.linalg.norm(value)), _rounded(direction @ value.ravel())]


def _rounded(number: Any) -> float:
    return float(f"{number:.12g}")


def as_arrays(tensors: Mapping[str, Tensor | None]) -> dict[str, NDArray[Any]]:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items() if tensor is not None}
