"""Wiring of a training phase."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from speaker_verification.config.phases import (
    COMPRESS,
    DISTRIBUTED_TAG,
    ENCODER,
    LAST_CHECKPOINT,
    TRAIN_PHASE,
)
from speaker_verification.pipelines.training.nodes import (
    TrainedPhase,
    draw_compression,
    draw_schedule,
    fetch_encoder,
    train_phase,
)

SHARED_INPUTS = {
    "training_utterances",
    "validation_utterances",
    "validation_trials",
    "utterances",
    "trials",
    "noise_clips",
    "rirs",
}


def create_phase_pipeline(phase: str, start: str | None = None) -> Pipeline:
    """A phase in a namespace of its own.

    Args:
        phase: namespace, and name of its parameters: pretrain, finetune or lmft.
        start: checkpoint of the phase before; None starts from the pre-trained encoder.
    """
    nodes = [
        _training("encoder" if start is None else "start"),
        Node(
            draw_schedule,
            inputs=["params:phase", "learning_curve"],
            outputs="schedule",
            name="draw_schedule",
        ),
    ]
    inputs = {name: name for name in SHARED_INPUTS}
    outputs: dict[str, str] = {}
    parameters = {"params:phase": f"params:{phase}"}
    if start is None:
        encoder = Node(
            fetch_encoder,
            inputs=["workspace", "encoders_folder", "params:model", "params:phase", "params:seed"],
            outputs=ENCODER,
            name="fetch_encoder",
        )
        nodes.insert(0, encoder)
        inputs["encoders_folder"] = "encoders_folder"
        outputs["encoder"] = "encoder"
        parameters |= {"params:model": "params:model", "params:seed": "params:seed"}
    else:
        inputs |= {"start": start, "encoder": "encoder"}
    return Pipeline(
        nodes,
        namespace=phase,
        inputs=inputs,
        outputs=outputs,
        parameters=parameters,
    )


def create_compression_pipeline() -> Pipeline:
    """The phase that compresses the model of the last of the others, in a namespace of its own."""
    nodes = [
        _training("start"),
        Node(
            draw_compression,
            inputs=["params:compress", "learning_curve"],
            outputs="schedule",
            name="draw_compression",
        ),
    ]
    return Pipeline(
        nodes,
        namespace=COMPRESS,
        inputs={name: name for name in SHARED_INPUTS} | {"start": LAST_CHECKPOINT, ENCODER: ENCODER},
        parameters={"params:compress": "params:compress"},
    )


def _training(start: str) -> Node:
    """Node that trains a phase from a dataset: the encoder, or the phase before."""
    return Node(
        train_phase,
        inputs={
            "job": "job",  # settings of the phase, put into the catalog by a hook
            "start": start,
            "encoder": "encoder",
            "workspace": "workspace",
            **{name: name for name in sorted(SHARED_INPUTS)},
        },
        outputs=[*TrainedPhase._fields],
        name=TRAIN_PHASE,
        tags=DISTRIBUTED_TAG,
    )
