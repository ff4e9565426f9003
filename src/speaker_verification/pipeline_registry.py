"""The pipelines that `kedro run --pipeline=NAME` knows."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from speaker_verification.config.phases import (
    COMPARE,
    COMPRESS,
    EVALUATION,
    IMPORT,
    PHASES,
    checkpoint_of,
)
from speaker_verification.pipelines import (
    compare,
    compare_runs,
    download,
    embed,
    export,
    import_embeddings,
    measure,
    package,
    prepare,
    report,
    score,
    shards,
    training,
)


def register_pipelines() -> dict[str, Pipeline]:
    """Every pipeline by name; `__default__` is the whole road in order, which never touches a network."""
    road = {
        "prepare": prepare.create_pipeline(),
        **{
            phase: _within(
                "training", training.create_phase_pipeline(phase, before and checkpoint_of(before))
            )
            for phase, before in zip(PHASES, (None, *PHASES), strict=False)
        },
        "embed": _within("scoring", embed.create_pipeline()),
        "score": _within("scoring", score.create_pipeline()),
        "package": package.create_pipeline(),
        "report": report.create_pipeline(),
    }
    return {
        IMPORT: import_embeddings.create_pipeline(),
        "download": download.create_pipeline(),
        **road,
        COMPRESS: _within("training", training.create_compression_pipeline()),
        "shards": shards.create_pipeline(),
        EVALUATION: road["embed"] + road["score"],
        "export": export.create_pipeline(),
        "measure": measure.create_pipeline(),
        "compare_runs": compare_runs.create_pipeline(),
        COMPARE: compare.create_pipeline(),
        "__default__": sum(road.values(), start=Pipeline([])),
    }


def _within(namespace: str, pipeline: Pipeline) -> Pipeline:
    """The nodes of a pipeline, but not their data, in a further namespace, one box in Kedro-Viz."""
    return Pipeline(pipeline, namespace=namespace, prefix_datasets_with_namespace=False)
