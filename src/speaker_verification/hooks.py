"""Checks before anything long begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from speaker_verification.errors import DataError
from speaker_verification.tracking import stage_of

if TYPE_CHECKING:
    from speaker_verification.parameters import Parameters

NOT_COUNTED = ("__default__", "evaluate")


class ParametersHook:
    """Refuses unknown and impossible parameters, and those that the corpus makes impossible.

    The corpus is what the prepared tables hold or, before it is prepared, what the mirror's archives name.
    """

    def __init__(self) -> None:
        self._parameters: Parameters | None = None
        self._stages: set[str] = set()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        from speaker_verification.parameters import check_parameters

        self._parameters = check_parameters(context.params)

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        self._stages = {stage for node in pipeline.nodes if (stage := stage_of(node))}
        corpus = ("utterances", "trials")
        if pipeline.inputs().issuperset(corpus) and all(catalog.exists(name) for name in corpus):
            self._refuse_impossible(*(catalog.load(name) for name in corpus))

    @hook_impl
    def after_node_run(self, node: Node, outputs: dict[str, Any]) -> None:
        if "mirror" in outputs and self._stages and self._parameters is not None:
            from speaker_verification.feasibility import list_corpus

            prepare, seed = self._parameters.prepare, self._parameters.seed
            self._refuse_impossible(*list_corpus(outputs["mirror"], prepare, seed))

    def _refuse_impossible(self, utterances: Any, trials: Any) -> None:
        from speaker_verification.feasibility import refuse_impossible

        if self._parameters is not None:
            refuse_impossible(self._parameters, utterances, trials, self._stages)


class InputsHook:
    """Says which pipeline to run first when what a pipeline starts from is not there."""

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        missing = sorted(
            name
            for name in pipeline.inputs()
            if not name.startswith("params:") and name != "parameters" and not catalog.exists(name)
        )
        if not missing:
            return
        makers = [
            name
            for name, other in pipelines.items()
            if name not in NOT_COUNTED and not other.all_outputs().isdisjoint(missing)
        ]
        commands = ", then ".join(f"kedro run --pipeline={name}" for name in makers)
        raise DataError(f"not there yet: {', '.join(missing)}; run first: {commands}")
