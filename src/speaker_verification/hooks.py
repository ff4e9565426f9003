"""Checks before anything long begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import CatalogProtocol, SharedMemoryDataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from speaker_verification.errors import DataError, ParameterError
from speaker_verification.tracking import CHECKPOINT, goes_on, stage_of, workspace_of

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
        if isinstance(catalog, SharedMemoryDataCatalog):  # made for it; hooks do not work in its processes
            raise ParameterError(
                "ParallelRunner cannot run this project: use SequentialRunner or ThreadRunner"
            )
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


class InterruptedPhaseHook:
    """Refuses to make again what an interrupted phase starts from, and clears up behind a finished one."""

    def __init__(self) -> None:
        self._parameters: dict[str, Any] = {}
        self._catalog: CatalogProtocol | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._parameters = context.params

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        self._catalog = catalog
        made = pipeline.all_outputs() - {"encoder"}
        for node in pipeline.nodes:
            phase = stage_of(node)
            remade = node.name == f"{phase}.train_phase" and made.intersection(node.inputs)
            if phase and remade and goes_on(phase, catalog, self._parameters):
                raise ParameterError(
                    f"{phase} was interrupted: --from-nodes={phase}.train_phase goes on from there, "
                    f"--params={phase}.resume=false begins all anew"
                )

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        phase, _, name = dataset_name.partition(".")
        if name == CHECKPOINT and self._catalog is not None:
            from speaker_verification.training.resume import resume_path

            resume_path(workspace_of(phase, self._catalog) / CHECKPOINT).unlink(missing_ok=True)


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
