"""The public implementations beside this one, from the same weights.

    python benchmarks/parity.py LAP_FOLDER [SLT22_FOLDER] [--fixtures FOLDER]

LAP_FOLDER is a clone of github.com/sadPororo/LAP (which needs einops), SLT22_FOLDER one of
github.com/JunyiPeng00/SLT22_MultiHead-Factorized-Attentive-Pooling. Each system is built small by the public
code, filled with seeded weights, saved in the public format and imported here; then both hear the same batch, in
evaluation mode in float32 and in training mode (dropouts, layer drop and time masks off) in float64.
`--fixtures` keeps the public numbers for the tests.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.models import public_systems as systems

SEED = 1
EVALUATION_BAR = 1e-5
TRAINING_BAR = 1e-8
# Biases in front of a batch norm have no gradient but rounding: smaller ones are measured against this share of
# the largest gradient.
SMALLEST_GRADIENT = 1e-6


def main() -> int:
    arguments = _parse()
    within = [_lap(system, arguments) for system in systems.LAP_SYSTEMS]
    return 0 if all(within) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lap_folder", type=Path)
    parser.add_argument("slt22_folder", type=Path, nargs="?")
    parser.add_argument("--fixtures", type=Path, help="keep the public numbers in this folder")
    return parser.parse_args()


def _lap(system: systems.LapSystem, arguments: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory() as name, _public_code(arguments.lap_folder / "src"):
        encoder_folder = Path(name) / system.encoder
        architecture = dict(systems.ENCODERS[system.encoder])
        config = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
        AutoModel.from_config(config).save_pretrained(encoder_folder)
        options = system.options(encoder_folder)
        public = importlib.import_module("model").SVmodel(SimpleNamespace(model=SimpleNamespace(**options)))
        shapes = systems.shapes_of(public)
        weights = systems.draw_weights(shapes, SEED)
        public.load_state_dict(weights)
        public.frontend = StatesOfTransformers4(public.frontend)
        theirs = _public_lap_quantities(public)
        ours = systems.our_lap_quantities(systems.write_lap_folder(Path(name) / "experiment", options, weights))
    return _report(system.name, ours, theirs)


class StatesOfTransformers4(nn.Module):
    """The public code's encoder, its last state after the final LayerNorm as transformers 4 gave it."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, waveforms: Tensor, attention_mask: None, output_hidden_states: bool) -> Any:
        output = self.encoder(waveforms, output_hidden_states=output_hidden_states)
        return SimpleNamespace(hidden_states=(*output.hidden_states[:-1], output.last_hidden_state))


def _public_lap_quantities(public: Any) -> systems.Quantities:
    waveforms, labels = systems.draw_batch()
    margins = systems.MARGINS
    with torch.no_grad():
        evaluation = public.eval()(waveforms)
    public.double().train()
    public.aam_softmax.update_margins(margins.target, margins.top_k_penalty, margins.top_k)
    embeddings, _, loss = public(waveforms.double(), target=labels)
    loss.backward()
    gradients = {name.replace("frontend.encoder.", "frontend.", 1): p.grad for name, p in public.named_parameters()}
    return systems.Quantities(
        evaluation.numpy(), embeddings.detach().numpy(), {"loss": loss.item()}, systems.as_arrays(gradients)
    )


def _report(system: str, ours: systems.Quantities, theirs: systems.Quantities) -> bool:
    rows = [
        ("evaluation embedding", _difference(ours.evaluation_embeddings, theirs.evaluation_embeddings), EVALUATION_BAR),
        ("training embedding", _difference(ours.training_embeddings, theirs.training_embeddings), TRAINING_BAR),
        *(
            (name, abs(ours.losses[name] - value) / abs(value), TRAINING_BAR)
            for name, value in theirs.losses.items()
        ),
        ("gradients", _gradient_difference(ours.gradients, theirs.gradients), TRAINING_BAR),
    ]
    for quantity, difference, bar in rows:
        verdict = "pass" if difference <= bar else "FAIL"
        sys.stdout.write(f"{system:28} {quantity:22} {difference:9.1e} {bar:9.0e}  {verdict}\n")
    return all(difference <= bar for _, difference, bar in rows)


def _difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _gradient_difference(ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> float:
    """The largest over all tensors; the two sides must have the same ones."""
    if ours.keys() != theirs.keys():
        sys.stdout.write(f"gradients on one side only: {sorted(ours.keys() ^ theirs.keys())}\n")
        return float("inf")
    floor = SMALLEST_GRADIENT * max(np.linalg.norm(value) for value in theirs.values())
    return max(
        float(np.linalg.norm(ours[name].ravel() - value.ravel()) / max(np.linalg.norm(value), floor))
        for name, value in theirs.items()
    )


@contextmanager
def _public_code(folder: Path) -> Iterator[None]:
    """Public modules come from a folder; both codes use the same names, so they are forgotten afterwards."""
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


if __name__ == "__main__":
    sys.exit(main())
