"""Training phases and evaluation: their names, and the nodes that belong to each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kedro.pipeline.node import Node

PHASES = ("pretrain", "finetune", "lmft")
PHASE_DEFAULTS = "phase_defaults"  # group of parameters that goes under every phase of its layer
CHECKPOINT = "checkpoint"  # folder of its workspace that a phase fills
ENCODER = "encoder"  # dataset that the first phase starts from
EVALUATION = "evaluate"
EVALUATION_STEPS = ("embed", "score", "report")


def stage_of(node: Node) -> str | None:
    """The run a node belongs to: a phase, the evaluation, or none."""
    namespace = (node.namespace or "").split(".")[0]
    if namespace in PHASES:
        return namespace
    if namespace in EVALUATION_STEPS:
        return EVALUATION
    return None
