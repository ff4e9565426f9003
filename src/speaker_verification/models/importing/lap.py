"""Import of speaker models trained with the public code of LAP."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from speaker_verification.common.errors import DataError
from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings
from speaker_verification.models.importing.checkpoint import PublicCheckpoint, given_configuration, read_yaml
from speaker_verification.models.importing.mhfa import MHFA_RULES
from speaker_verification.models.importing.public_weights import ENCODER, Rules, read_state_dict, rename
from speaker_verification.models.settings import ModelSettings

CONFIG = "model_config.yaml"
RANKING = "best_tracking.txt"
WEIGHTS = "model.state"

_AGGREGATIONS = {"lap": "lap", "superb": "weighted_sum"}
_NETWORKS = {"astp": "astp", "x-vector": "x_vector", "ecapa-tdnn": "ecapa_tdnn", "mhfa": "mhfa"}
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
    "mhfa": MHFA_RULES,
}
_AGGREGATION_RULES: Rules = (
    (r"^logits$", "layer_weights"),
    (r"^in_projection\.", "in_weight."),
    (r"^squeeze_", "sq_"),
    (r"^excite_", "ex_"),
    (r"^out_projection\.", "out_weight."),
)
_PARTS = {
    "frames": "backend.layer_aggregation",
    "key": "backend.speaker_network.l_pool_k",
    "value": "backend.speaker_network.l_pool_v",
}


def is_lap_folder(path: Path) -> bool:
    """Whether a path looks like an experiment or epoch folder of LAP's public code."""
    return any((path / name).is_file() for name in (WEIGHTS, RANKING))


def read_lap(path: Path, encoder: str | Path | None) -> PublicCheckpoint:
    """Checkpoint of LAP's public code.

    Args:
        path: experiment folder, whose best epoch is taken, or folder of an epoch.
        encoder: hub name or folder of the encoder's configuration; None takes the one of model_config.yaml.

    Raises:
        DataError: the folder is no such folder, or its configuration is not understood.
    """
    epoch = path if (path / WEIGHTS).exists() else path / f"{_best_epoch(path)}epoch"
    origin = epoch / WEIGHTS
    config = read_yaml(epoch.parent / CONFIG)
    weights = read_state_dict(origin)
    centres = weights.pop("aam_softmax.weight", None)
    try:
        options = config["model"]
        settings = {
            "frontend": {"checkpoint": str(encoder or options["frontend_cfg"])},
            "layer_aggregation": {
                "kind": _AGGREGATIONS[options["layer_aggregation"]],
                "lap": {
                    "num_heads": options["n_head"],
                    "output_width": options["hidden_size"],
                    "dropout": options["dropout"],
                },
            },
            "speaker_network": {
                "kind": _NETWORKS[options["speaker_network"]],
                "astp": {"embedding_size": options["embed_size"], "dropout": options["dropout"]},
            },
        }
        head = {"num_subcentres": options["n_subcenter"], "scale": options["scale"]}
    except (KeyError, TypeError) as error:
        raise DataError(f"'{epoch.parent / CONFIG}': {error} under 'model' is missing or unknown") from error
    where = str(epoch.parent / CONFIG)
    parsed = ModelSettings.parse(settings, where)
    return PublicCheckpoint(
        origin=origin,
        weights=weights,
        centres=centres,
        encoder=partial(given_configuration, str(parsed.frontend.checkpoint)),
        settings=parsed,
        head=AamSoftmaxSettings.parse(head, where),
        public_name=partial(lap_name, speaker_network=parsed.speaker_network.kind),
    )


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
    return f"{_PARTS[sequence]}." + rename(rest, _AGGREGATION_RULES)


def _best_epoch(folder: Path) -> int:
    """Epoch on the first line of the ranking, whose lines are `EPOCH, EER%`, best first."""
    try:
        return int((folder / RANKING).read_text().split(",")[0])
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{folder}' is no folder of LAP's public code: it has neither {WEIGHTS} nor a readable "
            f"{RANKING}: {error}"
        ) from error
