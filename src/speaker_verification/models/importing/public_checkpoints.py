"""Import of speaker models trained with the public code of LAP and of SLT22's MHFA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedConfig

from speaker_verification.common.errors import DataError
from speaker_verification.models.encoders.configuration import build_encoder, read_configuration
from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings, SubcentreMarginHead
from speaker_verification.models.importing.original_wavlm import (
    infer_wavlm_configuration,
    original_wavlm_name,
)
from speaker_verification.models.importing.public_weights import (
    Rules,
    load_renamed,
    one_naming,
    read_state_dict,
    rename,
)
from speaker_verification.models.settings import ModelSettings
from speaker_verification.models.speaker_model import SpeakerModel

LAP_CONFIG = "model_config.yaml"
LAP_RANKING = "best_tracking.txt"
LAP_WEIGHTS = "model.state"
ENCODER = "frontend.encoder."

_LAP_AGGREGATIONS = {"lap": "lap", "superb": "weighted_sum"}
_LAP_NETWORKS = {"astp": "astp", "x-vector": "x_vector", "ecapa-tdnn": "ecapa_tdnn", "mhfa": "mhfa"}
_MHFA_RULES: Rules = (
    (r"^key_projection\.", "cmp_linear_k."),
    (r"^value_projection\.", "cmp_linear_v."),
    (r"^head_logits\.", "att_head."),
    (r"^projection\.", "pooling_fc."),
)
# From this project's names within a part to the public ones.
_NETWORK_RULES: dict[str, Rules] = {
    "astp": (
        (r"^attention\.", "t_pool.attention."),
        (r"^pooled_norm\.", "t_pool.norm."),
        (r"^projection\.", "emb_weight."),
        (r"^embedding_norm\.", "emb_norm."),
    ),
    "x_vector": (
        *((rf"^layers\.{i}\.{part}\.", f"layers.{3 * i + part}.") for i in range(5) for part in (0, 2)),
        (r"^projection\.", "linear1."),
        (r"^loss_projection\.", "linear2."),
    ),
    "ecapa_tdnn": (
        (r"^input_layer\.", "layer1."),
        *((rf"^blocks\.{i}\.convolutions\.", f"layer{i + 2}.se_res2block.") for i in range(3)),
        *((rf"^blocks\.{i}\.gate\.", f"layer{i + 2}.se_res2block.3.") for i in range(3)),
        (r"(se_res2block\.1)\.layers\.(\d)\.0\.", r"\1.convs.\2."),
        (r"(se_res2block\.1)\.layers\.(\d)\.2\.", r"\1.bns.\2."),
        (r"(layer1|se_res2block\.[02])\.0\.", r"\1.conv."),
        (r"(layer1|se_res2block\.[02])\.2\.", r"\1.bn."),
        (r"se_res2block\.3\.0\.", "se_res2block.3.linear1."),
        (r"se_res2block\.3\.2\.", "se_res2block.3.linear2."),
        (r"^aggregation\.", "conv."),
        (r"^attention\.0\.", "pool.linear1."),
        (r"^attention\.2\.", "pool.linear2."),
        (r"^pooled_norm\.", "bn."),
        (r"^projection\.", "linear."),
    ),
    "mhfa": _MHFA_RULES,
}
_LAP_AGGREGATION_RULES: Rules = (
    (r"^logits$", "layer_weights"),
    (r"^in_projection\.", "in_weight."),
    (r"^squeeze_", "sq_"),
    (r"^excite_", "ex_"),
    (r"^out_projection\.", "out_weight."),
)
_LAP_PARTS = {
    "frames": "backend.layer_aggregation",
    "key": "backend.speaker_network.l_pool_k",
    "value": "backend.speaker_network.l_pool_v",
}
_SLT22_PARTS = {"key": "__S__.backend.weights_k", "value": "__S__.backend.weights_v"}


def is_public_checkpoint(path: Path) -> bool:
    """Whether a path looks like what `import_checkpoint` takes, rather than like a folder of this project."""
    return path.is_file() or any((path / name).is_file() for name in (LAP_WEIGHTS, LAP_RANKING))


def import_checkpoint(path: str | Path, encoder: str | Path | None = None) -> SpeakerModel:
    """Speaker model of a checkpoint of the public code.

    Args:
        path: LAP's experiment folder (the best epoch is taken), one of its epoch folders, or a state dict of
            SLT22's MHFA.
        encoder: hub name or folder of the encoder's configuration (weights are in the checkpoint); None takes
            the one that LAP's `model_config.yaml` names, and for SLT22 infers it from the shapes of weights.

    Returns:
        Model in evaluation mode; `save_pretrained` saves it.

    Raises:
        DataError: the path is no such checkpoint, the encoder's configuration cannot be read, or weights are
            missing, unexpected or of another shape; all of them are listed.
    """
    checkpoint = _read(Path(path), encoder)
    frontend = build_encoder(checkpoint.encoder(), f"'{checkpoint.origin}': ")
    model = SpeakerModel(frontend, checkpoint.settings)
    load_renamed(model, checkpoint.weights, checkpoint.public_name, checkpoint.origin)
    return model.eval()


def import_margin_head(path: str | Path) -> SubcentreMarginHead:
    """Margin head of a checkpoint of the public code, with classes in the order of its speakers.

    Args:
        path: see `import_checkpoint`.

    Raises:
        DataError: the path is no such checkpoint, or the checkpoint has no margin head.
    """
    checkpoint = _read(Path(path), None)
    if checkpoint.centres is None:
        raise DataError(f"'{checkpoint.origin}' has no margin head")
    shape, num_subcentres = tuple(checkpoint.centres.shape), checkpoint.head.num_subcentres
    if len(shape) != 3 or shape[0] != num_subcentres:
        raise DataError(
            f"'{checkpoint.origin}' has a margin head of shape {shape}, not ({num_subcentres} sub-centres, "
            "embedding size, classes)"
        )
    head = SubcentreMarginHead(shape[1], shape[2], checkpoint.head)
    with torch.no_grad():
        head.weight.copy_(checkpoint.centres)
    return head


def lap_name(name: str, speaker_network: str) -> str:
    """Name of a weight in LAP's public code, by its name in a speaker model.

    Args:
        name: name in the speaker model.
        speaker_network: kind of its speaker network.
    """
    part, _, rest = name.partition(".")
    if part == "frontend":
        return "frontend." + name.removeprefix(ENCODER)
    if part == "speaker_network":
        return "backend.speaker_network." + rename(rest, _NETWORK_RULES[speaker_network])
    sequence, _, rest = rest.partition(".")
    return f"{_LAP_PARTS[sequence]}." + rename(rest, _LAP_AGGREGATION_RULES)


def slt22_name(name: str) -> str:
    """Name of a weight in SLT22's public code, by its name in the speaker model."""
    part, _, rest = name.partition(".")
    if part == "frontend":
        return "__S__.model." + original_wavlm_name(name.removeprefix(ENCODER))
    if part == "speaker_network":
        return "__S__.backend." + rename(rest, _MHFA_RULES)
    return _SLT22_PARTS[rest.removesuffix(".logits")]


