"""Phases and evaluation: their names, and those of nodes and datasets that hooks look for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kedro.pipeline.node import Node

PHASES = ("pretrain", "finetune", "lmft")  # namespaces within `training`, groups of their parameters
COMPRESS = "compress"  # phase of its own, namespace within `training` and group of parameters
TRAINED = (*PHASES, COMPRESS)  # all that the training loop trains, each from the checkpoint of the one before
PHASE_DEFAULTS = "phase_defaults"  # group of parameters that goes under every phase of its layer
EMBEDDINGS, COHORT_EMBEDDINGS = "embeddings", "cohort_embeddings"  # datasets, and folders of a workspace
CALIBRATION_EMBEDDINGS, ADAPTATION_EMBEDDINGS = "calibration_embeddings", "adaptation_embeddings"  # likewise
SETS = (COHORT_EMBEDDINGS, CALIBRATION_EMBEDDINGS, ADAPTATION_EMBEDDINGS)  # embedded beside the trials'
EMBED_WORKSPACE = "embed.workspace"
PACKAGE_WORKSPACE = "package.workspace"
EVALUATION = "evaluate"  # pipeline that embeds and scores, and the stage that is tracked
IMPORT = (
    "import_embeddings"  # pipeline that takes another toolkit's embeddings in place of `prepare` and `embed`
)
DISTRIBUTED_TAG = "distributed"  # of nodes that all processes of torchrun run together
EVALUATION_TAG = "evaluation"  # of its nodes and those of the report

TRAIN_PHASE = "train_phase"  # node that trains, in the phase's namespace
CHECKPOINT = "checkpoint"  # its output, and the folder of its workspace that it fills
LEARNING_CURVE = "learning_curve"  # its other output
ENCODER = "encoder"  # dataset that the first phase starts from
MIRROR = "mirror"  # output of the first node of `prepare`
RUN_RECORD = "run_record"  # input of the report that a hook makes
COMPARED = "compared_evaluations"  # input of `compare_runs` that a hook or `compare` makes
COMPARE = "compare"  # pipeline that trains what it compares, its tracked stage, and the tag of its nodes
PLANNED = "planned_comparison"  # input of `compare` that a hook makes
RATES = "compared_rates"  # table of the comparison's error rates
COSTS = "training_costs"  # table of what its trainings have cost
COMPARISON = "comparison"  # the page that it writes
VERIFIER = "verifier"  # what `package` makes
REPORT = "report"  # pipeline, its namespace, and the page that it writes
ESTIMATE = "full_run_estimate"  # of a shortened run


def checkpoint_of(phase: str) -> str:
    """Dataset of a phase's best epochs."""
    return f"{phase}.{CHECKPOINT}"


def learning_curve_of(phase: str) -> str:
    """Dataset of a phase's learning curve."""
    return f"{phase}.{LEARNING_CURVE}"


LAST_CHECKPOINT = checkpoint_of(PHASES[-1])  # the model that is evaluated


def phase_of(node: Node) -> str | None:
    """Phase of a node, compression among them, or None."""
    innermost = (node.namespace or "").rpartition(".")[2]
    return innermost if innermost in TRAINED else None


def stage_of(node: Node) -> str | None:
    """Tracked stage of a node: a phase, the evaluation, the comparison of own trainings, or None."""
    tagged = {EVALUATION_TAG: EVALUATION, COMPARE: COMPARE}
    return phase_of(node) or next((stage for tag, stage in tagged.items() if tag in node.tags), None)


def trains(node: Node) -> bool:
    """Whether a node is the training of a phase."""
    return phase_of(node) is not None and node.name == f"{node.namespace}.{TRAIN_PHASE}"
