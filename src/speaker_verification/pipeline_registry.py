"""The pipelines that `kedro run --pipeline=NAME` knows."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from speaker_verification.config.phases import EVALUATION, PHASES, checkpoint_of
from speaker_verification.pipelines import (
    download,
    embed,
    export,
    measure,
    package,
    prepare,
    report,
    score,
    training,
)


def register_pipelines() -> dict[str, Pipeline]:
    """Every pipeline by name; `__default__` is the whole road in order, which never touches a network."""
    road = {
        "prepare": prepare.create_pipeline(),
        **{
            phase: training.create_phase_pipeline(phase, start=before and checkpoint_of(before))
            for phase, before in zip(PHASES, (None, *PHASES), strict=False)
        },
        "embed": embed.create_pipeline(),
        "score": score.create_pipeline(),
        "package": package.create_pipeline(),
        "report": report.create_pipeline(),
    }
    return {
        "download": download.create_pipeline(),
        **road,
        EVALUATION: road["embed"] + road["score"],
        "export": export.create_pipeline(),
        "measure": measure.create_pipeline(),
        "__default__": sum(road.values(), start=Pipeline([])),
    }
