"""Settings and margin head of wespeaker's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from speaker_verification.common.errors import DataError
from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings
from speaker_verification.models.importing.checkpoint import read_yaml

WEIGHTS = "avg_model.pt"
CONFIG = "config.yaml"

_HEAD = "projection."
_PLAIN, _SUBCENTRE = "arc_margin", "arc_margin_intertopk_subcenter"  # heads of AAM-softmax


def read_options(checkpoint: Path) -> dict[str, Any]:
    """Options that wespeaker trained a checkpoint with; none where there is no config.yaml of it.

    Args:
        checkpoint: file beside config.yaml, or in its folder `models`.

    Raises:
        DataError: config.yaml cannot be read.
    """
    experiment = checkpoint.parent.parent if checkpoint.parent.name == "models" else checkpoint.parent
    path = experiment / CONFIG
    options = read_yaml(path) if path.is_file() else None
    return options if isinstance(options, dict) and "dataset_args" in options else {}


def option(options: Mapping[str, Any], *names: str) -> Any:
    """Option by the names of the groups that it is in; None where it is not given."""
    found: Any = options
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def split_head(
    weights: Mapping[str, Tensor], options: Mapping[str, Any], kind: str, origin: Path
) -> tuple[dict[str, Tensor], Tensor | None, AamSoftmaxSettings]:
    """Weights without the head's; centres (K, E, C), None where it is not AAM-softmax; settings of the head.

    Args:
        weights: weights of the whole model.
        options: options of the training.
        kind: kind of head where the options do not say.
        origin: path for messages.

    Raises:
        DataError: the head's rows are not K for each class.
    """

    def given(name: str, default: Any) -> Any:
        value = option(options, "projection_args", name)
        return default if value is None else value

    kind = given("project_type", kind)
    num_subcentres = given("K", 3) if kind == _SUBCENTRE else 1
    rest = {name: value for name, value in weights.items() if not name.startswith(_HEAD)}
    settings = AamSoftmaxSettings.parse(
        {"num_subcentres": num_subcentres, "scale": given("scale", 32.0), "fallback": "wespeaker"},
        str(origin),
    )
    rows = weights.get(f"{_HEAD}weight")  # (C K, E)
    has_bias, is_easy = f"{_HEAD}bias" in weights, given("easy_margin", False)
    is_aam = kind in (_PLAIN, _SUBCENTRE) and not has_bias and not is_easy
    if rows is None or not is_aam:
        return rest, None, settings
    if len(rows) % num_subcentres:
        raise DataError(
            f"'{origin}' has a margin head of {len(rows)} rows, not {num_subcentres} sub-centres for each "
            f"class: copy its {CONFIG} beside it"
        )
    centres = rows.unflatten(0, (-1, num_subcentres))  # (C, K, E)
    return rest, centres.permute(1, 2, 0), settings
