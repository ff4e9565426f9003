"""Parts that comparisons with public code share: clones imported, quantities, differences."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.support import public_systems as systems
from torch import Tensor, nn

from speaker_verification.models import Margins, import_checkpoint, import_margin_head
from speaker_verification.models.importing.public_weights import one_naming
from speaker_verification.training.optimiser import scale_gradients

EVALUATION_BAR = 1e-5
TRAINING_BAR = 1e-8
# Biases in front of a batch norm have no gradient but rounding: what is smaller than this share of the
# largest gradient is measured against that share.
SMALLEST_GRADIENT = 1e-6
NUM_BLOCKS = 2  # of the encoders of the newer systems

Row = tuple[str, float, float]  # quantity, difference, bar


@contextmanager
def public_code(folder: Path, *packages: str) -> Iterator[None]:
    """Public modules come from a folder; codes use the same names, so they are forgotten afterwards.

    Args:
        folder: folder that is searched for modules.
        *packages: packages in it whose own `__init__`, which imports far more than is used, is not run.
    """
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    for package in packages:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(folder / package.replace(".", "/"))]
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            file = str(getattr(sys.modules[name], "__file__", ""))
            if str(folder) in file or name.startswith(packages):
                del sys.modules[name]


def add_wespeaker_head(model: nn.Module, kind: str, embedding_size: int) -> None:
    """Add a margin head to a model, as wespeaker's training does."""
    options = {
        "project_type": kind,
        "scale": 32.0,
        "easy_margin": False,
        "embed_dim": embedding_size,
        "num_class": systems.NUM_CLASSES,
    }
    head = importlib.import_module("wespeaker.models.projections").get_projection(options)
    model.add_module("projection", head)


def public_gradients(public: nn.Module) -> dict[str, Tensor | None]:
    """Gradients by name, in the shapes that the import gives the weights."""
    gradients = one_naming({name: weight.grad for name, weight in public.named_parameters()})
    query = "back_end.att_head.weight"
    if query in gradients:  # (G, 1, R+1, c) -> (G, c, R+1)
        gradients[query] = gradients[query].squeeze(1).transpose(1, 2)
    return gradients


class ImportedSystem:
    """A public checkpoint as this project imports it, and its head.

    Args:
        path: the checkpoint.
        encoder: folder of the encoder's configuration.
        head_name: public name of the head's weights, (C K, E).
        public_name: public name of a weight by its name here.
    """

    def __init__(self, path: Path, encoder: Path, head_name: str, public_name: Callable[[str], str]) -> None:
        self.model: Any = import_checkpoint(path, encoder)
        self.head = import_margin_head(path)
        self.head_name, self.public_name = head_name, public_name

    def quantities(
        self, margins: Margins, features: Tensor | None = None, gradient_scale: float = 1.0
    ) -> systems.Quantities:
        """Embeddings, loss and gradients.

        Args:
            margins: margins of the head.
            features: input of the encoder in training mode; None computes it.
            gradient_scale: factor of the gradients that reach the encoder.
        """
        waveforms, labels = systems.draw_batch()
        evaluation = self.model.embed(waveforms)
        self.model.double().train()
        self.head.double()
        if features is not None:
            self.model.frontend.adapter.prepare = lambda _waveforms: features
        embeddings = self.model(waveforms.double())
        loss = self.head(embeddings, labels, margins).loss
        loss.backward()
        scale_gradients(self.model.frontend.parameters(), gradient_scale)
        return as_quantities(evaluation, embeddings, loss, self.gradients())

    def parameters(self) -> list[nn.Parameter]:
        """Parameters of model and head."""
        return [*self.model.parameters(), *self.head.parameters()]

    def gradients(self) -> dict[str, Tensor | None]:
        """Gradients by the public names of the weights."""
        gradients = {self.public_name(name): p.grad for name, p in self.model.named_parameters()}
        centres = self.head.weight.grad  # (K, E, C)
        rows = None if centres is None else centres.permute(2, 0, 1).flatten(0, 1)
        return gradients | {self.head_name: rows}

    def backend_parameters(self) -> int:
        """Number of parameters behind the encoder."""
        return count(self.model.layer_aggregation, self.model.speaker_network)


def count(*parts: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def parameters_row(ours: int, theirs: int) -> Row:
    """Row of two numbers of parameters, which must be equal."""
    return (f"{ours:,} parameters", float(abs(ours - theirs)), 0.0)


def as_quantities(
    evaluation: Tensor, embeddings: Tensor, loss: Tensor, gradients: Mapping[str, Tensor | None]
) -> systems.Quantities:
    """Quantities in arrays of their own, which later changes of the gradients leave as they are."""
    copies = {name: None if value is None else value.clone() for name, value in gradients.items()}
    return systems.Quantities(
        {"embedding": evaluation.numpy()},
        systems.as_arrays({"embedding": embeddings, "loss": loss}),
        systems.as_arrays(copies),
    )


def keep(
    folder: Path | None, name: str, shapes: Mapping[str, systems.Shapes], theirs: systems.Quantities
) -> None:
    """Write what the tests compare with, where there is a folder for it."""
    if folder:
        content = {"shapes": shapes, "expected": systems.excerpt(theirs)}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")))


def report(system: str, rows: Iterable[Row]) -> bool:
    """Print a system's rows; True where every difference is within its bar."""
    rows = list(rows)
    for quantity, difference, bar in rows:
        verdict = "pass" if difference <= bar else "FAIL"
        sys.stdout.write(f"{system:38} {quantity:24} {difference:10.1e} {bar:6.0e}  {verdict}\n")
    sys.stdout.flush()
    return all(difference <= bar for _, difference, bar in rows)


def differences(ours: systems.Quantities, theirs: systems.Quantities) -> list[Row]:
    """Rows of all quantities that the public code has."""
    rows: list[Row] = [
        *(
            (f"evaluation {k}", _difference(ours.evaluation[k], v), EVALUATION_BAR)
            for k, v in theirs.evaluation.items()
        ),
        *(
            (f"training {k}", _difference(ours.training[k], v), TRAINING_BAR)
            for k, v in theirs.training.items()
        ),
    ]
    if theirs.gradients:
        difference = gradient_difference(ours.gradients, theirs.gradients)
        rows.append(("training gradients", difference, TRAINING_BAR))
    return rows


def _difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def gradient_difference(ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> float:
    """The largest over all tensors; the two sides must have the same ones."""
    if ours.keys() != theirs.keys():
        sys.stdout.write(f"gradients on one side only: {sorted(ours.keys() ^ theirs.keys())}\n")
        return float("inf")
    floor = SMALLEST_GRADIENT * max(np.linalg.norm(value) for value in theirs.values())
    return max(
        float(np.linalg.norm(ours[name].ravel() - value.ravel()) / max(np.linalg.norm(value), floor))
        for name, value in theirs.items()
    )