@dataclass(frozen=True)
class _Checkpoint:
    """Weights by their public names, without the margin head's centres (K, E, C)."""

    origin: Path
    weights: dict[str, Tensor]
    centres: Tensor | None
    encoder: Callable[[], PreTrainedConfig]
    settings: ModelSettings
    head: AamSoftmaxSettings
    public_name: Callable[[str], str]


def _read(path: Path, encoder: str | Path | None) -> _Checkpoint:
    return _read_lap(path, encoder) if path.is_dir() else _read_slt22(path, encoder)


def _read_lap(path: Path, encoder: str | Path | None) -> _Checkpoint:
    epoch = path if (path / LAP_WEIGHTS).exists() else path / f"{_best_epoch(path)}epoch"
    origin = epoch / LAP_WEIGHTS
    config = _read_yaml(epoch.parent / LAP_CONFIG)
    weights = read_state_dict(origin)
    centres = weights.pop("aam_softmax.weight", None)
    try:
        options = config["model"]
        settings = {
            "frontend": {"checkpoint": str(encoder or options["frontend_cfg"])},
            "layer_aggregation": {
                "kind": _LAP_AGGREGATIONS[options["layer_aggregation"]],
                "lap": {
                    "num_heads": options["n_head"],
                    "output_width": options["hidden_size"],
                    "dropout": options["dropout"],
                },
            },
            "speaker_network": {
                "kind": _LAP_NETWORKS[options["speaker_network"]],
                "astp": {"embedding_size": options["embed_size"], "dropout": options["dropout"]},
            },
        }
        head = {"num_subcentres": options["n_subcenter"], "scale": options["scale"]}
    except (KeyError, TypeError) as error:
        raise DataError(
            f"'{epoch.parent / LAP_CONFIG}': {error} under 'model' is missing or unknown"
        ) from error
    where = str(epoch.parent / LAP_CONFIG)
    parsed = ModelSettings.parse(settings, where)
    return _Checkpoint(
        origin=origin,
        weights=weights,
        centres=centres,
        encoder=partial(_encoder_configuration, str(parsed.frontend.checkpoint)),
        settings=parsed,
        head=AamSoftmaxSettings.parse(head, where),
        public_name=partial(lap_name, speaker_network=parsed.speaker_network.kind),
    )


