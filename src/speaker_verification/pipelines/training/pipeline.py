"""Wiring of a training phase."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from speaker_verification.pipelines.training.nodes import draw_schedule, fetch_encoder, train_phase

SHARED_INPUTS = {
    "training_utterances",
    "validation_utterances",
    "validation_trials",
    "utterances",
    "trials",
    "noise_clips",
    "rirs",
}
SHARED_PARAMETERS = {"params:model", "params:head", "params:augmentation", "params:seed", "params:device"}


def create_phase_pipeline(phase: str, start: str | None = None) -> Pipeline:
    """A phase in a namespace of its own.

    Args:
        phase: namespace, and name of its parameters: pretrain, finetune or lmft.
        start: checkpoint that it goes on from; None starts from the pre-trained encoder.
    """
    nodes = [
        Node(
            train_phase,
            inputs={
                "start": "encoder" if start is None else "start",
                "encoder": "encoder",
                "workspace": "workspace",
                **{name: name for name in sorted(SHARED_INPUTS)},
                "phase": "params:phase",
                **{name.removeprefix("params:"): name for name in sorted(SHARED_PARAMETERS)},
            },
            outputs=["learning_curve", "checkpoint"],  # until its checkpoint is saved, a phase can go on
            name="train_phase",
        ),
        Node(
            draw_schedule,
            inputs=["params:phase", "learning_curve"],
            outputs="schedule",
            name="draw_schedule",
        ),
    ]
    inputs = {name: name for name in SHARED_INPUTS}
    outputs: dict[str, str] = {}
    if start is None:
        encoder = Node(
            fetch_encoder,
            inputs=["workspace", "encoders_folder", "params:model", "params:seed"],
            outputs="encoder",
            name="fetch_encoder",
        )
        nodes.insert(0, encoder)
        inputs["encoders_folder"] = "encoders_folder"
        outputs["encoder"] = "encoder"
    else:
        inputs |= {"start": start, "encoder": "encoder"}
    return Pipeline(
        nodes,
        namespace=phase,
        inputs=inputs,
        outputs=outputs,
        parameters={"params:phase": f"params:{phase}", **{name: name for name in SHARED_PARAMETERS}},
    )
