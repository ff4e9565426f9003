"""The pipelines that `kedro run --pipeline=NAME` knows."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from speaker_verification.pipelines import download, embed, export, measure, prepare, report, score, training


def register_pipelines() -> dict[str, Pipeline]:
    """Every pipeline by name; `__default__` is the whole road in order, which never touches a network."""
    road = {
        "prepare": prepare.create_pipeline(),
        "pretrain": training.create_phase_pipeline("pretrain"),
        "finetune": training.create_phase_pipeline("finetune", start="pretrain.checkpoint"),
        "lmft": training.create_phase_pipeline("lmft", start="finetune.checkpoint"),
        "embed": embed.create_pipeline(),
        "score": score.create_pipeline(),
        "report": report.create_pipeline(),
    }
    return {
        "download": download.create_pipeline(),
        **road,
        "evaluate": road["embed"] + road["score"],
        "export": export.create_pipeline(),
        "measure": measure.create_pipeline(),
        "__default__": sum(road.values(), start=Pipeline([])),
    }