def _read_slt22(path: Path, encoder: str | Path | None) -> _Checkpoint:
    weights = one_naming(
        {name.removeprefix("module."): value for name, value in read_state_dict(path).items()}
    )
    centres = weights.pop("__L__.weight", None)
    mhfa = {
        "compressed_width": _rows("__S__.backend.cmp_linear_k.weight", weights, path),
        "num_heads": _rows("__S__.backend.att_head.weight", weights, path),
        "embedding_size": _rows("__S__.backend.pooling_fc.weight", weights, path),
    }
    settings = {
        "frontend": {"checkpoint": str(encoder or "microsoft/wavlm-base-plus"), "last_state": "before"},
        "layer_aggregation": {"kind": "weighted_sum"},
        "speaker_network": {"kind": "mhfa", "mhfa": mhfa},
        "initialisation": "torch",
    }
    head = {"num_subcentres": 1, "scale": 30.0, "initialisation": "xavier_normal"}
    return _Checkpoint(
        origin=path,
        weights=weights,
        centres=None if centres is None else centres.transpose(0, -1).unsqueeze(0),  # (C, E) -> (1, E, C)
        encoder=partial(_slt22_encoder, path, _below("__S__.model.", weights), encoder),
        settings=ModelSettings.parse(settings, str(path)),
        head=AamSoftmaxSettings.parse(head, str(path)),
        public_name=slt22_name,
    )


def _rows(name: str, weights: Mapping[str, Tensor], origin: Path) -> int:
    if name not in weights or not weights[name].dim():
        raise DataError(
            f"'{origin}' is no state dict of SLT22's public code: missing {name} "
            "(an original WavLM file is for import_encoder)"
        )
    return len(weights[name])


def _slt22_encoder(
    origin: Path, weights: Mapping[str, Tensor], encoder: str | Path | None
) -> PreTrainedConfig:
    if encoder is not None:
        config = _encoder_configuration(encoder)
    else:
        try:
            config = infer_wavlm_configuration(weights)
        except KeyError as error:
            raise DataError(
                f"'{origin}' has no complete WavLM: missing __S__.model.{error.args[0]}"
            ) from error
        except (IndexError, ValueError, ZeroDivisionError, StrictDataclassError) as error:
            raise DataError(
                f"'{origin}' has no WavLM: the shapes of its weights do not fit one ({error}); pass encoder="
            ) from error
    config.apply_spec_augment = False  # SLT22's training has no time masks
    return config


def _below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _best_epoch(folder: Path) -> int:
    """Epoch on the first line of the ranking, whose lines are `EPOCH, EER%`, best first."""
    try:
        return int((folder / LAP_RANKING).read_text().split(",")[0])
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{folder}' is no folder of LAP's public code: it has neither {LAP_WEIGHTS} nor a readable "
            f"{LAP_RANKING}: {error}"
        ) from error


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"'{path}' cannot be read: {error}") from error


def _encoder_configuration(name: str | Path) -> PreTrainedConfig:
    try:
        return read_configuration(name)
    except DataError as error:
        raise DataError(
            f"{error} (another configuration of the encoder: pass encoder=, a folder with its config.json)"
        ) from error
